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
import unicodedata
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import datasets
from PIL import Image, ImageOps

from pemoe.datasets_scripts.archives import IMAGE_SUFFIXES
from pemoe.datasets_scripts.folder_files import (
    HEIC_SUFFIXES,
    find_tables,
    place_by_path,
    platform_by_folder,
    platform_by_name,
    scan_folder,
    split_by_folder,
)
from pemoe.datasets_scripts.folder_table import (
    SPLIT_WORDS,
    Entry,
    merge_entries,
    parse_platform,
    parse_split,
    read_entries,
)
from pemoe.datasets_scripts.georeference import is_plain_tiff, is_tiff, read_georeference, read_tile
from pemoe.datasets_scripts.geotext_files import hash_file, hash_lines
from pemoe.datasets_scripts.platform_classifier import PlatformClassifier
from pemoe.datasets_scripts.readers import load_reader
from pemoe.datasets_scripts.schema import DataError

SOURCE = "folder"
ROWS_VERSION = 1  # in the fingerprint: another number where the same files give other rows
PLACE_RULES = ("folder", "file")
LEARN_IMAGES = 200  # of each platform, for `classify=True`
NOTES = {
    "one_place": "images are all of one place; give a column place_id, or place_id='file'",
    "unlisted": "images are not in the table and left out",
    "train_without_caption": "train images have no caption and teach nothing",
    "unknown_platform": "images have no known platform",
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
        platform: a name of `PLATFORMS`, or another word for one, likewise.
        place_id: "folder", or "file" where each image is a place of its own and folders mean something else.
        unlisted: take in images that the table does not list; otherwise they are counted and left out.
        classify: tell unknown platforms by content: a `PlatformClassifier`, the path of a saved one, or True to learn
            it from the images of this folder whose platform is known.
        image_check: decode every image in full.

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

    def __init__(
        self,
        root: str | Path | None,
        *,
        table: str | Path | None = None,
        split: str | None = None,
        platform: str | None = None,
        place_id: str = "folder",
        unlisted: bool = False,
        classify: bool | str | Path | PlatformClassifier = False,
        image_check: bool = True,
    ) -> None:
        if root is None or not Path(root).is_dir():
            raise DataError(f"the root of folder is {str(root)!r}, which is not a directory; give the images' folder")
        if place_id not in PLACE_RULES:
            raise DataError(f"place_id is {place_id!r}; use one of {', '.join(PLACE_RULES)}")
        self.root = Path(root)
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
        options = f"{ROWS_VERSION} {self.image_check} {learnt_here} {saved}"
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
            yield from (self._row(item) for item in self._by_place.get((split, place_id), ()))

    def report(self) -> dict[str, dict[str, int]]:
        """How many images or files each line of `NOTES` is about."""
        lone = len({item.place_id for item in self.items}) == 1 < len(self.items)
        unknown = [item for item in self.items if item.platform is None and not self._classify]
        counts = {
            "one_place": len(self.items) if lone else 0,
            "unlisted": self._left_out,
            "train_without_caption": sum(item.split == "train" and not item.captions for item in self.items),
            "unknown_platform": len(unknown),
            "no_image": self._scan.others.total() + len(self._scan.heic),
        }
        return {SOURCE: counts}

    def notes(self) -> list[str]:
        """What a user should hear that is no error: one line for each thing left out, missing or assumed."""
        return [f"{count} {NOTES[name]}" for name, count in self.report()[SOURCE].items() if count]

    def _named_table(self, table: str | Path) -> Path:
        return self.root / table if (self.root / table).is_file() else Path(table)

    def _read_items(self, unlisted: bool) -> list[Item]:
        """Every image with what table, folders and options tell."""
        listed: dict[str, Entry] = {}
        for path in self._tables:
            for entry in read_entries(path):
                image_id = self._image_id(entry.image, path, entry.where)
                entry = entry._replace(split=entry.split or SPLIT_WORDS.get(path.stem.lower()))
                listed[image_id] = merge_entries(listed[image_id], entry) if image_id in listed else entry
        others = [image_id for image_id in self._scan.images if image_id not in listed]
        self._left_out = 0 if unlisted or not listed else len(others)
        if not listed and self._scan.heic:
            raise DataError(_heic_fault(self._scan.heic[0], self.root))
        entries = {**listed, **dict.fromkeys([] if self._left_out else others)}
        if not entries:
            raise DataError(f"{self.root} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))}); give another folder")
        has_captions = any(entry and entry.captions for entry in entries.values())
        default_split = self._split or ("train" if has_captions else "test")
        return [self._item(image_id, entry, default_split) for image_id, entry in entries.items()]

    def _image_id(self, image: str, table: Path, where: str) -> str:
        """The path below the root of an image that a table names."""
        folder = os.path.relpath(table.parent.resolve(), self.root.resolve())
        names = [os.path.normpath(os.path.join(base, image)) for base in (folder, "", "images")]
        found = next((self._spelling[key] for key in map(_composed, names) if key in self._spelling), None)
        return found or self._only_namesake(image, where) or self._unusual_image_id(image, names, where)

    def _only_namesake(self, image: str, where: str) -> str | None:
        """For a bare file name, the image anywhere below the root that is called so."""
        namesakes = self._namesakes.get(_composed(image), [])
        if len(namesakes) > 1:
            named = " and ".join(map(repr, namesakes[:2]))
            raise DataError(f"{where}: {len(namesakes)} images are called {image!r}, {named}; name its folder too")
        return namesakes[0] if namesakes else None

    @cached_property
    def _namesakes(self) -> dict[str, list[str]]:
        """Images by their file name alone."""
        groups: dict[str, list[str]] = {}
        for key, image_id in self._spelling.items():
            groups.setdefault(key.rsplit("/", 1)[-1], []).append(image_id)
        return groups

    @cached_property
    def _spelling(self) -> dict[str, str]:
        """Image paths as the disk spells them, by their composed form: macOS may write é as e and an accent."""
        return {_composed(image_id): image_id for image_id in self._scan.images}

    def _unusual_image_id(self, image: str, names: list[str], where: str) -> str:
        """The path of an image that is named absolutely or by a link inside the root; else says what is wrong."""
        root = self.root.resolve()
        path = next((path for path in (root / name for name in names) if path.is_file()), None)
        if path is None:
            near = get_close_matches(image, self._scan.images, n=1, cutoff=0.5)
            hint = f"; is it {near[0]!r}?" if near else "; correct the name or drop the line"
            raise DataError(f"{where}: image {image!r} is not in {self.root}{hint}")
        path = Path(os.path.normpath(path))
        if not (path.is_relative_to(root) and path.resolve().is_relative_to(root)):
            raise DataError(f"{where}: image {image!r} leads out of {self.root}; move it inside")
        if path.suffix.lower() in HEIC_SUFFIXES:
            raise DataError(f"{where}: " + _heic_fault(image, self.root))
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            raise DataError(f"{where}: {image!r} is no image that is read ({', '.join(sorted(IMAGE_SUFFIXES))})")
        return path.relative_to(root).as_posix()

    def _item(self, image_id: str, entry: Entry | None, default_split: str) -> Item:
        known = entry or Entry(image_id, image_id, [], None, None, None, None, None)
        latitude_deg, longitude_deg = known.latitude_deg, known.longitude_deg
        return Item(
            image_id=image_id,
            place_id=known.place_id or place_by_path(image_id, self._place_rule),
            platform=known.platform or platform_by_folder(image_id) or self._platform or platform_by_name(image_id),
            split=known.split or split_by_folder(image_id) or default_split,
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
        groups = {name: [item for item in known if item.platform == name] for name in {one.platform for one in known}}
        chosen = [item for name in sorted(groups) for item in groups[name][:: -(-len(groups[name]) // LEARN_IMAGES)]]
        images = (_decode(_displayed(self._bytes(item.image_id), item.image_id), item.image_id) for item in chosen)
        return PlatformClassifier.fit(images, [item.platform for item in chosen])

    def _bytes(self, image_id: str) -> bytes:
        try:
            return (self.root / image_id).read_bytes()
        except OSError as error:
            raise DataError(f"image {image_id!r} in {self.root} cannot be read ({error.strerror})") from error

    def _row(self, item: Item) -> dict[str, Any]:
        data = self._bytes(item.image_id)
        shown, platform = _displayed(data, item.image_id), item.platform
        if platform is None and self._classifier is not None:
            platform, _ = self._classifier.predict(_decode(shown, item.image_id))
        elif self.image_check:
            _decode(shown, item.image_id)
        latitude_deg, longitude_deg = item.coordinates or _position(data, item.image_id)
        return {
            "image": {"bytes": shown, "path": None},
            "image_id": item.image_id,
            "place_id": item.place_id,
            "platform": platform,
            "captions": item.captions,
            "refined_captions": [],
            "regions": [],
            "latitude_deg": latitude_deg,
            "longitude_deg": longitude_deg,
            "source": SOURCE,
            "split": item.split,
        }


def load_folder(  # noqa: PLR0913 - options are keyword-only and documented one by one
    root: str | Path | None,
    *,
    table: str | Path | None = None,
    split: str | None = None,
    platform: str | None = None,
    place_id: str = "folder",
    unlisted: bool = False,
    classify: bool | str | Path | PlatformClassifier = False,
    image_check: bool = True,
    cache_dir: str | Path | None = None,
    show_progress: bool = False,
) -> datasets.DatasetDict:
    """Load a folder of images as one row per image, through a cache that a changed file or option makes anew.

    Args:
        root, table, split, platform, place_id, unlisted, classify, image_check: see `FolderReader`.
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
        platform=platform,
        place_id=place_id,
        unlisted=unlisted,
        classify=classify,
        image_check=image_check,
    )
    return load_reader(reader, cache_dir, show_progress)


def _displayed(data: bytes, image_id: str) -> bytes:
    """The bytes of an image file as they are; TIFF tiles beyond 8-bit RGB as PNG."""
    return read_tile(data, image_id) if is_tiff(data) and not is_plain_tiff(data) else data


def _decode(data: bytes, image_id: str) -> Image.Image:
    """An image decoded to its last pixel, upright."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return ImageOps.exif_transpose(image)
    except Exception as error:  # Pillow's decoders raise many kinds on broken bytes
        reason = " ".join(str(error).split())
        raise DataError(f"image {image_id!r} cannot be decoded ({reason}); replace or remove it") from error


def _position(data: bytes, image_id: str) -> tuple[float | None, float | None]:
    """The position that an image file carries; a broken one is logged and counts as none."""
    found = read_georeference(data, image_id)
    if found.reason is not None:
        _LOGGER.warning("%s: no position, %s", image_id, found.reason)
    return found.latitude_deg, found.longitude_deg


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _heic_fault(image: str, root: Path) -> str:
    return f"{image!r} in {root} is HEIC, which is not read; save it as JPEG"
