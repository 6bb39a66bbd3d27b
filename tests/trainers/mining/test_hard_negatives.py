"""Guards mining: parity with a loop, never the query's own place, every filter on planted cases."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pemoe.trainers.mining import FalseNegatives, mine_hard_negatives


def problem(seed: int, n_queries: int = 150, n_gallery: int = 2200, n_places: int = 12):
    """Integer vectors, so that ties are true ties."""
    rng = np.random.default_rng(seed)
    query, gallery = (rng.integers(-3, 4, size=(n, 4)).astype("float32") for n in (n_queries, n_gallery))
    return query, gallery, rng.integers(n_places, size=n_queries), rng.integers(n_places, size=n_gallery)


def mine_by_hand(query, gallery, query_place, gallery_place, k, allowed=lambda q, g, score: True):
    rows = []
    for q, vector in enumerate(query):
        scores = gallery @ vector
        order = np.argsort(-scores, kind="stable")
        kept = [g for g in order if gallery_place[g] != query_place[q] and allowed(q, g, scores[g])][:k]
        rows.append(([*kept, *[-1] * (k - len(kept))], [*scores[kept], *[-math.inf] * (k - len(kept))]))
    indices, scores = zip(*rows, strict=True)
    return np.array(indices), np.array(scores)


def assert_mined(found, expected):
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])


@pytest.mark.parametrize("block", [1, 2048, 65536])
@pytest.mark.parametrize("k", [1, 8])
def test_equals_the_loop_for_every_block(block, k):
    data = problem(0)
    found = mine_hard_negatives(*data, k=k, block=block)
    assert_mined(found, mine_by_hand(*data, k))
    assert found[0].dtype == np.int64 and found[1].dtype == np.float32
    assert (data[2][:, None] != data[3][found[0]]).all()


@pytest.mark.parametrize("block", [1, 65536])
def test_too_few_negatives_leave_minus_one(block):
    query, gallery, query_place, gallery_place = problem(1)
    gallery_place[:] = 3
    gallery_place[[1700, 4]] = 5
    query_place[:75], query_place[75:] = 3, 5
    found = mine_hard_negatives(query, gallery, query_place, gallery_place, k=4, block=block)
    assert_mined(found, mine_by_hand(query, gallery, query_place, gallery_place, 4))
    assert (found[0][:75, 2:] == -1).all() and (found[1][:75, 2:] == -np.inf).all() and (found[0][75:] >= 0).all()


def test_k_may_exceed_the_gallery_and_kinds_agree():
    names = ["a", "b", "a"]
    expected = mine_hard_negatives(np.eye(3), np.eye(3), names, names, k=5)
    assert expected[0].tolist() == [[1, -1, -1, -1, -1], [0, 2, -1, -1, -1], [1, -1, -1, -1, -1]]
    found = mine_hard_negatives(torch.eye(3), torch.eye(3), torch.tensor([0, 1, 0]), torch.tensor([0, 1, 0]), k=5)
    assert all(isinstance(part, torch.Tensor) for part in found)
    assert_mined([part.numpy() for part in found], expected)


def test_max_score():
    data = problem(2)
    found = mine_hard_negatives(*data, k=5, exclude=FalseNegatives(max_score=4.0))
    assert_mined(found, mine_by_hand(*data, 5, lambda q, g, score: score <= 4.0))
    assert found[1].max() == 4.0


def test_positive_scores_bound_each_query():
    data = problem(3)
    positive = np.random.default_rng(4).integers(-6, 12, size=150).astype("float32")
    assert (positive < 0).any()
    limit = positive - 0.5 * np.abs(positive)
    exclude = FalseNegatives(positive_scores=positive, positive_ratio=0.5, max_score=5.0)
    found = mine_hard_negatives(*data, k=5, block=1024, exclude=exclude)
    assert_mined(found, mine_by_hand(*data, 5, lambda q, g, score: score <= min(limit[q], 5.0)))


def test_minimum_distance_in_metres():
    """Gallery on the equator, 0.001 degrees (111.2 m) apart; unknown coordinates exclude nothing."""
    query, gallery, query_place, gallery_place = problem(5, n_queries=20, n_gallery=60)
    gallery_deg = np.stack([np.zeros(60), np.arange(60) * 0.001], axis=1)
    query_deg = gallery_deg[np.arange(20) * 3].copy()
    query_deg[7] = np.nan
    gallery_deg[11] = np.nan
    for distance_m in (1_000.0, 30_000_000.0):
        exclude = FalseNegatives(
            min_distance_m=distance_m, query_coordinates_deg=query_deg, gallery_coordinates_deg=gallery_deg
        )
        found = mine_hard_negatives(query, gallery, query_place, gallery_place, k=4, exclude=exclude)

        def far(q, g, score, limit=distance_m):
            return q == 7 or g == 11 or abs(query_deg[q, 1] - gallery_deg[g, 1]) * 111_195.08 >= limit

        assert_mined(found, mine_by_hand(query, gallery, query_place, gallery_place, 4, far))
    assert set(np.delete(found[0], 7, axis=0).ravel()) <= {11, -1}


@pytest.mark.parametrize(
    "change, message",
    [
        ({"k": 0}, "k is 0"),
        ({"query_place_id": [1]}, "query_place_id"),
        ({"gallery": np.eye(4)}, "D = "),
        ({"exclude": FalseNegatives(positive_scores=np.ones(2))}, "positive_scores"),
    ],
)
def test_bad_arguments(change, message):
    good = {"query": np.eye(3), "gallery": np.eye(3), "query_place_id": [0, 1, 2], "gallery_place_id": [0, 1, 2]}
    with pytest.raises(ValueError, match=message):
        mine_hard_negatives(**({**good, "k": 1} | change))


def test_bad_filters():
    with pytest.raises(ValueError, match="go together"):
        FalseNegatives(min_distance_m=5.0)
    swapped = np.array([[2.0, 48.0], [100.0, 2.0]])
    exclude = FalseNegatives(min_distance_m=5.0, query_coordinates_deg=swapped, gallery_coordinates_deg=swapped)
    with pytest.raises(ValueError, match="latitude beyond 90"):
        mine_hard_negatives(np.eye(2), np.eye(2), [0, 1], [0, 1], k=1, exclude=exclude)
