"""Guards the metrics: parity with sorting by hand, ties, several matches, no match, and the statistics beside them."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
import torch

from pemoe.retrieval import (
    bootstrap_difference,
    ceiling_recall,
    chance_recall,
    evaluate_retrieval,
    first_hit_ranks,
    recall_intervals,
)


def problem(seed: int, n_queries: int = 200, n_gallery: int = 2300, n_places: int = 40):
    """Integer vectors (true ties), several images a place, queries of which some have no match."""
    rng = np.random.default_rng(seed)
    query, gallery = (rng.integers(-3, 4, size=(n, 4)).astype("float32") for n in (n_queries, n_gallery))
    return query, gallery, rng.integers(n_places + 5, size=n_queries), rng.integers(n_places, size=n_gallery)


def ranks_by_hand(query, gallery, query_place, gallery_place) -> list[int]:
    ranks = []
    for vector, place in zip(query, query_place, strict=True):
        order = np.argsort(-(gallery @ vector), kind="stable")
        hits = [rank for rank, item in enumerate(order) if gallery_place[item] == place]
        ranks.append(hits[0] if hits else -1)
    return ranks


@pytest.mark.parametrize("block", [1, 1024, 2300, 65536])
def test_ranks_equal_sorting_by_hand(block):
    data = problem(0)
    expected = ranks_by_hand(*data)
    assert -1 in expected and max(expected) > 20
    ranks = first_hit_ranks(*data, block=block)
    assert ranks.dtype == np.int64 and ranks.tolist() == expected


def test_recalls_equal_sorting_by_hand_in_both_directions():
    query, gallery, query_place, gallery_place = data = problem(1)
    results = evaluate_retrieval(*data)
    sides = {"t2i": ranks_by_hand(*data), "i2t": ranks_by_hand(gallery, query, gallery_place, query_place)}
    for direction, ranks in sides.items():
        judged = [rank for rank in ranks if rank >= 0]
        for k in (1, 5, 10):
            expected = sum(rank < k for rank in judged) / len(judged)
            assert results[f"{direction}_recall_at_{k}"] == pytest.approx(expected)
        expected = (results[f"{direction}_recall_at_1"] + results[f"{direction}_recall_at_10"]) / 2
        assert results[f"{direction}_score"] == pytest.approx(expected)
    assert 0 < results["recall_at_1"] < results["recall_at_10"] < 1
    names = {"recall_at_1", "recall_at_5", "recall_at_10", "score"}
    assert set(results) == names | {f"{d}_{name}" for d in sides for name in names}
    assert all(type(value) is float and results.get(f"t2i_{name}", value) == value for name, value in results.items())


def test_kinds_of_input_agree():
    query, gallery, query_place, gallery_place = problem(2, n_gallery=300)
    expected = evaluate_retrieval(query, gallery, query_place, gallery_place)
    tensors = [torch.from_numpy(array) for array in (query, gallery, query_place, gallery_place)]
    names = [[f"{place:04d}" for place in places] for places in (query_place, gallery_place)]
    assert evaluate_retrieval(*tensors) == expected
    assert evaluate_retrieval(query, gallery, *names) == expected
    assert evaluate_retrieval(query, gallery, names[0], np.array(names[1], dtype=object)) == expected
    assert evaluate_retrieval(query, gallery, query_place.astype("uint64"), gallery_place) == expected


def test_perfect_and_hopeless():
    places = ["a", "b", "c"]
    assert set(evaluate_retrieval(np.eye(3), np.eye(3), places, places).values()) == {1.0}
    twelve = np.eye(12)
    results = evaluate_retrieval(twelve, -twelve, range(12), range(12))
    assert set(results.values()) == {0.0}


def test_all_equal_scores_do_not_flatter():
    """A model that maps everything to one point gets what the gallery's order gives, not 100 %."""
    same = np.ones((20, 3))
    results = evaluate_retrieval(same, same, range(20), range(20))
    assert results["recall_at_1"] == pytest.approx(1 / 20) and results["recall_at_10"] == pytest.approx(10 / 20)


