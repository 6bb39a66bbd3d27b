"""Retrieval metrics by place: ranks, recall in both directions, chance and ceiling, bootstrap over places."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from pemoe.retrieval.scoring import DEFAULT_BLOCK, Array, check_vectors, device_of, query_chunks, score_blocks

CUTOFFS = (1, 5, 10)
_NO_MATCH = "no query has a true match in the gallery: check that both sides use the same place ids"

PlaceIds: TypeAlias = "Sequence[str] | Sequence[int] | np.ndarray | Tensor"


def evaluate_retrieval(
    query: Array, gallery: Array, query_place_id: PlaceIds, gallery_place_id: PlaceIds, block: int = DEFAULT_BLOCK
) -> dict[str, float]:
    """Recall at 1, 5 and 10 from text to image and from image to text, and the challenge score.

    R@k = (1/Q) * sum_q 1[ rank of the first item of q's place < k ], ranks from 0; score = (R@1 + R@10) / 2 (RoboSense
    2025, Track 4). "t2i": each text searches the images; "i2t": each image searches the texts, by the same inner
    products. Equal scores are ordered by the lower index.

    Args:
        query: fused text vectors, shape (Q, D), possibly several texts of one image; numpy or torch.
        gallery: fused image vectors, shape (G, D).
        query_place_id: place of each text, Q strings or integers.
        gallery_place_id: place of each image, G of the same type.
        block: rows scored at a time, bounds the memory; does not change the result.

    Returns:
        "{t2i,i2t}_recall_at_{1,5,10}" and "{t2i,i2t}_score", and without prefix those of t2i; fractions in [0, 1]. A
        query whose place is not in the gallery is left out of numerator and denominator. k above the gallery's size
        means all of it.

    Raises:
        ValueError: no query has a true match, shapes or types that do not fit, NaN or infinite input.

    Example:
        >>> evaluate_retrieval(np.eye(3), np.eye(3), ["a", "b", "c"], ["a", "b", "c"])["recall_at_1"]
        1.0
    """
    t2i = recalls(first_hit_ranks(query, gallery, query_place_id, gallery_place_id, block))
    i2t = recalls(first_hit_ranks(gallery, query, gallery_place_id, query_place_id, block))
    sides = {"t2i_": t2i, "i2t_": i2t, "": t2i}
    return {prefix + name: value for prefix, figures in sides.items() for name, value in figures.items()}


def first_hit_ranks(
    query: Array, gallery: Array, query_place_id: PlaceIds, gallery_place_id: PlaceIds, block: int = DEFAULT_BLOCK
) -> np.ndarray:
    """Rank of each query's best gallery item of its own place; arguments as in `evaluate_retrieval`.

    The gallery is scored once if it fits in one block, else twice: for the best true match, then for what stands
    before it.

    Returns:
        (Q,) int64 numpy: 0 is the top; equal scores are ordered by the lower gallery index; -1 where the gallery holds
        no item of the query's place.

    Raises:
        ValueError: shapes or types that do not fit, NaN or infinite input.

    Example:
        >>> first_hit_ranks(np.eye(2), np.eye(2), [7, 8], [8, 7]).tolist()
        [1, 1]
    """
    check_vectors(query, gallery, block)
    query_code, gallery_code = place_codes(query_place_id, gallery_place_id, len(query), len(gallery))
    query_code, gallery_code = query_code.to(device_of(query)), gallery_code.to(device_of(query))
    ranks = np.empty(len(query), dtype=np.int64)
    for rows in query_chunks(len(query)):
        ranks[rows] = _chunk_ranks(query, rows, gallery, (query_code[rows], gallery_code), block).cpu().numpy()
    return ranks


def _chunk_ranks(query: Array, rows: slice, gallery: Array, codes: tuple[Tensor, Tensor], block: int) -> Tensor:
    """First true match's rank (q,) int64 for the queries `rows`, -1 without one; `codes` are places (q,) and (G,)."""
    query_code, gallery_code = codes
    best = torch.full(query_code.shape, -torch.inf, device=query_code.device)  # (q,)
    first = torch.full_like(query_code, -1)  # (q,) gallery index of the best true match
    kept = list(score_blocks(query, rows, gallery, block)) if len(gallery) <= block else None
    for columns, scores in kept or score_blocks(query, rows, gallery, block):
        same = query_code[:, None] == gallery_code[columns][None, :]  # (q, n)
        value, column = scores.masked_fill(~same, -torch.inf).max(dim=1)  # (q,); the first of equal ones
        better = value > best
        best, first = torch.where(better, value, best), torch.where(better, column + columns.start, first)
    before = torch.zeros_like(first)
    for columns, scores in kept or score_blocks(query, rows, gallery, block):
        index = torch.arange(columns.start, columns.stop, device=scores.device)
        ahead = (scores > best[:, None]) | ((scores == best[:, None]) & (index < first[:, None]))  # (q, n)
        before += ahead.sum(dim=1)
    return torch.where(first < 0, -1, before)


