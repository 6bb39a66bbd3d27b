"""Scores to probabilities: two figures and what they belong to, as an index and a model's directory keep them."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pemoe.retrieval.index.errors import GalleryError
from pemoe.retrieval.locating.ranking import place_probabilities
from pemoe.retrieval.locating.results import FOUND, NOT_HERE, LocateResult

FILE = "calibration.json"  # in a model's directory
NOT_HERE_FROM = 0.5  # probability of elsewhere at which the verdict is that the place is not in the gallery
_TEXTS_ALONE = (
    "probabilities are calibrated for texts; where a picture is asked with, or all is negated, there are none"
)


@dataclass(frozen=True)
class Calibration:
    """What turns a model's scores into probabilities.

    slope, offset: of the logarithm of a score's likelihood ratio; prior_elsewhere: share of queries taken to ask for a
    place that is not in the gallery; hub_weight: how much of `hub_query`, the mean training query, is taken from a
    query, 0 where that does not raise recall; weights_sha256: of the model, None where it is not known; figures: how
    it was fitted and what it reached on places left out of the fit.
    """

    slope: float
    offset: float
    prior_elsewhere: float
    hub_weight: float
    hub_query: np.ndarray  # (E * D,) float32
    weights_sha256: str | None
    figures: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        """As an index and a model's directory keep it."""
        packed = base64.b64encode(np.asarray(self.hub_query, dtype="<f2").tobytes()).decode("ascii")
        return {**vars(self), "hub_query": packed}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Calibration:
        """From what `as_json` gave; GalleryError for anything else."""
        try:
            query = np.frombuffer(base64.b64decode(content["hub_query"], validate=True), dtype="<f2").astype(
                np.float32
            )
            figures = {name: float(content[name]) for name in ("slope", "offset", "prior_elsewhere", "hub_weight")}
            known = {"weights_sha256": content["weights_sha256"], "figures": dict(content["figures"])}
        except (KeyError, TypeError, ValueError) as error:
            raise GalleryError(f"no calibration, or one of another version ({error}); fit it anew") from error
        if not (
            np.isfinite([*figures.values(), *query]).all()
            and figures["slope"] > 0
            and 0 <= figures["prior_elsewhere"] < 1
        ):
            raise GalleryError("a calibration needs finite figures, slope > 0, 0 <= prior_elsewhere < 1; fit it anew")
        return cls(**figures, hub_query=query, **known)

    @classmethod
    def read(cls, path: str | Path) -> Calibration:
        """From a file that holds `as_json`; GalleryError where it cannot be read."""
        try:
            return cls.from_json(json.loads(Path(path).read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise GalleryError(f"{path}: cannot be read as a calibration ({error}); name another file") from error

    def correct(self, query: np.ndarray) -> np.ndarray:
        """Queries `(..., E * D)` less the mean training query's share: each picture's score falls by `hub_weight`
        times its mean score with training queries, which is large for hubs, pictures near every query."""
        return query - self.hub_weight * self.hub_query if self.hub_weight else query

    def probabilities(self, scores: np.ndarray, places_searched: int) -> tuple[np.ndarray, float]:
        """See `ranking.place_probabilities`."""
        return place_probabilities(scores, vars(self), places_searched)


def give_probabilities(
    answer: LocateResult, scores: np.ndarray, calibration: Calibration | None, places_searched: int, is_text: bool
) -> LocateResult:
    """An answer with the probability of each place, of elsewhere, and the verdict that follows.

    Args:
        answer: whose places are the first ones of `scores`, in their order.
        scores: `(P,)`, falling, of all places that are known.
        calibration: None leaves the answer as it is.
        places_searched: how many places passed the filters.
        is_text: whether it was asked with words that say what the place has; else a note says why nothing is given.
    """
    if calibration is None:
        return answer
    if not is_text:
        return replace(answer, notes=(*answer.notes, _TEXTS_ALONE))
    odds, elsewhere = calibration.probabilities(scores, places_searched)
    places = tuple(replace(place, probability=float(value)) for place, value in zip(answer.places, odds, strict=False))
    verdict = NOT_HERE if elsewhere >= NOT_HERE_FROM else FOUND
    return replace(answer, places=places, probability_elsewhere=elsewhere, verdict=verdict)
