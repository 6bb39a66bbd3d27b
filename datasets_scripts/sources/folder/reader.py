"""The source `folder`: a user's own images, with a table of what is known of them or without one.

What is known of an image comes from the first of these that tells it:

place      column; the nearest folder that says something (not `drone/`, `train/`, `images/`); the file name
platform   column; nearest folder with a word for one (`drone/`, `street/`); option; file name (`drone_03.jpg`,
           University-1652's `0839/image-43.jpeg` and `0839/0839.jpg`); the content, where asked for; else unknown
split      column; the table's name (`train.csv`); nearest folder named train or test; option; else `train` where
           any image has a caption and `test` where none has: a gallery without words can be searched, not learnt
position   columns; GeoTIFF; GPS tags of the photo; else unknown

Images without captions are rows with empty `captions`. Hidden files and files that are no images are passed over.
"""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import datasets
from PIL import Image, ImageOps

from pemoe.common.errors import one_line
from pemoe.datasets_scripts.filters.filters import Filters, filter_names
from pemoe.datasets_scripts.schema import DataError
from pemoe.datasets_scripts.sources.fingerprints import hash_file, hash_lines
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
from pemoe.datasets_scripts.sources.folder.table import (
    SPLIT_WORDS,
    Entry,
    merge_entries,
    parse_platform,
    parse_split,
    read_entries,
)
from pemoe.datasets_scripts.sources.platform_classifier import PlatformClassifier
from pemoe.datasets_scripts.sources.readers import load_reader

SOURCE = "folder"
ROWS_VERSION = 1  # in the fingerprint: another number where the same files give other rows
PLACE_RULES = ("folder", "file")
LEARN_IMAGES = 200  # of each platform, for `classify=True`
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
    split: str
    captions: list[str]
    coordinates: tuple[float, float] | None


