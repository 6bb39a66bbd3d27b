"""The way in for rows: a source by name, its options in the words of a user, its filters by name."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import datasets

from pemoe.datasets_scripts.filters.filters import Filters, filter_names
from pemoe.datasets_scripts.schema import DataError
from pemoe.datasets_scripts.sources.readers import Reader
from pemoe.datasets_scripts.sources.registry import detect_source, options_of, source_of

LOADING = ("cache_dir", "show_progress", "splits")  # what every source can be loaded with
TYPED = {"filters": "filter", "place_id": "place-by"}  # option of a reader -> as typed, where they differ
TEST_SHARE = (3, 11)  # of a campus's places, about 150 of 550


def choose_source(root: str, kind: str | None = None, **given: Any) -> tuple[str, str | None, dict[str, Any]]:
    """The source that reads a user's data, and the options for its reader.

    Args:
        root: a directory, or "campus".
        kind: of source; None sees it from the files.
        given: options of readers, None or [] where not given; `places` of a campus, split into train and test;
            `seed`, which only a campus takes.

    Returns:
        Its name, its root (None for a campus, which has no files) and options as JSON types.

    Raises:
        DataError: no such source, or an option that it does not have.

    Example:
        >>> choose_source("campus", places=11, seed=3, table=None)
        ('campus', None, {'seed': 3, 'train_places': 8, 'test_places': 3})
    """
    name = kind or detect_source(root)
    if (name == "campus") != (str(root) == "campus"):
        raise DataError(f"{root} cannot be read as a source of the kind {name}; a campus is named by: campus")
    options = {key: value for key, value in given.items() if value is not None and value != []}
    known = options_of(name)
    if "seed" not in known:
        options.pop("seed", None)
    if name == "campus" and "places" in options:
        places = options.pop("places")
        test_places = places * TEST_SHARE[0] // TEST_SHARE[1]
        options |= {"train_places": places - test_places, "test_places": test_places}
    for option in options:
        if option not in known:
            typed = TYPED.get(option, option.replace("_", "-"))
            raise DataError(f"{root} is a source of the kind {name}, which has no option --{typed}")
    if "names" in options and "coordinates" not in options:
        raise DataError("--names goes with --coordinates")
    return name, None if name == "campus" else root, options


def filters_of(name: str) -> tuple[str, ...]:
    """The filters that can be named to a source; an unknown name is a `DataError`.

    Example:
        >>> filters_of("campus")
        ()
    """
    kind = source_of(name).filters
    return () if kind is None else filter_names(on_rows=kind == "rows")


def open_reader(name: str, root: str | Path | None = None, **options: Any) -> Reader:
    """The reader of a data source, which gives its rows place by place.

    Args:
        name: a key of `SOURCES`.
        root: directory of a source that lies on disk; None for a rendered one.
        options: of its reader; `filters` are names of defects (see `audit.DEFECTS`).

    Raises:
        DataError: unknown name, option or filter, or whatever the source finds wrong with its files.

    Example:
        >>> open_reader("campus", train_places=2, test_places=1).place_ids("test")
        ['0001']
    """
    _check_options(name, options_of(name), options)
    if known := filters_of(name):
        filters = options["filters"] = Filters(options.get("filters", ()))
        for one in filters.names:
            if one not in known:
                raise DataError(
                    f"the filter {one} does not work on a source of the kind {name}; use {', '.join(known)}"
                )
    return source_of(name).reader(root, **options)


def load_source(name: str, root: str | Path | None = None, **options: Any) -> datasets.DatasetDict:
    """Load the splits `train` and `test` of a data source as one row per image.

    The rows are written once to the cache of `datasets` and memory-mapped from there; a changed file makes them anew.

    Args:
        name: a key of `SOURCES`.
        root: directory of a source that lies on disk, or a Hub id; None for a rendered source.
        options: of its reader (of `load_built` for "parquet"), `cache_dir` instead of the cache of `datasets`,
            `show_progress` for a bar on stderr; `splits` to read no others (not of "parquet").

    Returns:
        `datasets.DatasetDict` with the columns of `schema.FEATURES`.

    Raises:
        DataError: unknown name, option or filter, missing root, or whatever the source finds wrong with its files.

    Example:
        >>> load_source("campus", train_places=2, test_places=1)["test"].num_rows
        6
    """
    load = source_of(name).load
    if load is not None:
        _check_options(name, [*inspect.signature(load).parameters][1:], options)
        return load(root, **options)
    _check_options(name, [*options_of(name), *LOADING], options)
    loading = {option: options.pop(option) for option in LOADING if option in options}
    return open_reader(name, root, **options).load(**loading)


def _check_options(name: str, known: Iterable[str], options: Mapping[str, object]) -> None:
    unknown = [option for option in options if option not in known]
    if unknown:
        raise DataError(f"data source {name!r} has no option {unknown[0]!r}: it has {', '.join(known) or 'no option'}")
