"""Checks of captions: empty, cut off, joined, refused."""

from __future__ import annotations

import re
from functools import partial

from pemoe.datasets_scripts.audit.defects import Finding
from pemoe.datasets_scripts.text.refusals import refusal_words
from pemoe.datasets_scripts.text.sentences import complete_sentences, split_sentences

JOINT = re.compile(r"\[\s*MOF\s*\]", re.IGNORECASE)
WRITING = re.compile(r"\b(?:letters|words|reads|reading)\b", re.IGNORECASE)
FROM_ABOVE = re.compile(r"\b(?:letters|words|reads|reading|sky|skies|sun)\b", re.IGNORECASE)
SIDE_LETTERS = re.compile(r"left|right", re.IGNORECASE)


def rejected_words(platform: str | None) -> re.Pattern[str]:
    """The words that do not belong in a caption of a platform: the sky is allowed on the ground alone.

    Example:
        >>> rejected_words("ground").search("A blue sky.") is None
        True
    """
    return WRITING if platform == "ground" else FROM_ABOVE


def cut_sentences(caption: str) -> list[str]:
    """The sentences of a caption that were cut off.

    Example:
        >>> cut_sentences("A pond lies in a park. " * 8 + "On the left there is a ro")
        ['On the left there is a ro']
    """
    whole = complete_sentences(caption)
    return [sentence for sentence in split_sentences(caption) if sentence not in whole]


def _spans(caption: str, parts: list[str]) -> tuple[tuple[int, int], ...]:
    """Where the parts lie in the caption; those changed by white space are passed over."""
    starts = [(caption.rfind(part), len(part)) for part in parts]
    return tuple((start, start + length) for start, length in starts if start >= 0)


def check_caption(
    caption: object, split: str | None, image_id: str, index: int, platform: str | None
) -> list[Finding]:
    """The defects that one caption shows by itself.

    Args:
        caption: anything; a text is examined.
        split: "train" or "test".
        image_id: for the findings.
        index: number of the caption in its record or row.
        platform: of the image; None if unknown.

    Returns:
        The findings, [] for a good caption.

    Example:
        >>> [found.kind for found in check_caption("Sorry, I see no hall.", "test", "6/6.jpg", 0, "satellite")]
        ['refused_caption']
    """
    if not isinstance(caption, str) or not caption.strip():
        return [
            Finding("empty_caption", split, image_id, f"caption {index} is {caption!r}"[:200], caption_index=index)
        ]
    make = partial(Finding, split=split, image_id=image_id, caption_index=index, text=caption)
    found = []
    cut = cut_sentences(caption)
    if cut:
        found.append(make("truncated_caption", detail=f"ends in ...{cut[-1][-60:]!r}", spans=_spans(caption, cut)))
    patterns = {
        "mof_joint": JOINT,
        "refused_caption": refusal_words(split),
        "rejected_words": rejected_words(platform),
    }
    for kind, pattern in patterns.items():
        spans = tuple(match.span() for match in pattern.finditer(caption))
        if spans:
            words = ", ".join(sorted({caption[start:end].lower() for start, end in spans}))
            found.append(make(kind, detail=f"has {words}", spans=spans))
    if split == "train" and not SIDE_LETTERS.search(caption):
        found.append(make("no_left_right", detail="names no side of the image"))
    return found
