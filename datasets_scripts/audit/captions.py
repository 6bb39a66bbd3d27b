"""Checks of one caption: cut off, joined, refused, with words that the data set's generator rejects."""

from __future__ import annotations

import re
from typing import NamedTuple

from pemoe.datasets_scripts.text.refusals import refusal_words
from pemoe.datasets_scripts.text.sentences import complete_sentences, split_sentences

_JOINT = re.compile(r"\[\s*MOF\s*\]", re.IGNORECASE)  # "[MOF]"
_WRITING = re.compile(r"\b(?:letters|words|reads|reading)\b", re.IGNORECASE)  # "a sign reads 19"
_WRITING_OR_SKY = re.compile(r"\b(?:letters|words|reads|reading|sky|skies|sun)\b", re.IGNORECASE)  # "under a blue sky"
_SIDE_LETTERS = re.compile(r"left|right", re.IGNORECASE)  # "on the left"


class Found(NamedTuple):
    """What a check found in a caption: one line, and `(start, end)` of the offending words."""

    detail: str
    spans: tuple[tuple[int, int], ...] = ()


def _find(caption: str, pattern: re.Pattern[str]) -> Found | None:
    spans = tuple(match.span() for match in pattern.finditer(caption))
    words = sorted({caption[start:end].lower() for start, end in spans})
    return Found(f"has {', '.join(words)}", spans) if spans else None


def find_cut(caption: str, split: str | None, platform: str | None) -> Found | None:
    """Find sentences that were cut off; the spans leave out those whose white space is not plain.

    Example:
        >>> find_cut("A pond lies in a park. " * 8 + "On the left there is a ro", "train", "drone").detail
        "ends in ...'On the left there is a ro'"
    """
    whole = complete_sentences(caption)
    cut = [sentence for sentence in split_sentences(caption) if sentence not in whole]
    starts = [(caption.rfind(sentence), len(sentence)) for sentence in cut]
    spans = tuple((start, start + length) for start, length in starts if start >= 0)
    return Found(f"ends in ...{cut[-1][-60:]!r}", spans) if cut else None


def find_joint(caption: str, split: str | None, platform: str | None) -> Found | None:
    """Find the mark `[MOF]`."""
    return _find(caption, _JOINT)


def find_refusal(caption: str, split: str | None, platform: str | None) -> Found | None:
    """Find refusals, apologies and web addresses, and in train questions.

    Example:
        >>> find_refusal("Sorry, I see no hall.", "test", "satellite")
        Found(detail='has sorry', spans=((0, 5),))
    """
    return _find(caption, refusal_words(split))


def find_rejected_words(caption: str, split: str | None, platform: str | None) -> Found | None:
    """Find words that do not belong in a caption of a platform: the sky is allowed on the ground alone.

    Example:
        >>> find_rejected_words("A blue sky.", "train", "ground") is None
        True
    """
    return _find(caption, _WRITING if platform == "ground" else _WRITING_OR_SKY)


def find_no_side(caption: str, split: str | None, platform: str | None) -> Found | None:
    """Find training captions without the letters of a side."""
    return Found("names no side of the image") if split == "train" and not _SIDE_LETTERS.search(caption) else None
