"""Pictures' scores to ranked places with probabilities. Numpy alone: this file also travels in the Space and in
endpoints, where this package is not.
"""

from __future__ import annotations

from collections.abc import Sequence

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
