"""Findings in one record of a GeoText JSON file, in one row of the schema, in one picture: by each check there is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from PIL import Image

from pemoe.datasets_scripts.audit.defects import DEFECTS, Finding, checks_of
from pemoe.datasets_scripts.audit.regions import region_findings
from pemoe.datasets_scripts.sources.geotext.names import platform_of
from pemoe.datasets_scripts.sources.geotext.rows import (
    SOURCE,
    captions_of,
    content_faults,
    is_text,
    record_faults,
    region_lists,
    regions_of,
    structure_fault,
)
from pemoe.datasets_scripts.sources.images import ImageError, decode_sound


def by_image(records: Iterable[Any], split: str) -> Iterator[tuple[list[Any], list[Any], dict[str, Any]]]:
    """The records of a split, those together that follow each other and name one image.

    Returns:
        Iterator over (all of them, the sound ones, what `check_record` takes beside each).

    Example:
        >>> record = {"image_id": "6/6.jpg", "image": "train/6/6.jpg", "caption": "A hall."}
        >>> same_image, sound, known = next(by_image([{"image_id": "6/6.jpg"}, record], "train"))
        >>> len(same_image), sound == [record], known
        (2, True, {'image_captions': ['A hall.'], 'previous': None})
    """
    previous = None
    for _, group in groupby(records, key=lambda record: record.get("image_id") if isinstance(record, dict) else None):
        same_image = list(group)
        sound = [record for record in same_image if structure_fault(record, split) is None]
        captions = [text for record in sound for text in captions_of(record, split) if isinstance(text, str)]
        yield same_image, sound, {"image_captions": list(filter(is_text, captions)), "previous": previous}
        if sound:
            sentences = [text for record in sound for text in record.get("sentences") or ()]
            previous = {"caption": " ".join(captions), "sentences": sentences}


def _check_captions(
    captions: Iterable[Any], split: str | None, image_id: str, platform: str | None
) -> Iterator[Finding]:
    """What the checks of captions find; captions that are no texts are passed over."""
    checks = checks_of("caption")
    for index, caption in enumerate(captions):
        for kind, check in checks.items() if is_text(caption) else ():
            if found := check(caption, split, platform):
                yield Finding(
                    kind, split, image_id, found.detail, caption_index=index, text=caption, spans=found.spans
                )


def check_record(
    record: Any, split: str, *, image_captions: Sequence[str] = (), previous: dict[str, Any] | None = None
) -> list[Finding]:
    """The defects that one record shows by itself.

    Args:
        record: an entry of the JSON list, of whatever type.
        image_captions: captions of other records of the same image; they too speak for its sentences.
        previous: what the image before says, as one record (see `regions.is_stale`).

    Returns:
        The findings; a structural one stands alone, since nothing else can be judged then. [] for a clean record.

    Example:
        >>> record = {"image_id": "6/image_7e591aa3.jpeg", "image": "train/6/image_7e591aa3.jpeg", "caption": ""}
        >>> [found.kind for found in check_record(record, "train")]
        ['unknown_platform', 'empty_caption']
    """
    faults = list(record_faults(record, split))
    if structure_fault(record, split) is not None:
        named = record.get("image_id") if isinstance(record, dict) else None
        return [Finding(faults[0].kind, split, named if isinstance(named, str) else None, faults[0].detail)]
    image_id, captions, sentences = record["image_id"], captions_of(record, split), region_lists(record)[0]
    platform = platform_of(image_id)
    found = [] if platform else [Finding("unknown_platform", split, image_id, "has a hashed name")]
    for fault in faults:
        text = "" if fault.region_index is None else sentences[fault.region_index] or ""
        found.append(Finding(fault.kind, split, image_id, *fault[1:], text=text))
    known = [*filter(is_text, captions), *image_captions]
    found += _check_captions(captions, split, image_id, platform)
    return found + region_findings(regions_of(record), known, split, image_id, previous=previous)


def _coordinate_fault(latitude_deg: object, longitude_deg: object) -> tuple[str, str] | None:
    """(kind, detail) for coordinates that are missing or impossible."""
    if latitude_deg is None and longitude_deg is None:
        return "missing_coordinates", "has no coordinates"
    for value, limit in ((latitude_deg, 90), (longitude_deg, 180)):
        if not isinstance(value, (int, float)) or not abs(value) <= limit:  # nan is in no range
            return "bad_coordinates", f"lies at latitude {latitude_deg}, longitude {longitude_deg}"
    return None


def check_row(row: Mapping[str, Any]) -> list[Finding]:
    """The defects that one row of the schema shows by itself, its image left aside.

    A test row may go without captions: then it is of a gallery. What is measured against the generator of GeoText-1652
    is looked for in rows of that source alone.

    Args:
        row: the keys of `schema.FEATURES`; `platform` is a name or None.

    Returns:
        The findings, [] for a clean row with coordinates. Missing ones are a finding on its place, if it has one.

    Example:
        >>> row = {"image_id": "a.jpg", "place_id": "a", "platform": "drone", "captions": [], "regions": [],
        ...        "split": "train", "latitude_deg": 91.0, "longitude_deg": 0.0, "source": "folder"}
        >>> [found.kind for found in check_row(row)]
        ['bad_coordinates', 'no_caption']
    """
    split, image_id, captions, regions = row["split"], row["image_id"], row["captions"], row["regions"]
    found = []
    if row["platform"] is None:
        found.append(Finding("unknown_platform", split, image_id, "has no platform"))
    fault = _coordinate_fault(row["latitude_deg"], row["longitude_deg"])
    if fault is not None:
        subject = row["place_id"] if fault[0] == "missing_coordinates" else None
        found.append(Finding(fault[0], split, subject or image_id, fault[1]))
    if split == "train" and not captions:
        found.append(Finding("no_caption", split, image_id, "has no captions"))
    for fault in content_faults(captions, [region["bbox"] for region in regions]):
        text = "" if fault.region_index is None else regions[fault.region_index]["text"]
        found.append(Finding(fault.kind, split, image_id, *fault[1:], text=text))
    found += _check_captions(captions, split, image_id, row["platform"])
    numbered = [(index, region["text"], region["bbox"]) for index, region in enumerate(regions)]
    found += region_findings(numbered, list(filter(is_text, captions)), split, image_id, is_slot=False)
    return [one for one in found if row["source"] == SOURCE or not DEFECTS[one.kind].generator]


def check_image(data: bytes, platform: str | None) -> tuple[Image.Image | None, list[Finding]]:
    """The picture, None for a broken one, and the defects that it shows by itself, without split and image_id.

    Example:
        >>> check_image(b"no picture", "ground")[1][0].kind
        'undecodable_image'
    """
    try:
        image = decode_sound(data)
    except ImageError as error:
        return None, [Finding(error.kind, None, None, str(error)[:160])]
    details = {kind: check(image, platform) for kind, check in checks_of("image").items()}
    return image, [Finding(kind, None, None, detail) for kind, detail in details.items() if detail]
