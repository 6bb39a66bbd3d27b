"""Pictures' scores to ranked places. Numpy alone: this file also travels in the Space and in endpoints, where this
package is not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

NEGATION_WEIGHT = 0.25  # deviations of the query's score lost per deviation that a negated statement fits
NEGATION_FROM = 1.5  # deviations above the usual from which a place fits it; measured, see docs/locate.md


def support_of(scores: np.ndarray, usual: np.ndarray) -> np.ndarray:
    """How far scores lie above what is usual, in standard deviations.

    Args:
        scores: `(..., n)` of one statement with pictures.
        usual: `(..., m)` of the same statement with a sample of the gallery.

    Returns:
        `(..., n)`; 0 where the sample does not vary.

    Example:
        >>> support_of(np.array([0.5]), np.array([0.1, 0.3])).round(3)
        array([3.])
    """
    mean, deviation = usual.mean(-1, keepdims=True), usual.std(-1, keepdims=True)
    return np.divide(scores - mean, deviation, out=np.zeros(np.shape(scores)), where=deviation > 1e-6)


def fuse_places(
    scores: np.ndarray,
    place_ids: Sequence[str],
    negated: np.ndarray | None = None,
    deviation: float = 1.0,
    weight: float = NEGATION_WEIGHT,
    start: float = NEGATION_FROM,
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Places by the score of their best picture, less what they fit of negated statements.

    A place scores max_i S_i - weight * deviation * sum_s max(0, max_i Z_si - start) over its pictures i and
    the negated statements s: fitting a negated statement lowers a place, not fitting it raises none.

    Args:
        scores: `(n,)` S of pictures.
        place_ids: `(n,)`.
        negated: `(statements, n)` Z, `support_of` the negated statements.
        deviation: standard deviation of S over the gallery, the unit of what is lost.
        weight: deviations of S per deviation of Z; start: Z from which a place fits.

    Returns:
        The P places, best first (equal scores by id), their scores `(P,)`, and the number of each one's best picture.
    """
    names, member = np.unique(np.asarray(place_ids, dtype=object).astype(str), return_inverse=True)
    best = np.full(len(names), -np.inf)
    np.maximum.at(best, member, scores)
    numbers = np.full(len(names), len(member))
    is_best = np.flatnonzero(np.asarray(scores) == best[member])
    np.minimum.at(numbers, member[is_best], is_best)
    for support in () if negated is None else negated:
        fits = np.full(len(names), start)  # so that what lies below costs nothing
        np.maximum.at(fits, member, support)
        best -= weight * deviation * (fits - start)
    order = np.lexsort((np.arange(len(names)), -best))
    return [str(name) for name in names[order]], best[order], numbers[order]


def place_probabilities(
    scores: np.ndarray, calibration: Mapping[str, float], places_searched: int
) -> tuple[np.ndarray, float]:
    """The probability of each place to be the one meant, and that the place meant is not in the gallery.

    A score's likelihood ratio, of the right place against another one, is L(s) = exp(slope s + offset). One of N
    places, each as likely as the others, is meant with the probability 1 - pi, none of them with pi (Bayes):

        P(p) = (1 - pi)/N L(s_p) / (pi + (1 - pi)/N sum_q L(s_q)),    P(elsewhere) = pi / (the same)

    Places that were searched and are not among `scores` count with at most the L of the last one, in all with at most
    N, which is what N wrong places sum to on average.

    Args:
        scores: `(P,)`, falling, of the best places.
        calibration: with `slope`, `offset` and `prior_elsewhere`, pi.
        places_searched: N, at least P.

    Returns:
        `(P,)`, falling as the scores, and the probability of elsewhere: 1 where no place was searched.

    Example:
        >>> figures = {"slope": 20.0, "offset": -8.0, "prior_elsewhere": 0.05}
        >>> places, elsewhere = place_probabilities(np.array([0.8, 0.6, 0.2]), figures, 3)
        >>> places.round(3).tolist(), round(elsewhere, 3)
        ([0.982, 0.018, 0.0], 0.0)
    """
    if not len(scores):
        return np.zeros(0), 1.0
    prior = calibration["prior_elsewhere"]
    ratios = calibration["slope"] * np.asarray(scores, dtype=np.float64) + calibration["offset"]  # (P,) logarithms
    total = np.log(max(places_searched, len(scores)))
    unseen = places_searched - len(scores)
    tail = min(np.log(unseen) + ratios[-1], total) if unseen > 0 else -np.inf
    none = total + np.log(prior) - np.log1p(-prior) if prior > 0 else -np.inf
    largest = max(ratios.max(), none)
    weights, absent = np.exp(ratios - largest), float(np.exp(none - largest))
    whole = weights.sum() + absent + np.exp(tail - largest)
    return weights / whole, absent / float(whole)


def count_places(pictures_searched: int, candidates: Sequence[object], places: Sequence[str]) -> int:
    """How many places were searched, from the candidates' pictures per place; exact where all are candidates."""
    return round(pictures_searched * len(places) / len(candidates)) if len(candidates) else 0
