"""The words by which tables, folders and file names call platforms and splits."""

from __future__ import annotations

import re
from collections.abc import Mapping

from pemoe.datasets_scripts.schema import PLATFORM_TRAITS, DataError, check_platform

SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing", "query", "gallery"), "test"),
}
VALIDATION_WORDS = ("val", "valid", "validation", "dev", "eval")

PlatformWords = Mapping[str, str]  # word -> platform


def platform_words(own: str | None = None) -> PlatformWords:
    """The words of all platforms that have some, and a user's own, which has its name alone (see `check_platform`).

    Example:
        >>> platform_words("infrared")["uav"], platform_words("infrared")["infrared"]
        ('drone', 'infrared')
    """
    words = {word: name for name, traits in PLATFORM_TRAITS.items() for word in traits.words}
    has_digits = own is not None and re.search(r"\d", own) is not None
    if own is not None and (has_digits or find_platform(own, words) is None):
        if own in (*SPLIT_WORDS, *VALIDATION_WORDS):
            raise DataError(f"{own!r} names a split, so no platform can be called so; use another name")
        words[check_platform(own)] = own
    return words


def find_platform(text: str, words: PlatformWords) -> str | None:
    """The platform that a text names, in any case, as plural and with "view" behind it; None for other words.

    "aerial" stands for satellite: in cross-view data sets it names pictures taken straight from above.

    Example:
        >>> [find_platform(text, platform_words()) for text in ("Drones", "street_view", "photos")]
        ['drone', 'ground', None]
    """
    if text.strip().lower() in words:
        return words[text.strip().lower()]
    letters = re.sub(r"[\W_\d]+", "", text).lower()
    short = letters.removesuffix("s").removesuffix("view").removesuffix("image")
    found = words.get(letters, words.get(short))
    return found if found in PLATFORM_TRAITS else None  # a user's own name is taken to the letter


def parse_platform(text: str, where: str, words: PlatformWords) -> str:
    """A platform by one of its words; `DataError` for a text that is none, naming `where` it stands."""
    platform = find_platform(text, words)
    if platform is None:
        raise DataError(f"{where}: {text!r} is no platform; use one of {', '.join(words)}, or leave it empty")
    return platform


def parse_split(text: str, where: str) -> str:
    """A split by one of its words; `DataError` for others, those for validation too: it is not kept apart here."""
    if text.lower() not in SPLIT_WORDS:
        raise DataError(f"{where}: {text!r} is no split; use train or test")
    return SPLIT_WORDS[text.lower()]
