"""What mining may be told, in a recipe under `mine` and to `mine_split`."""

from __future__ import annotations

from dataclasses import dataclass

import datasets
import numpy as np

from pemoe.trainers.errors import TrainingError, check_choice, check_range

CAPTIONS = ("one", "all")


@dataclass(frozen=True)
class MineRecipe:
    """Mining between the stages.

    k: negatives per row; captions: the queries, "one" caption per row, drawn as in the first visit of training, or
    "all" of them. What is left out as a likely false negative, beside the same place: positive_ratio, pictures that
    score above `p - (1 - positive_ratio) * |p|`, p the score of the caption's own picture; max_score, pictures that
    score above it; min_distance_m, pictures taken nearer than this on the ground. None leaves a rule out.

    Raises:
        TrainingError: a number out of range, an unknown choice.

    Example:
        >>> MineRecipe(k=5, captions="all").max_score is None
        True
    """

    k: int = 10
    positive_ratio: float | None = None
    max_score: float | None = None
    min_distance_m: float | None = None
    captions: str = "one"

    def __post_init__(self) -> None:
        check_range("mine.k", self.k, 1)
        check_choice("mine.captions", self.captions, CAPTIONS)
        ranges = {"positive_ratio": (0, 1), "max_score": (-1, 1), "min_distance_m": (0, np.inf)}
        for name, bounds in ranges.items():
            if getattr(self, name) is not None:
                check_range(f"mine.{name}", getattr(self, name), *bounds)


def read_coordinates_deg(rows: datasets.Dataset, option: str) -> np.ndarray:
    """WGS84 latitude and longitude of every row, `(n, 2)` float64 degrees, NaN where unknown.

    Args:
        rows: a split with the columns of `schema.FEATURES`.
        option: what asks for them, named in the refusal.

    Raises:
        TrainingError: no row has both.
    """
    names = [name for name in ("latitude_deg", "longitude_deg") if name in rows.column_names]
    columns = [np.asarray(rows[name][:], dtype=np.float64) for name in names]  # None becomes NaN
    coordinates = np.stack(columns, axis=1) if len(names) == 2 else np.full((len(rows), 2), np.nan)
    if np.isnan(coordinates).any(axis=1).all():
        raise TrainingError(f"{option}: no row has latitude_deg and longitude_deg; leave it out, or add coordinates")
    return coordinates
