"""The source `folder`: a user's own images, with a table of what is known of them or without one.

What is known of an image comes from the first of these that holds it:

place      column; the nearest folder that says something (not `drone/`, `train/`, `images/`); the file name
platform   column; nearest folder with a word for one (`drone/`, `street/`); option; file name (`drone_03.jpg`,
           University-1652's `0839/image-43.jpeg` and `0839/0839.jpg`); else unknown
split      column; the table's name (`train.csv`); nearest folder named train or test; option; else `train` where
           any image has a caption and `test` where none has: a gallery without words can be searched, not learnt
position   columns; GeoTIFF; GPS tags of the photo; else unknown

Images without captions are rows with empty `captions`. Hidden files and files that are no images are passed over.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pemoe.common.fingerprints import hash_file, hash_lines
from pemoe.datasets_scripts.schema import PLATFORMS, DataError, order_platforms
from pemoe.datasets_scripts.sources.folder.files import (
    ImageNames,
    find_tables,
    heic_fault,
    no_images_fault,
    place_by_path,
    platform_by_folder,
    platform_by_name,
    scan_folder,
    split_by_folder,
)
from pemoe.datasets_scripts.sources.folder.georeference import is_plain_tiff, is_tiff, read_georeference, read_tile
from pemoe.datasets_scripts.sources.folder.table import Coordinates, Entry, merge_entries, read_entries
from pemoe.datasets_scripts.sources.folder.words import SPLIT_WORDS, find_platform, parse_split, platform_words
from pemoe.datasets_scripts.sources.images import ImageError, check_decodes
from pemoe.datasets_scripts.sources.readers import NoFilters, Reader, RowFilters, row_of

ROWS_VERSION = 1  # in the fingerprint: another number where the same files give other rows
PLACE_RULES = ("folder", "file")
NOTES = {
    "one_place": "images are all of one place; give a column place_id, or make each file one (--place-by file)",
    "unlisted": "images are not in the table and left out",
    "train_without_caption": "train images have no caption and teach nothing",
    "unknown_platform": "images have no known platform",
    "heic": "images are HEIC, which is not read, and left out; save them as JPEG",
    "no_image": "files are no images and passed over",
}

_LOGGER = logging.getLogger(__name__)


class Item(NamedTuple):
    """One image: its path below the root and what is known of it before it is opened."""

    image_id: str
    place_id: str
    platform: str | None
    split: str  # "" while nothing gives it
    captions: list[str]
    coordinates: Coordinates | None


class FolderReader(Reader):
    """Reads a folder of images to rows of the schema, a few images at a time.

    Args:
        root: the folder, searched in full.
        table: its table; a path, or a name inside `root`. None: every `metadata.*` below `root`, else the only
            `.csv`, `.tsv`, `.jsonl` or `.json` in `root` itself (`train.*` and `test.*` may stand side by side), else
            none. Images are named from the table's folder, `root` or `root/images`, or by a file name that only one
            image below `root` has. Columns: `table.COLUMNS`.
        split: "train" or "test" for images whose split nothing else gives.
        test_share: of the places that would be `train` only because nothing gives their split, this share goes to
            `test`, at least one; drawn by their names.
        platform: a name of `PLATFORMS`, another word for one, or a new platform's name, likewise.
        place_id: "folder", or "file" where each image is a place of its own and folders mean something else.
        not_tables: files that are no table of images wherever they lie, as one of coordinates.
        unlisted: take in images that the table does not list; otherwise they are counted and left out.
        filters: applied to every row; see `readers.RowFilters`.
        image_check: decode every image in full. Without it, broken ones come as they are, for the audit to find.

    Attributes:
        items: what is known of every image, in the order of the table, else of the paths.

    Raises:
        DataError: no folder, no images, an option that is none, a table with faults (see `table`); an image that the
            table names but that is absent, leads out of the folder, is listed twice to no purpose or with two places,
            platforms, splits or positions; HEIC; a place in both splits; a link out of the folder.
    """

    source = "folder"

    def __init__(  # noqa: PLR0913 - options are keyword-only and documented one by one
        self,
        root: str | Path | None,
        *,
        table: str | Path | None = None,
        split: str | None = None,
        test_share: float = 0.0,
        platform: str | None = None,
        place_id: str = "folder",
        not_tables: Sequence[str | Path] = (),
        unlisted: bool = False,
        filters: RowFilters | None = None,
        image_check: bool = True,
    ) -> None:
        if root is None or not Path(root).is_dir():
            raise DataError(f"the root of folder is {str(root)!r}, which is not a directory; give the images' folder")
        if place_id not in PLACE_RULES:
            raise DataError(f"place_id (--place-by) is {place_id!r}; use {' or '.join(PLACE_RULES)}")
        if not 0 <= test_share < 1:
            raise DataError(f"test_share (--test-share) is {test_share}; give a share from 0 to below 1, such as 0.2")
        self.root = Path(root)
        self.filters = filters or NoFilters()
        self.image_check = image_check
        self._test_share = test_share
        self._split = None if split is None else parse_split(split, "option split")
        self._words = platform_words(platform)
        self._platform = None if platform is None else find_platform(platform, self._words)
        self._is_place_by_folder = place_id == "folder"
        self._scan = scan_folder(self.root)
        named = None if table is None else (self.root / table if (self.root / table).is_file() else Path(table))
        others = {Path(path).resolve() for path in not_tables}
        tables = [path for path in self._scan.tables if path.resolve() not in others]
        self._tables = find_tables(self.root, tables) if named is None else [named]
        self.items = self._with_splits(self._read_items(unlisted))
        self._by_place: dict[tuple[str, str], list[Item]] = {}
        for item in self.items:
            self._by_place.setdefault((item.split, item.place_id), []).append(item)
        self.platforms = order_platforms({*PLATFORMS, *(item.platform for item in self.items if item.platform)})
        shared = set(self.place_ids("train")) & set(self.place_ids("test"))
        if shared:
            raise DataError(
                f"{self.root}: place {min(shared)!r} is in train and in test ({len(shared)} such places); "
                "keep it in one, or keep places apart in a column place_id"
            )

    def fingerprint(self) -> str:
        """A text that changes whenever a table, the size or time of an image, or an option changes."""
        states = (os.stat(self.root / item.image_id) for item in self.items)
        files = (f"{state.st_size} {state.st_mtime_ns}" for state in states)
        options = f"{ROWS_VERSION} {self.image_check} {self.filters.names}"
        tables = (hash_file(path) for path in self._tables)
        return hash_lines([options, *tables, *(repr(item) for item in self.items), *files])

    def place_ids(self, split: str) -> list[str]:
        """The places of a split in order of first appearance."""
        return [place_id for its_split, place_id in self._by_place if its_split == split]

    def rows(self, split: str, place_ids: Iterable[str]) -> Iterator[dict[str, Any]]:
        """The rows of some places of a split, place by place, each image read when its row is asked for.

        `image` holds the file's own bytes; TIFF tiles beyond 8-bit RGB become PNG (see `read_tile`). `DataError` for
        an image that vanished or cannot be decoded, and for a GeoTIFF without the extra `geo`.
        """
        for place_id in place_ids:
            for item in self._by_place.get((split, place_id), ()):
                row = self.filters.row(self._row(item))
                if row is None:
                    continue
                if self.image_check:
                    check_decodes(row["image"]["bytes"], repr(item.image_id))
                yield row

    def report(self) -> dict[str, dict[str, int]]:
        """How many images or files each line of `NOTES` is about; beside it, what every named filter did so far."""
        is_one_place = len({item.place_id for item in self.items}) == 1 < len(self.items)
        counts = {
            "one_place": len(self.items) if is_one_place else 0,
            "unlisted": self._left_out,
            "train_without_caption": sum(item.split == "train" and not item.captions for item in self.items),
            "unknown_platform": sum(item.platform is None for item in self.items),
            "heic": len(self._scan.heic),
            "no_image": self._scan.others.total(),
        }
        for note, filter_name in (("train_without_caption", "no_caption"), ("unknown_platform", "unknown_platform")):
            if filter_name in self.filters.names:  # which counts them itself
                counts[note] = 0
        return {self.source: counts, **self.filters.report()}

    def notes(self) -> list[str]:
        """One line for each thing left out, missing or assumed, and for each platform that is not one of the usual."""
        lines = [f"{count} {NOTES[name]}" for name, count in self.report()[self.source].items() if count]
        for name in self.platforms[len(PLATFORMS) :]:
            count = sum(item.platform == name for item in self.items)
            lines.append(f"{count} images are of the platform {name!r}, which is new beside {', '.join(PLATFORMS)}")
        return lines

    def _read_items(self, unlisted: bool) -> list[Item]:
        """Every image with what table, folders and options say of it."""
        listed: dict[str, Entry] = {}
        names = ImageNames(self.root, self._scan.images)
        for path in self._tables:
            for entry in read_entries(path, self._words):
                image_id = names.find(entry.image, path, entry.where)
                entry = entry._replace(split=entry.split or SPLIT_WORDS.get(path.stem.lower()))
                listed[image_id] = merge_entries(listed[image_id], entry) if image_id in listed else entry
        if not listed and self._scan.heic:
            raise DataError(heic_fault(self._scan.heic[0], self.root))
        others = [image_id for image_id in self._scan.images if image_id not in listed]
        self._left_out = 0 if unlisted or not listed else len(others)
        items = [self._item(image_id, entry) for image_id, entry in listed.items()]
        items += [self._item(image_id, Entry("", image_id)) for image_id in ([] if self._left_out else others)]
        if not items:
            raise DataError(no_images_fault(self.root, self._scan))
        return items

    def _item(self, image_id: str, entry: Entry) -> Item:
        by_path = place_by_path(image_id, self._words) if self._is_place_by_folder else Path(image_id).stem
        by_folder = platform_by_folder(image_id, self._words) or self._platform
        return Item(
            image_id=image_id,
            place_id=entry.place_id or by_path,
            platform=entry.platform or by_folder or platform_by_name(image_id, self._words),
            split=entry.split or split_by_folder(image_id) or "",
            captions=list(entry.captions),
            coordinates=entry.coordinates,
        )

    def _with_splits(self, items: list[Item]) -> list[Item]:
        """Every image with a split: its own, else the option's, else by whether there is anything to learn from."""
        default = self._split or ("train" if any(item.captions for item in items) else "test")
        drawn = self._drawn_places(items) if default == "train" else set()
        splits = (item.split or ("test" if item.place_id in drawn else default) for item in items)
        return [item._replace(split=split) for item, split in zip(items, splits, strict=True)]

    def _drawn_places(self, items: list[Item]) -> set[str]:
        """A share of the places without any stated split, for `test`: the same names give the same places.

        At least one if a share was asked for, and never the last place to learn from.
        """
        stated = {item.place_id for item in items if item.split}
        free = sorted({item.place_id for item in items} - stated, key=lambda place_id: hash_lines([place_id]))
        left = 0 if any(item.split == "train" for item in items) else 1
        count = max(round(self._test_share * len(free)), 1) if self._test_share else 0
        return set(free[: max(min(count, len(free) - left), 0)])

    def _row(self, item: Item) -> dict[str, Any]:
        try:
            data = (self.root / item.image_id).read_bytes()
        except OSError as error:
            raise DataError(f"image {item.image_id!r} in {self.root} cannot be read ({error.strerror})") from error
        known = item._asdict()
        latitude_deg, longitude_deg = known.pop("coordinates") or _position(data, item.image_id)
        known |= {"latitude_deg": latitude_deg, "longitude_deg": longitude_deg, "source": self.source}
        return row_of(_displayed(data, item.image_id), **known)


def _displayed(data: bytes, image_id: str) -> bytes:
    """The bytes of an image file as they are; TIFF tiles beyond 8-bit RGB as PNG, where they are not broken."""
    if not is_tiff(data) or is_plain_tiff(data):
        return data
    try:
        return read_tile(data, image_id)
    except ImageError:
        return data  # found where it is decoded


def _position(data: bytes, image_id: str) -> tuple[float | None, float | None]:
    """The position that an image file carries; a broken one is logged and counts as none."""
    try:
        found = read_georeference(data, image_id)
    except ImageError:
        return None, None  # found where it is decoded
    if found.reason is not None:
        _LOGGER.warning("%s: no position, %s", image_id, found.reason)
    return found.latitude_deg, found.longitude_deg
