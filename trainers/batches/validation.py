"""Places that no stage trains on: drawn once for a run, and asked about during each stage."""

from __future__ import annotations

import datasets
import numpy as np

from pemoe.trainers.errors import TrainingError


def hold_out_places(
    rows: datasets.Dataset, places: int, seed: int
) -> tuple[datasets.Dataset, datasets.Dataset | None]:
    """Training rows, and those of as many places drawn by seed, which no stage then sees; None of 0 places.

    Raises TrainingError where fewer than two places would be left to train on.

    Example:
        >>> photos = datasets.Dataset.from_dict({"place_id": ["a", "b", "b", "c"]})
        >>> rows, validation = hold_out_places(photos, places=1, seed=0)
        >>> sorted({*rows["place_id"], *validation["place_id"]}), set(rows["place_id"]) & set(validation["place_id"])
        (['a', 'b', 'c'], set())
    """
    if not places:
        return rows, None
    place_id = np.asarray(rows["place_id"][:], dtype=str)
    names = np.unique(place_id)
    if len(names) - places < 2:
        raise TrainingError(f"validation.places: {places} of {len(names)} places leave too few to train on; use fewer")
    drawn = np.random.default_rng((seed, len(names))).permutation(names)[:places]
    held_out = np.isin(place_id, drawn)
    return rows.select(np.flatnonzero(~held_out)), rows.select(np.flatnonzero(held_out))


def as_queries(rows: datasets.Dataset, caption_column: str) -> datasets.Dataset:
    """Rows whose captions, which `evaluate` asks with, are those of a column that is trained on."""
    if caption_column == "captions":
        return rows
    return rows.remove_columns("captions").rename_column(caption_column, "captions")
