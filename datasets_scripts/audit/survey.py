"""What is seen of a data set while it is read once: every finding goes to a sink, a few numbers per image are kept."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from pemoe.datasets_scripts.audit.attribution import OverlayWatch
from pemoe.datasets_scripts.audit.defects import Finding
from pemoe.datasets_scripts.audit.duplicates import near_pairs
from pemoe.datasets_scripts.audit.images import FROM_ABOVE, decode_image, hash_image, look_findings
from pemoe.datasets_scripts.audit.statistics import UNKNOWN, Statistics

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

    Example:
        >>> found = []
        >>> survey = Survey(found.append)
        >>> number = survey.add_image("6/6.jpg", "train", "6", "satellite")
        >>> survey.add_captions(number, ["A hall.", "A  hall."])
        >>> [finding.kind for finding in found]
        ['duplicate_caption']
    """

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self.images = ImageTable()
        self.statistics = Statistics()
        self.overlay = OverlayWatch()
        self._caption_owner: dict[int, int] = {}
        self._splits_of: dict[str, list[str]] = {}
        self._last_place: dict[str, str] = {}
        self._first_of_size: dict[tuple[str, int, int], int] = {}

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
            if not isinstance(caption, str) or not caption.strip():
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
        image, broken = decode_image(data)
        findings = [broken] if broken is not None else look_findings(image, platform)
        for finding in findings:
            self.sink(replace(finding, split=images.splits[number], image_id=images.ids[number]))
        if broken is not None:
            return
        self.statistics.add_picture(platform, image.size, len(data))
        images.state[number] = 1
        images.digest[number] = short_hash(data)
        if any(finding.kind == "blank_image" for finding in findings):
            return  # all blank pictures look alike
        hashes = hash_image(image)
        images.state[number] = 2
        images.frequency[number], images.gradient[number] = hashes.frequency, hashes.gradient
        if platform in FROM_ABOVE and place_id is not None:
            self.overlay.add(platform or UNKNOWN, place_id, image)
            self._first_of_size.setdefault((platform or UNKNOWN, *image.size), number)

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
            same = self.images.places[first] is not None and self.images.places[first] == self.images.places[number]
            kind = "near_duplicate_image" if same else "near_duplicate_across_places"
            firsts[kind, number] = min(firsts.get((kind, number), first), first)
        for (kind, number), first in sorted(firsts.items(), key=lambda item: item[0][1]):
            self._find_alike(kind, number, first, "looks like")
