"""The repairs that filters make: texts without bad sentences, records without bad regions, pictures without bands."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any

from PIL import Image

from pemoe.datasets_scripts.audit.captions import Found
from pemoe.datasets_scripts.sources.geotext.rows import region_lists
from pemoe.datasets_scripts.sources.images import eight_bits
from pemoe.datasets_scripts.text.sentences import complete_sentences, normalize_space, split_sentences

JPEG_QUALITY = 95

Find = Callable[[str], "Found | None"]


def _blank_words(text: str, find: Find) -> str:
    found = find(text)
    for start, end in reversed(found.spans if found else ()):
        text = f"{text[:start]} {text[end:]}"
    return normalize_space(text)


# what an action makes of a training caption, given the check of its defect; "" where nothing is left
CAPTION_REPAIRS: dict[str, Callable[[str, Find], str]] = {
    "keep_complete": lambda text, find: " ".join(complete_sentences(text)),
    "blank_words": _blank_words,
    "drop_sentences": lambda text, find: " ".join(part for part in split_sentences(text) if not find(part)),
    "drop_caption": lambda text, find: "",
}


def without_region(record: Mapping[str, Any], slot: int, *, keep_sentence: bool) -> dict[str, Any]:
    """A copy of a record with the box of a slot null, and its sentence too unless it is kept.

    Example:
        >>> without_region({"sentences": ["A."], "bboxes": [[0, 0, 0, 0]]}, 0, keep_sentence=True)
        {'sentences': ['A.'], 'bboxes': [None]}
    """
    sentences, bboxes = map(list, region_lists(record))
    bboxes[slot] = None
    if not keep_sentence:
        sentences[slot] = None
    return {**record, "sentences": sentences, "bboxes": bboxes}


def _encoded(image: Image.Image, was: str | None) -> dict[str, Any]:
    """An image cell in the format the picture had: JPEG, else PNG."""
    buffer = io.BytesIO()
    if was == "JPEG":
        image.convert("RGB").save(buffer, "JPEG", quality=JPEG_QUALITY)
    else:
        image.save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def to_rgb(row: Mapping[str, Any], image: Image.Image) -> tuple[dict[str, Any], Image.Image]:
    """A copy of a row with its picture in RGB, and the picture; transparent parts become white."""
    rgb = image = eight_bits(image)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        rgb = Image.new("RGB", image.size, "white")
        rgb.paste(rgba, mask=rgba.getchannel("A"))
    rgb = rgb.convert("RGB")
    return {**row, "image": _encoded(rgb, image.format)}, rgb


def _cropped_bbox(bbox: list[float] | None, share: float) -> list[float] | None:
    """A box after cropping to the upper `share` of the height; None if nothing of it is left."""
    if bbox is None:
        return None
    cx, cy, width, height = bbox
    top, bottom = max(0.0, cy - height / 2), min(share, cy + height / 2)
    if bottom <= top:
        return None
    return [cx, (top + bottom) / 2 / share, width, (bottom - top) / share]


def crop_above(row: Mapping[str, Any], image: Image.Image, top_px: int) -> tuple[dict[str, Any], Image.Image]:
    """A copy of a row with its picture cut off at row `top_px` and its boxes corrected, and the picture.

    Example:
        >>> row = {"regions": [{"text": "A hall.", "bbox": [0.5, 0.5, 0.2, 0.4]}]}
        >>> cropped, image = crop_above(row, Image.new("RGB", (100, 100)), 80)
        >>> image.size, [round(value, 3) for value in cropped["regions"][0]["bbox"]]
        ((100, 80), [0.5, 0.625, 0.2, 0.5])
    """
    upper = image.crop((0, 0, image.width, top_px))
    share = top_px / image.height
    regions = [{**region, "bbox": _cropped_bbox(region["bbox"], share)} for region in row["regions"]]
    return {**row, "image": _encoded(upper, image.format), "regions": regions}, upper