def recalls(ranks: np.ndarray) -> dict[str, float]:
    """Recalls at `CUTOFFS` and the score of the ranks from `first_hit_ranks`; those without a match (-1) are left out.

    Raises ValueError when none has a match.
    """
    matched = ranks[ranks >= 0]
    if not len(matched):
        raise ValueError(_NO_MATCH)
    figures = {f"recall_at_{k}": float((matched < k).mean()) for k in CUTOFFS}
    return figures | {"score": (figures["recall_at_1"] + figures["recall_at_10"]) / 2}


def place_codes(
    query_place_id: PlaceIds, gallery_place_id: PlaceIds, n_queries: int, n_gallery: int
) -> tuple[Tensor, Tensor]:
    """Number the places of both sides, n_queries and n_gallery ids of one type, by one table.

    Returns:
        (n_queries,) and (n_gallery,) int64 tensors on the CPU, equal exactly where the ids are.

    Raises:
        ValueError: a wrong number of ids, ids that are neither strings nor integers, or strings against integers.

    Example:
        >>> [codes.tolist() for codes in place_codes(["b"], ["a", "b"], 1, 2)]
        [[1], [0, 1]]
    """
    query_ids = _id_array("query_place_id", query_place_id, n_queries)
    gallery_ids = _id_array("gallery_place_id", gallery_place_id, n_gallery)
    if (query_ids.dtype.kind == "U") != (gallery_ids.dtype.kind == "U") and n_queries and n_gallery:
        raise ValueError("query_place_id and gallery_place_id mix strings and integers: use one type for both")
    codes = np.unique(np.concatenate([query_ids, gallery_ids]), return_inverse=True)[1].reshape(-1)
    codes = torch.from_numpy(codes.astype(np.int64))
    return codes[:n_queries], codes[n_queries:]


def _id_array(name: str, place_id: PlaceIds, count: int) -> np.ndarray:
    """`place_id` as a 1-d numpy array of strings or integers, `count` long."""
    ids = place_id.cpu().numpy() if isinstance(place_id, Tensor) else np.asarray(place_id)
    if ids.shape != (count,):
        raise ValueError(f"{name} has shape {ids.shape}: it must hold one id for each of the {count} rows")
    if ids.dtype == object and all(isinstance(value, str) for value in ids):
        ids = ids.astype(str)
    if count and ids.dtype.kind not in "Uiu":
        raise ValueError(f"{name} is {ids.dtype}: ids must be all strings or all integers")
    return ids.astype(np.int64) if ids.dtype.kind == "u" else ids


def chance_recall(query_place_id: PlaceIds, gallery_place_id: PlaceIds, k: int) -> float:
    """Recall at `k` that a random order of the gallery reaches on average.

    Mean over queries of 1 - C(N - m, k) / C(N, k), with N gallery items of which m are of the query's place
    (hypergeometric). Evaluated as 1 - exp(sum_{i<k} log1p(-m / (N - i))): no large numbers, exact to rounding.

    The Q and N place ids are strings or integers; a cut-off `k` >= 1 above N means the whole gallery.

    Returns:
        Fraction in (0, 1], over the queries that have a match, as in `evaluate_retrieval`.

    Raises:
        ValueError: k < 1, ids of the wrong type, or no query has a match.

    Example:
        >>> round(chance_recall(["a", "b"], ["a", "b", "c", "d"], k=1), 6)
        0.25
    """
    if k < 1:
        raise ValueError(f"k is {k}: it must be at least 1")
    n_gallery = len(gallery_place_id)
    query_code, gallery_code = place_codes(query_place_id, gallery_place_id, len(query_place_id), n_gallery)
    counts = torch.bincount(gallery_code, minlength=int(query_code.max()) + 1 if len(query_code) else 0)
    matches, n_queries = np.unique(counts[query_code].numpy(), return_counts=True)
    matches, n_queries = matches[matches > 0], n_queries[matches > 0]
    if len(matches) == 0:
        raise ValueError(_NO_MATCH)
    drawn = np.arange(min(k, n_gallery))
    missed = [np.log1p(-m / (n_gallery - drawn[drawn < n_gallery - m])).sum() for m in matches]
    hit = np.where(len(drawn) > n_gallery - matches, 1.0, -np.expm1(missed))
    return float(np.average(hit, weights=n_queries))


