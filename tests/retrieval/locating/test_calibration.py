"""Guards: a probability is Bayes' over the places searched; a fit on scores of a known law finds that law, for
small and large galleries alike; a calibration is kept whole, and refused where it is none or another model's."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tiny_data import build_processor, build_split
from tiny_models import build_tiny_model

from pemoe.retrieval.embedding import embed_split
from pemoe.retrieval.index import GalleryIndex
from pemoe.retrieval.index.errors import GalleryError
from pemoe.retrieval.index.identity import ModelIdentity
from pemoe.retrieval.index.records import table_of
from pemoe.retrieval.locating import Locator, Query
from pemoe.retrieval.locating.calibrated_index import choose_calibration, set_calibration, write_calibration
from pemoe.retrieval.locating.calibration import Calibration, give_probabilities
from pemoe.retrieval.locating.fitting import (
    choose_hub_weight,
    expected_calibration_error,
    fit_calibration,
    fit_figures,
    judge,
    place_scores,
    reliability,
    simulate_galleries,
    training_queries,
)
from pemoe.retrieval.locating.ranking import count_places, place_probabilities
from pemoe.retrieval.locating.results import FOUND, NOT_HERE, UNKNOWN_ODDS, LocatedPlace, LocateResult

FIGURES = {"slope": 20.0, "offset": -8.0, "prior_elsewhere": 0.05}


def drawn_scores(queries: int, places: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Wrong places score N(0.3, 0.1), the right one N(0.5, 0.1): log ratio 20 s - 8."""
    rng = np.random.default_rng(seed)
    scores, own = rng.normal(0.3, 0.1, (queries, places)), rng.integers(places, size=queries)
    scores[np.arange(queries), own] += 0.2
    return scores, own


def build_calibration(**changes: object) -> Calibration:
    figures = {"queries": 1, "places": 1, "left_out": []}
    return replace(Calibration(20.0, -8.0, 0.05, 0.0, np.arange(6, dtype=np.float32), "abc", figures), **changes)


def test_probabilities_are_those_of_bayes() -> None:
    scores = np.array([0.7, 0.5, 0.1])
    places, elsewhere = place_probabilities(scores, FIGURES, 3)
    ratios = np.exp(20 * scores - 8) * 0.95 / 3
    np.testing.assert_allclose(places, ratios / (ratios.sum() + 0.05), rtol=1e-12)
    assert elsewhere == pytest.approx(0.05 / (ratios.sum() + 0.05)) and places.sum() + elsewhere == pytest.approx(1)
    assert place_probabilities(scores, {**FIGURES, "prior_elsewhere": 0.0}, 3)[1] == 0.0
    assert place_probabilities(np.zeros(0), FIGURES, 0) == (pytest.approx(np.zeros(0)), 1.0)
    extreme, none = place_probabilities(np.array([1e4, -1e4]), FIGURES, 2)
    assert extreme.tolist() == [1.0, 0.0] and none == 0.0


def test_places_that_were_cut_off_still_count() -> None:
    scores = np.sort(drawn_scores(1, 500)[0][0])[::-1]
    whole, elsewhere = place_probabilities(scores, FIGURES, 500)
    cut, of_cut = place_probabilities(scores[:50], FIGURES, 500)
    assert 0.5 * whole[0] < cut[0] <= whole[0] and of_cut <= elsewhere  # never surer for having seen less
    assert count_places(900, range(300), ["a"] * 50) == 150 and count_places(0, [], []) == 0


def test_fit_finds_the_law_and_holds_for_other_sizes() -> None:
    slope, offset = fit_figures(*drawn_scores(1500, 60))
    assert slope == pytest.approx(20, rel=0.1) and offset == pytest.approx(-8, rel=0.1)
    figures = {"slope": slope, "offset": offset, "prior_elsewhere": 0.0}
    for kept, out in simulate_galleries(*drawn_scores(1500, 301, seed=1)):
        first, right, *_ = judge(kept, out, figures)
        assert expected_calibration_error(first, right) < 0.04


def test_reliability_of_a_known_case() -> None:
    probability, right = np.array([0.05, 0.05, 0.95, 1.0]), np.array([0, 1, 1, 1])
    low, high = reliability(probability, right)
    assert (low["share"], low["right"]) == (0.5, 0.5) and high["probability"] == pytest.approx(0.975)
    assert expected_calibration_error(probability, right) == pytest.approx(0.5 * 0.45 + 0.5 * 0.025)


def test_hubs_are_taken_off_only_where_that_helps() -> None:
    rng = np.random.default_rng(0)
    place = np.repeat(np.arange(40), 5).astype(str)
    own = np.repeat(rng.normal(size=(40, 16)), 5, axis=0)
    plain = choose_hub_weight(own + rng.normal(size=own.shape), place, own, place)
    shift = np.zeros(16)
    shift[0] = 6.0  # every query leans to where some pictures lie
    hubs = own + rng.normal(size=(200, 1)).clip(0) * shift
    weight, figures = choose_hub_weight(own + rng.normal(size=own.shape) + shift, place, hubs, place)
    assert plain[0] == 0.0
    assert weight > 0 and figures["gain_interval"][0] > 0 and figures["skewness"] > plain[1]["skewness"]


