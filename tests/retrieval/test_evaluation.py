"""Guards evaluation: every caption is a query in row order, the gallery is the whole mixed split, figures equal a loop
over queries, cached trunk states give what the images give, intervals are of the figure beside them, and no figure
passes its ceiling."""

from __future__ import annotations

import dataclasses
from collections import Counter
from math import comb
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from tiny_data import build_processor, build_row, build_split
from tiny_models import build_tiny_model

from pemoe.datasets_scripts.schema import FEATURES, PLATFORMS
from pemoe.modeling_pemoe import PeMoEModel
from pemoe.retrieval.embedding import EmbeddedSplit, embed_split
from pemoe.retrieval.evaluation import evaluate_split, rank_split, score_split
from pemoe.retrieval.feature_cache import FeatureCache
from pemoe.retrieval.metrics import recall_intervals


def spread_experts(model: PeMoEModel) -> PeMoEModel:
    """Experts and gate that differ, so that an exchanged one is seen."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in [*model.experts.parameters(), *model.gate.parameters()]:
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def random_split(places: int = 7, tie: bool = False) -> EmbeddedSplit:
    """Unlike numbers of images and captions; satellite has no queries."""
    rng = np.random.default_rng(2)
    place = np.repeat(np.arange(places), rng.integers(1, 6, places))
    platform = rng.integers(0, 3, len(place))
    captions = np.where(platform == 0, 0, rng.integers(1, 4, len(place)))
    row = np.repeat(np.arange(len(place)), captions)
    query, gallery = (
        rng.integers(-2, 3, (n, 4)) if tie else rng.standard_normal((n, 4)) for n in (len(row), len(place))
    )
    return EmbeddedSplit(
        query=query.astype(np.float32),
        gallery=gallery.astype(np.float32),
        query_row=row,
        place_id=np.array([f"{number:04d}" for number in place]),
        platform=platform,
        texts=[f"text {number}" for number in range(len(row))],
        gate_weights=np.full((len(row), 3), 1 / 3, dtype=np.float32),
    )


def figures_by_loop(split: EmbeddedSplit, chosen: list[int]) -> dict[str, float]:
    """One query after the other: sort the gallery, look for its place; chance from binomial coefficients."""
    hits, chance = {k: [] for k in (1, 5, 10)}, {k: [] for k in (1, 5, 10)}
    for number in chosen:
        place = split.place_id[split.query_row[number]]
        scores = [float(np.dot(split.query[number], image)) for image in split.gallery]
        order = sorted(range(len(scores)), key=lambda image: (-scores[image], image))
        own = sum(split.place_id == place)
        for k in hits:
            hits[k].append(any(split.place_id[image] == place for image in order[:k]))
            chance[k].append(1 - comb(len(scores) - own, k) / comb(len(scores), k))
    figures = {f"recall_at_{k}": np.mean(values) for k, values in hits.items()}
    figures |= {f"chance_recall_at_{k}": np.mean(values) for k, values in chance.items()}
    figures |= {f"ceiling_recall_at_{k}": 1.0 for k in hits}  # no text is there twice
    return figures | {"n_queries": len(chosen), "score": (figures["recall_at_1"] + figures["recall_at_10"]) / 2}


def i2t_recall_by_loop(split: EmbeddedSplit, k: int) -> float:
    query_place, hits = split.place_id[split.query_row], []
    for image, place in zip(split.gallery, split.place_id, strict=True):
        scores = [float(np.dot(image, query)) for query in split.query]
        order = sorted(range(len(scores)), key=lambda number: (-scores[number], number))
        if place in query_place:
            hits.append(any(query_place[number] == place for number in order[:k]))
    return float(np.mean(hits))


@pytest.mark.parametrize("tie", [False, True])
def test_figures_equal_a_loop_over_queries(tie: bool) -> None:
    split = random_split(tie=tie)
    results = score_split(split)
    everything = figures_by_loop(split, list(range(len(split.texts))))
    assert {name: results[name] for name in everything} == pytest.approx(everything)
    assert 0 < results["recall_at_1"] < results["recall_at_5"] < 1
    for k in (1, 5, 10):
        assert results[f"i2t_recall_at_{k}"] == pytest.approx(i2t_recall_by_loop(split, k))
    assert list(results["per_platform"]) == ["drone", "ground"]  # satellite has no queries, but stays in the gallery
    for number, name in enumerate(PLATFORMS[1:], start=1):
        chosen = [q for q, row in enumerate(split.query_row) if split.platform[row] == number]
        expected, found = figures_by_loop(split, chosen), results["per_platform"][name]
        assert {figure: found[figure] for figure in expected} == pytest.approx(expected)
        assert set(found) == {*everything, "intervals"}
    i2t = {"i2t_score", *(f"i2t_recall_at_{k}" for k in (1, 5, 10))}
    assert set(results) == {*everything, "per_platform", "intervals", "gate", *i2t}
    assert set(score_split(split, n_resamples=0)) == set(results) - {"intervals"}


def test_intervals_hold_the_figure_and_are_those_of_its_queries() -> None:
    split = random_split(places=30)
    results, ranks = score_split(split), rank_split(split)
    assert results["intervals"] == recall_intervals(ranks, split.query_place_id)
    of_drone = split.query_platform == 1
    expected = recall_intervals(ranks[of_drone], split.query_place_id[of_drone])
    assert results["per_platform"]["drone"]["intervals"] == expected
    for figures in (results, *results["per_platform"].values()):
        assert set(figures["intervals"]) == {"recall_at_1", "recall_at_5", "recall_at_10", "score"}
        for name, (low, high) in figures["intervals"].items():
            assert low < figures[name] < high


def test_repeated_texts_lower_the_ceiling_and_no_model_passes_it() -> None:
    split = random_split()
    assert score_split(split)["ceiling_recall_at_1"] == 1.0  # every text differs
    blind = dataclasses.replace(split, texts=["the same"] * len(split.texts), query=np.ones_like(split.query))
    results = score_split(blind)
    places = Counter(split.query_place_id.tolist())
    assert results["ceiling_recall_at_1"] == max(places.values()) / len(split.texts) < 1
    assert results["ceiling_recall_at_10"] == 1.0  # seven places
    for figures in (results, *results["per_platform"].values()):
        assert all(figures[f"recall_at_{k}"] <= figures[f"ceiling_recall_at_{k}"] for k in (1, 5, 10))


def test_gate_is_described_by_query_platform() -> None:
    split = random_split()
    named = np.eye(3, dtype=np.float32)[split.query_platform] * 0.5 + 0.25
    gate = score_split(dataclasses.replace(split, gate_weights=named))["gate"]
    assert gate["weights"]["drone"] == {"satellite": 0.25, "drone": 0.75, "ground": 0.25}
    assert (list(gate["weights"]), gate["names_platform"]) == (["drone", "ground"], 1.0)
    swapped = dataclasses.replace(split, gate_weights=named, expert_names=("drone", "satellite", "ground"))
    gate = score_split(swapped)["gate"]
    assert gate["weights"]["drone"] == {"drone": 0.25, "satellite": 0.75, "ground": 0.25}
    assert gate["names_platform"] == (split.query_platform == 2).mean()
    assert score_split(dataclasses.replace(split, gate="uniform"))["gate"] is None  # nothing reads the query
    unified = dataclasses.replace(split, gate_weights=np.ones((len(split.texts), 1)), expert_names=("all",))
    assert score_split(unified)["gate"] is None
    unknown = dataclasses.replace(split, gate_weights=named, platform=np.full_like(split.platform, -1))
    assert score_split(unknown)["gate"] == {"weights": {}, "names_platform": None}


def test_the_models_configuration_decides_whether_a_gate_is_described() -> None:
    rows, processor = build_split(split="test"), build_processor()
    one_query = rows.select([0]).map(lambda row: {"captions": row["captions"][:1]})
    uniform = build_tiny_model(gate="uniform")
    assert [evaluate_split(uniform, processor, some)["gate"] for some in (rows, one_query)] == [None, None]
    model = build_tiny_model(masked_platforms=["drone", "ground"])
    gate = evaluate_split(model, processor, rows)["gate"]
    assert gate["weights"]["drone"] == {"satellite": 1.0, "drone": 0.0, "ground": 0.0}
    assert 0 < gate["names_platform"] < 1


def build_uneven_split() -> datasets.Dataset:
    """Rows with three, one, no and two captions of unlike length, platforms mixed."""
    rows = [
        build_row(place, platform, n, "test")
        for n, (place, platform) in enumerate(
            [(3, "drone"), (0, "ground"), (3, "satellite"), (1, "drone"), (0, "drone")]
        )
    ]
    texts = [
        ["roof roof roof roof seen from drone", "gold", "red wall"],
        ["door"],
        [],
        ["pink door", "wall"],
        ["grey"],
    ]
    for row, captions in zip(rows, texts, strict=True):
        row["captions"] = captions
    return datasets.Dataset.from_list(rows, features=FEATURES)


@pytest.mark.parametrize("batch_size", [2, 64])
def test_every_caption_is_a_query_in_row_order(batch_size: int) -> None:
    model, processor, rows = spread_experts(build_tiny_model()), build_processor(), build_uneven_split()
    split = embed_split(model, processor, rows, batch_size=batch_size)
    assert split.texts == [text for row in rows for text in row["captions"]]
    assert split.query_row.tolist() == [0, 0, 0, 1, 3, 3, 4]
    assert split.query_place_id.tolist() == ["0003", "0003", "0003", "0000", "0001", "0001", "0000"]
    assert split.query_platform.tolist() == [1, 1, 1, 2, 1, 1, 1]
    assert (split.place_id.tolist(), split.platform.tolist()) == (rows["place_id"][:], rows["platform"][:])
    for number, text in enumerate(split.texts):  # one by one: Eq. (1) as the sum over experts
        with torch.no_grad():
            output = model(**processor(text=[text]), **processor(images=[row["image"] for row in rows]))
        cosines = torch.einsum("qed,ged->qge", output.text_embeds, output.image_embeds)  # (1, G, E)
        expected = (cosines * output.gate_weights[:, None]).sum(-1)[0].numpy()  # (G,)
        np.testing.assert_allclose(split.gallery @ split.query[number], expected, atol=1e-5)
        np.testing.assert_allclose(split.gate_weights[number], output.gate_weights[0].numpy(), atol=1e-6)
    assert np.ptp(split.gallery @ split.query.T, axis=0).min() > 1e-3


@pytest.mark.parametrize("batch_size", [5, 64])
def test_trunk_states_give_what_the_images_give(tmp_path: Path, batch_size: int) -> None:
    model, processor, rows = spread_experts(build_tiny_model()), build_processor(), build_split(places=3)
    states = FeatureCache(tmp_path, model, processor, rows, batch_size=batch_size).states()
    assert len(states) == len(rows) and not states[0].requires_grad
    plain = embed_split(model, processor, rows)
    cached = embed_split(model, processor, rows, batch_size=batch_size, image_states=states)
    np.testing.assert_allclose(cached.gallery, plain.gallery, atol=1e-5)
    np.testing.assert_array_equal(cached.query, plain.query) if batch_size == 64 else None
    assert np.abs(plain.gallery[0] - plain.gallery[1]).max() > 1e-3


def test_model_in_training_mode_is_evaluated_without_dropout() -> None:
    model, processor, rows = build_tiny_model(tail_dropout=0.5), build_processor(), build_split(places=2)
    quiet = embed_split(model, processor, rows)
    noisy = embed_split(model.train(), processor, rows)
    np.testing.assert_array_equal(noisy.query, quiet.query)
    np.testing.assert_array_equal(noisy.gallery, quiet.gallery)


def test_a_whole_split_is_scored() -> None:
    results = evaluate_split(spread_experts(build_tiny_model()), build_processor(), build_split())
    assert results["n_queries"] == 6 * 4 * 3
    assert {name: figures["n_queries"] for name, figures in results["per_platform"].items()} == {
        "satellite": 18,
        "drone": 36,
        "ground": 18,
    }
    assert results["chance_recall_at_1"] == pytest.approx(1 / 6)  # 4 of 24 images, whatever the query's platform
    assert all(figures["chance_recall_at_1"] == pytest.approx(1 / 6) for figures in results["per_platform"].values())
