"""Records of GeoText-1652 to rows of the schema: what a record must hold, and how three records become one row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from pemoe.datasets_scripts.schema import DataError
from pemoe.datasets_scripts.sources.geotext.files import folder_names
from pemoe.datasets_scripts.sources.geotext.names import IMAGE_FOLDERS, is_image_id, platform_of, split_image_id

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


def is_text(value: object) -> bool:
    """Whether a caption is a text and not blank."""
    return isinstance(value, str) and bool(value.strip())


def region_lists(record: Mapping[str, Any]) -> tuple[Any, Any]:
    """`sentences` and `bboxes` of a record, of a sound one two lists of one length; [] where nothing is.

    Where one is null and the other a list, as many nulls stand in for it. What else a record holds comes as it is.

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


class Fault(NamedTuple):
    """What makes a record unusable: the kind of defect, as the audit calls it, what exactly is wrong, and where."""

    kind: str
    detail: str
    caption_index: int | None = None
    region_index: int | None = None


def captions_of(record: Mapping[str, Any], split: str) -> list[Any]:
    """The captions of a record: a string in train.json, a list in the test JSON."""
    return record["caption"] if split == "test" else [record["caption"]]


def regions_of(record: Mapping[str, Any]) -> list[tuple[int, str, Any]]:
    """The regions of a sound record as (slot, sentence, box); slots without a sentence are passed over.

    Example:
        >>> regions_of({"sentences": [None, "A road."], "bboxes": [None, [0.5, 0.5, 0.2, 0.2]]})
        [(1, 'A road.', [0.5, 0.5, 0.2, 0.2])]
    """
    pairs = zip(*region_lists(record), strict=True)
    return [(slot, text, bbox) for slot, (text, bbox) in enumerate(pairs) if text and text.strip()]


def bbox_fault(bbox: object) -> str | None:
    """What makes a box unusable; None for a good box and for null.

    Example:
        >>> bbox_fault([0.5, 0.5, 1.2, 0.3]), bbox_fault(None)
        ('has a value outside [0, 1]', None)
    """
    if bbox is None:
        return None
    numbers = isinstance(bbox, (list, tuple)) and len(bbox) == 4
    if not numbers or not all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in bbox):
        return "is not four numbers"
    if not all(0 <= value <= 1 for value in bbox):  # nan is in no range
        return "has a value outside [0, 1]"
    return "has no area" if bbox[2] <= 0 or bbox[3] <= 0 else None


def structure_fault(record: object, split: str) -> Fault | None:
    """What keeps the texts of a record, of whatever type, from being looked at; None for a sound record.

    Example:
        >>> structure_fault({"image_id": "6/6.jpg", "caption": "A hall."}, "train").detail
        'lacks image'
    """
    if not isinstance(record, dict):
        return Fault("bad_record", f"is not an object but {str(record)[:60]!r}")
    missing = [key for key in _REQUIRED_KEYS if key not in record]
    if missing:
        return Fault("bad_record", f"lacks {', '.join(missing)}")
    image_id, image = record["image_id"], record["image"]
    if not is_image_id(image_id):
        return Fault("bad_image_id", f"image_id {str(image_id)[:80]!r} is not '<building>/<file>'")
    if canonical_image(image, image_id, split) is None:
        expected = " or ".join(f"{folder}/{image_id}" for folder in IMAGE_FOLDERS[split])
        return Fault("bad_record", f"image {str(image)[:80]!r} is not {expected}")
    if split == "test" and not isinstance(record["caption"], list):
        return Fault("bad_record", "the caption of a test record is not a list")
    sentences, bboxes = region_lists(record)
    if not isinstance(sentences, list) or not isinstance(bboxes, list) or len(sentences) != len(bboxes):
        return Fault("bad_record", "sentences and bboxes are not lists of one length")
    wrong = next((text for text in sentences if text is not None and not isinstance(text, str)), None)
    return None if wrong is None else Fault("bad_record", f"the sentence {str(wrong)[:60]!r} is not text")


