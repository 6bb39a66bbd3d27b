"""Data sources by name: each returns `datasets.DatasetDict` with the columns of `schema.FEATURES`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import datasets

from pemoe.datasets_scripts.campus.reader import CampusReader
from pemoe.datasets_scripts.campus.source import load_campus
from pemoe.datasets_scripts.schema import DataError
from pemoe.datasets_scripts.sources.folder.reader import FolderReader, load_folder
from pemoe.datasets_scripts.sources.geotext.reader import GeoTextReader, load_geotext1652
from pemoe.datasets_scripts.sources.geotext.records import ALL_JSON_NAMES, find_root
from pemoe.datasets_scripts.sources.parquet import ParquetReader, is_built, load_parquet
from pemoe.datasets_scripts.sources.readers import Reader
from pemoe.datasets_scripts.sources.robosense import IMAGE_NAMES, RoboSenseReader, load_robosense

SOURCES: dict[str, Callable[..., datasets.DatasetDict]] = {
    "campus": load_campus,
    "folder": load_folder,
    "geotext1652": load_geotext1652,
    "parquet": load_parquet,
    "robosense": load_robosense,
}
READERS: dict[str, Callable[..., Reader]] = {
    "campus": CampusReader,
    "folder": FolderReader,
    "geotext1652": GeoTextReader,
    "parquet": ParquetReader,
    "robosense": RoboSenseReader,
}

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def detect_source(root: str | Path) -> str:
    """The source that reads what a user names.

    Args:
        root: "campus", a directory, or the id of a data set on the Hub.

    Returns:
        A key of `SOURCES`: "parquet" for a built directory or a Hub id, "geotext1652" where its JSON files lie,
        "robosense" where the challenge's images do, "folder" for any other directory.

    Raises:
        DataError: no such directory, and no Hub id either.

    Example:
        >>> detect_source("campus"), detect_source("me/geotext1652")
        ('campus', 'parquet')
    """
    if str(root) == "campus":
        return "campus"
    if Path(root).is_dir():
        if is_built(root):
            return "parquet"
        if any((find_root(root) / name).is_file() for name in ALL_JSON_NAMES):
            return "geotext1652"
        galleries = [name for names in IMAGE_NAMES.values() for name in names]
        return "robosense" if any((find_root(root, galleries) / name).exists() for name in galleries) else "folder"
    if _HUB_ID.fullmatch(str(root)) and not Path(root).exists() and not str(root).startswith("."):
        return "parquet"
    raise DataError(f"{root} is neither a directory nor the id of a data set on the Hub; see if it is spelled right")


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
    _check_options(name, SOURCES, options)
    return SOURCES[name](root, **options)


def open_reader(name: str, root: str | Path | None = None, **options: object) -> Reader:
    """The reader of a data source, which gives its rows place by place.

    Args:
        name: a key of `READERS`.
        root: directory of a source that lies on disk; None for a rendered one.
        options: passed to the reader.

    Raises:
        DataError: unknown name or option, or whatever the source finds wrong with its files.

    Example:
        >>> open_reader("campus", train_places=2, test_places=1).place_ids("test")
        ['0001']
    """
    _check_options(name, READERS, options)
    return READERS[name](**options) if name == "campus" else READERS[name](root, **options)


def options_of(name: str) -> list[str]:
    """The options that a source's reader takes.

    Example:
        >>> options_of("robosense")
        ['phase', 'classify', 'image_check']

    Raises:
        DataError: unknown name.
    """
    _check_name(name)
    parameters = inspect.signature(READERS[name]).parameters.values()
    return [one.name for one in parameters if one.kind is one.KEYWORD_ONLY]


def _check_name(name: str) -> None:
    if name not in SOURCES:
        raise DataError(f"unknown data source {name!r}: use one of {', '.join(SOURCES)}")


def _check_options(name: str, sources: Mapping[str, Callable[..., Any]], options: Mapping[str, object]) -> None:
    _check_name(name)
    parameters = inspect.signature(sources[name]).parameters
    unknown = [option for option in options if option not in parameters]
    if unknown:
        known = ", ".join(one for one in parameters if one != "root") or "no option"
        raise DataError(f"data source {name!r} has no option {unknown[0]!r}: it has {known}")
