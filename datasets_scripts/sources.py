"""Data sources by name: each returns `datasets.DatasetDict` with the columns of `schema.FEATURES`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path

import datasets

from pemoe.datasets_scripts.campus.source import load_campus
from pemoe.datasets_scripts.geotext1652 import load_geotext1652
from pemoe.datasets_scripts.schema import DataError

SOURCES: dict[str, Callable[..., datasets.DatasetDict]] = {
    "campus": load_campus,
    "geotext1652": load_geotext1652,
}


def load_source(name: str, root: str | Path | None = None, **options: object) -> datasets.DatasetDict:
    """Load the splits `train` and `test` of a data source as one row per image.

    Args:
        name: a key of `SOURCES`.
        root: directory of a source that lies on disk; None for a rendered one.
        options: passed to the source (see its loader).

    Returns:
        `datasets.DatasetDict` with the columns of `schema.FEATURES`.

    Raises:
        DataError: unknown name, missing root, or whatever the source finds wrong with its files.

    Example:
        >>> load_source("campus", train_places=2, test_places=1)["test"].num_rows
        6
    """
    if name not in SOURCES:
        raise DataError(f"unknown data source {name!r}: use one of {', '.join(SOURCES)}")
    known = inspect.signature(SOURCES[name]).parameters
    unknown = [option for option in options if option not in known]
    if unknown:
        raise DataError(f"data source {name!r} has no option {unknown[0]!r}: it has {', '.join(list(known)[1:])}")
    return SOURCES[name](root, **options)
