"""Checks of regions: sentences that belong elsewhere or name the wrong side, boxes that are null or noisy."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from pemoe.datasets_scripts.audit.defects import Finding
from pemoe.datasets_scripts.audit.overlap import overlap
from pemoe.datasets_scripts.sanitize import find_directions
from pemoe.datasets_scripts.sources.geotext.rows import bbox_fault
from pemoe.datasets_scripts.text.sentences import split_sentences

MIN_SIDE, MAX_SIDE = 0.15, 0.8  # fractions of the image; the data set's generator drops boxes beyond
MAIN_CENTRE = (0.3, 0.7)
LITTLE = 0.3  # with less in common, a sentence that the image before has too is taken for left over
SAME_STATEMENT = 0.65  # share of content words from which two sentences are taken for versions of one

_SIDE_LETTERS = re.compile(r"left|right", re.IGNORECASE)  # "bright"
_MEANT_SIDE = re.compile(  # "the left", "upper right"
    r"\b(?:the|its|upper|lower|far|extreme|top|bottom|middle|cent(?:er|re)|and|or|to)[ -](?:left|right)\b"
    r"(?! (?:over|behind))",
    re.IGNORECASE,
)
_CLAUSE = re.compile(r",\s+(?:and|while|but|with|which)\s+|;\s+")  # ", while ", "; "
_SIDE = re.compile(r"left|right|middle|cent(?:er|re)", re.IGNORECASE)  # "centre"


def side_words(text: str) -> frozenset[str]:
    """Which of left, right and middle a text means as directions.

    Example:
        >>> side_words("On the upper left side there is a bright hall, right next to a road.")
        frozenset({'left'})
    """
    found = (word.lower() for span in find_directions(text) for word in _SIDE.findall(span.text))
    return frozenset("middle" if word.startswith(("mid", "cent")) else word for word in found)


def is_stale(sentence: str, captions: Sequence[str], previous: dict[str, Any] | None = None) -> bool:
    """Whether a region's sentence was left over from another image.

    It is when it shares no content word with any of the captions known of its image; or when the image before it in
    the file, whose texts are `previous` as one record, has the very sentence, and its captions share more with it.

    Example:
        >>> is_stale("On the left side there is a tennis court.", ["A white dome stands by a road."])
        True
        >>> is_stale("On the left side there is a small lake.", ["A white dome stands by a pond."])
        False
    """
    own = max((overlap(sentence, caption) for caption in captions), default=1.0)
    if own == 0:
        return True
    if previous is None or own >= LITTLE or sentence not in previous["sentences"]:
        return False
    return overlap(sentence, previous["caption"]) > own


def _disagreement(sentence: str, captions: Sequence[str]) -> str | None:
    """The side that the caption's version of a sentence names, if it is another one."""
    sides = side_words(sentence)
    sentences = (sentence for caption in captions for sentence in split_sentences(caption))
    statements = [clause for sentence in sentences for clause in _CLAUSE.split(sentence)]
    if len(sides) != 1 or not statements:
        return None
    shared, statement = max((overlap(sentence, statement), statement) for statement in statements)
    others = side_words(statement)
    is_other = shared >= SAME_STATEMENT and others & {"left", "right"} and not others & sides
    return statement if is_other else None


def _noise(bbox: Sequence[float], is_main: bool) -> str | None:
    """Why a usable box cannot come from the data set's own generator."""
    width, height = bbox[2:]
    if min(width, height) < MIN_SIDE or max(width, height) > MAX_SIDE:
        return f"has sides {width:.2f} x {height:.2f}"
    if is_main and not MAIN_CENTRE[0] <= bbox[0] <= MAIN_CENTRE[1]:
        return f"is the main object's, centred at {bbox[0]:.2f}"
    return None


def _side_finding(text: str, index: int, captions: Sequence[str], boxed: bool) -> tuple[str, str] | None:
    """What is wrong with the side that a region's sentence names, as (kind, detail)."""
    sides = side_words(text)
    if {"left", "right"} <= sides and not boxed:
        return "both_sides_sentence", "names left and right, and no region has a box"
    has_letters = _SIDE_LETTERS.search(text) and not _MEANT_SIDE.search(text)
    if index > 0 and has_letters and not sides and not find_directions(text):
        return "false_side_sentence", "has the letters of a side, but names none"
    other = _disagreement(text, captions)
    return ("sentence_caption_disagree", f"the caption says: {other[:120]}") if other else None


def region_findings(
    regions: Sequence[tuple[int, str, Any]],
    captions: Sequence[str],
    split: str | None,
    image_id: str,
    *,
    is_slot: bool = True,
    previous: dict[str, Any] | None = None,
) -> list[Finding]:
    """The defects of all regions of a record or row; boxes that cannot be used are passed over.

    Args:
        regions: (number, sentence, box) each; the box `[cx, cy, w, h]` as fractions of the image, or None.
        captions: those known of its image.
        split, image_id: for the findings.
        is_slot: whether regions stand in the fixed order main, left, right, so that number 0 is the main object.
        previous: see `is_stale`.

    Example:
        >>> regions = [(1, "A bright roof.", [0.5, 0.5, 0.3, 0.3])]
        >>> region_findings(regions, ["A bright roof."], "train", "6/6.jpg")[0].kind
        'false_side_sentence'
    """
    boxed = any(bbox is not None for _, _, bbox in regions)
    known = captions if split == "train" else ()  # the short queries of test pass over most regions
    found = []
    for index, text, bbox in regions:
        faults: list[tuple[str, str] | None] = []
        if bbox is None:
            faults.append(("null_bbox", "has no box"))
        elif bbox_fault(bbox) is None:
            noise = _noise(bbox, (is_slot and index == 0) or "main object" in text.lower())
            faults.append(("noisy_bbox", f"the box {noise}") if noise else None)
        if known and is_stale(text, known, previous):
            faults.append(("stale_sentence", "shares nothing with the captions of its image"))
        else:
            faults.append(_side_finding(text, index if is_slot else 0, known, boxed))
        for kind, detail in filter(None, faults):
            found.append(Finding(kind, split, image_id, detail, region_index=index, text=text))
    return found
