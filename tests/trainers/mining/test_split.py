"""Guards mining a split: what it finds equals a loop over the vectors, its Parquet has the same bytes however the work
was cut, shared or killed, and every filter that a recipe names is at work."""

from __future__ import annotations

import threading

import datasets
import numpy as np
import pytest
import torch
from tiny_data import build_processor, build_split
from tiny_models import build_tiny_model

from pemoe.trainers import TrainingError, mine_split
from pemoe.trainers.batches.pairs import PairCollator, PairDataset, model_inputs
from pemoe.trainers.batches.samplers import Visit
from pemoe.trainers.mining import NEGATIVES, load_negatives, search, split
from pemoe.trainers.mining.options import MineRecipe

K, BATCH = 3, 4
METRES_PER_DEGREE = 111_195


@pytest.fixture(scope="module")
def model():
    return build_tiny_model()


@pytest.fixture(scope="module")
def rows() -> datasets.Dataset:
    """Places 0 to 9 on a meridian, 100 m apart; place 9 without coordinates."""
    rows = build_split(places=10, drone_views=2)
    place = np.array([int(name) for name in rows["place_id"]])
    latitude = [None if number == 9 else float(number * 100 / METRES_PER_DEGREE) for number in place]
    rows = rows.remove_columns(["latitude_deg", "longitude_deg"])
    return rows.add_column("latitude_deg", latitude).add_column("longitude_deg", [0.0] * len(rows))


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(search, "QUERY_BLOCK", 8)
    monkeypatch.setattr(split, "_BATCHES_PER_BLOCK", 2)


def mine(model, rows, folder=None, resume=False, **options) -> np.ndarray:
    place = {"directory": folder, "resume": resume}
    return mine_split(model, build_processor(), rows, K, batch_size=BATCH, **place, **options)


def read(folder) -> list[dict]:
    return datasets.load_dataset("parquet", data_files=str(folder / NEGATIVES), split="train").to_list()