def bootstrap_difference(
    hits_a: Array, hits_b: Array, place_id: PlaceIds, n_resamples: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    """Difference of two systems' recalls on the same queries, with a 95 % interval over places.

    Paired cluster bootstrap (Efron & Tibshirani 1993, ch. 13; places are the clusters): places are drawn with
    replacement, each with all its queries, and the difference of means is taken anew; 2.5th and 97.5th percentile.

    Args:
        hits_a, hits_b: per query, 1 or True for a hit of system a or b, shape (Q,).
        place_id: place of each query, Q strings or integers.
        n_resamples, seed: bootstrap samples, at least 1, and the seed that draws their places.

    Returns:
        (mean of a - b, low, high), fractions.

    Raises:
        ValueError: no queries, lengths that differ, n_resamples < 1.

    Example:
        >>> bootstrap_difference(np.array([1, 1]), np.array([0, 0]), [0, 1])
        (1.0, 1.0, 1.0)
    """
    hits_a, hits_b = (torch.as_tensor(hits, dtype=torch.float64).cpu().numpy() for hits in (hits_a, hits_b))
    if hits_a.ndim != 1 or hits_a.shape != hits_b.shape or len(hits_a) == 0:
        raise ValueError(f"hits_a is {hits_a.shape}, hits_b {hits_b.shape}: both need one value for each query")
    difference = hits_a - hits_b
    ((low, high),) = _place_intervals(
        difference[None], _id_array("place_id", place_id, len(hits_a)), n_resamples, seed
    )
    return float(difference.mean()), low, high


def recall_intervals(
    ranks: np.ndarray, place_id: PlaceIds, n_resamples: int = 2000, seed: int = 0
) -> dict[str, list[float]]:
    """95 % intervals of what `recalls` gives, by `bootstrap_difference`'s way: places are drawn, not queries.

    Args:
        ranks: of `first_hit_ranks`, (Q,); queries without a match (-1) are left out.
        place_id: place of each query, Q strings or integers.
        n_resamples, seed: bootstrap samples, at least 1, and the seed that draws their places.

    Returns:
        `{"recall_at_1": [low, high], "recall_at_5", "recall_at_10", "score"}`; both ends are the figure itself where
        all queries ask for one place, which says nothing of others.

    Raises:
        ValueError: no query has a match, n_resamples < 1.

    Example:
        >>> recall_intervals(np.array([0, 0, 20, 20]), [7, 7, 8, 8])["recall_at_1"]
        [0.0, 1.0]
    """
    matched = ranks >= 0
    if not matched.any():
        raise ValueError(_NO_MATCH)
    hits = {f"recall_at_{k}": (ranks[matched] < k).astype(np.float64) for k in CUTOFFS}
    hits["score"] = (hits["recall_at_1"] + hits["recall_at_10"]) / 2
    places = _id_array("place_id", place_id, len(ranks))[matched]
    bounds = _place_intervals(np.stack(list(hits.values())), places, n_resamples, seed)
    return {name: list(ends) for name, ends in zip(hits, bounds, strict=True)}


def _place_intervals(
    values: np.ndarray, place_id: np.ndarray, n_resamples: int, seed: int
) -> list[tuple[float, float]]:
    """95 % percentile intervals of the means of `values` (M, Q); every figure sees the same draws of places (Q,)."""
    if n_resamples < 1:
        raise ValueError(f"n_resamples is {n_resamples}: it must be at least 1")
    place = np.unique(place_id, return_inverse=True)[1].reshape(-1)
    count = np.bincount(place)  # (P,) queries of each place
    total = np.stack([np.bincount(place, weights=row) for row in values])  # (M, P) sums of each place
    rng = np.random.default_rng(seed)
    draws = (rng.integers(len(count), size=len(count)) for _ in range(n_resamples))
    means = np.stack([np.take(total, draw, axis=1).sum(axis=1) / count[draw].sum() for draw in draws])  # (R, M)
    return [(float(low), float(high)) for low, high in np.percentile(means, [2.5, 97.5], axis=0).T]


def ceiling_recall(texts: Sequence[str], query_place_id: PlaceIds, gallery_place_id: PlaceIds, k: int) -> float:
    """Highest recall at `k` that any system which reads the text alone can reach on these queries.

    Queries of the very same text get the same k answers, so at most k of their places are found: the k most frequent.
    C_k = (1/Q) * sum over distinct texts t of the sum of the k largest n(t, p), n(t, p) being the number of queries of
    text t for place p. Reached by answering each text with a picture of each of these places.

    Args:
        texts: the Q queries.
        query_place_id, gallery_place_id: Q and G strings or integers.
        k: cut-off, at least 1; every one is one answer.

    Returns:
        Fraction in (0, 1], 1.0 where all texts differ; over the queries that have a match, as in `evaluate_retrieval`.

    Raises:
        ValueError: k < 1, ids of the wrong type, or no query has a match.

    Example:
        >>> ceiling_recall(["red roof", "red roof", "gate"], ["a", "b", "c"], ["a", "b", "c"], k=1)
        0.6666666666666666
    """
    if k < 1:
        raise ValueError(f"k is {k}: it must be at least 1")
    query_code, gallery_code = place_codes(query_place_id, gallery_place_id, len(texts), len(gallery_place_id))
    matched = np.isin(query_code.numpy(), gallery_code.numpy())
    if not matched.any():
        raise ValueError(_NO_MATCH)
    counts: dict[str, Counter[int]] = {}
    for text, place, kept in zip(texts, query_code.tolist(), matched, strict=True):
        if kept:
            counts.setdefault(text, Counter())[place] += 1
    reachable = sum(n for places in counts.values() for _, n in places.most_common(k))
    return reachable / int(matched.sum())
