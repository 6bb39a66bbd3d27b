"""Fits a calibration on training queries: the likelihood ratio of a score, of the right place against another one,
over simulated galleries of several sizes with the right place kept and taken out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import datasets
import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp
from scipy.stats import rankdata, skew

from pemoe.modeling_pemoe import PeMoEModel, PeMoEProcessor
from pemoe.retrieval.embedding import embed_split
from pemoe.retrieval.feature_cache import ImageStates
from pemoe.retrieval.index.errors import GalleryError
from pemoe.retrieval.locating.calibration import Calibration
from pemoe.retrieval.locating.ranking import place_probabilities
from pemoe.retrieval.scoring import search

PRIOR_ELSEWHERE = 0.05  # one query in twenty is taken to ask for a place that is not in the gallery
GALLERY_PLACES = (10, 30, 100, 300)  # of the simulated galleries; those that the data has places for
LEAST_PLACES = 10
FIT_PLACES, FIT_QUERIES_PER_PLACE = 300, 6
BINS = 15
HUB_WEIGHTS = (0.25, 0.5, 1.0)
HUB_TOP = 10  # N_10: how often a picture is among a query's ten first


def fit_calibration(
    model: PeMoEModel,
    processor: PeMoEProcessor,
    rows: datasets.Dataset,
    weights_sha256: str | None = None,
    seed: int = 0,
    image_states: ImageStates | None = None,
    show_progress: bool = False,
) -> Calibration:
    """Fit on training rows: their refined captions where they have some, else their captions.

    At most 300 places and six queries of each are asked, drawn by seed; `image_states`, of all rows, save the image
    trunk's run.

    Raises:
        GalleryError: queries of fewer than ten places.
    """
    chosen, asked = training_queries(rows, seed)
    states = None if image_states is None else image_states[chosen.tolist()]
    split = embed_split(model, processor, asked, show_progress=show_progress, image_states=states)
    return fit_vectors(split.query, split.query_place_id, split.gallery, split.place_id, weights_sha256, seed)


def training_queries(rows: datasets.Dataset, seed: int = 0) -> tuple[np.ndarray, datasets.Dataset]:
    """Rows of at most 300 places with captions, whole places, with at most one caption in each row and six in each
    place; their numbers in `rows` first.

    Raises:
        GalleryError: captions of fewer than ten places.
    """
    rng = np.random.default_rng((seed, len(rows)))
    pairs = zip(rows["refined_captions"][:], rows["captions"][:], strict=True)
    captions = [list(refined or given) for refined, given in pairs]
    places = np.asarray(rows["place_id"][:], dtype=str)
    asked = np.unique(places[[bool(one) for one in captions]]) if len(places) else places
    if len(asked) < LEAST_PLACES:
        raise GalleryError(f"calibration: {len(asked)} places have captions; it takes {LEAST_PLACES}")
    chosen = np.flatnonzero(np.isin(places, rng.permutation(asked)[:FIT_PLACES]))
    left = dict.fromkeys(places[chosen].tolist(), FIT_QUERIES_PER_PLACE)
    queries: list[list[str]] = [[] for _ in chosen]
    for number in rng.permutation(len(chosen)):
        own, place = captions[chosen[number]], places[chosen[number]]
        if own and left[place]:
            queries[number], left[place] = [own[int(rng.integers(len(own)))]], left[place] - 1
    kept = rows.select(chosen).remove_columns("captions")
    return chosen, kept.add_column("captions", queries, feature=rows.features["captions"])


def fit_vectors(
    query: np.ndarray,
    query_place: np.ndarray,
    gallery: np.ndarray,
    place_id: np.ndarray,
    weights_sha256: str | None = None,
    seed: int = 0,
) -> Calibration:
    """Fit on queries `(Q, E * D)` with their places `(Q,)` and pictures `(G, E * D)` with theirs `(G,)`."""
    hub_query = query.mean(0)
    weight, hubs = choose_hub_weight(query, query_place, gallery, place_id, seed)
    scores, own = place_scores(query - weight * hub_query, query_place, gallery, place_id)
    slope, offset = fit_figures(scores, own, seed)
    measured = {
        "queries": len(own),
        "places": scores.shape[1],
        "seed": seed,
        "left_out": _cross_check(scores, own, seed),
        "hubness": hubs,
    }
    return Calibration(slope, offset, PRIOR_ELSEWHERE, weight, hub_query, weights_sha256, measured)


def place_scores(
    query: np.ndarray, query_place: np.ndarray, gallery: np.ndarray, place_id: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Each query's score with each place's best picture, `(Q, P)`, and the number of its own place, `(Q,)`."""
    order = np.argsort(place_id, kind="stable")
    names, starts = np.unique(place_id[order], return_index=True)
    scores = np.maximum.reduceat(query @ gallery[order].T, starts, axis=1)
    return scores.astype(np.float64), np.searchsorted(names, query_place)


