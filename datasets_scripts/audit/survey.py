"""A data set seen once: every finding goes to a sink, a few numbers per image are kept to compare across images.

`survey_tree` reads a tree in GeoText-1652's layout, `survey_rows` rows of the schema.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image
from tqdm.auto import tqdm

from pemoe.datasets_scripts.audit.attribution import OverlayWatch
from pemoe.datasets_scripts.audit.defects import Finding
from pemoe.datasets_scripts.audit.duplicates import Looks
from pemoe.datasets_scripts.audit.images import hash_image, thumbnail
from pemoe.datasets_scripts.audit.records import by_image, check_image, check_record, check_row
from pemoe.datasets_scripts.audit.statistics import Statistics
from pemoe.datasets_scripts.schema import SPLITS, UNKNOWN, DataError, looks_down
from pemoe.datasets_scripts.sources.archives import UnsafeArchiveError
from pemoe.datasets_scripts.sources.coordinates import Coordinates, count_covered
from pemoe.datasets_scripts.sources.geotext.files import ImageFiles
from pemoe.datasets_scripts.sources.geotext.names import platform_of, split_image_id
from pemoe.datasets_scripts.sources.geotext.records import find_json, find_root, iter_records, no_records
from pemoe.datasets_scripts.sources.geotext.rows import captions_of, is_text, regions_of

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


class SeenImage(NamedTuple):
    """An image as a record or a row names it."""

    image_id: str
    split: str
    place_id: str | None
    platform: str | None


class Survey:
    """Takes in texts and pictures one by one, then compares across images.

    Of two images alike, the finding goes to the later one in the order test, train: a training image that repeats a
    test image is the one to drop.

    Args:
        sink: called with every finding.
        is_example: whether a report is to show an image; asked once its picture and its findings so far are there.

    Attributes:
        images: what was seen; the number of an image is its position here.
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
        self.images: list[SeenImage] = []
        self.statistics = Statistics()
        self.overlay = OverlayWatch()
        self._caption_owner: dict[int, int] = {}
        self._splits_of: dict[str, list[str]] = {}
        self._last_place: dict[str, str] = {}
        self._first_of_size: dict[tuple[str, int, int], int] = {}
        self._with_bytes: dict[int, list[int]] = {}  # numbers by the hash of the bytes
        self._looks = Looks()
        self._shown_alike: Counter[tuple[str, str]] = Counter()

    def add_image(self, image_id: str, split: str, place_id: str | None, platform: str | None) -> int:
        """Take in an image's name; its number comes back."""
        self.statistics.add_image(split, platform, place_id)
        self.images.append(SeenImage(image_id, split, place_id, platform))
        return len(self.images) - 1

    def add_record_of(self, place_id: str, split: str) -> None:
        """Take in that a record of a place comes next; records of one place should follow each other."""
        if split in self._splits_of.get(place_id, []) and self._last_place.get(split) != place_id:
            self.sink(Finding("non_contiguous_place", split, place_id, "comes back after other places"))
        self._last_place[split] = place_id
        self.add_place(place_id, split)

    def add_place(self, place_id: str | None, split: str) -> None:
        """Take in that a split holds a place."""
        if place_id is not None and split not in (splits := self._splits_of.setdefault(place_id, [])):
            splits.append(split)

    def check_places(self, coordinates: Mapping[str, Any]) -> None:
        """Find the places taken in so far that are no key of `coordinates`; a `DataError` if none of them is."""
        count_covered(self._splits_of, coordinates, "the table of coordinates")
        for place_id, splits in self._splits_of.items():
            if place_id not in coordinates:
                self.sink(Finding("missing_coordinates", splits[0], place_id, "is not in the table of coordinates"))

    def add_captions(self, number: int, captions: list[Any]) -> None:
        """Take in the captions of an image, to find those that come twice."""
        seen = self.images[number]
        for index, caption in enumerate(captions):
            if not is_text(caption):
                continue
            key = short_hash(" ".join(caption.lower().split()))
            if key not in self._caption_owner:
                self._caption_owner[key] = number
                continue
            owner = self.images[self._caption_owner[key]]
            if self._caption_owner[key] == number:
                kind, detail = "duplicate_caption", "is there twice"
            elif owner.place_id != seen.place_id:
                kind, detail = "shared_caption", f"is also a caption of {owner.image_id} ({owner.split})"
            else:
                continue
            self.sink(Finding(kind, seen.split, seen.image_id, detail, caption_index=index, text=caption))

    def add_picture(self, number: int, data: bytes) -> None:
        """Take in the bytes of an image."""
        image_id, split, place_id, platform = self.images[number]
        image, findings = check_image(data, platform)
        for finding in findings:
            self.sink(replace(finding, split=split, image_id=image_id))
        if image is None:
            return
        if self.is_example(image_id):
            self._keep(number, image)
        self.statistics.add_picture(platform, image.size, len(data))
        same_bytes = self._with_bytes.setdefault(short_hash(data), [])
        if same_bytes:
            self._keep_alike("duplicate_image", same_bytes[0], number, image)
        same_bytes.append(number)
        if any(finding.kind == "blank_image" for finding in findings):
            return  # all blank pictures look alike
        hashes = hash_image(image)
        alike = self._looks.like(hashes) if same_bytes == [number] else []
        for kind, other in {self._near_kind(other, number): other for other in alike}.items():
            self._keep_alike(kind, other, number, image)
        self._looks.add(number, hashes)
        if looks_down(platform) and place_id is not None:
            size = (platform or UNKNOWN, *image.size)
            self.overlay.add(size[0], place_id, image)
            if size in self.overlay.sums and self._first_of_size.setdefault(size, number) == number:
                self._keep(number, image)

    def _keep(self, number: int, image: Image.Image) -> None:
        self.pictures.setdefault(self.images[number].image_id, thumbnail(image))

    def _keep_alike(self, kind: str, first: int, number: int, image: Image.Image) -> None:
        """Keep the picture of two alike that a finding will name, in `close`; the second stands for the first too."""
        named = first if (self.images[first].split, self.images[number].split) == ("train", "test") else number
        key = kind, self.images[named].split
        self._shown_alike[key] += 1
        if self._shown_alike[key] <= MAX_EXAMPLES:
            self._keep(named, image)

    def _near_kind(self, first: int, number: int) -> str:
        places = {self.images[first].place_id, self.images[number].place_id}
        return "near_duplicate_image" if len(places) == 1 and None not in places else "near_duplicate_across_places"

    def close(self) -> None:
        """Compare across images and places, once all are taken in."""
        for place_id, splits in self._splits_of.items():
            if len(splits) > 1:
                self.sink(Finding("place_in_two_splits", "train", place_id, "is in train and in test"))
        self._compare_pictures()
        for (platform, width, height), band in self.overlay.bands().items():
            where = "rows {} to {}, columns {} to {}".format(*band)
            detail = f"{platform} pictures of {width} x {height} px have a mark in {where}"
            first = self.images[self._first_of_size[platform, width, height]].image_id
            self.sink(Finding("fixed_overlay", None, first, detail))

    def _compare_pictures(self) -> None:
        """Images with the bytes of an earlier one, or its look; of the latter one finding per image and kind."""
        in_order = sorted(range(len(self.images)), key=lambda number: self.images[number].split != "test")
        ranks = {number: rank for rank, number in enumerate(in_order)}
        firsts = {}
        for numbers in self._with_bytes.values():
            first, *others = sorted(numbers, key=ranks.__getitem__)
            firsts |= dict.fromkeys(others, first)
        for number in sorted(firsts, key=ranks.__getitem__):
            self._find_alike("duplicate_image", number, firsts[number], "has the bytes of")
        alike: dict[tuple[int, str], int] = {}
        for first, number in self._looks.pairs(number for number in in_order if number not in firsts):
            key = number, self._near_kind(first, number)
            alike[key] = min(alike.get(key, first), first)
        for (number, kind), first in sorted(alike.items(), key=lambda item: item[0][0]):
            self._find_alike(kind, number, first, "looks like")

    def _find_alike(self, kind: str, number: int, first: int, relation: str) -> None:
        seen, other = self.images[number], self.images[first]
        self.sink(Finding(kind, seen.split, seen.image_id, f"{relation} {other.image_id} ({other.split})"))


