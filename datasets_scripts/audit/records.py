"""Checks of one record of a GeoText JSON file, or of one row of the schema, without its image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pemoe.datasets_scripts.audit.captions import check_caption
from pemoe.datasets_scripts.audit.defects import GENERATOR_ONLY, Finding
from pemoe.datasets_scripts.audit.regions import bbox_fault, region_findings
from pemoe.datasets_scripts.schema import DataError
from pemoe.datasets_scripts.sources.geotext.names import IMAGE_FOLDERS, platform_of, split_image_id
from pemoe.datasets_scripts.sources.geotext.rows import SOURCE, canonical_image, region_lists

REQUIRED_KEYS = ("image_id", "image", "caption")


def captions_of(record: Mapping[str, Any], split: str) -> list[Any]:
    """The captions of a record: a string in train.json, a list in the test JSON.

    Example:
        >>> captions_of({"caption": "A hall."}, "train")
        ['A hall.']
    """
    return record["caption"] if split == "test" else [record["caption"]]


def _wrong_lists(record: Mapping[str, Any]) -> str | None:
    """What is wrong with the parallel lists `sentences` and `bboxes`."""
    sentences, bboxes = region_lists(record)
    if not isinstance(sentences, list) or not isinstance(bboxes, list) or len(sentences) != len(bboxes):
        return "sentences and bboxes are not lists of one length"
    if not all(text is None or isinstance(text, str) for text in sentences):
        return "a sentence is not text"
    return None


def structure_fault(record: object, split: str) -> tuple[str, str] | None:
    """What makes a record unusable, as (kind, detail); None for a record whose texts can be looked at.

    Args:
        record: an entry of the JSON list, of whatever type.
        split: "train" or "test".

    Example:
        >>> structure_fault({"image_id": "6/6.jpg", "caption": "A hall."}, "train")
        ('bad_record', 'lacks image')
    """
    if not isinstance(record, dict):
        return "bad_record", f"is not an object but {str(record)[:60]!r}"
    missing = [key for key in REQUIRED_KEYS if key not in record]
    if missing:
        return "bad_record", f"lacks {', '.join(missing)}"
    try:
        split_image_id(record["image_id"])
    except DataError:
        return "bad_image_id", f"image_id {str(record['image_id'])[:80]!r} is not '<building>/<file>'"
    if canonical_image(record["image"], record["image_id"], split) is None:
        expected = " or ".join(f"{folder}/{record['image_id']}" for folder in IMAGE_FOLDERS[split])
        return "bad_record", f"image {str(record['image'])[:80]!r} is not {expected}"
    if split == "test" and not isinstance(record["caption"], list):
        return "bad_record", "the caption of a test record is not a list"
    wrong = _wrong_lists(record)
    return ("bad_record", wrong) if wrong else None


def record_regions(record: Mapping[str, Any]) -> list[tuple[int, str, Any]]:
    """The regions of a sound record as (slot, sentence, box); slots without a sentence are passed over.

    Example:
        >>> record_regions({"sentences": [None, "A road."], "bboxes": [None, [0.5, 0.5, 0.2, 0.2]]})
        [(1, 'A road.', [0.5, 0.5, 0.2, 0.2])]
    """
    pairs = zip(*region_lists(record), strict=True)
    return [(slot, text, bbox) for slot, (text, bbox) in enumerate(pairs) if text and text.strip()]


def _speechless_boxes(record: Mapping[str, Any], split: str) -> list[Finding]:
    """The findings on boxes of slots without a sentence."""
    _, bboxes = region_lists(record)
    spoken = {slot for slot, _, _ in record_regions(record)}
    faults = {slot: bbox_fault(bbox) for slot, bbox in enumerate(bboxes) if slot not in spoken}
    return [
        Finding("bad_bbox", split, record["image_id"], f"the box {str(bboxes[slot])[:80]} {fault}", region_index=slot)
        for slot, fault in faults.items()
        if fault is not None
    ]


def joined_records(records: Sequence[Mapping[str, Any]], split: str) -> dict[str, Any]:
    """What the sound records of one image say together, as one record: its captions joined, all its sentences.

    Example:
        >>> joined_records([{"caption": "A hall."}, {"caption": "A pond.", "sentences": ["A pond."]}], "train")
        {'caption': 'A hall. A pond.', 'sentences': ['A pond.']}
    """
    captions = [text for record in records for text in captions_of(record, split) if isinstance(text, str)]
    sentences = [text for record in records for text in record.get("sentences") or ()]
    return {"caption": " ".join(captions), "sentences": sentences}


def text_findings(
    captions: Sequence[Any], split: str | None, image_id: str, platform: str | None
) -> tuple[list[Finding], list[str]]:
    """The findings on all captions of an image or record, and the captions that are texts."""
    found = [
        finding
        for index, caption in enumerate(captions)
        for finding in check_caption(caption, split, image_id, index, platform)
    ]
    return found, [caption for caption in captions if isinstance(caption, str) and caption.strip()]


def check_record(
    record: object,
    split: str,
    *,
    image_captions: Sequence[str] = (),
    previous: dict[str, Any] | None = None,
) -> list[Finding]:
    """The defects that one record shows by itself.

    Args:
        record: an entry of the JSON list, of whatever type.
        split: "train" or "test".
        image_captions: captions of other records of the same image; they too speak for its sentences.
        previous: what the image before says (`joined_records`; see `regions.is_stale`).

    Returns:
        The findings; a structural one stands alone, since nothing else can be judged then. [] for a clean record.

    Example:
        >>> record = {"image_id": "6/image_7e591aa3.jpeg", "image": "train/6/image_7e591aa3.jpeg", "caption": ""}
        >>> [found.kind for found in check_record(record, "train")]
        ['unknown_platform', 'empty_caption']
    """
    fault = structure_fault(record, split)
    if fault is not None:
        named = record.get("image_id") if isinstance(record, dict) else None
        return [Finding(fault[0], split, named if isinstance(named, str) else None, fault[1])]
    image_id = record["image_id"]
    platform = platform_of(image_id)
    found = []
    if platform is None:
        found.append(Finding("unknown_platform", split, image_id, "has a hashed name"))
    told = captions_of(record, split)
    if not told:
        found.append(Finding("empty_caption", split, image_id, "has no captions"))
    on_captions, captions = text_findings(told, split, image_id, platform)
    known = [*captions, *image_captions]
    on_regions = region_findings(record_regions(record), known, split, image_id, previous=previous)
    return [*found, *on_captions, *on_regions, *_speechless_boxes(record, split)]


def _coordinate_fault(latitude_deg: object, longitude_deg: object) -> tuple[str, str] | None:
    """(kind, detail) for coordinates that are missing or impossible."""
    if latitude_deg is None and longitude_deg is None:
        return "missing_coordinates", "has no coordinates"
    limits = ((latitude_deg, 90), (longitude_deg, 180))
    for value, limit in limits:
        if not isinstance(value, (int, float)) or not abs(value) <= limit:  # nan is in no range
            return "bad_coordinates", f"lies at latitude {latitude_deg}, longitude {longitude_deg}"
    return None


def check_row(row: Mapping[str, Any]) -> list[Finding]:
    """The defects that one row of the schema shows by itself, its image left aside.

    A test row may go without captions: then it is of a gallery. `GENERATOR_ONLY` is looked for in rows of GeoText-1652
    alone.

    Args:
        row: the keys of `schema.FEATURES`; `platform` is a name or None.

    Returns:
        The findings, [] for a clean row with coordinates. Missing coordinates are told of its place, if it has one.

    Example:
        >>> row = {"image_id": "a.jpg", "place_id": "a", "platform": "drone", "captions": [], "regions": [],
        ...        "split": "train", "latitude_deg": 91.0, "longitude_deg": 0.0, "source": "folder"}
        >>> [found.kind for found in check_row(row)]
        ['bad_coordinates', 'no_caption']
    """
    split, image_id = row["split"], row["image_id"]
    found = []
    if row["platform"] is None:
        found.append(Finding("unknown_platform", split, image_id, "has no platform"))
    fault = _coordinate_fault(row["latitude_deg"], row["longitude_deg"])
    if fault is not None:
        subject = row["place_id"] if fault[0] == "missing_coordinates" else None
        found.append(Finding(fault[0], split, subject or image_id, fault[1]))
    if split == "train" and not row["captions"]:
        found.append(Finding("no_caption", split, image_id, "has no captions"))
    on_captions, captions = text_findings(row["captions"], split, image_id, row["platform"])
    regions = [(index, region["text"], region["bbox"]) for index, region in enumerate(row["regions"])]
    found += [*on_captions, *region_findings(regions, captions, split, image_id, is_slot=False)]
    return [finding for finding in found if row["source"] == SOURCE or finding.kind not in GENERATOR_ONLY]