def test_k_beyond_the_gallery_means_all_of_it():
    results = evaluate_retrieval(np.eye(3), -np.eye(3), [0, 1, 2], [0, 1, 2])
    assert results["recall_at_1"] == 0.0 and results["recall_at_5"] == results["recall_at_10"] == 1.0


def test_queries_without_a_match_are_left_out():
    results = evaluate_retrieval(np.eye(3), np.eye(3), ["a", "nowhere", "c"], ["a", "b", "c"])
    assert results["recall_at_1"] == 1.0 and results["i2t_recall_at_1"] == 1.0


def test_nan_is_refused():
    gallery = np.eye(3)
    gallery[1, 1] = np.nan
    with pytest.raises(ValueError, match="gallery row 1"):
        evaluate_retrieval(np.eye(3), gallery, [0, 1, 2], [0, 1, 2])


@pytest.mark.parametrize(
    "query_place, gallery_place, message",
    [
        ([0, 1], [0, 1, 2], "query_place_id has shape"),
        ([0, 1, 2], ["0", "1", "2"], "one type"),
        ([0.5, 1.0, 2.0], [0, 1, 2], "strings or"),
        ([5, 6, 7], [0, 1, 2], "no query has a true match"),
    ],
)
def test_bad_places(query_place, gallery_place, message):
    with pytest.raises(ValueError, match=message):
        evaluate_retrieval(np.eye(3), np.eye(3), query_place, gallery_place)


@pytest.mark.parametrize("k", [1, 3, 5, 9, 10, 50])
def test_chance_equals_binomials(k):
    gallery = ["a"] * 4 + ["b"] * 1 + ["c"] * 5
    query = ["a", "b", "a", "c", "nowhere"]
    drawn = min(k, 10)
    per_place = {
        place: 1 - math.comb(10 - m, drawn) / math.comb(10, drawn) for place, m in [("a", 4), ("b", 1), ("c", 5)]
    }
    expected = np.mean([per_place[place] for place in "abac"])
    assert chance_recall(query, gallery, k) == pytest.approx(expected, rel=1e-12)


def test_chance_is_what_random_vectors_reach():
    rng = np.random.default_rng(0)
    gallery_place, query_place = rng.integers(30, size=120), rng.integers(30, size=3000)
    query, gallery = rng.standard_normal((3000, 120)), np.eye(120)
    reached = evaluate_retrieval(query, gallery, query_place, gallery_place)["recall_at_5"]
    assert reached == pytest.approx(chance_recall(query_place, gallery_place, 5), abs=0.02)


def test_chance_is_stable_for_large_galleries():
    gallery = np.arange(10**6)
    assert chance_recall([7], gallery, 1) == pytest.approx(1e-6, rel=1e-12)
    assert chance_recall([7], gallery, 1000) == pytest.approx(1e-3, rel=1e-12)
    with pytest.raises(ValueError, match="k is 0"):
        chance_recall([7], gallery, 0)
    with pytest.raises(ValueError, match="true match"):
        chance_recall([-1], gallery, 1)


def test_bootstrap_covers_and_is_seeded():
    rng = np.random.default_rng(0)
    place = np.repeat(np.arange(60), 5)
    a, b = rng.random(300) < 0.6, rng.random(300) < 0.5
    mean, low, high = bootstrap_difference(a, b, place, seed=3)
    assert mean == pytest.approx(a.mean() - b.mean()) and low < mean < high
    assert (mean, low, high) == bootstrap_difference(a, b, place, seed=3)
    few = [bootstrap_difference(a, b, place, n_resamples=30, seed=seed)[1:] for seed in (3, 4, 5)]
    assert len(set(few)) == 3
    assert bootstrap_difference(b, a, place, seed=3) == pytest.approx((-mean, -high, -low))