def fit_figures(scores: np.ndarray, own: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """`slope` and `offset` by maximum likelihood over simulated galleries.

    Args:
        scores: `(Q, P)` of `place_scores`; own: `(Q,)`, numbers of the right places.

    Returns:
        The figures at which the right answer, the own place or elsewhere, is likeliest, the queries whose own place
        is taken out weighing `PRIOR_ELSEWHERE`.
    """
    drawn = list(simulate_galleries(scores, own, seed))
    spread = float(scores.std()) or 1.0

    def loss(figures: np.ndarray) -> float:
        total = 0.0
        for kept, out in drawn:
            none = np.log(kept.shape[1]) + np.log(PRIOR_ELSEWHERE) - np.log1p(-PRIOR_ELSEWHERE)
            right, other = (np.exp(figures[0]) / spread * one + figures[1] for one in (kept, out))
            found = np.logaddexp(logsumexp(right, axis=1), none) - right[:, 0]
            absent = np.logaddexp(logsumexp(other, axis=1), none) - none
            total += (1 - PRIOR_ELSEWHERE) * found.mean() + PRIOR_ELSEWHERE * absent.mean()
        return total / len(drawn)

    best = minimize(loss, np.zeros(2), method="BFGS").x
    return float(np.exp(best[0]) / spread), float(best[1])


def simulate_galleries(scores: np.ndarray, own: np.ndarray, seed: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For each size of `GALLERY_PLACES` that the P places allow: `(Q, size)` scores with places drawn for each query,
    the first of them its own, and the same with another one in its stead."""
    rng = np.random.default_rng((seed, *scores.shape))
    queries = np.arange(len(own))
    for size in sorted({min(size, scores.shape[1] - 1) for size in GALLERY_PLACES}):
        keys = rng.random(scores.shape)
        keys[queries, own] = 2.0  # the own place comes last, and so is never drawn
        out = np.take_along_axis(scores, np.argpartition(keys, size - 1, axis=1)[:, :size], axis=1)
        kept = out.copy()
        kept[:, 0] = scores[queries, own]
        yield kept, out


def _cross_check(scores: np.ndarray, own: np.ndarray, seed: int) -> list[dict[str, float]]:
    """Fitted on one half of the places, measured on the other, both ways; a line for each size of gallery."""
    places = scores.shape[1]
    half = np.random.default_rng((seed, places, 2)).permutation(places) < places // 2
    parts: dict[int, list[tuple[np.ndarray, ...]]] = {}
    for side in (half, ~half):
        fitted = fit_figures(*_only(scores, own, side), seed)
        figures = dict(zip(("slope", "offset"), fitted, strict=True)) | {"prior_elsewhere": PRIOR_ELSEWHERE}
        for kept, out in simulate_galleries(*_only(scores, own, ~side), seed):
            parts.setdefault(kept.shape[1], []).append(judge(kept, out, figures))
    lines = []
    for size, sides in sorted(parts.items()):
        first, right, here, gone, _ = (np.concatenate(column) for column in zip(*sides, strict=True))
        error, area = expected_calibration_error(first, right), area_under_roc(gone, here)
        lines.append({"places": size, "recall_at_1": float(right.mean()), "ece": error, "auc_elsewhere": area})
    return lines


def _only(scores: np.ndarray, own: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The queries of some places among these places."""
    numbers = np.cumsum(places) - 1
    asked = places[own]
    return scores[np.ix_(asked, places)], numbers[own[asked]]


def judge(kept: np.ndarray, out: np.ndarray, figures: Mapping[str, float]) -> tuple[np.ndarray, ...]:
    """Of galleries of `simulate_galleries`, `(Q,)` each: the first place's probability and whether it is right, with
    the own place there; the probability of elsewhere with it there, and with it taken out; and the first place's
    probability then, which is never right."""
    first, right, here, gone, wrong = (np.zeros(len(kept)) for _ in range(5))
    for number, (with_own, without) in enumerate(zip(kept, out, strict=True)):
        order = np.argsort(-with_own, kind="stable")
        places, here[number] = place_probabilities(with_own[order], figures, len(order))
        first[number], right[number] = places[0], order[0] == 0
        places, gone[number] = place_probabilities(np.sort(without)[::-1], figures, len(without))
        wrong[number] = places[0]
    return first, right, here, gone, wrong


def choose_hub_weight(
    query: np.ndarray, query_place: np.ndarray, gallery: np.ndarray, place_id: np.ndarray, seed: int = 0
) -> tuple[float, dict[str, Any]]:
    """How much of the mean query to take off, 0 unless that surely raises recall at 1 (95 %, bootstrap over places),
    with the figures of hubness.

    `skewness` is that of N_10, how often each picture is among the ten first (Radovanovic et al., 2010).
    """
    hits = {}
    for weight in (0.0, *HUB_WEIGHTS):
        scores, own = place_scores(query - weight * query.mean(0), query_place, gallery, place_id)
        hits[weight] = (scores.argmax(1) == own).astype(float)
    best = max(hits, key=lambda weight: (hits[weight].mean(), -weight))
    gains = np.bincount(own, hits[best] - hits[0.0])
    drawn = np.random.default_rng((seed, 3)).choice(gains, (1000, len(gains))).sum(1) / len(own)
    low, high = (float(value) for value in np.quantile(drawn, (0.025, 0.975)))
    _, found = search(query, gallery, min(HUB_TOP, len(gallery)))
    counts = np.bincount(found.ravel(), minlength=len(gallery))
    figures = {
        "skewness": float(skew(counts)) if counts.std() else 0.0,
        "recall_at_1": float(hits[0.0].mean()),
        "best_weight": best,
        "gain": float(gains.sum() / len(own)),
        "gain_interval": [low, high],
    }
    return (best if low > 0 else 0.0), figures


def expected_calibration_error(probability: np.ndarray, right: np.ndarray, bins: int = BINS) -> float:
    """sum_b n_b / n |mean probability - share right| over bins of equal width (Guo et al., 2017).

    Args:
        probability: `(n,)`, n >= 1; right: `(n,)` bool or 0 and 1.

    Example:
        >>> expected_calibration_error(np.array([0.9, 0.9]), np.array([1, 0]))
        0.4
    """
    return sum(
        line["share"] * abs(line["probability"] - line["right"]) for line in reliability(probability, right, bins)
    )


def reliability(probability: np.ndarray, right: np.ndarray, bins: int = BINS) -> list[dict[str, float]]:
    """For each bin of equal width that holds something: its mean probability, the share right, its share of all."""
    number = np.minimum((np.asarray(probability) * bins).astype(int), bins - 1)
    right = np.asarray(right, dtype=float)
    lines = []
    for one in np.unique(number):
        chosen = number == one
        means = float(probability[chosen].mean()), float(right[chosen].mean()), float(chosen.mean())
        lines.append(dict(zip(("probability", "right", "share"), means, strict=True)))
    return lines


def area_under_roc(positive: np.ndarray, negative: np.ndarray) -> float:
    """The chance that a positive's value is above a negative's, ties half: `(n,)` and `(m,)`, neither empty.

    Example:
        >>> area_under_roc(np.array([0.9, 0.5]), np.array([0.5, 0.1]))
        0.875
    """
    ranks = rankdata(np.concatenate([positive, negative]))
    n, m = len(positive), len(negative)
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * m))
