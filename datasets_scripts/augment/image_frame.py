"""Words of direction in the picture's own frame ("upper left corner", "below the center"), moved with the picture."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import NamedTuple

from pemoe.datasets_scripts.augment.pictures import Geometry, Vector

_NEAR_DEG = 10.0  # half the picture turned by this still holds what is 8 % or more beyond its middle line
_SIDE_WORDS = r"(?:top|bottom|upper|lower|left|right)(?:most)?"
_DEPTH = re.compile(r"(?i)\b(?:foreground|background|middle ground)\b")  # "foreground"
_SIGNS = {"top": -1, "upper": -1, "up": -1, "above": -1, "left": -1}
_SIGNS |= {"bottom": 1, "lower": 1, "down": 1, "below": 1, "beneath": 1, "right": 1}
_ACROSS = ("left", "right")  # words of the x axis; the others of `_SIGNS` are of the y axis
_OPPOSITE = {"left": "right", "top": "bottom", "upper": "lower", "above": "below", "up": "down"}
_OPPOSITE |= {new: old for old, new in _OPPOSITE.items()} | {"beneath": "above"}
_OTHER_AXIS = {"horizontal": "vertical", "vertical": "horizontal"}
_MIDDLE = r"(?:middle|mid|cent(?:er|re)|central)"
_WORD = rf"(?:{_SIDE_WORDS}|{_MIDDLE}|(?:up|down)(?=[ -](?:left|right)))"
_SHAPE = re.compile(  # "on the far upper left-hand side of the image"
    r"(?i)(?:(?P<prep>on|to|at|in|into|along|across|near|from|towards?|over|through|beyond|past|(?:down|up)(?= (?:the|"
    r"its|their)\b)) )?(?:(?P<det>(?:the |this )?\w+['’]s|(?:the )?(?:image|picture|frame|photo|tile|scene)|the|its|"
    r"their) )?(?P<far>(?:(?:very|far|extreme|immediate|near|outer|slightly|just)[ -])*)"
    rf"(?P<core>{_WORD}(?:[ -]{_WORD})*)(?P<hand>[ -]?hand)?"
    r"(?P<noun>(?:[ -](?!of\b|from\b)\w+){1,2})?(?P<tail> (?:of|from) .+)?"
)
_ABOVE = re.compile(  # "just above the center"
    r"(?i)(?P<far>(?:just |directly |slightly )?)(?P<core>above|below|beneath)(?P<tail> .+)?"
)
_AXES = re.compile(r"(?i)\b(horizontal|vertical)(?=(?:ly)?\b)")  # "vertically"
_WARDS = re.compile(r"(?i)(?P<core>up|down|left|right)wards?")  # "leftwards"
_FROM_MIDDLE = re.compile(rf"(?i) (?:of|from) ((?:the )?{_MIDDLE}\b.*)")  # " of the center"
_ENDS_PHRASE = re.compile(  # " lies a pond": no noun
    r"(?i)\s*(?:$|[.,;:!?)]|(?:of|and|or|but|as|by|for|from|to|with|without|within|in|on|at|over|near|next|beside|behind|"
    r"between|among|amid|along|around|across|above|below|under|through|towards?|while|where|which|who|that|there|here|"
    r"is|are|was|were|has|have|can|could|we|you|an?|the|several|some|many|it|its|adjoins?|appears?|completes?|covers?|"
    r"fills?|forms?|leads?|lies?|meets?|runs?|shows?|sits?|stands?|surrounds?)\b)"
)


class Context(NamedTuple):
    """The text after a direction; whether it shares the noun of the next ("the left" of "the left and right sides"),
    and whether it hangs on the one before ("right" of "at its left and right").
    """

    after: str
    is_adjective: bool
    is_joined: bool

    @property
    def has_of(self) -> bool:
        """Whether "of" follows: "left of the hall"."""
        return re.match(r"\s+of\b", self.after) is not None


@dataclass(frozen=True)
class Phrase:
    """A direction of the picture in parts: "on | the | far | upper left | -hand | side | of the image".

    `sides`: signs (x, y) of where it points; `is_sector`: it names a middle too ("upper middle", "left center");
    `is_way`: "upward", whose `core` is "up".
    """

    sides: tuple[int, int]
    core: str
    prep: str = ""
    det: str = ""
    far: str = ""
    hand: str = ""
    noun: str = ""
    tail: str = ""
    is_sector: bool = False
    is_way: bool = False

    @classmethod
    def read(cls, text: str) -> Phrase | None:
        """The parts of a text, None when it is not of this shape; "just above the center" and "upward" have few."""
        match = _SHAPE.fullmatch(text) or _ABOVE.fullmatch(text) or _WARDS.fullmatch(text)
        if not match:
            return None
        parts = {name: (part or "").rstrip(" -") for name, part in match.groupdict().items()}
        words = [word.removesuffix("most") for word in re.split("[ -]", parts["core"].lower())]
        x = sum(_SIGNS[word] for word in words if word in _ACROSS)
        y = sum(_SIGNS[word] for word in words if word in _SIGNS and word not in _ACROSS)
        is_sector = any(word not in _SIGNS for word in words) and (x == 0) != (y == 0)
        return cls((x, y), **parts, is_sector=is_sector, is_way=match.re is _WARDS) if x or y else None

    def with_core(self, core: str, **parts: str) -> str:
        """The phrase with another core, and other parts where given."""
        one = replace(self, core=core, **parts)
        if one.prep.lower() in ("up", "down") and 0 in self.sides:  # along a side that no longer runs that way
            one = replace(one, prep="along")
        words = " ".join(part for part in (one.prep, one.det, one.far, one.core) if part)
        return words + one.hand + one.noun + one.tail


def image_vector(text: str) -> Vector | None:
    """Where words of the picture point: (dx right, dy down) of length 1; None for axes, depth and what is not read."""
    phrase = None if _DEPTH.search(text) else Phrase.read(text)
    return _unit_vector(*phrase.sides) if phrase else None


def lends_noun(text: str) -> bool:
    """Whether a direction names a part that one before it can share: "right sides", not "on the right side"."""
    phrase = Phrase.read(text)
    return phrase is not None and bool(phrase.noun) and not phrase.prep


def write_image(text: str, context: Context, geometry: Geometry) -> str | None:
    """A direction of the picture after a move; None where there are no words for it."""
    near = replace(geometry, rotation_deg=90.0 * round(geometry.rotation_deg / 90))
    is_quarter = abs(geometry.rotation_deg - near.rotation_deg) <= _NEAR_DEG
    keeps_axes = is_quarter and near.apply_vector(1, 0)[1] == 0
    if _AXES.search(text):
        turned = _AXES.sub(lambda match: like_case(match[0], _OTHER_AXIS[match[0].lower()]), text)
        return text if keeps_axes else turned if is_quarter else None
    phrase = Phrase.read(text)
    if phrase is None or keeps_axes:
        return phrase and _swapped(text, near.apply_vector(1, 0)[0] < 0, near.apply_vector(0, 1)[1] < 0)
    aim = _aim(phrase, near if is_quarter else geometry, is_quarter)
    written = aim and _write_aim(phrase, aim, is_quarter, context)
    return written and (written if text[0].islower() else written[0].upper() + written[1:])


def _swapped(text: str, across: bool, down: bool) -> str:
    """The opposite words of each axis that is reversed; the rest of the text as it is."""

    def opposite(match: re.Match[str]) -> str:
        word = match[1].lower()
        return like_case(match[1], _OPPOSITE[word]) if (across if word in _ACROSS else down) else match[1]

    return re.sub(rf"\b({'|'.join(_OPPOSITE)})(?=(?:most|hand|wards?)?\b)", opposite, text, flags=re.IGNORECASE)


def _aim(phrase: Phrase, geometry: Geometry, is_quarter: bool) -> tuple[int, int] | None:
    """Signs (x, y) of where a phrase points after the move, as far as it says so; None when it says nothing then."""
    vector = geometry.apply_vector(*_unit_vector(*phrase.sides))
    if is_quarter:
        return round(vector[0] * 1.2), round(vector[1] * 1.2)
    if (0 in phrase.sides and not phrase.is_sector) or phrase.noun.lower()[1:] in ("corner", "corners"):
        return None
    step = math.pi / 4 if phrase.is_sector else math.pi / 2
    angle = step * round(math.atan2(vector[1], vector[0]) / step)
    return round(math.cos(angle)), round(math.sin(angle))


def _write_aim(phrase: Phrase, aim: tuple[int, int], is_quarter: bool, context: Context) -> str | None:
    """The phrase for signs `aim`: in place for corners and sectors, else as a side."""
    x, y = aim
    across, down = _ACROSS[x > 0], ("upper", "lower")[y > 0]
    if x and y:
        if 0 in phrase.sides:
            return phrase.with_core(f"{down} {across}")
        was_x, was_y = phrase.sides
        return phrase.with_core(_swapped(phrase.core, x * was_x < 0, y * was_y < 0))
    if phrase.is_sector and is_quarter:
        middle = re.search(_MIDDLE, phrase.core, re.IGNORECASE)[0]
        joint = re.search("[ -]", phrase.core)[0]
        return phrase.with_core(f"{middle}{joint}{across}" if x else f"{down}{joint}{middle}")
    side = _SIDES[aim]
    if phrase.core.lower().endswith("most"):  # "leftmost" goes with "uppermost"
        side = side._replace(adjective=f"{side.adjective}most")
    return _write_side(phrase, side, context)


class _Side(NamedTuple):
    """Words of a side as adjective, noun, preposition and way."""

    is_across: bool
    adjective: str
    noun: str
    beyond: str
    way: str


_SIDES = {  # signs (x, y) of where it lies
    (-1, 0): _Side(True, "left", "left", "left of", "to the left"),
    (1, 0): _Side(True, "right", "right", "right of", "to the right"),
    (0, -1): _Side(False, "upper", "top", "above", "upward"),
    (0, 1): _Side(False, "lower", "bottom", "below", "downward"),
}


def _write_side(phrase: Phrase, side: _Side, context: Context) -> str | None:
    """The phrase for a side. None where it is not clear whether a noun follows."""
    if phrase.noun:
        return phrase.with_core(side.adjective, hand="")
    middle = _FROM_MIDDLE.fullmatch(phrase.tail)
    if middle or _ABOVE.fullmatch(phrase.core + phrase.tail):
        beyond = side.beyond if middle or phrase.tail or not side.is_across else f"on the {side.noun}"
        return " ".join(part for part in (phrase.far, beyond, middle[1] if middle else phrase.tail[1:]) if part)
    if phrase.is_way:
        return side.way
    is_height = phrase.core.lower() in ("upper", "lower")  # never a noun
    if context.is_adjective or (is_height and side.is_across):
        return phrase.with_core(side.adjective)
    if phrase.hand or not _ENDS_PHRASE.match(context.after):
        return None
    if not phrase.det:
        return _write_bare(phrase, side, context)
    is_far = phrase.far in ("", "very", "far", "extreme")
    if phrase.det.lower() != "the" or context.has_of or not is_far:
        prep = "on" if phrase.prep.lower() in ("to", "at") else phrase.prep
        return phrase.with_core(side.adjective, prep=prep, noun=" side")
    return _write_end(phrase, side, context.after)


def _write_bare(phrase: Phrase, side: _Side, context: Context) -> str | None:
    """Without an article: "from left (to right)", "left of the hall", "at left", "(on the top and) left"."""
    prep, of_thing = phrase.prep.lower(), context.has_of
    if prep in ("from", "to") or context.after.startswith(" to "):
        return phrase.with_core(side.noun)
    if prep == "at":
        return phrase.with_core(side.noun, det="the")
    if prep or not (phrase.tail or of_thing or context.is_joined):
        return None
    lead = "on the" if of_thing else "the" if context.is_joined else ""
    return phrase.with_core(side.adjective, prep=lead, noun=" side")


def _write_end(phrase: Phrase, side: _Side, after: str) -> str:
    """With "the": "on the left", "at the bottom of the image", "along the left side"."""
    prep, far = phrase.prep.lower(), phrase.far and ("far" if side.is_across else "very")
    if side.is_across:
        is_short = prep in ("on", "at", "in", "to", "toward", "towards", "from") and not phrase.tail
        prep = "on" if prep in ("at", "in") else phrase.prep
        return phrase.with_core(side.noun, prep=prep, far=far, noun="" if is_short else " side")
    if not prep and (phrase.tail or not re.match(r"\s*(?:$|[.,;:]|and\b|while\b)", after)):
        return phrase.with_core(side.adjective, noun=" side")
    prep = {"on": "at", "in": "at", "to": "towards"}.get(prep, phrase.prep)
    return phrase.with_core(side.noun, prep=prep, far=far)


_RIGHT_THERE = re.compile(r"(?i)right (?:in front|ahead|behind)\b")  # "right in front"


def write_viewer(text: str, geometry: Geometry) -> str | None:
    """Left and right of a viewer, depth and turns after a flip of left and right; None after any other move."""
    if (geometry.apply_vector(1, 0), geometry.apply_vector(0, 1)) != ((-1, 0), (0, 1)):
        return None
    return text if _RIGHT_THERE.match(text) else _swapped(text, across=True, down=False)


def like_case(old: str, new: str) -> str:
    """`new` with the capitals of `old`: none, the first letter or all."""
    if old.isupper() and len(old) > 1:
        return new.upper()
    return new.capitalize() if old[0].isupper() else new


def _unit_vector(x: float, y: float) -> Vector:
    return x / math.hypot(x, y), y / math.hypot(x, y)