def test_queries_are_refined_captions_of_whole_places() -> None:
    rows = build_split(places=10)
    chosen, asked = training_queries(rows)
    assert chosen.tolist() == list(range(len(rows))) and max(map(len, asked["captions"])) == 1
    assert all(one[0] in row for one, row in zip(asked["captions"], rows["refined_captions"], strict=True) if one)
    with pytest.raises(GalleryError, match="6 places have captions"):
        training_queries(build_split(places=6))


def test_fit_on_rows_is_kept_whole_and_refused_elsewhere(tmp_path: Path) -> None:
    model, processor = build_tiny_model(), build_processor()
    fitted = fit_calibration(model, processor, build_split(places=10), "abc")
    assert fitted.figures["places"] == 10 and fitted.slope > 0
    write_calibration(tmp_path, fitted)
    again, line = choose_calibration(None, str(tmp_path), model, processor, "abc")
    assert again.as_json() == fitted.as_json() and "the model's own" in line
    assert choose_calibration("none", str(tmp_path), model, processor, "abc")[0] is None
    (tmp_path / "calibration.json").unlink()
    assert "--calibration" in choose_calibration(None, str(tmp_path), model, processor, "abc")[1]
    unknown = replace(fitted, hub_query=fitted.hub_query * np.nan).as_json()
    for wrong in ("{", "[]", "{}", json.dumps({**fitted.as_json(), "slope": -1}), json.dumps(unknown)):
        (tmp_path / "wrong.json").write_text(wrong)
        with pytest.raises(GalleryError, match=r"wrong\.json"):
            Calibration.read(tmp_path / "wrong.json")


def test_a_located_probability_is_that_of_the_fitted_path(tmp_path: Path) -> None:
    """A statement without denial is encoded as typed, so that a fit on captions holds for what users ask."""
    model, processor, rows = build_tiny_model(), build_processor(), build_split(places=10)
    split = embed_split(model, processor, rows)
    identity = ModelIdentity("tiny", None, "abc", tuple(model.config.platforms), model.config.embed_dim)
    index = GalleryIndex.create(str(tmp_path / "index"), identity)
    numbers = rows["platform"][:]
    facts = [
        {"image_id": f"{n:03d}", "place_id": place, "platform": identity.platforms[numbers[n] or 0]}
        for n, place in enumerate(split.place_id)
    ]
    index.add(table_of(facts, split.gallery))
    zero = np.zeros(split.query.shape[1], np.float32)
    set_calibration(index, build_calibration(hub_query=zero))
    scores, _ = place_scores(split.query, split.query_place_id, split.gallery, split.place_id)
    answers = Locator(index, model, processor).locate_many([Query((text,)) for text in split.texts[:8]], top=3)
    for row, one in zip(scores[:8], answers, strict=True):
        wanted, elsewhere = place_probabilities(np.sort(row)[::-1], FIGURES, len(row))
        np.testing.assert_allclose([place.probability for place in one.places], wanted[:3], atol=0.01)  # fp16
        assert one.probability_elsewhere == pytest.approx(elsewhere, abs=0.01)


class _Index:
    """What `set_calibration` reads of an index."""

    model = SimpleNamespace(repo="me/model", dimension=6, weights_sha256="abc")
    stored: object = None

    def set_calibration(self, content: object) -> None:
        self.stored = content


def test_another_models_calibration_is_refused() -> None:
    index = _Index()
    set_calibration(index, build_calibration())
    assert Calibration.from_json(json.loads(json.dumps(index.stored))).slope == 20.0
    for other in (build_calibration(weights_sha256="other"), build_calibration(hub_query=np.zeros(5, np.float32))):
        with pytest.raises(GalleryError, match="another model"):
            set_calibration(index, other)


def test_answers_get_probabilities_and_a_verdict() -> None:
    place = LocatedPlace("a", "a", 1.0, 2.0, 0.9, None, ("drone",))
    answer = LocateResult(("red",), (place,), {"drone": 1.0}, UNKNOWN_ODDS, None, 2)
    scores = np.array([0.9, 0.2])
    sure = give_probabilities(answer, scores, build_calibration(), 2, is_text=True)
    assert sure.places[0].probability > 0.9 and sure.verdict == FOUND
    assert give_probabilities(answer, scores - 0.9, build_calibration(), 2, is_text=True).verdict == NOT_HERE
    assert give_probabilities(answer, scores, None, 2, is_text=True) == answer
    pictured = give_probabilities(answer, scores, build_calibration(), 2, is_text=False)
    assert pictured.places[0].probability is None and "texts" in pictured.notes[-1]
