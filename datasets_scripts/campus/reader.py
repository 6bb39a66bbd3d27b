"""The rendered campus as a reader: places are drawn when their rows are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pemoe.datasets_scripts.campus.source import place_number, place_of, rows_for_place
from pemoe.datasets_scripts.sources.fingerprints import hash_lines


class CampusReader:
    """Renders the places of the splits `train` and `test`, the same ones as `load_campus`, one by one.

    Args:
        train_places, test_places: places of each split.
        seed: another integer gives other places.
        drone_views, ground_views, size_px: see `load_campus`.

    Raises:
        DataError: an option out of range, once rows are asked for.

    Example:
        >>> reader = CampusReader(train_places=2, test_places=1)
        >>> reader.place_ids("train"), next(reader.rows("test", ["0001"]))["image_id"]
        (['0000', '0003'], '0001/0001.jpg')
    """

    source = "campus"

    def __init__(
        self,
        *,
        train_places: int = 400,
        test_places: int = 150,
        seed: int = 0,
        drone_views: int = 3,
        ground_views: int = 2,
        size_px: int = 160,
    ) -> None:
        self.places = {"train": train_places, "test": test_places}
        self.seed = seed
        self.views = {"drone_views": drone_views, "ground_views": ground_views, "size_px": size_px}

    def fingerprint(self) -> str:
        """The options, which decide every row."""
        return hash_lines(iter([repr((self.places, self.seed, sorted(self.views.items())))]))

    def place_ids(self, split: str) -> list[str]:
        """The places of a split in order."""
        return [f"{place_number(split, index):04d}" for index in range(self.places[split])]

    def report(self) -> dict[str, Any]:
        """Nothing is dropped or repaired."""
        return {}

    def rows(self, split: str, place_ids: Sequence[str]) -> Iterator[dict[str, Any]]:
        """The rows of places of a split, lazily."""
        for place_id in place_ids:
            yield from rows_for_place(split, place_of(place_id)[1], seed=self.seed, **self.views)