class FolderReader:
    """Reads a folder of images to rows of the schema, a few images at a time.

    Args:
        root: the folder, searched in full.
        table: its table; a path, or a name inside `root`. None: every `metadata.*` below `root`, else the only
            `.csv`, `.tsv`, `.jsonl` or `.json` in `root` itself (`train.*` and `test.*` may stand side by side), else
            none. Images are named from the table's folder, `root` or `root/images`, or by a file name that only one
            image below `root` has. Columns: `folder_table.COLUMNS`.
        split: "train" or "test" for images of which nothing else tells it.
        test_share: of the places that would be `train` only because nothing tells their split, this share goes to
            `test`, at least one; drawn by their names.
        platform: a name of `PLATFORMS`, or another word for one, likewise.
        place_id: "folder", or "file" where each image is a place of its own and folders mean something else.
        unlisted: take in images that the table does not list; otherwise they are counted and left out.
        classify: tell unknown platforms by content: a `PlatformClassifier`, the path of a saved one, or True to learn
            it from the images of this folder whose platform is known.
        filters: names of defects to drop or repair, out of `filters.filter_names(on_rows=True)`.
        image_check: decode every image in full. Without it, broken ones come as they are, for the audit to find.

    Attributes:
        source: "folder".
        items: what is known of every image, in the order of the table, else of the paths.

    Raises:
        DataError: no folder, no images, an option that is none, a table with faults (see `folder_table`); an image
            that the table names but that is absent, leads out of the folder, is listed twice to no purpose or with
            two places, platforms, splits or positions; HEIC; a place in both splits; a link out of the folder.

    Example:
        >>> reader = FolderReader("photos", platform="ground")                      # doctest: +SKIP
        >>> next(reader.rows("train", reader.place_ids("train")))["captions"]       # doctest: +SKIP
        ['a red brick library with a clock tower']
    """

    source = SOURCE

    def __init__(  # noqa: PLR0913 - options are keyword-only and documented one by one
        self,
        root: str | Path | None,
        *,
        table: str | Path | None = None,
        split: str | None = None,
        test_share: float = 0.0,
        platform: str | None = None,
        place_id: str = "folder",
        unlisted: bool = False,
        classify: bool | str | Path | PlatformClassifier = False,
        filters: Sequence[str] = (),
        image_check: bool = True,
    ) -> None:
        if root is None or not Path(root).is_dir():
            raise DataError(f"the root of folder is {str(root)!r}, which is not a directory; give the images' folder")
        if place_id not in PLACE_RULES:
            raise DataError(f"place_id (--place-by) is {place_id!r}; use {' or '.join(PLACE_RULES)}")
        if not 0 <= test_share < 1:
            raise DataError(f"test_share (--test-share) is {test_share}; give a share from 0 to below 1, such as 0.2")
        self.root = Path(root)
        self._test_share = test_share
        self.filters = _row_filters(filters)
        self.image_check = image_check
        self._classify = classify
        self._split = None if split is None else parse_split(split, "option split")
        self._platform = None if platform is None else parse_platform(platform, "option platform")
        self._place_rule = place_id
        self._scan = scan_folder(self.root)
        self._tables = find_tables(self.root, self._scan.tables) if table is None else [self._named_table(table)]
        self.items = self._read_items(unlisted)
        self._check_splits()

    def fingerprint(self) -> str:
        """A text that changes whenever a table, the size or time of an image, or an option changes."""
        states = (os.stat(self.root / item.image_id) for item in self.items)
        files = (f"{state.st_size} {state.st_mtime_ns}" for state in states)
        learnt_here = self._classify is True  # from the very files below
        saved = "" if learnt_here or not self._classify else self._classifier.to_json()
        options = f"{ROWS_VERSION} {self.image_check} {learnt_here} {saved} {self.filters.names}"
        lines = [options, *(hash_file(path) for path in self._tables), *(repr(item) for item in self.items), *files]
        return hash_lines(iter(lines))

    def place_ids(self, split: str) -> list[str]:
        """The places of a split in order of first appearance."""
        return list(dict.fromkeys(item.place_id for item in self.items if item.split == split))

    def rows(self, split: str, place_ids: Iterable[str]) -> Iterator[dict[str, Any]]:
        """The rows of some places of a split, place by place, each image read when its row is asked for.

        `image` holds the file's own bytes; TIFF tiles beyond 8-bit RGB become PNG (see `read_tile`).

        Raises:
            DataError: an image that vanished or cannot be decoded, a GeoTIFF without the extra `geo`.
        """
        for place_id in place_ids:
            for item in self._by_place.get((split, place_id), ()):
                row = self.filters.row(self._row(item))
                if row is None:
                    continue
                if self.image_check:
                    _decode(row["image"]["bytes"], item.image_id)
                yield row

    def report(self) -> dict[str, dict[str, int]]:
        """How many images or files each line of `NOTES` is about; beside it, what every named filter did so far."""
        lone = len({item.place_id for item in self.items}) == 1 < len(self.items)
        unknown = [item for item in self.items if item.platform is None and not self._classify]
        no_caption = sum(item.split == "train" and not item.captions for item in self.items)
        filtered = self.filters.names
        counts = {
            "one_place": len(self.items) if lone else 0,
            "unlisted": self._left_out,
            "train_without_caption": 0 if "no_caption" in filtered else no_caption,
            "unknown_platform": 0 if "unknown_platform" in filtered else len(unknown),
            "heic": len(self._scan.heic),
            "no_image": self._scan.others.total(),
        }
        return {SOURCE: counts, **self.filters.report()}

    def notes(self) -> list[str]:
        """What a user should hear that is no error: one line for each thing left out, missing or assumed."""
        return [f"{count} {NOTES[name]}" for name, count in self.report()[SOURCE].items() if count]

    def _named_table(self, table: str | Path) -> Path:
        return self.root / table if (self.root / table).is_file() else Path(table)

    def _read_items(self, unlisted: bool) -> list[Item]:
        """Every image with what table, folders and options tell."""
        listed: dict[str, Entry] = {}
        names = ImageNames(self.root, self._scan.images)
        for path in self._tables:
            for entry in read_entries(path):
                image_id = names.find(entry.image, path, entry.where)
                entry = entry._replace(split=entry.split or SPLIT_WORDS.get(path.stem.lower()))
                listed[image_id] = merge_entries(listed[image_id], entry) if image_id in listed else entry
        others = [image_id for image_id in self._scan.images if image_id not in listed]
        self._left_out = 0 if unlisted or not listed else len(others)
        if not listed and self._scan.heic:
            raise DataError(heic_fault(self._scan.heic[0], self.root))
        entries = {**listed, **dict.fromkeys([] if self._left_out else others)}
        if not entries:
            raise DataError(no_images_fault(self.root, self._scan))
        has_captions = any(entry and entry.captions for entry in entries.values())
        items = [self._item(image_id, entry) for image_id, entry in entries.items()]
        default = self._split or ("train" if has_captions else "test")
        drawn = self._drawn_places(items) if default == "train" else set()
        splits = ("test" if item.place_id in drawn else default for item in items)
        return [item if item.split else item._replace(split=split) for item, split in zip(items, splits, strict=True)]

    def _drawn_places(self, items: list[Item]) -> set[str]:
        """A share of the places without any told split, for `test`: the same names give the same places.

        At least one if a share was asked for, and never the last place to learn from.
        """
        told = {item.place_id for item in items if item.split}
        free = sorted({item.place_id for item in items} - told, key=lambda place_id: hash_lines(iter([place_id])))
        left = 0 if any(item.split == "train" for item in items) else 1
        count = max(round(self._test_share * len(free)), 1) if self._test_share else 0
        return set(free[: max(min(count, len(free) - left), 0)])

    def _item(self, image_id: str, entry: Entry | None) -> Item:
        """What is known of an image; its split is "" where nothing tells it."""
        known = entry or Entry(image_id, image_id, [], None, None, None, None, None)
        latitude_deg, longitude_deg = known.latitude_deg, known.longitude_deg
        return Item(
            image_id=image_id,
            place_id=known.place_id or place_by_path(image_id, self._place_rule),
            platform=known.platform or platform_by_folder(image_id) or self._platform or platform_by_name(image_id),
            split=known.split or split_by_folder(image_id) or "",
            captions=known.captions,
            coordinates=None if latitude_deg is None else (latitude_deg, longitude_deg),
        )

    def _check_splits(self) -> None:
        """No place may lie in both splits."""
        shared = set(self.place_ids("train")) & set(self.place_ids("test"))
        if shared:
            raise DataError(
                f"{self.root}: place {min(shared)!r} is in train and in test ({len(shared)} such places); "
                "keep it in one, or tell places apart in a column place_id"
            )

    @cached_property
    def _by_place(self) -> dict[tuple[str, str], list[Item]]:
        groups: dict[tuple[str, str], list[Item]] = {}
        for item in self.items:
            groups.setdefault((item.split, item.place_id), []).append(item)
        return groups

    @cached_property
    def _classifier(self) -> PlatformClassifier | None:
        """What tells unknown platforms by content; None where nobody asked."""
        if not self._classify or isinstance(self._classify, PlatformClassifier):
            return self._classify or None
        if self._classify is not True:
            return PlatformClassifier.load(self._classify)
        known = [item for item in self.items if item.platform is not None]
        if not known:
            raise DataError(
                f"no platform can be learnt (--classify here): none of the {len(self.items)} images in {self.root} "
                "has a known one; tell some by a column platform or by folders (drone/, ground/), "
                "or name a saved classifier"
            )
        groups = {name: [item for item in known if item.platform == name] for name in {one.platform for one in known}}
        chosen = [item for name in sorted(groups) for item in groups[name][:: -(-len(groups[name]) // LEARN_IMAGES)]]
        pairs = [(image, item.platform) for item in chosen if (image := self._decoded(item)) is not None]
        return PlatformClassifier.fit([image for image, _ in pairs], [platform for _, platform in pairs])

    def _decoded(self, item: Item) -> Image.Image | None:
        """The picture of an item; None for a broken one, which is told, or filtered, where rows are made."""
        data = _displayed(self._bytes(item.image_id), item.image_id)
        try:
            return _decode(data, item.image_id)
        except DataError:
            return None

    def _bytes(self, image_id: str) -> bytes:
        try:
            return (self.root / image_id).read_bytes()
        except OSError as error:
            raise DataError(f"image {image_id!r} in {self.root} cannot be read ({error.strerror})") from error

    def _row(self, item: Item) -> dict[str, Any]:
        data = self._bytes(item.image_id)
        shown = _displayed(data, item.image_id)
        latitude_deg, longitude_deg = item.coordinates or _position(data, item.image_id)
        return {
            "image": {"bytes": shown, "path": None},
            "image_id": item.image_id,
            "place_id": item.place_id,
            "platform": item.platform or self._told_by_content(shown),
            "captions": item.captions,
            "refined_captions": [],
            "regions": [],
            "latitude_deg": latitude_deg,
            "longitude_deg": longitude_deg,
            "source": SOURCE,
            "split": item.split,
        }

    def _told_by_content(self, data: bytes) -> str | None:
        """The platform of a picture by its content, where asked for; None for a broken one, which is told later."""
        if self._classifier is None:
            return None
        try:
            return self._classifier.predict(_decode(data, "picture"))[0]
        except DataError:
            return None


def load_folder(  # noqa: PLR0913 - options are keyword-only and documented one by one
    root: str | Path | None,
    *,
    table: str | Path | None = None,
    split: str | None = None,
    test_share: float = 0.0,
    platform: str | None = None,
    place_id: str = "folder",
    unlisted: bool = False,
    classify: bool | str | Path | PlatformClassifier = False,
    filters: Sequence[str] = (),
    image_check: bool = True,
    cache_dir: str | Path | None = None,
    show_progress: bool = False,
) -> datasets.DatasetDict:
    """Load a folder of images as one row per image, through a cache that a changed file or option makes anew.

    Args:
        root, table, split, test_share, platform, place_id, unlisted, classify, filters, image_check: see the reader.
        cache_dir: instead of the cache of `datasets`.
        show_progress: show a bar over the rows on stderr.

    Returns:
        `datasets.DatasetDict` with `train` and `test` (one of them may have no rows) and the columns of
        `schema.FEATURES`; images stay on disk until a row is asked for.

    Raises:
        DataError: whatever `FolderReader` finds wrong, in one line.

    Example:
        >>> load_folder("photos", platform="ground")["train"][0]["captions"]        # doctest: +SKIP
        ['a red brick library with a clock tower']
    """
    reader = FolderReader(
        root,
        table=table,
        split=split,
        test_share=test_share,
        platform=platform,
        place_id=place_id,
        unlisted=unlisted,
        classify=classify,
        filters=filters,
        image_check=image_check,
    )
    return load_reader(reader, cache_dir, show_progress)


def _row_filters(names: Sequence[str]) -> Filters:
    """The filters of a folder; those that compare records, images or places have no part here."""
    known = filter_names(on_rows=True)
    wrong = next((name for name in Filters(names).names if name not in known), None)
    if wrong is not None:
        raise DataError(f"the filter {wrong} does not work on a folder of images; use {', '.join(known)}")
    return Filters(names)


def _displayed(data: bytes, image_id: str) -> bytes:
    """The bytes of an image file as they are; TIFF tiles beyond 8-bit RGB as PNG, where they are not broken."""
    if not is_tiff(data) or is_plain_tiff(data):
        return data
    try:
        return read_tile(data, image_id)
    except DataError as error:
        if not _is_broken(error):
            raise
        return data


def _is_broken(error: DataError) -> bool:
    """Whether a TIFF is damaged, which is told where it is decoded; rather than too large, or rasterio not there."""
    return error.__cause__ is not None and not isinstance(error.__cause__, ImportError)


def _decode(data: bytes, image_id: str) -> Image.Image:
    """An image decoded to its last pixel, upright."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return ImageOps.exif_transpose(image)
    except Exception as error:  # Pillow's decoders raise many kinds on broken bytes
        told = f"image {image_id!r} cannot be decoded ({one_line(error)})"
        raise DataError(f"{told}; replace or remove it") from error


def _position(data: bytes, image_id: str) -> tuple[float | None, float | None]:
    """The position that an image file carries; a broken one is logged and counts as none."""
    try:
        found = read_georeference(data, image_id)
    except DataError as error:
        if is_tiff(data) and not _is_broken(error):
            raise
        return None, None  # no image at all, which is told where it is decoded
    if found.reason is not None:
        _LOGGER.warning("%s: no position, %s", image_id, found.reason)
    return found.latitude_deg, found.longitude_deg
