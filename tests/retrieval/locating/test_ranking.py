"""Invariant: a place ranks by its best picture, ties by id; a negated statement lowers what fits it and raises
nothing, whatever the scores."""

from __future__ import annotations

import numpy as np

from pemoe.retrieval.locating.ranking import NEGATION_FROM, NEGATION_WEIGHT, fuse_places, support_of


def by_hand(
    scores: np.ndarray, place_ids: list[str], negated: np.ndarray, deviation: float
) -> list[tuple[float, str]]:
    found = []
    for place in set(place_ids):
        rows = [row for row, one in enumerate(place_ids) if one == place]
        lost = sum(max(0.0, max(support[rows]) - NEGATION_FROM) for support in negated)
        found.append((-(max(scores[rows]) - NEGATION_WEIGHT * deviation * lost), place))
    return sorted(found)


def test_places_are_those_of_a_loop() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        place_ids = [f"{number:02d}" for number in rng.integers(0, 9, 30)]
        scores, negated = rng.integers(0, 5, 30).astype(float), rng.normal(0, 2, (2, 30))
        places, fused, numbers = fuse_places(scores, place_ids, negated, 0.3)
        wanted = by_hand(scores, place_ids, negated, 0.3)
        np.testing.assert_allclose(fused, [-score for score, _ in wanted])
        assert len(places) == len(set(place_ids))
        assert [place_ids[number] for number in numbers] == places
        assert all(
            scores[number] == max(scores[[one == place for one in place_ids]])
            for place, number in zip(places, numbers, strict=True)
        )


def test_equal_scores_come_in_the_order_of_their_ids() -> None:
    assert fuse_places(np.ones(4), ["b", "a", "c", "a"])[0] == ["a", "b", "c"]
    assert fuse_places(np.zeros(0), [])[0] == []


def test_a_negated_statement_raises_no_place() -> None:
    rng = np.random.default_rng(1)
    for _ in range(100):
        place_ids = [f"{number:02d}" for number in rng.integers(0, 12, 40)]
        scores, negated = rng.normal(size=40), rng.normal(0, 3, (3, 40))
        for weight in (0.0, 0.5, 5.0):
            deviation = float(rng.uniform(0, 2))
            before = dict(zip(*fuse_places(scores, place_ids, negated[:2], deviation, weight)[:2], strict=True))
            after = dict(zip(*fuse_places(scores, place_ids, negated, deviation, weight)[:2], strict=True))
            assert all(after[place] <= before[place] for place in before)
            fits = {place for row, place in enumerate(place_ids) if negated[2, row] > NEGATION_FROM}
            lowered = {place for place in before if after[place] < before[place]}
            assert lowered == (fits if weight * deviation else set())


def test_support_is_in_deviations_of_what_is_usual() -> None:
    usual = np.random.default_rng(2).normal(3.0, 0.5, (2, 1000))
    support = support_of(usual, usual)
    np.testing.assert_allclose(support.mean(1), 0, atol=1e-9)
    np.testing.assert_allclose(support.std(1), 1)
    assert (support_of(np.array([[5.0]]), np.array([[5.0, 5.0]])) == 0).all()
