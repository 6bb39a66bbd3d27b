"""The rendered campus as a reader: places are drawn when their rows are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets

from pemoe.common.fingerprints import hash_lines
from pemoe.datasets_scripts.campus.source import campus_rows, check_options, place_number, place_of, rows_for_place
from pemoe.datasets_scripts.schema import FEATURES, SPLITS, DataError
from pemoe.datasets_scripts.sources.readers import Reader


class CampusReader(Reader):
    """Renders the splits `train` (captions: three long raw ones) and `test` (captions: two concise queries).

    Args:
        root: must be None, the campus has no files.
        train_places, test_places: places of each split; each has 1 + drone_views + ground_views images.
        seed: another integer gives other places.
        drone_views, ground_views: images of a place, 0..54 from a drone, 0..4 on the ground: front, back, left, right.
        size_px: side of the square images.
        workers: processes that `load` renders in; None takes min(2, cores). Never changes the result.

    Raises:
        DataError: an option out of range, or a root.

    Example:
        >>> reader = CampusReader(train_places=2, test_places=1)
        >>> reader.place_ids("train"), next(reader.rows("test", ["0001"]))["image_id"]
        (['0000', '0003'], '0001/0001.jpg')
    """

    source = "campus"

    def __init__(
        self,
        root: str | Path | None = None,
        *,
        train_places: int = 400,
        test_places: int = 150,
        seed: int = 0,
        drone_views: int = 3,
        ground_views: int = 2,
        size_px: int = 160,
        workers: int | None = None,
    ) -> None:
        if root is not None:
            raise DataError(f"campus: root={str(root)!r} given, but the campus is rendered, not read: leave root out")
        self.places = {"train": train_places, "test": test_places}
        self.seed = seed
        self.views = {"drone_views": drone_views, "ground_views": ground_views, "size_px": size_px}
        self.workers = workers
        check_options(train_places=train_places, test_places=test_places, seed=seed, **self.views)

    def fingerprint(self) -> str:
        """The options, which decide every row."""
        return hash_lines(iter([repr((self.places, self.seed, sorted(self.views.items())))]))

    def place_ids(self, split: str) -> list[str]:
        """The places of a split in order."""
        return [f"{place_number(split, index):04d}" for index in range(self.places[split])]

    def rows(self, split: str, place_ids: Sequence[str]) -> Iterator[dict[str, Any]]:
        """The rows of places of a split, lazily."""
        for place_id in place_ids:
            yield from rows_for_place(split, place_of(place_id)[1], seed=self.seed, **self.views)

    def load(
        self, cache_dir: str | Path | None = None, show_progress: bool = False, splits: Sequence[str] = SPLITS
    ) -> datasets.DatasetDict:
        """All rows, in memory: rendered anew each time, since no file's change could say that a cache is stale."""
        options = {**self.views, "workers": self.workers, "show_progress": show_progress}
        return datasets.DatasetDict(
            {
                split: datasets.Dataset.from_list(
                    campus_rows(split, count, self.seed, **options), FEATURES, split=datasets.NamedSplit(split)
                )
                for split, count in self.places.items()
                if split in splits
            }
        )
