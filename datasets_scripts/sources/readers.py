"""What every source gives to a build: places in order, and their rows one by one, so that memory stays bounded."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import datasets
from datasets.exceptions import DatasetGenerationError

from pemoe.common.progress import progress_bars
from pemoe.datasets_scripts.schema import FEATURES, SPLITS, DataError
from pemoe.datasets_scripts.sources.fingerprints import hash_lines

ROWS_PER_WRITE = 16  # held in memory while the cache is written; a photo takes 5 MB and more


class Reader(Protocol):
    """A source that is read place by place.

    Example:
        >>> def first_image_id(reader: Reader) -> str:
        ...     return next(reader.rows("train", reader.place_ids("train")))["image_id"]
    """

    source: str

    def fingerprint(self) -> str:
        """A text that changes whenever anything that is read changes."""

    def place_ids(self, split: str) -> list[str]:
        """The places of a split, in the order of its rows; [] for a split the source lacks."""

    def report(self) -> dict[str, Any]:
        """What was dropped or repaired while reading, so far; {} where nothing ever is."""

    def rows(self, split: str, place_ids: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Rows with the keys of `schema.FEATURES`: `image` {"bytes", "path": None}, `platform` a name or None."""


def no_rows() -> datasets.Dataset:
    """A split without rows.

    Example:
        >>> no_rows().num_rows
        0
    """
    return datasets.Dataset.from_dict({name: [] for name in FEATURES}, features=FEATURES)


def load_reader(
    reader: Reader, cache_dir: str | Path | None = None, show_progress: bool = False
) -> datasets.DatasetDict:
    """The rows of a reader, written once to the cache of `datasets` and memory-mapped from there.

    Args:
        reader: any source; its fingerprint names the cache, so a changed source is read anew.
        cache_dir: instead of the cache of `datasets`.
        show_progress: show a bar over the rows on stderr.

    Returns:
        `datasets.DatasetDict` with `train` and `test` and the columns of `schema.FEATURES`; a split may have no rows.

    Raises:
        DataError: whatever the reader finds wrong, as it was told.

    Example:
        >>> load_reader(FolderReader("photos"))["test"].num_rows                    # doctest: +SKIP
        120
    """
    fingerprint = reader.fingerprint()
    with progress_bars(show_progress):
        return datasets.DatasetDict({split: _load_split(reader, split, fingerprint, cache_dir) for split in SPLITS})


def _load_split(reader: Reader, split: str, fingerprint: str, cache_dir: str | Path | None) -> datasets.Dataset:
    place_ids = reader.place_ids(split)
    if not place_ids:
        return no_rows()
    try:
        return datasets.Dataset.from_generator(
            functools.partial(reader.rows, split, place_ids),
            features=FEATURES,
            cache_dir=None if cache_dir is None else str(cache_dir),
            fingerprint=hash_lines(iter([fingerprint, split]))[:32],
            writer_batch_size=ROWS_PER_WRITE,
        )
    except DatasetGenerationError as error:
        raise error.__cause__ if isinstance(error.__cause__, DataError) else error from error.__cause__
