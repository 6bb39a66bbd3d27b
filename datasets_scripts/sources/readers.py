"""What every source gives to a build: places in order, and their rows one by one, so that memory stays bounded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import datasets
from datasets.exceptions import DatasetGenerationError

from pemoe.common.fingerprints import hash_lines
from pemoe.common.progress import progress_bars
from pemoe.datasets_scripts.schema import FEATURES, PLATFORMS, SPLITS, DataError, features_of

ROWS_PER_WRITE = 16  # held in memory while the cache is written; a photo takes 5 MB and more


class RowFilters(Protocol):
    """What a reader asks of filters, as `filters.Filters` answers; what stands here leaves everything as it is."""

    names: tuple[str, ...] = ()

    def prepare(self, root: Path) -> None:
        """Look over a whole tree, if a filter compares its records, images or places."""

    def records(self, records: Iterable[Any], split: str) -> Iterator[Any]:
        """The records of a split that are left."""
        return iter(records)

    def row(self, row: Mapping[str, Any]) -> dict[str, Any] | None:
        """A row of a source without records as the filters leave it; None if they drop it."""
        return dict(row)

    def image(self, row: Mapping[str, Any]) -> dict[str, Any] | None:
        """A row with its picture as the filters for pictures leave it; None if they drop it."""
        return dict(row)

    def skip_archive(self, error: Exception, images: int) -> bool:
        """Whether an unreadable archive with so many wanted images is passed over."""
        return False

    def report(self) -> dict[str, Any]:
        """What every filter did so far."""
        return {}


class NoFilters(RowFilters):
    """The filters of a reader to which none is named."""


class Reader(Protocol):
    """A source that is read place by place; a subclass writes the first three methods.

    Attributes:
        source: its name, which goes into every row.
        platforms: names of its platforms in the order of the column's ClassLabel.
        earlier: of a source that is itself a build, the content of its `build.json`.
    """

    source: str
    platforms: tuple[str, ...] = PLATFORMS
    earlier: dict[str, Any] | None = None

    def fingerprint(self) -> str:
        """A text that changes whenever anything that is read changes."""

    def place_ids(self, split: str) -> list[str]:
        """The places of a split, in the order of its rows; [] for a split the source lacks."""

    def rows(self, split: str, place_ids: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Rows with the keys of `schema.FEATURES`: `image` {"bytes", "path": None}, `platform` a name or None."""

    def report(self) -> dict[str, Any]:
        """What was dropped or repaired while reading, so far; {} where nothing ever is."""
        return {}

    def notes(self) -> list[str]:
        """What a user should know that is no error, a line each."""
        return []

    def load(
        self, cache_dir: str | Path | None = None, show_progress: bool = False, splits: Sequence[str] = SPLITS
    ) -> datasets.DatasetDict:
        """The rows, written once to the cache of `datasets` and memory-mapped from there.

        Args:
            cache_dir: instead of the cache of `datasets`; the fingerprint names the files in it, so that a changed
                source is read anew.
            show_progress: show a bar over the rows on stderr.
            splits: only these are read; one may have no rows.

        Raises:
            DataError: whatever the reader finds wrong, in its own words.
        """
        fingerprint = self.fingerprint()
        with progress_bars(show_progress):
            return datasets.DatasetDict({split: _load_split(self, split, fingerprint, cache_dir) for split in splits})


def no_rows(features: datasets.Features = FEATURES) -> datasets.Dataset:
    """A split without rows."""
    return datasets.Dataset.from_dict({name: [] for name in features}, features=features)


def row_of(data: bytes, **known: Any) -> dict[str, Any]:
    """The row of an image file's bytes with the columns of `FEATURES`; what is not given is None, or an empty list."""
    empty = {**dict.fromkeys(FEATURES), "captions": [], "refined_captions": [], "regions": []}
    return {**empty, "image": {"bytes": data, "path": None}, **known}


def _load_split(reader: Reader, split: str, fingerprint: str, cache_dir: str | Path | None) -> datasets.Dataset:
    features = features_of(reader.platforms)
    place_ids = reader.place_ids(split)
    if not place_ids:
        return no_rows(features)
    faults: list[DataError] = []  # `datasets` wraps what a generator raises

    def rows() -> Iterator[dict[str, Any]]:
        try:
            yield from reader.rows(split, place_ids)
        except DataError as error:
            faults.append(error)
            raise

    try:
        return datasets.Dataset.from_generator(
            rows,
            features=features,
            cache_dir=None if cache_dir is None else str(cache_dir),
            fingerprint=hash_lines([fingerprint, split])[:32],
            writer_batch_size=ROWS_PER_WRITE,
        )
    except DatasetGenerationError as error:
        raise (faults[0] if faults else error) from error
