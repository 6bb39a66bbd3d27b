"""Names in GeoText-1652: which building and which platform an image belongs to, and what the folders are called."""

from __future__ import annotations

import re

from pemoe.datasets_scripts.schema import DataError

JSON_NAMES = {"train": ("train.json",), "test": ("test_951_version.json", "test_24G_version.json")}
IMAGE_FOLDERS = {"train": ("train",), "test": ("test/query", "test/gallery_no_train")}
# the names the data set's README gives to folders that are called otherwise on the Hub
FOLDER_ALIASES = {
    "train": ("train(701)",),
    "test/query": ("test/query(701)",),
    "test/gallery_no_train": ("test/gallery_no_train(250)",),
}

_DRONE_STEM = re.compile(r"image-\d+")
_HASHED_STEM = re.compile(r"image_[0-9a-f]{8}")


def is_image_id(image_id: object) -> bool:
    """Whether a value is `<building>/<file>`, two plain path parts.

    Example:
        >>> is_image_id("0006/0006.jpg"), is_image_id("../0006.jpg")
        (True, False)
    """
    parts = image_id.split("/") if isinstance(image_id, str) else []
    return len(parts) == 2 and not any(part in ("", ".", "..") or "\\" in part or "\0" in part for part in parts)


def split_image_id(image_id: object) -> tuple[str, str]:
    """The two parts of `<building>/<file>`; a `DataError` for all that is not `is_image_id`."""
    if not is_image_id(image_id):
        raise DataError(f"image_id {image_id!r} is not '<building>/<file>'; correct the record")
    building, file_name = image_id.split("/")
    return building, file_name


def platform_of(image_id: str) -> str | None:
    """The platform that an image's name stands for: `<building>.*` satellite, `image-<digits>.*` drone, else ground.

    None for the hashed names of the challenge galleries, `image_<8 hex digits>.*`.

    Raises:
        DataError: `image_id` is not `<building>/<file>`.

    Example:
        >>> [platform_of(name) for name in ("0006/0006.jpg", "0006/image-01.jpeg", "0006/a1b2.jpg")]
        ['satellite', 'drone', 'ground']
        >>> platform_of("0006/image_7e591aa3.jpeg") is None
        True
    """
    building, file_name = split_image_id(image_id)
    stem = file_name.rsplit(".", 1)[0]
    if stem == building:
        return "satellite"
    if _HASHED_STEM.fullmatch(stem):
        return None
    return "drone" if _DRONE_STEM.fullmatch(stem) else "ground"