def test_bootstrap_resamples_places_not_queries():
    """Hits that are constant within a place vary with the 10 places: sd 0.5 / sqrt(10), whatever the queries."""
    place = np.repeat(np.arange(10), 1000)
    a, b = (place % 2 == 0).astype(float), np.zeros(10000)
    _, low, high = bootstrap_difference(a, b, place)
    assert 0.5 < high - low < 0.75
    assert bootstrap_difference(torch.tensor(a), torch.tensor(a), place) == (0.0, 0.0, 0.0)


def test_bootstrap_weighs_places_by_their_queries():
    """One place of 99 queries and one of 1: resamples are one, the other, or both pooled."""
    place = np.array([0] * 99 + [1])
    hits = (place == 0).astype(float)
    assert bootstrap_difference(hits, np.zeros(100), place) == (0.99, 0.0, 1.0)


@pytest.mark.parametrize("a, b, n", [([], [], 10), ([1, 0], [1], 10), ([1, 0], [1, 0], 0)])
def test_bootstrap_refuses_bad_input(a, b, n):
    with pytest.raises(ValueError):
        bootstrap_difference(np.array(a), np.array(b), list(range(len(a))), n_resamples=n)


def test_intervals_are_percentiles_of_means_over_drawn_places():
    rng = np.random.default_rng(4)
    ranks, place = rng.integers(-1, 20, 60), rng.integers(0, 12, 60)
    kept = ranks >= 0
    intervals = recall_intervals(ranks, place, n_resamples=300, seed=9)
    draws, names = np.random.default_rng(9), np.unique(place[kept])
    means = []
    for _ in range(300):
        drawn = names[draws.integers(len(names), size=len(names))]
        queries = np.concatenate([ranks[kept & (place == one)] for one in drawn])
        means.append(((queries < 1).mean(), (queries < 10).mean()))
    by_hand = np.percentile(means, [2.5, 97.5], axis=0)
    assert intervals["recall_at_1"] == pytest.approx(by_hand[:, 0].tolist())
    assert intervals["recall_at_10"] == pytest.approx(by_hand[:, 1].tolist())
    low, high = intervals["score"]
    assert intervals["recall_at_1"][0] < low < high < intervals["recall_at_10"][1]
    assert intervals == recall_intervals(ranks, place, n_resamples=300, seed=9)


def test_intervals_and_differences_draw_the_same_places():
    ranks, place = np.array([0, 3, 0, 7, 0, 2]), [0, 0, 1, 1, 2, 3]
    _, low, high = bootstrap_difference(ranks < 1, np.zeros(6), place)
    assert recall_intervals(ranks, place)["recall_at_1"] == [low, high]


def test_intervals_refuse_bad_input():
    with pytest.raises(ValueError, match="no query has a true match"):
        recall_intervals(np.array([-1, -1]), [0, 1])
    with pytest.raises(ValueError, match="n_resamples"):
        recall_intervals(np.array([0, 1]), [0, 1], n_resamples=0)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_ceiling_is_the_best_of_all_answers(k):
    texts, places = ["a", "a", "a", "a", "b", "b", "c", "c"], [0, 0, 1, 2, 1, 2, 3, 9]  # place 9 is in no gallery
    gallery = [0, 1, 2, 3, 3]
    best = 0
    for text in "abc":  # every set of k places that one text can be answered with
        asked = [place for one, place in zip(texts, places, strict=True) if one == text and place in gallery]
        best += max(sum(place in answer for place in asked) for answer in combinations(range(4), k))
    assert ceiling_recall(texts, places, gallery, k) == best / 7


def test_ceiling_refuses_bad_input():
    with pytest.raises(ValueError, match="k is 0"):
        ceiling_recall(["a"], [0], [0], 0)
    with pytest.raises(ValueError, match="no query has a true match"):
        ceiling_recall(["a"], [0], [1], 1)
