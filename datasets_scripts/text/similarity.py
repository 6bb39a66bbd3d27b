"""Whether two statements say the same: content words and numbers compared."""

from __future__ import annotations

import re
from functools import lru_cache

_SAME_SHARE = 0.9  # of the words of two statements; more, with the same numbers, and they say the same

FUNCTION_WORDS = frozenset(
    re.findall(
        r"\w+",
        "the a an and of with is are in on at by to next beside near its it has have that which from between behind "
        "around some several two three four surrounded one there under over into onto along for as opposite",
    )
)
_NUMBERS = {"one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"}


def words_of(text: str) -> list[str]:
    """Lower-case words of a text, for comparisons: "U-shaped" is two."""
    return re.findall(r"[^\W_]+", text.lower())


@lru_cache(maxsize=1024)  # a statement is compared with all others of its row
def content_of(text: str) -> frozenset[str]:
    """What the words of a text are about: no function words, endings cut so that "roofs" meets "roof"."""
    return frozenset(word[:5].rstrip("s") for word in words_of(text) if word not in FUNCTION_WORDS)


@lru_cache(maxsize=1024)
def _numbers(text: str) -> frozenset[str]:
    """The numbers of a text, as digits or words."""
    return frozenset(word for word in words_of(text) if word.isdigit() or word in _NUMBERS)


def say_the_same(first: str, second: str) -> bool:
    """Whether two statements are near-duplicates: nearly the same set of content words and the same numbers.

    Example:
        >>> say_the_same("A round pond beside a road.", "Beside the road is a round pond.")
        True
        >>> say_the_same("A hall beside two ponds.", "A hall beside three ponds.")
        False
    """
    one, two = content_of(first), content_of(second)
    return _numbers(first) == _numbers(second) and len(one & two) >= _SAME_SHARE * max(len(one | two), 1)
