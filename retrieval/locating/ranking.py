"""Pictures' scores to ranked places with probabilities. Numpy alone: this file also travels in the Space and in
endpoints, where this package is not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np


def fuse_places(scores: np.ndarray, place_ids: Sequence[str]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Places by the score of their best picture.

    Args:
        scores: `(n,)` of pictures.
        place_ids: `(n,)`.

    Returns:
        The P places, best first (equal scores by id), their scores `(P,)`, and the number of each one's best picture.
    """
    best: dict[str, int] = {}
    for number, place in enumerate(place_ids):
        if place not in best or scores[number] > scores[best[place]]:
            best[place] = number
    places = sorted(best, key=lambda place: (-scores[best[place]], place))
    numbers = np.asarray([best[place] for place in places], dtype=np.int64)
    return places, np.asarray(scores)[numbers] if places else np.zeros(0), numbers


def place_probabilities(
    scores: np.ndarray, calibration: Mapping[str, float], places_searched: int, prior: float | None = None
) -> tuple[np.ndarray, float]:
    """The probability of each place to be the one meant, and that the place meant is not in the gallery.

    A score's likelihood ratio, of the right place against another one, is L(s) = exp(slope s + offset). One of N
    places, each as likely as the others, is meant with the probability 1 - pi, none of them with pi (Bayes):

        P(p) = (1 - pi)/N L(s_p) / (pi + (1 - pi)/N sum_q L(s_q)),    P(elsewhere) = pi / (the same)

    Places that were searched and are not among `scores` count with at most the L of the last one, in all with at most
    N, which is what N wrong places sum to on average.

    Args:
        scores: `(P,)`, falling, of the best places.
        calibration: with `slope`, `offset` and `prior_elsewhere`.
        places_searched: N, at least P.
        prior: pi, instead of the calibration's.

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
    prior = calibration["prior_elsewhere"] if prior is None else prior
    ratios = calibration["slope"] * np.asarray(scores, dtype=np.float64) + calibration["offset"]  # (P,) logarithms
    total = np.log(max(places_searched, len(scores)))
    unseen = places_searched - len(scores)
    tail = min(np.log(unseen) + ratios[-1], total) if unseen > 0 else -np.inf
    none = total + np.log(prior) - np.log1p(-prior) if prior > 0 else -np.inf
    largest = max(ratios.max(), none)
    weights, absent = np.exp(ratios - largest), float(np.exp(none - largest))
    whole = weights.sum() + absent + np.exp(tail - largest)
    return weights / whole, absent / float(whole)


def count_places(pictures_searched: int, candidates: int, places: int) -> int:
    """How many places were searched, from the candidates' pictures per place; exact where all are candidates."""
    return round(pictures_searched * places / candidates) if candidates else 0
