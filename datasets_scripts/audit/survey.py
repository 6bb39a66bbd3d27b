"""A data set seen once: every finding goes to a sink, a few numbers per image are kept to compare across images.

`survey_tree` reads a tree in GeoText-1652's layout, `survey_rows` rows of the schema.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from pemoe.datasets_scripts.audit.attribution import OverlayWatch
from pemoe.datasets_scripts.audit.defects import Finding
from pemoe.datasets_scripts.audit.duplicates import near_pairs, near_to
from pemoe.datasets_scripts.audit.images import FROM_ABOVE, hash_image, thumbnail
from pemoe.datasets_scripts.audit.records import check_image, check_record, check_row, joined_records, texts_of
from pemoe.datasets_scripts.audit.statistics import UNKNOWN, Statistics
from pemoe.datasets_scripts.schema import SPLITS, DataError
from pemoe.datasets_scripts.sources.archives import UnsafeArchiveError
from pemoe.datasets_scripts.sources.coordinates import Coordinates
from pemoe.datasets_scripts.sources.geotext.files import ImageFiles
from pemoe.datasets_scripts.sources.geotext.names import platform_of, split_image_id
from pemoe.datasets_scripts.sources.geotext.records import find_json, find_root, iter_records, no_records
from pemoe.datasets_scripts.sources.geotext.rows import captions_of, regions_of, structure_fault

MAX_EXAMPLES = 8  # of a kind, each of another image

Sink = Callable[[Finding], None]


def short_hash(data: bytes | str) -> int:
    """64 bits of BLAKE2b.

    Example:
        >>> short_hash(b"a") == short_hash("a") != short_hash("b")
        True
    """
    raw = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    return int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest(), "big")


@dataclass
class ImageTable:
    """The images seen, column by column; `state` is 0 not read, 1 to be compared by its bytes, 2 also by its look."""

    ids: list[str] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    places: list[str | None] = field(default_factory=list)
    platforms: list[str | None] = field(default_factory=list)
    state: array = field(default_factory=lambda: array("B"))
    digest: array = field(default_factory=lambda: array("Q"))
    frequency: array = field(default_factory=lambda: array("Q"))
    gradient: array = field(default_factory=lambda: array("Q"))

    def add(self, image_id: str, split: str, place_id: str | None, platform: str | None) -> int:
        """Append an image; its number comes back."""
        for column, value in ((self.ids, image_id), (self.splits, split), (self.places, place_id)):
            column.append(value)
        self.platforms.append(platform)
        self.state.append(0)
        for column in (self.digest, self.frequency, self.gradient):
            column.append(0)
        return len(self.ids) - 1

    def compared(self, state: int) -> np.ndarray:
        """Numbers of the images with at least this state, test images first, each split in the order seen."""
        chosen = [number for number, value in enumerate(self.state) if value >= state]
        return np.array(sorted(chosen, key=lambda number: self.splits[number] != "test"), dtype=np.int64)


class Survey:
    """Takes in texts and pictures one by one, then compares across images.

    Of two images alike, the finding goes to the later one in the order test, train: a training image that repeats a
    test image is the one to drop.

    Args:
        sink: called with every finding.
        is_example: whether a report is to show an image; asked once its picture and its findings so far are there.

    Attributes:
        images: what was seen, one line per image.
        statistics: what is counted beside defects.
        pictures: small copies of the pictures to be shown, by image_id. Whether two are alike shows only at the end,
            so the first of those are kept as well.

    Example:
        >>> found = []
        >>> survey = Survey(found.append)
        >>> number = survey.add_image("6/6.jpg", "train", "6", "satellite")
        >>> survey.add_captions(number, ["A hall.", "A  hall."])
        >>> [finding.kind for finding in found]
        ['duplicate_caption']
    """

    def __init__(self, sink: Sink, is_example: Callable[[str], bool] = lambda _: False) -> None:
        self.sink = sink
        self.is_example = is_example
        self.pictures: dict[str, bytes] = {}
        self.images = ImageTable()
        self.statistics = Statistics()
        self.overlay = OverlayWatch()
        self._caption_owner: dict[int, int] = {}
        self._splits_of: dict[str, list[str]] = {}
        self._last_place: dict[str, str] = {}
        self._first_of_size: dict[tuple[str, int, int], int] = {}
        self._first_of_bytes: dict[int, int] = {}
        self._shown_alike: Counter[tuple[str, str]] = Counter()

    def add_image(self, image_id: str, split: str, place_id: str | None, platform: str | None) -> int:
        """Take in an image's name; its number comes back."""
        self.statistics.add_image(split, platform, place_id)
        return self.images.add(image_id, split, place_id, platform)

    def add_record_of(self, place_id: str, split: str) -> None:
        """Take in that a record of a place comes next; records of one place should follow each other."""
        if split in self._splits_of.get(place_id, []) and self._last_place.get(split) != place_id:
            self.sink(Finding("non_contiguous_place", split, place_id, "comes back after other places"))
        self._last_place[split] = place_id
        self.add_place(place_id, split)

    def add_place(self, place_id: str | None, split: str) -> None:
        """Take in that a split holds a place."""
        splits = self._splits_of.setdefault(place_id, []) if place_id is not None else [split]
        if split not in splits:
            splits.append(split)

    def check_places(self, coordinates: Mapping[str, Any]) -> None:
        """Find the places taken in so far that are no key of `coordinates`."""
        for place_id, splits in self._splits_of.items():
            if place_id not in coordinates:
                detail = "is not in the table of coordinates"
                self.sink(Finding("missing_coordinates", splits[0], place_id, detail))

    def add_captions(self, number: int, captions: list[Any]) -> None:
        """Take in the captions of an image, to find those that come twice."""
        images = self.images
        for index, caption in enumerate(captions):
            if not texts_of([caption]):
                continue
            key = short_hash(" ".join(caption.lower().split()))
            owner = self._caption_owner.get(key)
            make = {"split": images.splits[number], "image_id": images.ids[number], "text": caption}
            if owner is None:
                self._caption_owner[key] = number
            elif owner == number:
                self.sink(Finding("duplicate_caption", detail="is there twice", caption_index=index, **make))
            elif images.places[owner] != images.places[number]:
                detail = f"is also a caption of {images.ids[owner]} ({images.splits[owner]})"
                self.sink(Finding("shared_caption", detail=detail, caption_index=index, **make))

    def add_picture(self, number: int, data: bytes) -> None:
        """Take in the bytes of an image."""
        images = self.images
        platform, place_id = images.platforms[number], images.places[number]
        image, findings = check_image(data, platform)
        for finding in findings:
            self.sink(replace(finding, split=images.splits[number], image_id=images.ids[number]))
        if image is None:
            return
        if self.is_example(images.ids[number]):
            self._keep(number, image)
        self.statistics.add_picture(platform, image.size, len(data))
        images.state[number] = 1
        images.digest[number] = short_hash(data)
        first = self._first_of_bytes.setdefault(images.digest[number], number)
        if first != number:
            self._keep_alike("duplicate_image", first, number, image)
        if any(finding.kind == "blank_image" for finding in findings):
            return  # all blank pictures look alike
        hashes = hash_image(image)
        alike = [] if first != number else near_to(hashes, number, images.state, images.frequency, images.gradient)
        for kind, other in {self._near_kind(other, number): other for other in alike}.items():
            self._keep_alike(kind, other, number, image)
        images.state[number] = 2
        images.frequency[number], images.gradient[number] = hashes.frequency, hashes.gradient
        if platform in FROM_ABOVE and place_id is not None:
            size = (platform or UNKNOWN, *image.size)
            self.overlay.add(size[0], place_id, image)
            if size in self.overlay.sums and self._first_of_size.setdefault(size, number) == number:
                self._keep(number, image)

    def _keep(self, number: int, image: Image.Image) -> None:
        self.pictures.setdefault(self.images.ids[number], thumbnail(image))

    def _keep_alike(self, kind: str, first: int, number: int, image: Image.Image) -> None:
        """Keep the picture of two alike that a finding will name, in `close`; the second stands for the first too."""
        splits = self.images.splits
        named = first if (splits[first], splits[number]) == ("train", "test") else number
        self._shown_alike[kind, splits[named]] += 1
        if self._shown_alike[kind, splits[named]] <= MAX_EXAMPLES:
            self._keep(named, image)

    def _near_kind(self, first: int, number: int) -> str:
        places = self.images.places
        same = places[first] is not None and places[first] == places[number]
        return "near_duplicate_image" if same else "near_duplicate_across_places"

    def close(self) -> None:
        """Compare across images and places, once all are taken in."""
        for place_id, splits in self._splits_of.items():
            if len(splits) > 1:
                self.sink(Finding("place_in_two_splits", "train", place_id, "is in train and in test"))
        repeated = self._compare_bytes()
        self._compare_looks(repeated)
        for (platform, width, height), band in self.overlay.bands().items():
            where = f"rows {band.top_px} to {band.bottom_px}, columns {band.left_px} to {band.right_px}"
            detail = f"{platform} pictures of {width} x {height} px have a mark in {where}"
            first = self.images.ids[self._first_of_size[platform, width, height]]
            self.sink(Finding("fixed_overlay", None, first, detail))

    def _find_alike(self, kind: str, number: int, first: int, relation: str) -> None:
        images = self.images
        split = images.splits[first]
        self.sink(
            Finding(kind, images.splits[number], images.ids[number], f"{relation} {images.ids[first]} ({split})")
        )

    def _compare_bytes(self) -> set[int]:
        """Images with the bytes of an earlier one."""
        owners: dict[int, int] = {}
        repeated = set()
        for number in self.images.compared(1).tolist():
            first = owners.setdefault(self.images.digest[number], number)
            if first != number:
                repeated.add(number)
                self._find_alike("duplicate_image", number, first, "has the bytes of")
        return repeated

    def _compare_looks(self, repeated: set[int]) -> None:
        """Images that look like an earlier one without having its bytes; one finding per image and kind."""
        numbers = np.array([n for n in self.images.compared(2).tolist() if n not in repeated], dtype=np.int64)
        columns = (self.images.frequency, self.images.gradient)
        frequency, gradient = (np.asarray(column, dtype=np.uint64)[numbers] for column in columns)
        firsts: dict[tuple[str, int], int] = {}
        for i, j in near_pairs(frequency, gradient):
            first, number = int(numbers[i]), int(numbers[j])
            kind = self._near_kind(first, number)
            firsts[kind, number] = min(firsts.get((kind, number), first), first)
        for (kind, number), first in sorted(firsts.items(), key=lambda item: item[0][1]):
            self._find_alike(kind, number, first, "looks like")


