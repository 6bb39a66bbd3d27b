"""Findings in one record of a GeoText JSON file, in one row of the schema, in one picture: by each check there is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from PIL import Image

from pemoe.datasets_scripts.audit.defects import DEFECTS, Finding, checks_of
from pemoe.datasets_scripts.audit.regions import region_findings
from pemoe.datasets_scripts.sources.geotext.names import platform_of
from pemoe.datasets_scripts.sources.geotext.rows import (
    SOURCE,
    captions_of,
    content_faults,
    record_faults,
    region_lists,
    regions_of,
    structure_fault,
)
from pemoe.datasets_scripts.sources.images import ImageError, decode_image


def texts_of(captions: Iterable[Any]) -> list[str]:
    """The captions that are texts and not blank.

    Example:
        >>> texts_of(["A hall.", " ", None])
        ['A hall.']
    """
    return [caption for caption in captions if isinstance(caption, str) and caption.strip()]


def joined_records(records: Sequence[Mapping[str, Any]], split: str) -> dict[str, Any]:
    """What the sound records of one image say together, as one record: its captions joined, all its sentences.

    Example:
        >>> joined_records([{"caption": "A hall."}, {"caption": "A pond.", "sentences": ["A pond."]}], "train")
        {'caption': 'A hall. A pond.', 'sentences': ['A pond.']}
    """
    captions = [text for record in records for text in captions_of(record, split) if isinstance(text, str)]
    sentences = [text for record in records for text in record.get("sentences") or ()]
    return {"caption": " ".join(captions), "sentences": sentences}


def check_captions(
    captions: Iterable[Any], split: str | None, image_id: str, platform: str | None
) -> Iterator[Finding]:
    """What the checks of captions find; captions that are no texts are passed over.

    Args:
        captions: of one record or row.
        split: "train" or "test".
        image_id: for the findings.
        platform: of the image; None if unknown.

    Example:
        >>> [found.kind for found in check_captions(["Sorry, I see no hall."], "test", "6/6.jpg", "satellite")]
        ['refused_caption']
    """
    checks = checks_of("caption")
    for index, caption in enumerate(captions):
        for kind, check in checks.items() if texts_of([caption]) else ():
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
    known = [*texts_of(captions), *image_captions]
    found += check_captions(captions, split, image_id, platform)
    return found + region_findings(regions_of(record), known, split, image_id, previous=previous)


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
    found += check_captions(captions, split, image_id, row["platform"])
    numbered = [(index, region["text"], region["bbox"]) for index, region in enumerate(regions)]
    found += region_findings(numbered, texts_of(captions), split, image_id, is_slot=False)
    return [one for one in found if row["source"] == SOURCE or not DEFECTS[one.kind].generator]


def check_image(data: bytes, platform: str | None) -> tuple[Image.Image | None, list[Finding]]:
    """The picture and the defects that it shows by itself.

    Args:
        data: the file's bytes.
        platform: "satellite", "drone", "ground" or None.

    Returns:
        The picture, None for a broken one; the findings, without split and image_id, [] for a clean one.

    Example:
        >>> check_image(b"no picture", "ground")[1][0].kind
        'undecodable_image'
    """
    try:
        image = decode_image(data)
    except ImageError as error:
        return None, [Finding(error.kind, None, None, str(error)[:160])]
    details = {kind: check(image, platform) for kind, check in checks_of("image").items()}
    return image, [Finding(kind, None, None, detail) for kind, detail in details.items() if detail]
