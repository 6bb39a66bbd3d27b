"""Invariant: a located place is the one that brute force over the stored vectors finds, with every filter, however
many pictures its neighbours have; queries in batches, threads and refinements give what they give alone."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_data import build_processor
from tiny_models import build_tiny_model

from pemoe.datasets_scripts.schema import PLATFORMS
from pemoe.retrieval.index import Filter, GalleryIndex
from pemoe.retrieval.index.errors import GalleryError
from pemoe.retrieval.index.identity import ModelIdentity
from pemoe.retrieval.index.records import VECTOR, table_of, to_vectors
from pemoe.retrieval.locating import LocateResult, Locator, Query, locate
from pemoe.retrieval.locating.ranking import NEGATION_FROM
from pemoe.retrieval.locating.where import filter_of

PICTURE = Image.fromarray(np.random.default_rng(3).integers(0, 255, (40, 40, 3), dtype=np.uint8))
PLACES = 12


def gallery_rows(width: int) -> tuple[list[dict], np.ndarray]:
    """Places seen in the order ground, drone, satellite; the last two without coordinates; place 0 many times."""
    facts = []
    for place in range(PLACES):
        for view in range(30 if place == 0 else 4):
            known = place < PLACES - 2
            facts.append(
                {
                    "image_id": f"{place:02d}/{view:02d}",
                    "place_id": f"{place:02d}",
                    "name": f"Place {place}",
                    "platform": PLATFORMS[::-1][view % 3],
                    "latitude_deg": 40.0 + place if known else None,
                    "longitude_deg": -88.0 if known else None,
                }
            )
    vectors = np.random.default_rng(5).normal(size=(len(facts), 3, width))
    return facts, (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).reshape(len(facts), -1)


@pytest.fixture(scope="module")
def locator(tmp_path_factory: pytest.TempPathFactory) -> Locator:
    """A tiny model over an index of random vectors."""
    model, processor = build_tiny_model(), build_processor()
    identity = ModelIdentity("tiny", None, "0" * 64, tuple(model.config.platforms), model.config.embed_dim)
    index = GalleryIndex.create(str(tmp_path_factory.mktemp("located") / "index"), identity)
    index.add(table_of(*gallery_rows(model.config.embed_dim)))
    return Locator(index, model, processor)


def brute_force(locator: Locator, query: np.ndarray, where: Filter | None = None) -> list[tuple[str, float]]:
    rows = locator.index.read(["place_id", VECTOR], where)
    best: dict[str, float] = {}
    for place, score in zip(rows["place_id"].to_pylist(), to_vectors(rows[VECTOR]).astype("f4") @ query, strict=True):
        best[place] = max(best.get(place, -np.inf), float(score))
    return sorted(best.items(), key=lambda one: (-one[1], one[0]))


def found(result: LocateResult) -> list[tuple[str, float]]:
    return [(one.place_id, pytest.approx(one.score, abs=1e-4)) for one in result.places]


@pytest.mark.parametrize("where", [None, Filter(platforms=("drone",)), Filter(near=(42.0, -88.0, 150.0))])
def test_places_are_those_of_brute_force(locator: Locator, where: Filter | None) -> None:
    text = "red roof seen from drone"
    query = locator.model.encode_text(text, locator.processor)[0]
    result = locator.locate(text, where=where, top=4)
    assert found(result) == brute_force(locator, query, where)[:4]
    assert result.pictures_searched == locator.index.count(where)
    assert sum(result.gate_weights.values()) == pytest.approx(1)
    for place in result.places:
        assert place.platforms == (where.platforms if where and where.platforms else PLATFORMS)
        assert place.pictures[0].score == pytest.approx(place.score, abs=1e-5)
        assert [one.score for one in place.pictures] == sorted((one.score for one in place.pictures), reverse=True)
        assert place.evidence[0].score == pytest.approx(place.score, abs=1e-5)


def test_candidates_never_cut_places(locator: Locator, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = locator.locate("red roof", top=PLACES)
    monkeypatch.setattr(sys.modules[Locator.__module__], "CANDIDATES", 2)
    assert [one.place_id for one in locator.locate("red roof", top=PLACES).places] == [
        one.place_id for one in whole.places
    ]
    assert len(whole.places) == PLACES


def test_places_without_coordinates_have_none(locator: Locator) -> None:
    places = {one.place_id: one for one in locator.locate("red roof", top=PLACES).places}
    assert (places["11"].latitude_deg, places["11"].longitude_deg) == (None, None)
    assert (places["03"].latitude_deg, places["03"].name) == (43.0, "Place 3")


def test_a_negated_sentence_lowers_what_fits_it_and_raises_nothing(locator: Locator) -> None:
    before = {one.place_id: one.score for one in locator.locate("red roof", top=PLACES).places}
    refined = locator.locate(["red roof", "not the one with the blue door"], top=PLACES)
    lowered = 0
    for place in refined.places:
        denied = place.evidence[1]
        assert denied.negated and denied.sentence == "not the one with the blue door"
        assert place.score <= before[place.place_id] + 1e-5
        assert (place.score < before[place.place_id] - 1e-5) == (denied.support > NEGATION_FROM + 1e-3)
        lowered += denied.support > NEGATION_FROM
    assert lowered
    assert refined == locator.locate(["red roof", "not the one with the blue door"], top=PLACES)


def test_denying_alone_puts_what_fits_last(locator: Locator) -> None:
    result = locator.locate("no blue door", top=PLACES)
    support = {one.place_id: one.evidence[0].support for one in result.places}
    assert result.places[-1].place_id == max(support, key=support.__getitem__)
    assert max(one.score for one in result.places) <= 0
    assert any("only what the place has not" in note for note in result.notes)


def test_a_picture_finds_its_place_alone_and_beside_a_text(locator: Locator) -> None:
    vector = locator.model.encode_images(PICTURE, locator.processor)[0]
    assert found(locator.locate((), PICTURE)) == brute_force(locator, vector / 3)[:5]
    assert set(locator.locate((), PICTURE).gate_weights.values()) == {1 / 3}
    both = locator.locate("red roof", PICTURE)
    text = locator.model.encode_text("red roof", locator.processor)[0]
    gate = np.repeat(list(both.gate_weights.values()), locator.model.config.embed_dim)
    sample = to_vectors(locator.index.read([VECTOR])[VECTOR]).astype("f4")
    ratio = (sample @ text).std() / (sample @ (gate * vector)).std()
    assert found(both) == brute_force(locator, (text + ratio * gate * vector) / 2)[:5]


def test_many_queries_and_many_threads_answer_as_one(locator: Locator) -> None:
    queries = [Query((text,)) for text in ("red roof", "blue door. not the red wall", "white wall seen from ground")]
    queries.append(Query((), PICTURE))
    alone = [locator.locate(one.texts, one.image) for one in queries]
    for one, many in zip(alone, locator.locate_many(queries), strict=True):
        assert [place.place_id for place in one.places] == [place.place_id for place in many.places]
        assert found(many) == [(place.place_id, place.score) for place in one.places]
    assert locator.locate_many([]) == []
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda one: locator.locate(one.texts, one.image), queries * 4))
    assert [[place.place_id for place in one.places] for one in answers] == [
        [place.place_id for place in one.places] for one in alone
    ] * 4


def test_a_filter_that_passes_nothing_is_an_answer(locator: Locator) -> None:
    result = locator.locate("red roof", where=Filter(platforms=("dron",)))
    assert (result.places, result.verdict, result.pictures_searched) == ((), "not in this gallery", 0)
    assert "drone, ground, satellite" in result.notes[0]


@pytest.mark.parametrize("texts", [[], "", " ", ["red roof", ""], "no"])
def test_saying_nothing_is_refused(locator: Locator, texts: list[str] | str) -> None:
    if texts == ["red roof", ""]:
        assert locator.locate(texts).places == locator.locate("red roof").places
        return
    with pytest.raises(GalleryError, match="give a sentence or a picture"):
        locator.locate(texts)


def test_a_text_that_the_model_does_not_read_whole_is_told(locator: Locator) -> None:
    long = "red roof " * 200
    assert any("only the first" in note for note in locator.locate(long).notes)
    assert any("mean of its sentences" in note for note in locator.locate([long, "blue door"]).notes)
    assert locator.locate("red roof").notes == ()


def test_wrong_pictures_and_counts_are_refused(locator: Locator, tmp_path: Path) -> None:
    (tmp_path / "no.jpg").write_bytes(b"no picture")
    with pytest.raises(GalleryError, match="cannot be read"):
        locator.locate((), str(tmp_path / "no.jpg"))
    with pytest.raises(GalleryError, match="at least 1"):
        locator.locate("red roof", top=0)


def test_half_an_area_is_refused_and_whole_ones_are_read() -> None:
    for half in ({"near": "40,-88"}, {"radius_km": 3.0}):
        with pytest.raises(GalleryError, match="belong together"):
            filter_of(**half)
    with pytest.raises(GalleryError, match="is no date"):
        filter_of(since="yesterday")
    assert filter_of("40.1,-88.2", 5) == Filter(near=(40.1, -88.2, 5.0))
    assert filter_of((40.1, -88.2), 5) == Filter(near=(40.1, -88.2, 5.0))
    assert filter_of(area="40,-88.3,40.2,-88.1") == Filter(box=(40.0, -88.3, 40.2, -88.1))
    assert filter_of() == Filter()


def test_a_model_that_is_gone_is_asked_for(locator: Locator) -> None:
    with pytest.raises(GalleryError, match="--model"):
        locate("red roof", locator.index)