def _take_image(
    survey: Survey, split: str, records: list[dict[str, Any]], numbers: dict[Any, int], folders: dict[str, list[int]]
) -> None:
    """The sound records of one image; its number goes into `numbers` by name and into its folder's `folders`."""
    image_id = records[0]["image_id"]
    place_id, platform = split_image_id(image_id)[0], platform_of(image_id)
    survey.add_record_of(place_id, split)
    captions = [text for record in records for text in captions_of(record, split)]
    is_known = (split, image_id) in numbers
    count = len(records) + is_known
    if split == "test" and count > 1:
        survey.sink(Finding("duplicate_record", split, image_id, f"has {count} records"))
        captions = [] if is_known else captions_of(records[0], split)
    if not is_known:
        number = survey.add_image(image_id, split, place_id, platform)
        numbers[split, image_id] = number
        folders.setdefault(records[0]["image"].rsplit("/", 1)[0], []).append(number)
    survey.add_captions(numbers[split, image_id], captions)
    bboxes = [bbox for record in records for _, _, bbox in regions_of(record)]
    survey.statistics.add_texts(split, platform, captions, bboxes)


def archive_defect(error: Exception) -> str:
    """The kind of defect of an archive that `ImageFiles` could not read: refused by rule, or cut short or damaged."""
    return "unsafe_archive" if isinstance(error, UnsafeArchiveError) else "broken_archive"


def _take_pictures(survey: Survey, files: ImageFiles, folder: str, numbers: list[int]) -> None:
    """The pictures of one folder; an archive that cannot be read is one finding on the place."""
    names = {number: survey.images[number].image_id.split("/")[1] for number in numbers}
    _, split, place_id, _ = survey.images[numbers[0]]
    try:
        found = files.read(folder, set(names.values()))
    except (DataError, OSError) as error:
        reason = str(error).replace(f"{files.directory}/", "")
        survey.sink(Finding(archive_defect(error), split, place_id, reason))
        return
    for number, name in names.items():
        if name in found:
            survey.add_picture(number, found[name])
        else:
            survey.sink(Finding("missing_image", split, survey.images[number].image_id, f"is not in images/{folder}"))


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
        survey: a new one, which comes back closed.
        pictures: read the images too.
        coordinates: of `read_coordinates`, to find the places that it lacks; None looks for none.

    Raises:
        DataError: no such directory, no record in either split, or a JSON file that is no JSON list.
    """
    root = find_root(root)
    is_empty = True
    numbers: dict[Any, int] = {}
    folders: dict[str, list[int]] = {}
    for split in SPLITS:
        records = iter_records(find_json(root, split))
        bar = tqdm(records, desc=f"{split} records", unit="record", disable=not show_progress)
        for same_image, sound, known in by_image(bar, split):
            is_empty = False
            for record in same_image:
                for finding in check_record(record, split, **known):
                    survey.sink(finding)
            if sound:
                _take_image(survey, split, sound, numbers, folders)
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
    """Read rows of the schema once, `platform` a name or None; the survey, a new one, comes back closed.

    `image` is {"bytes", "path"}: a row without bytes has a missing image.
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
