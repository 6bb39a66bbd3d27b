"""Pictures' scores to ranked places. Numpy alone: this file also travels in the Space and in endpoints, where this
package is not.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

NEGATION_WEIGHT = 0.5  # deviations of the query's score lost per deviation that a negated statement fits
NEGATION_FROM = 1.0  # deviations above the usual from which a place fits it; measured, see docs/locate.md


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
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Places by the score of their best picture, less what they fit of negated statements.

    A place scores max_i S_i - weight * deviation * sum_s max(0, max_i Z_si - NEGATION_FROM) over its pictures i and
    the negated statements s: fitting a negated statement lowers a place, not fitting it raises none.

    Args:
        scores: `(n,)` S of pictures.
        place_ids: `(n,)`.
        negated: `(statements, n)` Z, `support_of` the negated statements.
        deviation: standard deviation of S over the gallery, the unit of what is lost.
        weight: deviations of S per deviation of Z.

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
        fits = np.full(len(names), NEGATION_FROM)  # so that what lies below costs nothing
        np.maximum.at(fits, member, support)
        best -= weight * deviation * (fits - NEGATION_FROM)
    order = np.lexsort((np.arange(len(names)), -best))
    return [str(name) for name in names[order]], best[order], numbers[order]
