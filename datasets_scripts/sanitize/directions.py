"""Directions in a text: words that a flip or a rotation of the picture makes untrue.

What survives flips and rotations is no direction: centre, middle, behind, in front of, opposite, next to. Foreground
and background count: in a picture taken from above nothing is nearer than anything else, the words can only mean
where in the frame a thing is seen (the foreground lies at the bottom), and that a flip changes; "against a background
of trees" does not. "Top", "lower part", "above it" and "vertical" count where they mean the layout of the image ("a
road runs above it"), not where they mean height ("top floor", "a sign above the door"). Names in lower case ("at left
bank cafe") cannot be distinguished from directions and count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from pemoe.datasets_scripts.sanitize.lookalikes import LOOKALIKES
from pemoe.datasets_scripts.sanitize.rules import FAMILIES, FIRM_RULES, RULES, Rule
from pemoe.datasets_scripts.text.sentences import split_sentences

FRAMES = ("image", "compass", "clock", "viewer")
_ALL_RULES = (*FIRM_RULES, *LOOKALIKES, *RULES)


@dataclass(frozen=True)
class Direction:
    """A direction in a text.

    Args:
        start, end: character offsets, `text == whole[start:end]`.
        text: the words found.
        frame: what the direction refers to: "image", "compass", "clock" or "viewer".
        reason: why the words count, for reports.
    """

    start: int
    end: int
    text: str
    frame: str
    reason: str


def _spans(rule: Rule, text: str) -> list[tuple[int, int]]:
    """What a rule finds in a text: the named group where one took part, else the whole match, without white space."""
    spans = []
    for match in rule.pattern.finditer(text):
        start, end = match.span(match.lastgroup) if match.lastgroup else match.span()
        found = text[start:end]
        spans.append((start + len(found) - len(found.lstrip()), end))
    return spans


def _search(text: str, rules: tuple[Rule, ...]) -> list[Direction]:
    """The directions that `rules` find in a text: the first rule that matches a stretch wins it."""
    taken: list[tuple[int, int]] = []
    found = []
    for rule in rules:
        for start, end in _spans(rule, text):
            free = all(end <= other_start or other_end <= start for other_start, other_end in taken)
            if free and rule.frame:
                found.append(Direction(start, end, text[start:end], rule.frame, rule.reason))
            if free or not rule.frame:
                taken.append((start, end))
    return sorted(found, key=lambda direction: direction.start)


@lru_cache(maxsize=2**14)  # refining, sanitizing, reports and every epoch of augmentation ask for the same sentences
def _found(text: str) -> tuple[Direction, ...]:
    """The directions of a text; only rules with a family of trigger words in it are tried, no other can match."""
    families = {match.lastgroup for match in FAMILIES.finditer(text)}
    return tuple(_search(text, tuple(rule for rule in _ALL_RULES if rule.family in families)))


def find_directions(text: str) -> list[Direction]:
    """Find the directions of a text.

    Args:
        text: any text; may be empty.

    Returns:
        The directions, non-overlapping and in order of `start`; [] when there are none.

    Example:
        >>> [(found.text, found.frame) for found in find_directions("A pond to the right of it, facing south.")]
        [('to the right', 'image'), ('south', 'compass')]
    """
    return list(_found(text))


def remove_directional_sentences(text: str) -> str:
    """A text without its sentences that hold a direction; "" when nothing is left.

    Args:
        text: a caption; may be empty.

    Returns:
        The other sentences, unchanged but for white space, joined by blanks.

    Example:
        >>> remove_directional_sentences("A round pond. On the left side there is a road. It is right next to a hall.")
        'A round pond. It is right next to a hall.'
    """
    return " ".join(sentence for sentence in split_sentences(text) if not find_directions(sentence))


def is_direction_free(texts: Sequence[str]) -> bool:
    """Whether there are texts and none holds a direction, so that their picture may be flipped and rotated.

    Example:
        >>> is_direction_free(["A round pond."]), is_direction_free(["A pond on the left."]), is_direction_free([])
        (True, False, False)
    """
    return bool(texts) and not any(find_directions(text) for text in texts)