@torch.no_grad()
def vectors_by_hand(model, rows, expert: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row numbers of a platform, and the vectors of their drawn captions and pictures, all in one pass."""
    pairs, collate = PairDataset(rows, "refined_captions", 0), PairCollator(build_processor())
    chosen = np.flatnonzero(pairs.platform_id == pairs.platform_names.index(expert))
    inputs = model_inputs(collate([pairs[Visit(int(row), 0)] for row in chosen]))
    output = model.eval()(**inputs, experts=[expert])
    return chosen, output.text_embeds[:, 0].numpy(), output.image_embeds[:, 0].numpy()


def test_one_caption_equals_a_loop_and_training_reads_what_the_table_holds(model, rows, tmp_path) -> None:
    negatives = mine(model, rows, tmp_path)
    lines, place, image_id = read(tmp_path), rows["place_id"][:], rows["image_id"][:]
    assert len(lines) == len(rows) and np.array_equal(negatives, mine(model, rows))
    pairs = PairDataset(rows, "refined_captions", 0)
    for line in lines:
        row = line["row"]
        assert pairs.captions[row][line["caption"]] == pairs[Visit(row, 0)]["text"]
        assert (line["image_id"], line["place_id"]) == (image_id[row], place[row])
        assert line["negatives"] == negatives[row].tolist()
        assert line["negative_image_id"] == [image_id[number] for number in line["negatives"]]
    scored = {line["row"]: line for line in lines}
    for expert in model.config.platforms:
        chosen, query, gallery = vectors_by_hand(model, rows, expert)
        scores = query @ gallery.T
        for number, row in enumerate(chosen):
            others = [g for g in range(len(chosen)) if place[chosen[g]] != place[row]]
            best = sorted((scores[number, g] for g in others), reverse=True)[:K]
            assert np.allclose(scored[row]["scores"], best, atol=1e-5)
            assert scored[row]["positive_score"] == pytest.approx(float(scores[number, number]), abs=1e-5)
            assert {place[negative] for negative in scored[row]["negatives"]}.isdisjoint({place[row]})


def test_all_captions_are_queries_and_a_row_gets_the_best_of_them(model, rows, tmp_path) -> None:
    negatives = mine(model, rows, tmp_path, captions="all")
    lines = read(tmp_path)
    assert sorted((line["row"], line["caption"]) for line in lines) == [
        (r, c) for r in range(len(rows)) for c in (0, 1)
    ]
    for row in range(len(rows)):
        best: dict[int, float] = {}
        for line in (line for line in lines if line["row"] == row):
            for negative, score in zip(line["negatives"], line["scores"], strict=True):
                best[negative] = max(score, best.get(negative, -np.inf))
        assert negatives[row].tolist() == sorted(best, key=lambda negative: (-best[negative], negative))[:K]


def test_every_filter_is_at_work(model, rows, tmp_path) -> None:
    mine(model, rows, tmp_path / "free")
    free = np.concatenate([line["scores"] for line in read(tmp_path / "free")])
    limit = float(np.median(free))
    mine(model, rows, tmp_path / "score", max_score=limit)
    held = np.concatenate([line["scores"] for line in read(tmp_path / "score")])
    assert len(held) and held.max() <= np.float32(limit)
    mine(model, rows, tmp_path / "ratio", positive_ratio=0.9)
    for line in read(tmp_path / "ratio"):
        assert all(s <= line["positive_score"] - 0.1 * abs(line["positive_score"]) + 1e-6 for s in line["scores"])
    mine(model, rows, tmp_path / "metres", min_distance_m=350.0)
    place = [int(name) for name in rows["place_id"]]
    apart = [(place[line["row"]], place[n]) for line in read(tmp_path / "metres") for n in line["negatives"]]
    assert apart and all(abs(a - b) > 3 for a, b in apart if 9 not in (a, b))
    assert any(9 in pair for pair in apart)  # an unknown end is no reason to leave a pair out


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


def watch(monkeypatch, name: str, calls: list, limit: int | None = None) -> None:
    """Note each call of a method of the miner, and die instead of the call after `limit` of them."""
    method = getattr(split._SplitMiner, name)

    def watched(self, *arguments):
        if limit is not None and len(calls) == limit:
            raise Killed
        calls.append(name)
        return method(self, *arguments)

    monkeypatch.setattr(split._SplitMiner, name, watched)


def test_killed_anywhere_the_rerun_has_the_same_bytes_and_embeds_nothing_twice(model, rows, tmp_path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        passes: list = []
        watch(patch, "_run", passes)
        mine(model, rows, tmp_path / "whole", captions="all")
    assert {path.name for path in (tmp_path / "whole").iterdir()} == {NEGATIVES}
    for name, limits in {"_run": (0, len(passes) - 4), "_search_block": (4,)}.items():
        for limit in limits:
            folder, before = tmp_path / f"{name}{limit}", []
            with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
                watch(patch, name, before, limit)
                mine(model, rows, folder, captions="all")
            assert not (folder / NEGATIVES).exists()
            with pytest.MonkeyPatch.context() as patch:
                after: list = []
                watch(patch, "_run", after)
                mine(model, rows, folder, resume=True, captions="all")
            assert (folder / NEGATIVES).read_bytes() == (tmp_path / "whole" / NEGATIVES).read_bytes()
            assert len(after) <= (len(passes) - limit + 1 if name == "_run" else 0)


def test_processes_share_the_blocks_and_write_the_same_bytes(model, rows, tmp_path, monkeypatch) -> None:
    mine(model, rows, tmp_path / "one")
    barrier, number, done = threading.Barrier(2), threading.local(), {0: [], 1: []}
    monkeypatch.setattr(split, "rank", lambda: number.rank)
    monkeypatch.setattr(split, "world_size", lambda: 2)
    monkeypatch.setattr(split, "wait_for_all", barrier.wait)
    search_block = split._SplitMiner._search_block

    def noted(self, share, span):
        done[number.rank].append((share.expert, span.start))
        search_block(self, share, span)

    monkeypatch.setattr(split._SplitMiner, "_search_block", noted)
    results = {}

    def work(rank: int) -> None:
        number.rank = rank
        try:
            results[rank] = mine(model, rows, tmp_path / "two")
        except BaseException:
            barrier.abort()
            raise

    threads = [threading.Thread(target=work, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "one" / NEGATIVES).read_bytes() == (tmp_path / "two" / NEGATIVES).read_bytes()
    assert np.array_equal(results[0], results[1])
    assert done[0] and done[1] and not set(done[0]) & set(done[1])


def test_resume_goes_on_with_the_same_only_and_a_finished_one_is_read(model, rows, tmp_path, monkeypatch) -> None:
    first = mine(model, rows, tmp_path)
    monkeypatch.setattr(split._SplitMiner, "_run", None)
    assert np.array_equal(mine(model, rows, tmp_path, resume=True), first)
    with pytest.raises(TrainingError, match="other options"):
        mine(model, rows, tmp_path, resume=True, max_score=0.5)
    with pytest.raises(TrainingError, match="other rows"):
        mine(model, rows.select(range(20)), tmp_path, resume=True)
    other = build_tiny_model()
    other.experts["drone"].visual_projection.weight.data += 1
    with pytest.raises(TrainingError, match="other weights"):
        mine(other, rows, tmp_path, resume=True)


def test_rows_without_an_expert_get_no_negatives(rows, tmp_path) -> None:
    negatives = mine(build_tiny_model(platforms=["drone"]), rows, tmp_path)
    drone = np.asarray(rows["platform"]) == rows.features["platform"].names.index("drone")
    assert (negatives[drone] >= 0).all() and (negatives[~drone] == -1).all()
    assert {line["row"] for line in read(tmp_path)} == set(np.flatnonzero(drone).tolist())


def test_load_negatives_fills_up_with_minus_one(model, rows, tmp_path) -> None:
    mine(model, rows, tmp_path)
    wide = load_negatives(tmp_path / NEGATIVES, len(rows) + 2, k=K + 2)
    assert wide.shape == (len(rows) + 2, K + 2) and (wide[:, K:] == -1).all() and (wide[len(rows) :] == -1).all()


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"k": 0}, r"mine\.k: 0"),
        ({"captions": "two"}, r"mine\.captions: 'two'"),
        ({"positive_ratio": 1.5}, r"mine\.positive_ratio: 1\.5"),
        ({"max_score": -2.0}, r"mine\.max_score: -2"),
        ({"min_distance_m": -1.0}, r"mine\.min_distance_m: -1"),
        ({"min_distance_m": float("nan")}, r"mine\.min_distance_m"),
    ],
)
def test_options_out_of_range_are_refused_by_name(options: dict, word: str) -> None:
    with pytest.raises(TrainingError, match=word):
        MineRecipe(**options)


def test_metres_without_coordinates_are_refused(model) -> None:
    with pytest.raises(TrainingError, match="min_distance_m: no row has latitude_deg"):
        mine(model, build_split(places=3), min_distance_m=10.0)