def content_faults(captions: Iterable[Any], bboxes: Iterable[Any]) -> Iterator[Fault]:
    """The empty captions and bad boxes of a sound record or a row.

    Example:
        >>> [fault.detail for fault in content_faults(["A hall.", " "], [None, [0, 0, 0, 0]])]
        ["caption 1 is ' '", 'the box [0, 0, 0, 0] has no area']
    """
    for index, caption in enumerate(captions):
        if not is_text(caption):
            yield Fault("empty_caption", f"caption {index} is {caption!r}"[:200], caption_index=index)
    for index, bbox in enumerate(bboxes):
        if fault := bbox_fault(bbox):
            yield Fault("bad_bbox", f"the box {repr(bbox)[:80]} {fault}", region_index=index)


def record_faults(record: Any, split: str) -> Iterator[Fault]:
    """Everything that makes a record unusable; a fault of its structure stands alone, since it hides the others.

    Example:
        >>> record = {"image_id": "6/6.jpg", "image": "train/6/6.jpg", "caption": ""}
        >>> [fault.kind for fault in record_faults(record, "train")]
        ['empty_caption']
    """
    fault = structure_fault(record, split)
    if fault is not None:
        yield fault
        return
    captions = captions_of(record, split)
    if not captions:
        yield Fault("empty_caption", "has no captions")
    yield from content_faults(captions, region_lists(record)[1])


def checked_record(record: Any, split: str, where: str) -> dict[str, Any]:
    """A record that can be used, with `image` as `canonical_image` gives it.

    Raises:
        DataError: `where` (file and number), the `image_id`, the first fault, and the filter that takes care of it.

    Example:
        >>> record = {"image_id": "6/6.jpg", "image": "train(701)/6/6.jpg", "caption": "A hall."}
        >>> checked_record(record, "train", "train.json: record 0")["image"]
        'train/6/6.jpg'
    """
    fault = next(record_faults(record, split), None)
    if fault is not None:
        image_id = record.get("image_id") if isinstance(record, dict) else None
        named = f" ({str(image_id)[:80]})" if image_id is not None else ""
        raise DataError(f"{where}{named}: {fault.detail}; correct it, or name the filter {fault.kind}")
    return {**record, "image": canonical_image(record["image"], record["image_id"], split)}


def _new_row(image_id: str, split: str) -> dict[str, Any]:
    row = {"image_id": image_id, "place_id": split_image_id(image_id)[0], "platform": platform_of(image_id)}
    row |= {"captions": [], "refined_captions": [], "regions": [], "latitude_deg": None, "longitude_deg": None}
    return {**row, "source": SOURCE, "split": split}


def merge_records(records: Iterable[dict[str, Any]], split: str) -> dict[str, dict[str, Any]]:
    """One row per image, still without its picture, by the image's path below `images/`, in order of appearance.

    Train records of an image merge without exact duplicates; a test image has one record, its captions all kept.

    Args:
        records: those of `checked_record`, in file order.

    Raises:
        DataError: a second record of a test image.

    Example:
        >>> record = {"image_id": "6/6.jpg", "image": "train/6/6.jpg", "caption": "A hall."}
        >>> merge_records([record, {**record, "caption": "A pond."}], "train")["train/6/6.jpg"]["captions"]
        ['A hall.', 'A pond.']
    """
    rows: dict[str, dict[str, Any]] = {}
    for record in records:
        if split == "test" and any(row["image_id"] == record["image_id"] for row in rows.values()):
            raise DataError(
                f"{record['image_id']!r} has two records; the test split has one per image: keep one, or name the "
                "filter duplicate_record"
            )
        row = rows.setdefault(record["image"], _new_row(record["image_id"], split))
        captions = captions_of(record, split)
        row["captions"] += captions if split == "test" else [text for text in captions if text not in row["captions"]]
        boxed = [(text, bbox and [float(value) for value in bbox]) for _, text, bbox in regions_of(record)]
        regions = [{"text": text, "bbox": bbox} for text, bbox in boxed]
        row["regions"] += [region for region in regions if region not in row["regions"]]
    return rows
