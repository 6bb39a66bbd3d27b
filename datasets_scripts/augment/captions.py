"""Words of direction that move with their picture: what was true of it stays true of the flipped or turned one.

A direction is read into a unit vector of the picture (x right, y down), the vector is moved as the picture is, and the
words are written for where it then points. What a word claims decides how exactly that works:

- flips and turns by quarters (or within 10 degrees of them) move every word exactly;
- at other angles "left" (half the picture) becomes nothing that can be said and is reported as untransformable, as are
  corners, which leave the picture; "upper left" (a quarter of it) becomes the side its middle is nearest to, which it
  implies; "upper middle" (one of eight sectors) the sector it then lies in;
- points of the compass and of the clock become the nearest one, when it is at least twice as near as the next. They
  are read as of a picture with north up: of one turned by 90 degrees, its north side is the west side;
- sides of the viewer, foreground and background bear the flip of left and right only, as do turns ("bends left").

Every text is read again after it was written; words that are then not found to point where they should are put back
and reported. Flipping twice gives the text back; only "beneath" comes back as "below", "anticlockwise" as
"counterclockwise".
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace

from pemoe.datasets_scripts.augment.circle import (
    ABBREVIATION,
    clock_vector,
    compass_vector,
    write_clock,
    write_compass,
)
from pemoe.datasets_scripts.augment.image_frame import Context, image_vector, lends_noun, write_image, write_viewer
from pemoe.datasets_scripts.augment.pictures import Geometry, Vector
from pemoe.datasets_scripts.sanitize.directions import Direction, find_directions
from pemoe.datasets_scripts.text.sentences import split_sentences


@dataclass(frozen=True)
class Transformed:
    """A text after its picture was moved; `untransformable` directions have no true words and stand as they were."""

    text: str
    untransformable: tuple[Direction, ...]


def transform_directions(text: str, geometry: Geometry) -> Transformed:
    """Rewrite the directions of a caption or sentence for a moved picture; spacing, capitals and other words stay.

    Example:
        >>> transform_directions("A pond is on the left, north of it a road.", Geometry(flip_horizontal=True)).text
        'A pond is on the right, north of it a road.'
        >>> transform_directions("A pond is on the left, north of it a road.", Geometry(rotation_deg=90)).text
        'A pond is at the bottom, west of it a road.'
    """
    if geometry.is_identity:
        return Transformed(text, ())
    units = _units(text)
    written = [_write(text, units, number, geometry) for number in range(len(units))]
    kept = _confirmed(text, units, written, geometry)
    lost = tuple(unit for unit, new in zip(units, kept, strict=True) if new is None)
    return Transformed(_joined(text, units, kept)[0], lost)


def transform_caption(text: str, geometry: Geometry) -> str:
    """A caption for a moved picture: its sentences transformed, without those that cannot be; "" when none is left.

    Example:
        >>> transform_caption("A round pond. A road is on the left. Trees to the north.", Geometry(rotation_deg=45))
        'A round pond. Trees to the north-west.'
    """
    moved = [transform_directions(sentence, geometry) for sentence in split_sentences(text)]
    return " ".join(one.text for one in moved if not one.untransformable)


def direction_vector(direction: Direction) -> Vector | None:
    """Where a direction points in the picture: a unit vector (dx right, dy down), north being up.

    None for what has no single direction in the picture: axes ("horizontally"), senses of rotation, sides of the
    viewer, wordings that are not understood. A way ("from top to bottom") points where it leads.

    Example:
        >>> direction_vector(Direction(0, 11, "on the left", "image", ""))
        (-1.0, 0.0)
    """
    readers = {"image": image_vector, "compass": compass_vector, "clock": clock_vector}
    words = direction.text.rpartition(" to ")[2] if _WAY.fullmatch(direction.text) else direction.text
    return readers[direction.frame](words) if direction.frame in readers else None


# reading the text ----------------------------------------------------------------------------------------------------
_WAY = re.compile(r"(?i)(?:from )?(?:top to bottom|bottom to top)")  # "from top to bottom"
_JOINT = re.compile(r"(?: and| or|,)(?: and)? (?:the )?")  # " and the "
_JOINED = r"((?:top|bottom|upper|lower)(?:most)?|(?:up|down)wards?)"  # left and right are found by themselves
_JOINED_BEFORE = re.compile(rf"(?i)\b{_JOINED} (?:and|or) (?:the )?$")  # "upper and "
_JOINED_AFTER = re.compile(  # " and lower"
    rf"(?i) (?:and|or) (?:the )?{_JOINED}\b(?! (?:floor|level|stor|deck|window|roof|row|step)\w*)"
)
_TURNING = re.compile(  # "bends sharply "
    r"(?i)\b(?:turn|bend|curv|veer|swerv|swing|bear|fork|branch)(?:e?s|ed|ing|e)?(?: [a-z]+(?:ly|f|y))? $"
)
_TURN = re.compile(r"(?i)(?:to (?:the|its) )?(?:left|right)(?:wards?)?")  # "to the left", "leftwards"


def _units(text: str) -> list[Direction]:
    """The directions of a text, ways ("top to bottom") cut in two; with words joined to them ("upper and lower")."""
    units: list[Direction] = []
    found = find_directions(text)
    for one, following in zip(found, [*found[1:], None], strict=False):
        before = _JOINED_BEFORE.search(text, units[-1].end if units else 0, one.start)
        after = _JOINED_AFTER.match(text, one.end, following.start if following else len(text))
        if before and one.frame == "image":
            units.append(_joined_unit(before))
        units += _cut(one)
        if after and one.frame == "image":
            units.append(_joined_unit(after))
    return units


def _joined_unit(match: re.Match[str]) -> Direction:
    return Direction(*match.span(1), match[1], "image", "joined to another direction")


def _cut(way: Direction) -> list[Direction]:
    """ "from top", "to bottom" of "from top to bottom"; any other direction whole."""
    if not _WAY.fullmatch(way.text):
        return [way]
    cut = way.text.lower().index(" to ")
    first = replace(way, end=way.start + cut, text=way.text[:cut])
    return [first, replace(way, start=first.end + 1, text=way.text[cut + 1 :])]


def _write(text: str, units: list[Direction], number: int, geometry: Geometry) -> str | None:
    """The words of one direction after the move; None when there are none."""
    unit = units[number]
    is_turn = _TURN.fullmatch(unit.text) and _TURNING.search(text, 0, unit.start)
    if unit.frame == "image" and not is_turn:
        return write_image(unit.text, _context(text, units, number), geometry)
    return {"compass": write_compass, "clock": write_clock}.get(unit.frame, write_viewer)(unit.text, geometry)


def _context(text: str, units: list[Direction], number: int) -> Context:
    """What stands around a direction."""
    unit = units[number]
    shares_noun = any(
        _JOINT.fullmatch(text, unit.end, following.start) and lends_noun(following.text)
        for following in units[number + 1 : number + 2]
    )
    hangs_on = number > 0 and _JOINT.fullmatch(text, units[number - 1].end, unit.start) is not None
    return Context(text[unit.end :], shares_noun, hangs_on)


def _confirmed(text: str, units: list[Direction], written: list[str | None], geometry: Geometry) -> list[str | None]:
    """`written` with None for words that, read again, do not point where the old ones point after the move."""
    new_text, spans = _joined(text, units, written)
    read = _units(new_text)
    kept = []
    for unit, new, (start, end) in zip(units, written, spans, strict=True):
        again = (one for one in read if one.frame == unit.frame and one.start < end and start < one.end)
        kept.append(new if any(_agree(unit, one, geometry) for one in again) else None)
    return kept


def _agree(old: Direction, new: Direction, geometry: Geometry) -> bool:
    """Whether two directions point the same way, to 45 degrees, once the old one is moved."""
    before, after = direction_vector(old), direction_vector(new)
    if before is None or after is None:
        return before == after
    moved = geometry.apply_vector(*before)
    return moved[0] * after[0] + moved[1] * after[1] > math.cos(math.radians(46))


def _joined(text: str, units: list[Direction], written: list[str | None]) -> tuple[str, list[tuple[int, int]]]:
    """The text with new words (None: the old ones), "a" and "an" before them kept right; and where they stand."""
    new_text, at, spans = "", 0, []
    for unit, new in zip(units, written, strict=True):
        words = unit.text if new is None else new
        new_text += _with_right_article(text[at : unit.start], unit.text, words)
        spans.append((len(new_text), len(new_text) + len(words)))
        new_text, at = new_text + words, unit.end
    return new_text + text[at:], spans


def _with_right_article(before: str, old: str, new: str) -> str:
    """`before` with a last "a" or "an" that fits `new`, where it fitted `old`; abbreviations keep theirs."""
    article = re.search(r"\b([Aa])(n?) $", before)
    if not article or ABBREVIATION.match(new) or bool(article[2]) != _starts_with_vowel(old):
        return before
    return f"{before[: article.start()]}{article[1]}{'n' if _starts_with_vowel(new) else ''} "


def _starts_with_vowel(words: str) -> bool:
    return re.match(r"(?!one\b)[aeiou]|8|11\b", words, re.IGNORECASE) is not None