def image_id_of(record: object) -> object:
    """The `image_id` of a record, by which records that follow each other are grouped."""
    return record.get("image_id") if isinstance(record, dict) else None


class _RecordWalk:
    """The records of a split, image by image; `folders` holds the numbers of the images by folder."""

    def __init__(self, survey: Survey, split: str) -> None:
        self.survey = survey
        self.split = split
        self.folders: dict[str, list[int]] = {}
        self._numbers: dict[str, int] = {}
        self._previous: dict[str, Any] | None = None

    def take(self, records: list[Any]) -> None:
        """Take in records that follow each other and name one image."""
        sound = [record for record in records if structure_fault(record, self.split) is None]
        captions = [text for record in sound for text in captions_of(record, self.split)]
        texts = texts_of(captions)
        for record in records:
            for finding in check_record(record, self.split, image_captions=texts, previous=self._previous):
                self.survey.sink(finding)
        if sound:
            self._take_image(sound, captions)
            self._previous = joined_records(sound, self.split)

    def _take_image(self, records: list[dict[str, Any]], captions: list[Any]) -> None:
        image_id = records[0]["image_id"]
        place_id, platform = split_image_id(image_id)[0], platform_of(image_id)
        self.survey.add_record_of(place_id, self.split)
        repeats = len(records) - 1 + (image_id in self._numbers)
        if self.split == "test" and repeats:
            self.survey.sink(Finding("duplicate_record", self.split, image_id, f"has {repeats + 1} records"))
            captions = captions_of(records[0], self.split) if image_id not in self._numbers else []
        if image_id not in self._numbers:
            number = self.survey.add_image(image_id, self.split, place_id, platform)
            self._numbers[image_id] = number
            self.folders.setdefault(records[0]["image"].rsplit("/", 1)[0], []).append(number)
        self.survey.add_captions(self._numbers[image_id], captions)
        bboxes = [bbox for record in records for _, _, bbox in regions_of(record)]
        self.survey.statistics.add_texts(self.split, platform, captions, bboxes)


