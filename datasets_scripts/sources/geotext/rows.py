"""Records of GeoText-1652 to rows of the schema: what a record must hold, and how three records become one row."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from pemoe.datasets_scripts.schema import DataError
from pemoe.datasets_scripts.sources.geotext.files import folder_names
from pemoe.datasets_scripts.sources.geotext.names import IMAGE_FOLDERS, platform_of, split_image_id

SOURCE = "geotext1652"

_REQUIRED_KEYS = ("image_id", "image", "caption")


def canonical_image(image: object, image_id: str, split: str) -> str | None:
    """The path of a record's image below `images/`, its folder called as on the Hub; None if it is not that image's.

    Example:
        >>> canonical_image("test/query(701)/0001/0001.jpg", "0001/0001.jpg", "test")
        'test/query/0001/0001.jpg'
        >>> canonical_image("test/query/0001/0001.jpg", "0001/0001.jpg", "train") is None
        True
    """
    for folder in IMAGE_FOLDERS[split]:
        if image in [f"{name}/{image_id}" for name in folder_names(folder)]:
            return f"{folder}/{image_id}"
    return None


def region_lists(record: Mapping[str, Any]) -> tuple[Any, Any]:
    """`sentences` and `bboxes` of a record; where one is null and the other a list, as many nulls stand in for it.

    Returns:
        Two lists of one length, if the record is sound: what else it holds comes back as it is. [] where nothing is.

    Example:
        >>> region_lists({"sentences": ["A hall.", None], "bboxes": None})
        (['A hall.', None], [None, None])
    """
    sentences, bboxes = record.get("sentences", []), record.get("bboxes", [])
    if sentences is None and isinstance(bboxes, list):
        sentences = [None] * len(bboxes)
    if bboxes is None and isinstance(sentences, list):
        bboxes = [None] * len(sentences)
    return sentences or [], bboxes or []


def check_record(record: object, position: int, split: str, json_name: str) -> dict[str, Any]:
    """Refuse a record whose keys, `image_id` or image path are not as they must be.

    Returns:
        The record, with `image` as `canonical_image` gives it.

    Raises:
        DataError: names the file, and the position or the `image_id`.

    Example:
        >>> check_record({"image_id": "6/6.jpg", "image": "train/6/6.jpg", "caption": "A hall."}, 0, "train", "t.json")
        {'image_id': '6/6.jpg', 'image': 'train/6/6.jpg', 'caption': 'A hall.'}
    """
    if not isinstance(record, dict):
        raise DataError(f"{json_name}: record {position} is not an object")
    missing = [key for key in _REQUIRED_KEYS if key not in record]
    if missing:
        named = f" ({record['image_id']!r})" if "image_id" in record else ""
        raise DataError(f"{json_name}: record {position}{named} lacks {', '.join(missing)}; complete the record")
    image_id = record["image_id"]
    split_image_id(image_id)
    image = canonical_image(record["image"], image_id, split)
    if image is None:
        expected = " or ".join(f"{folder}/{image_id}" for folder in IMAGE_FOLDERS[split])
        raise DataError(f"{json_name}: image {record['image']!r} of {image_id!r} is not {expected}")
    return {**record, "image": image}


def _captions(record: dict[str, Any], split: str) -> list[str]:
    """The captions of a record: a string in train.json, a list of strings in the test JSON; none of them empty."""
    image_id, caption = record["image_id"], record["caption"]
    if split == "test" and not isinstance(caption, list):
        raise DataError(f"the caption of {image_id!r} must be a list of strings")
    captions = [caption] if split == "train" else caption
    if not captions:
        raise DataError(f"{image_id!r} has no captions; every image needs at least one")
    for text in captions:
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"{image_id!r} has the empty or non-text caption {text!r}; write or drop it")
    return captions


def _checked_bbox(bbox: Any, image_id: str) -> list[float] | None:
    """A box `[cx, cy, w, h]` of fractions with positive width and height; None stays None."""
    if bbox is None:
        return None
    four_numbers = (
        isinstance(bbox, list)
        and len(bbox) == 4
        and all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in bbox)
    )
    in_range = four_numbers and all(math.isfinite(value) and 0 <= value <= 1 for value in bbox)
    if not in_range or bbox[2] <= 0 or bbox[3] <= 0:
        raise DataError(f"{image_id!r} has the bbox {bbox!r}; it must be [cx, cy, w, h] within [0, 1] with w, h > 0")
    return [float(value) for value in bbox]


def _regions(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The region sentences of a record with their boxes; null or blank sentences are passed over, not their boxes."""
    image_id = record["image_id"]
    sentences, bboxes = region_lists(record)
    if not isinstance(sentences, list) or not isinstance(bboxes, list) or len(sentences) != len(bboxes):
        raise DataError(f"{image_id!r} must have as many bboxes as sentences, both as lists")
    wrong = next((text for text in sentences if text is not None and not isinstance(text, str)), None)
    if wrong is not None:
        raise DataError(f"{image_id!r} has the sentence {wrong!r}, which is not text")
    pairs = zip(sentences, (_checked_bbox(bbox, image_id) for bbox in bboxes), strict=True)
    return [{"text": text, "bbox": bbox} for text, bbox in pairs if text and text.strip()]


def _new_row(record: dict[str, Any], split: str) -> dict[str, Any]:
    image_id = record["image_id"]
    return {
        "image_id": image_id,
        "place_id": split_image_id(image_id)[0],
        "platform": platform_of(image_id),
        "captions": [],
        "refined_captions": [],
        "regions": [],
        "latitude_deg": None,
        "longitude_deg": None,
        "source": SOURCE,
        "split": split,
    }


def merge_records(records: Iterable[dict[str, Any]], split: str) -> dict[str, dict[str, Any]]:
    """One row per image, still without its picture: train records of an image merge, without exact duplicates.

    Args:
        records: checked records in file order (see `check_record`).
        split: "train" or "test"; a test image has one record, its captions all kept.

    Returns:
        Rows by the path of their image below `images/`, in order of first appearance.

    Raises:
        DataError: an empty caption, a bad region, or a second record of a test image.

    Example:
        >>> record = {"image_id": "6/6.jpg", "image": "train/6/6.jpg", "caption": "A hall."}
        >>> merge_records([record, {**record, "caption": "A pond."}], "train")["train/6/6.jpg"]["captions"]
        ['A hall.', 'A pond.']
    """
    rows: dict[str, dict[str, Any]] = {}
    for record in records:
        if split == "test" and any(row["image_id"] == record["image_id"] for row in rows.values()):
            raise DataError(f"{record['image_id']!r} has two records; the test split has one per image")
        captions = _captions(record, split)
        row = rows.setdefault(record["image"], _new_row(record, split))
        row["captions"] += captions if split == "test" else [text for text in captions if text not in row["captions"]]
        row["regions"] += [region for region in _regions(record) if region not in row["regions"]]
    return rows
