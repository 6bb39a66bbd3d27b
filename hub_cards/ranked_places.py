"""What the `evaluate` modules share: ranked places of each query as predictions, its true place as reference."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

import datasets
import evaluate
import numpy as np

from pemoe.retrieval.metrics import CUTOFFS

INPUTS = """
Args:
    predictions: for each query the places of the gallery's images, best first: at least 10 of them, or the whole
        gallery. A place may come more than once.
    references: the true place of each query. Places are strings or integers, the same kind everywhere.
    gallery_place_id: the place of every image of the gallery. With it a query whose place is not there is left out, as
        it should be; without it every query counts, and the gallery must hold at least 10 images.
"""


class RankedPlaces:
    """Base of a class that is an `evaluate.Metric` too and says what it `measures` and gives `_figures(ranks)`."""

    measures = ""

    def _info(self) -> evaluate.MetricInfo:
        kinds = (datasets.Value("string"), datasets.Value("int64"))
        return evaluate.MetricInfo(
            description=self.measures,
            citation="Li et al., arXiv:2510.20291, 2025",
            inputs_description=INPUTS,
            features=[datasets.Features(predictions=datasets.Sequence(kind), references=kind) for kind in kinds],
        )

    def add_batch(self, *, predictions: Sequence | None = None, references: Sequence | None = None) -> None:
        """Keep a batch for `compute`; see there."""
        predictions, references = check_ranked(predictions, references)
        super().add_batch(predictions=predictions, references=references)

    def add(self, *, prediction: Sequence | None = None, reference: str | int | None = None) -> None:
        """Keep one query for `compute`; see there."""
        self.add_batch(predictions=[prediction], references=[reference])

    def _compute(
        self, predictions: list[list], references: list, gallery_place_id: Sequence | None = None
    ) -> dict[str, float]:
        return self._figures(find_first_hits(predictions, references, gallery_place_id))


def check_ranked(predictions: Sequence | None, references: Sequence | None) -> tuple[list[list], list]:
    """Both sides as plain lists.

    Raises:
        ValueError: a side is missing, lengths differ, a query has no list of places, or ids are of two kinds.
    """
    predictions, references = _plain("predictions", predictions), _plain("references", references)
    if len(predictions) != len(references):
        raise ValueError(f"predictions are of {len(predictions)} queries, references of {len(references)}")
    predictions = [_plain(f"predictions[{query}]", ranked) for query, ranked in enumerate(predictions)]
    _check_kind(references, *predictions)
    return predictions, references


def find_first_hits(predictions: list[list], references: list, gallery_place_id: Sequence | None = None) -> np.ndarray:
    """Rank of each query's own place, (Q,) int64, for `recalls`: beyond the list if it is not in it, -1 if not in the
    gallery.

    Raises:
        ValueError: a list too short to tell, or a place that the gallery does not hold.

    Example:
        >>> find_first_hits([["b", "a"], ["b", "a"]], ["a", "c"], ["a", "b"]).tolist()
        [1, -1]
    """
    needed, places = max(CUTOFFS), None
    if gallery_place_id is not None:
        gallery = _plain("gallery_place_id", gallery_place_id)
        _check_kind(references, gallery)
        needed, places = min(needed, len(gallery)), set(gallery)
    ranks = []
    for query, (ranked, true) in enumerate(zip(predictions, references, strict=True)):
        if len(ranked) < needed:
            what = f"recall at {max(CUTOFFS)} needs {needed}; of a smaller gallery give gallery_place_id"
            raise ValueError(f"predictions[{query}] ranks {len(ranked)} places: {what}")
        strange = set(ranked) - places if places is not None else ()
        if strange:
            raise ValueError(f"predictions[{query}] ranks {min(strange)!r}, which is not in gallery_place_id")
        missing = max(len(ranked), max(CUTOFFS)) if places is None or true in places else -1
        ranks.append(ranked.index(true) if true in ranked else missing)
    return np.asarray(ranks, dtype=np.int64)


def _plain(name: str, ids: Sequence | None) -> list:
    """An array, tensor or sequence as a list; of an array's numbers, Python's own."""
    if isinstance(ids, str) or not hasattr(ids, "__iter__"):
        raise ValueError(f"{name} is {ids!r}: give a list")
    return ids.tolist() if hasattr(ids, "tolist") else list(ids)


def _check_kind(*sides: list) -> None:
    kinds = {type(place) for side in sides for place in side}
    if not (all(issubclass(k, str) for k in kinds) or all(issubclass(k, Integral) and k is not bool for k in kinds)):
        names = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise ValueError(f"places are of types {names}: use strings everywhere, or integers everywhere")
