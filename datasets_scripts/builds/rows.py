"""The way in for rows: a source by name, its options in the words of a user, its filters by name."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from pathlib import Path

import datasets

from pemoe.datasets_scripts.filters.filters import Filters, filter_names
from pemoe.datasets_scripts.schema import DataError
from pemoe.datasets_scripts.sources.readers import Reader
from pemoe.datasets_scripts.sources.registry import options_of, source_of

LOADING = ("cache_dir", "show_progress", "splits")  # what every source can be loaded with


def filters_of(name: str) -> tuple[str, ...]:
    """The filters that can be named to a source.

    Raises:
        DataError: unknown name.

    Example:
        >>> filters_of("campus")
        ()
    """
    kind = source_of(name).filters
    return () if kind is None else filter_names(on_rows=kind == "rows")


def open_reader(name: str, root: str | Path | None = None, **options: object) -> Reader:
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
    if filters_of(name):
        options["filters"] = _make_filters(name, options.get("filters", ()))
    return source_of(name).reader(root, **options)


def load_source(name: str, root: str | Path | None = None, **options: object) -> datasets.DatasetDict:
    """Load the splits `train` and `test` of a data source as one row per image.

    The rows are written once to the cache of `datasets` and memory-mapped from there; a changed file makes them anew.

    Args:
        name: a key of `SOURCES`.
        root: directory of a source that lies on disk, or a Hub id; None for a rendered source.
        options: of its reader (of `load_built` for "parquet"), `cache_dir` instead of the cache of `datasets`,
            `show_progress` for a bar on stderr; `splits` to read
            no others (not of "parquet").

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


def _make_filters(name: str, names: Iterable[str]) -> Filters:
    filters = Filters(names)
    wrong = next((one for one in filters.names if one not in filters_of(name)), None)
    if wrong is not None:
        raise DataError(
            f"the filter {wrong} does not work on a source of the kind {name}; use {', '.join(filters_of(name))}"
        )
    return filters