def archive_defect(error: Exception) -> str:
    """The kind of defect of an archive that `ImageFiles` could not read: refused by rule, or cut short or damaged."""
    return "unsafe_archive" if isinstance(error, UnsafeArchiveError) else "broken_archive"


def _take_pictures(survey: Survey, files: ImageFiles, folder: str, numbers: list[int]) -> None:
    """The pictures of one folder; an archive that cannot be read is one finding on the place."""
    images = survey.images
    names = {number: images.ids[number].split("/")[1] for number in numbers}
    split = images.splits[numbers[0]]
    try:
        found = files.read(folder, set(names.values()))
    except (DataError, OSError) as error:
        reason = str(error).replace(f"{files.directory}/", "")
        survey.sink(Finding(archive_defect(error), split, images.places[numbers[0]], reason))
        return
    for number, name in names.items():
        if name in found:
            survey.add_picture(number, found[name])
        else:
            survey.sink(Finding("missing_image", split, images.ids[number], f"is not in images/{folder}"))


def survey_tree(
    root: str | Path,
    survey: Survey,
    *,
    pictures: bool = True,
    coordinates: Mapping[str, Coordinates] | None = None,
    show_progress: bool = False,
) -> Survey:
    """Read a tree in GeoText-1652's layout once, archives or extracted.

    Args:
        root: directory with the JSON files and `images/`.
        survey: a new one.
        pictures: read the images too.
        coordinates: of `read_coordinates`, to find the places that it lacks; None looks for none.
        show_progress: show bars on stderr.

    Returns:
        The survey, closed.

    Raises:
        DataError: no such directory, no record in either split, or a JSON file that is no JSON list.

    Example:
        >>> survey_tree("GeoText1652_Dataset", Survey(print))                   # doctest: +SKIP
    """
    root = find_root(root)
    is_empty = True
    folders: dict[str, list[int]] = {}
    for split in SPLITS:
        walk = _RecordWalk(survey, split)
        records = iter_records(find_json(root, split))
        bar = tqdm(records, desc=f"{split} records", unit="record", disable=not show_progress)
        for _, group in groupby(bar, key=image_id_of):
            walk.take(list(group))
            is_empty = False
        folders |= walk.folders
    if is_empty:
        raise no_records(root)
    if coordinates is not None:
        survey.check_places(coordinates)
    if pictures:
        files = ImageFiles(root)
        for folder in tqdm(folders, desc="pictures", unit="place", disable=not show_progress):
            _take_pictures(survey, files, folder, folders[folder])
    survey.close()
    return survey


def survey_rows(rows: Iterable[Mapping[str, Any]], survey: Survey, *, show_progress: bool = False) -> Survey:
    """Read rows of the schema once; `image` is {"bytes", "path"}, a row without bytes has a missing image.

    Args:
        rows: the keys of `schema.FEATURES`, `platform` a name or None.
        survey: a new one.
        show_progress: show a bar on stderr.

    Returns:
        The survey, closed.
    """
    for row in tqdm(rows, desc="rows", unit="row", disable=not show_progress):
        survey.add_place(row["place_id"], row["split"])
        for finding in check_row(row):
            survey.sink(finding)
        number = survey.add_image(row["image_id"], row["split"], row["place_id"], row["platform"])
        survey.add_captions(number, row["captions"])
        bboxes = [region["bbox"] for region in row["regions"]]
        survey.statistics.add_texts(row["split"], row["platform"], row["captions"], bboxes)
        data = row["image"]["bytes"]
        if data is None:
            survey.sink(Finding("missing_image", row["split"], row["image_id"], "has no bytes"))
        else:
            survey.add_picture(number, data)
    survey.close()
    return survey
