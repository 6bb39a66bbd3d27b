"""The rule refiner, deterministic and offline: captions become short statements of what their platform can see.

A caption goes through: sentences, cut-off ends dropped; verbose frames shortened; directions taken out (satellite) or
only leading ones (drone, ground); what the platform cannot see taken out, first as a phrase, then as a clause, then as
the sentence; statements without content and duplicates dropped. The rest is put as queries are: each text opens with
the building itself and goes on with some of what is around it, up to the length of a query.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from pemoe.datasets_scripts.sanitize import find_directions
from pemoe.datasets_scripts.schema import PLATFORMS, DataError
from pemoe.datasets_scripts.sentences import clean_caption, complete_sentences, keep_clauses
from pemoe.datasets_scripts.visibility import without_hidden

RULES_VERSION = 1  # another number where the same caption gives other texts: caches of refined rows are named by it
TARGET_CHARS = 227  # mean length of a test query of GeoText-1652
LEAD_SHARE = 0.7  # of that length, for the statements about the building itself

# building blocks -----------------------------------------------------------------------------------------------------
_IMAGE = r"(?:image|picture|photo|photograph|frame|view|scene|shot|tile)"
_ANY_CASE = re.IGNORECASE
_OBJECT = (
    r"(?=(?:an?|the|two|three|four|several|some|many|one|another|both|rows?|more|large|small|\w+ (?:\w+ )?\w+s)\b)"
)
_BE = r"(?:is|are|was|were)"
_STAND = r"(?:stands?|lies?|sits?|is|are|runs?|rises?|extends?|stretch(?:es)?|appears?|follows?|spreads?)"
_SEEN = r"(?:visible|seen|located|situated|placed|found|positioned|shown|noticeable)"
_FILL = r"(?:fills?|occup(?:y|ies)|takes? up|clos(?:e|es)|dominates?|cross(?:es)?|lines?|borders?|covers?)"

_CENTRE = r"(?:cent(?:er|re)|middle)"
_ADJECTIVES = r"(?:[\w'’-]+ ){0,3}?"
_SHOWS = (
    r"(?:(?:appears?|seems?) to show|shows?|features?|depicts?|presents?|contains?|displays?|captures?|portrays?|"
    r"provides?|offers?|includes?|reveals?|(?:we|you|one) (?:can )?(?:also )?sees?|there (?:is|are)|is of|"
    rf"is (?:an? )?{_ADJECTIVES}{_IMAGE} of)"
)
_DOMINATES = r"(?:dominates?|occup(?:y|ies)|fills?|takes? up|forms?)"
_AN_IMAGE = rf"(?:the |this )(?:whole |entire )?{_IMAGE}"


def _frame(pattern: str, replacement: str = "") -> tuple[re.Pattern[str], str]:
    """A verbose frame and what replaces it."""
    return re.compile(pattern, re.IGNORECASE), replacement


_FRAMES = (
    _frame(rf"^(?:in |on )?(?:the|this) {_ADJECTIVES}{_IMAGE},? (?:also |mainly |clearly |here )?{_SHOWS}\s+"),
    _frame(rf"^(?:(?:this|it) is )?(?:an?|the) {_ADJECTIVES}{_IMAGE} (?:of|over|from above of) "),
    _frame(rf"^the (?:main|central) object,?(?: (?:in|at) the {_CENTRE}(?: of {_AN_IMAGE})?,?)? is "),
    _frame(
        rf"^(?:in|at|near) the (?:very )?{_CENTRE}(?: of {_AN_IMAGE})?,? "
        rf"(?=there (?:is|are)\b|{_STAND} |(?:we|you|one) )"
    ),
    _frame(r"^(?:also|additionally|furthermore|moreover|overall|in addition|finally),? "),
    _frame(r"^(?:there|here) (?:is|are|stands?|lies?)(?: also)? "),
    _frame(r"^(?:we|you|one) (?:can )?(?:also |clearly )?sees? "),
    _frame(rf"^{_STAND} {_OBJECT}"),
    _frame(
        r",? (?:which |that )?(?:can|could|may) (?:also |clearly |just )?be "
        r"(?:seen|found|observed|spotted|made out)\b"
    ),
    _frame(r",? (?:we|you|one) can (?:also |clearly )?see (?=\w)", " "),
    _frame(rf",? (?:which|that) {_STAND} (?=(?:also )?(?:next|to|near|beside|close|behind|in|on|at)\b)", " "),
    _frame(rf" {_BE} (?:also |clearly |partly )?{_SEEN}\b(?! by\b)"),
    _frame(
        rf" {_DOMINATES} (?:most of |much of |a large part of )?"
        rf"(?:(?:the |this )(?:{_CENTRE}|rest) of )?{_AN_IMAGE}\b"
    ),
    _frame(rf"(?: (?:in|near|at|around|of) (?:the )?(?:very )?{_CENTRE})? (?:in|of|on|across|within) {_AN_IMAGE}\b"),
)

_EMPTY_WORD = re.compile(  # a statement of nothing but these says nothing
    r"the|this|that|a|an|of|in|on|at|by|from|with|and|is|are|it|its|to|image|picture|photo|photograph|view|"
    r"scene|shot|tile|shows|show|showing|depicts|presents|features|taken|seen|captured|above|aerial|satellite|"
    r"drone|ground|street|level|eye|bird|bird's|top|down|high|angle|large|big|modern|typical|general|"
    r"university|college|campus|urban|city|town|area|areas|setting|environment|building|buildings|complex|"
    r"place|landscape|surrounding|surroundings|overall|various|several|some|many|main|prominent|academic|open|"
    r"green|paths|appears|around|can|we|see|one",
    _ANY_CASE,
)
_CHATTER = re.compile(
    r"\b(?:atmosphere|ambien(?:ce|t)|sorry|apologi[sz]e|as an ai|(?:a|an) (?:sense|feeling|impression) of|"
    r"overall (?:impression|feel|mood)|www\.|peaceful|serene|tranquil(?:ity)?)\b",
    _ANY_CASE,
)
_PREPOSITION = re.compile(
    r"(?:on|to|at|in|into|along|across|near|from|towards?|toward|over|through|down|up|beyond)\b", _ANY_CASE
)
_AFTER_POSITION = re.compile(
    r"\s*(?:[,.;:!?]|$)|\s+(?:and|but|while|with|where|which|there|next|beside|behind|in|near|among|between|around|"
    rf"under|at|on|to|from|along|by|before|beyond|across|above|below|surrounded|an?|the|two|three|several|"
    rf"some|another|we|you|one|{_STAND}|can|has|have)\b",
    _ANY_CASE,
)
_DANGLING = re.compile(
    rf"(?:,? (?:and|but|while|with|which|that|where|of|in|on|at|to|from|near|along|next to|behind|above|below|beneath|"
    rf"{_STAND}|{_FILL}|pass(?:es)?|leads?|has|have|also|just|{_SEEN}))+(?=\s*$)",
    _ANY_CASE,
)
_ABOVE = re.compile(
    r"(?<!from )\b(?:(?:just|directly|right|slightly) )?(?:above|below|beneath) "
    r"(?=(?:it|them|this|that|the|an?|its)\b)",
    _ANY_CASE,
)
_BARE_ABOVE = re.compile(r" and (?:above|below|beneath)(?=\s*(?:[,;]|$))", _ANY_CASE)
_DOUBLE_COMMA = re.compile(r"(?:,\s*)+(?=,)")
_IDLE_VERB = re.compile(
    r" (?:lies?|stands?|sits?|is|are|appears?|extends?)(?=\s*(?:,|;)| and (?:an?|the|two|several|some|another)\b)",
    _ANY_CASE,
)
_LEADING = re.compile(r"^(?:[\s,.;:]+|(?:and|but|while|with)\s+)+", _ANY_CASE)


def _shorten(sentence: str) -> str:
    """A sentence without verbose frames: "The image also shows a pond" becomes "a pond"."""
    text = sentence.rstrip(" .!")
    for pattern, replacement in _FRAMES:
        text = pattern.sub(replacement, text)
    return text


def _without_leading_position(text: str) -> str:
    """A sentence without a direction at its start: "On the left side there is a pond" becomes "a pond"."""
    directions = find_directions(text)
    if not directions or directions[0].start > 0 or not _PREPOSITION.match(text):
        return text
    rest = text[directions[0].end :]
    if rest.startswith(" of ") or not _AFTER_POSITION.match(rest):
        return text
    return _shorten(_LEADING.sub("", rest))


def _without_position(text: str, start: int, end: int) -> str:
    """`text` with the direction at `[start, end)` taken out, or, where it relates two things, made "next to"."""
    before, found, after = text[:start], text[start:end], text[end:]
    if possessive := re.search(r"\b(its|their) ", found, _ANY_CASE):
        pronoun = "it" if possessive[1].lower() == "its" else "them"
        return f"{before}next to {pronoun}{after}" if _AFTER_POSITION.match(after) else text
    if after.startswith((" of ", " from ")):
        return f"{before}next to {after.split(' ', 2)[2]}"
    verb = re.search(rf" {_FILL} $", before)
    if _AFTER_POSITION.match(after) and (_PREPOSITION.match(found) or verb):
        comma = "," if after.startswith(" and ") else ""  # what follows is another thing, not part of the one before
        return (before[: verb.start()] if verb else before.rstrip()) + comma + after
    return text


def _without_directions(text: str) -> str:
    """A statement without directions, as phrases where that leaves a sentence, else clause by clause; may be ""."""
    for direction in reversed(find_directions(text)):
        text = _without_position(text, direction.start, direction.end)
    text = _ABOVE.sub("next to ", _BARE_ABOVE.sub("", _shorten(_LEADING.sub("", text))))
    return keep_clauses(text, lambda clause: not find_directions(clause)) if find_directions(text) else text


def _tidy(text: str) -> str:
    """A statement that starts with a capital, ends with a stop and has no loose words at either end; may be ""."""
    text = clean_caption(_LEADING.sub("", text))
    text = _DOUBLE_COMMA.sub("", text)
    text = _IDLE_VERB.sub("", _DANGLING.sub("", text.rstrip(" .,;:")))
    text = clean_caption(text).rstrip(" ,;:")
    words = re.findall(r"[\w'’]+", text)
    if len(words) < 2 or all(map(_EMPTY_WORD.fullmatch, words)) or _CHATTER.search(text):
        return ""
    return text[0].upper() + text[1:] + ("" if text[-1] in ".!?…" else ".")


def _statement(sentence: str, platform: str) -> str:
    """What is left of a sentence for a platform; "" for nothing."""
    if _CHATTER.search(sentence):
        return ""
    text = _shorten(sentence)
    text = _without_directions(text) if platform == "satellite" else _without_leading_position(text)
    return _tidy(_shorten(_LEADING.sub("", without_hidden(text, platform))))


_OF_THE_BUILDING = re.compile(  # what a query names first: shape, roof, walls, windows, height
    r"\b(?:roofs?|rooftops?|plan|footprint|[\w-]*-shaped|rectangular|circular|round|oblong|courtyard|wings?|fa[cç]ades?|"
    r"walls?|windows?|[\w-]*-?(?:store?y(?:ed)?|floor)|store?ys?|stories|floors|domes?|towers?|columns|"
    r"made of|clad in|brick|concrete|glass)\b",
    _ANY_CASE,
)
_ABOUT_ELSEWHERE = re.compile(
    r"(?:to|at|on|in|next to|near|beside|along|behind|around|across|opposite|north|south|east|west)\b", _ANY_CASE
)


def _is_lead(statement: str) -> bool:
    """Whether a statement describes the building itself rather than something near it or its entrance."""
    return bool(_OF_THE_BUILDING.search(statement)) and not _ABOUT_ELSEWHERE.match(statement)


def _compose(statements: list[str], target_chars: int) -> list[str]:
    """Texts put as queries are: what the building looks like, then some of what is around it."""
    lead: list[str] = []
    for statement in filter(_is_lead, statements):
        if not lead or len(" ".join([*lead, statement])) <= LEAD_SHARE * target_chars:
            lead.append(statement)
    rest = [statement for statement in statements if statement not in lead]
    if not lead or not rest:
        return _join(statements, target_chars)
    opening = " ".join(lead)
    return [f"{opening} {more}" for more in _join(rest, target_chars - len(opening) - 1)]


def _join(statements: Iterable[str], target_chars: int) -> list[str]:
    """Neighbouring statements joined while they stay within `target_chars`; a longer one stands alone."""
    joined: list[str] = []
    for statement in statements:
        if joined and len(joined[-1]) + 1 + len(statement) <= target_chars:
            joined[-1] += " " + statement
        else:
            joined.append(statement)
    return joined


class RuleRefiner:
    """Rewrites a training caption for its platform by rules, close to the length and style of a search query.

    Args:
        target_chars: length in characters up to which statements are joined; a statement is never cut.

    Raises:
        DataError: `target_chars` is not positive.

    Example:
        >>> RuleRefiner().refine("The image shows a round pond. On the left side there is a car park.", "drone")
        ['A round pond. A car park.']
    """

    def __init__(self, target_chars: int = TARGET_CHARS) -> None:
        if target_chars < 1:
            raise DataError(f"target_chars is {target_chars}; give a positive number of characters")
        self.target_chars = target_chars

    def refine(self, caption: str, platform: str) -> list[str]:
        """Make query-length texts of a caption.

        Args:
            caption: raw caption.
            platform: one of `schema.PLATFORMS`.

        Returns:
            Distinct texts in the order of the caption, at least one: where the rules leave nothing, the caption
            itself, cleaned (it may then hold directions).

        Raises:
            DataError: the caption is empty or the platform unknown.
        """
        if platform not in PLATFORMS:
            raise DataError(f"unknown platform {platform!r}: use one of {', '.join(PLATFORMS)}")
        cleaned = clean_caption(caption)
        if not cleaned:
            raise DataError(f"the caption {caption!r} is empty; drop it or write one")
        statements = (_statement(sentence, platform) for sentence in complete_sentences(caption))
        distinct = dict.fromkeys(statement for statement in statements if statement)
        return _compose(list(distinct), self.target_chars) or [cleaned]
