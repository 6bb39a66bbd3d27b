"""Directions in captions: words that a flip or a rotation of the image makes untrue.

`find_directions` tries the rules of `_RULES` in order; a word inside a match of `_EXCEPTIONS` is never a direction.
Foreground and background depend on where the viewer stands and count as directions; so do "top" and "lower part"
where they mean the image, but not where they mean height ("top floor", "lower part of the wall").
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pemoe.datasets_scripts.sentences import split_sentences


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


# building blocks -----------------------------------------------------------------------------------------------------
_IMAGE = r"(?:images?|pictures?|photos?|photographs?|frames?|views?|scenes?|shots?|tiles?|maps?|screens?)"
_NOUN = (
    r"(?:hand[ -]side|sides?|corners?|half|halves|parts?|portions?|sections?|edges?|ends?|areas?|margins?|borders?|"
    r"third|quarter|quadrants?|regions?|foreground|background)"
)
_AT = (
    r"(?:(?<!\w)(?:on|to|at|in|into|along|across|near|from|towards?|toward|over|through|down|up|"
    r"beyond) )?(?:(?<!\w)(?:the|its|their) )?"
)
_FAR = r"(?:(?:very|far|extreme|immediate|near|outer|slightly|just) )*"
_VERTICAL = r"(?:top|bottom|upper|lower|uppermost|lowermost|down|middle|mid|cent(?:er|re)|central)"
_SIDE = r"(?:left|right)(?:most)?(?:[ -]hand)?"
_OF = rf"(?: of (?:the |this |an? )?{_IMAGE}\b)?"
_COMPASS = (
    r"(?:north|south)(?:[ -]?(?:north|south))?(?:[ -]?(?:east|west))?|(?:east|west)(?:[ -]?(?:north|"
    r"south)[ -]?(?:east|west))?"
)
_COMPASS_END = r"(?:ern(?:most)?|erly|wards?|bound|most)?"
_PHYSICAL = (
    r"(?:fa[cç]ades?|walls?|towers?|buildings?|columns?|windows?|doors?|chimneys?|spires?|poles?|hills?|slopes?|"
    r"stairs?|"
    r"staircases?|steps|roofs?|domes?|structures?|houses?|gables?|entrances?|flights?|masts?|fences?|arch(?:es)?|"
    r"posts?)"
)
_TALL = (
    r"(?:fa[cç]ades?|walls?|towers?|columns?|windows?|doors?|chimneys?|spires?|hills?|slopes?|stairs?|gables?|domes?)"
)
_NOT_TALL = rf"(?! of (?:the |its |an? |each )?(?:\w+ )?{_TALL}\b)"
_NOT_HEIGHT = rf"(?! (?:floors?|levels?|store?ys?|stories|row)\b| of (?:the |its |an? |each )?(?:\w+ )?{_PHYSICAL}\b)"
_NOT_AFTER_THE = (
    "".join(
        rf"(?<!\b{word}[ -])"
        for word in (
            "the",
            "its",
            "their",
            "your",
            "our",
            "upper",
            "lower",
            "top",
            "bottom",
            "far",
            "middle",
            "and",
            "or",
            "to",
        )
    )
    + r"(?<!'s )"
)
_NAME_END = r"(?!(?:Side|Corner|Edge|End|Half|Part|Wing|Facing|North|South|East|West|And|Of|Is|There)\b)[A-Z]\w+"


def _any_case(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


# (pattern, frame, reason): the first rule that matches a stretch of text wins ----------------------------------------
_RULES: tuple[tuple[re.Pattern[str], str, str], ...] = (
    (
        _any_case(
            rf"\b(?:on|to|at|from|in) (?:your|our|the (?:viewer|observer|camera|reader)['’]s) (?:far )?{_SIDE}"
            rf"\b(?: {_NOUN}\b)?|\b(?:your|our) {_SIDE}\b(?: {_NOUN}\b)?|\b(?:in front of|behind) (?:you|us)\b"
        ),
        "viewer",
        "side of the viewer",
    ),
    (
        _any_case(
            r"\b(?:(?:at|towards?|near|around|in) )?(?:the |about |roughly )?"
            r"(?:1[0-2]|[1-9]|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve)[ -]?o\s?['’‘]?\s?clock\b"
            r"(?: (?:position|direction)\b)?"
        ),
        "clock",
        "position on a clock face",
    ),
    (_any_case(r"\b(?:(?:counter|anti)[ -]?)?clockwise\b"), "clock", "sense of rotation"),
    (
        _any_case(
            rf"{_AT}(?<!\w){_FAR}(?:{_VERTICAL}(?:[ -](?:{_VERTICAL}))?[ -])?(?<!\w){_SIDE}\b"
            rf"(?:[ -]?(?:{_VERTICAL}\b))?(?:[ -]{_NOUN}\b)?(?: (?:of|from) (?:the )?(?:cent(?:er|re)|middle)\b)?{_OF}"
        ),
        "image",
        "left or right",
    ),
    (
        _any_case(
            rf"{_AT}{_FAR}\b(?:top|bottom|upper|lower|uppermost|lowermost)[ -](?:cent(?:er|re)|middle|mid|central)\b"
            rf"(?: {_NOUN}\b)?{_OF}"
        ),
        "image",
        "upper or lower middle of the image",
    ),
    (
        _any_case(
            rf"{_AT}{_FAR}\b(?:top|bottom|upper|lower|uppermost|lowermost)(?:most)?[ -]{_NOUN}\b{_NOT_TALL}{_OF}"
        ),
        "image",
        "upper or lower part of the image",
    ),
    (
        _any_case(
            rf"\b(?:at|on|along|near|across|towards?|to|in|from|beyond|over|past) the (?:very )?"
            rf"(?:top|bottom)\b{_NOT_HEIGHT}{_OF}"
            rf"|\b(?:the )?(?:top|bottom) of (?:the |this |an? )?{_IMAGE}\b|\b{_IMAGE}['’]s (?:top|bottom)\b"
            r"|\b(?:from )?(?:top to bottom|bottom to top)\b"
            r"|\bthe (?:very )?(?:top|bottom)\b(?=\s*(?:[,.;:]|$)|\s(?:and|while)\b)"
        ),
        "image",
        "top or bottom of the image",
    ),
    (
        _any_case(
            r"\b(?:just |directly |slightly )?(?:above|below|beneath) (?:the |its )?(?:cent(?:er|re)|middle)\b"
            rf"|\b(?:horizontally|vertically) (?:across|through|over) (?:the |this )?{_IMAGE}\b"
        ),
        "image",
        "above or below in the image",
    ),
    (
        _any_case(rf"{_AT}(?:immediate |near |far |distant )?\b(?:foreground|background|middle ground)\b{_OF}"),
        "viewer",
        "depth as seen by the viewer",
    ),
    (
        _any_case(
            rf"{_AT}\b(?:due )?(?:{_COMPASS}){_COMPASS_END}(?:[ -](?:{_COMPASS}))?\b(?:[ -](?:{_NOUN}|facing|wing)\b)?"
        ),
        "compass",
        "compass direction",
    ),
    (
        re.compile(
            r"(?:(?:[Oo]n|[Ii]n|[Aa]t|[Tt]o|[Tt]owards?|[Ff]acing) )?(?:[Tt]he )?(?<!\w)(?:NNE|NNW|SSE|SSW|ENE|ESE|"
            r"WNW|WSW|NE|NW|SE|SW)\b(?!-?\d)"
            rf"(?: {_NOUN}\b)?|(?<!\w)(?:ne|nw|se|sw) {_NOUN}\b|(?<!\w)[NSEW] (?:{_NOUN}|wing)\b"
            r"|\b(?:[Ff]acing|[Hh]eading|[Tt]o the|[Dd]ue) [NSEW]\b(?!\.\w)"
        ),
        "compass",
        "compass abbreviation",
    ),
)

# words that look like directions and are none ------------------------------------------------------------------------
_EXCEPTIONS: tuple[re.Pattern[str], ...] = (
    _any_case(
        rf"{_NOT_AFTER_THE}\bright (?:next|beside|behind|in front|in the (?:middle|cent(?:er|re)|heart)|across|at|by|"
        rf"after|"
        r"above|below|up|along|through|into|onto?|around|outside|inside|under|underneath|over|between|against|"
        r"opposite|from|"
        r"where|near|adjacent|alongside|before|beyond|away|now|there|here|out|off|past|amid|among|within|down)\b"
    ),
    _any_case(
        r"\bright[ -](?:angled?|angles|triangles?|of[ -]way)\b|\ball right\b|\bright-angled\b|\b(?:human|"
        r"all) rights?\b"
    ),
    _any_case(r"\bthe right (?:size|kind|amount|place|time|choice|way|proportions?|moment|balance|mix|conditions)\b"),
    _any_case(
        rf"{_NOT_AFTER_THE}\bleft (?:over|behind|open|out|empty|blank|bare|alone|vacant|un\w+|intact|exposed|natural|"
        rf"wild|free|"
        r"clear|standing|parked|rough|plain|visible|dry|lying|to (?:grow|decay|rust|rot|itself)|in (?:ruins?|place|"
        r"its|a \w+ state)|"
        r"as (?:is|it)|by|without)\b"
    ),
    _any_case(r"\b(?:been|being|has|have|had) left\b(?! of\b| side\b| and\b| or\b| turn)"),
    _any_case(
        r"\b(?:nothing|little|space|room|much|few|any|some|trees|land|all that is|what is|all that's|"
        r"what's) left\b(?! side)"
    ),
    re.compile(rf"\b(?:Left|Right) {_NAME_END}"),
    re.compile(
        r"\b(?:North|South|East|West)(?:[ -]?(?:[Ee]ast|[Ww]est))?(?:ern)?(?:most)?"
        rf"(?: {_NAME_END}| (?:\d+(?:st|nd|rd|th)) [A-Z]\w+)"
    ),
    re.compile(
        r"\b(?:Street|St\.?|Avenue|Ave\.?|Road|Rd\.?|Drive|Place|Boulevard) "
        r"(?:NE|NW|SE|SW|N|S|E|W|North|South|East|West|Northeast|Northwest|Southeast|Southwest)\b"
    ),
    re.compile(
        r"\b(?:Middle|Far|Near) East(?:ern)?\b|\b(?:Wild|Key|Mid) West\b|\b[NSEW]\.? [A-Z]\w+ (?:St|Ave|Rd|Street|"
        r"Avenue|Road)\b"
    ),
    _any_case(
        r"\b(?:north|south|east|west)(?:east|west)?ern(?:[ -](?:style|styled|architecture|architectural|cuisine|"
        r"tradition|influences?|"
        r"movies?|red|white|red oaks?)|-inspired| european| asian)\b"
    ),
    _any_case(r"o['’]?\s?clock (?:in the (?:morning|afternoon|evening)|at night|sun|shadow|news)\b"),
    _any_case(r"\bagainst (?:the |an? )?(?:\w+ ){0,2}background\b"),
    _any_case(r"\b(?:top|bottom)[ -](?:down|view|floor)\b|\bon top\b"),
    _any_case(r"\b(?:upper|lower)[ -](?:floors?|levels?|store?ys?|stories|decks?|roofs?)\b"),
)


def _spans(text: str) -> list[tuple[int, int]]:
    """Stretches of `text` that are no directions whatever they hold."""
    return [match.span() for pattern in _EXCEPTIONS for match in pattern.finditer(text)]


def _overlaps(start: int, end: int, spans: list[tuple[int, int]]) -> bool:
    """Whether `[start, end)` meets one of `spans`."""
    return any(start < other_end and other_start < end for other_start, other_end in spans)


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
    taken = _spans(text)
    found = []
    for pattern, frame, reason in _RULES:
        for match in pattern.finditer(text):
            start = match.start() + len(match[0]) - len(match[0].lstrip())
            if not _overlaps(start, match.end(), taken):
                found.append(Direction(start, match.end(), text[start : match.end()], frame, reason))
                taken.append((start, match.end()))
    return sorted(found, key=lambda direction: direction.start)


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
