"""Directions in a text: words that a flip or a rotation of the picture makes untrue.

What survives flips and rotations is no direction: centre, middle, behind, in front of, opposite, next to. Foreground
and background count: in a picture taken from above nothing is nearer than anything else, the words can only mean
where in the frame a thing is seen (the foreground lies at the bottom), and that a flip changes; "against a background
of trees" does not. "Top", "lower part", "above it" and "vertical" count where they mean the layout of the image ("a
road runs above it"), not where they mean height ("top floor", "a sign above the door"). Names in lower case ("at left
bank cafe") cannot be distinguished from directions and count.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from pemoe.datasets_scripts.sanitize.lookalikes import LOOKALIKES
from pemoe.datasets_scripts.sanitize.rules import FAMILIES, FIRM_RULES, RULES, Rule
from pemoe.datasets_scripts.text.sentences import split_sentences

FRAMES = ("image", "compass", "clock", "viewer")
_ALL_RULES = (*FIRM_RULES, *LOOKALIKES, *RULES)


@dataclass(frozen=True)
class Direction:
    """A direction: `text == whole[start:end]`, one of `FRAMES` it refers to, and for reports why the words count."""

    start: int
    end: int
    text: str
    frame: str
    reason: str


def _search(text: str, rules: tuple[Rule, ...]) -> list[Direction]:
    """What `rules` find, or the named group of it, less white space before: the first to match a stretch wins it."""
    taken: list[tuple[int, int]] = []
    found = []
    for rule in rules:
        for match in rule.pattern.finditer(text):
            start, end = match.span(match.lastgroup or 0)
            start = end - len(text[start:end].lstrip())
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
    """The directions of a text, non-overlapping and in order of `start`; [] when there are none.

    Example:
        >>> [(found.text, found.frame) for found in find_directions("A pond to the right of it, facing south.")]
        [('to the right', 'image'), ('south', 'compass')]
    """
    return list(_found(text))


def remove_directional_sentences(text: str) -> str:
    """The sentences of a text that hold no direction, unchanged but for white space; "" when nothing is left.

    Example:
        >>> remove_directional_sentences("A round pond. On the left side there is a road. It is right next to a hall.")
        'A round pond. It is right next to a hall.'
    """
    return " ".join(sentence for sentence in split_sentences(text) if not find_directions(sentence))
