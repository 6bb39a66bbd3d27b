"""The rule refiner, deterministic and offline: captions become short statements of what their platform can see.

A caption goes through: sentences, cut-off ends dropped; verbose frames shortened; directions taken out (satellite) or
only leading ones (drone, ground); what the platform cannot see taken out, first as a phrase, then as a clause, then as
the sentence; statements without content and duplicates dropped. The rest is put as queries are: each text opens with
the building itself and goes on with some of what is around it, up to the length of a query.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import dropwhile

from pemoe.datasets_scripts.sanitize import find_directions
from pemoe.datasets_scripts.schema import DataError, check_platform
from pemoe.datasets_scripts.text.refusals import REFUSALS
from pemoe.datasets_scripts.text.sentences import clean_caption, complete_sentences, keep_clauses, split_sentences
from pemoe.datasets_scripts.text.visibility import without_hidden

RULES_VERSION = 5  # another number where the same caption gives other texts: caches of refined rows are named by it
TARGET_CHARS = 227  # mean length of a test query of GeoText-1652
LEAD_SHARE = 0.7  # of that length, for the statements about the building itself

# building blocks; the comment at a pattern's line is an example it matches -------------------------------------------
_IMAGE = r"(?:image|picture|photo|photograph|frame|view|scene|shot|tile)"  # "picture"
_OBJECT = (  # what follows is a thing: "several trees"
    r"(?=(?:an?|the|two|three|four|several|some|many|one|another|both|rows?|more|large|small|\w+ (?:\w+ )?\w+s)\b)"
)
_STAND = r"(?:stands?|lies?|sits?|is|are|runs?|rises?|extends?|stretch(?:es)?|appears?|follows?|spreads?)"  # "runs"
_ADVERB = r"(?:(?:also|clearly|partly|only|just|dimly|now) )*"  # "also clearly "
_SEEN = r"(?:visible|seen|located|situated|placed|found|positioned|shown|noticeable)"  # "visible"
_FILL = r"(?:fills?|occup(?:y|ies)|takes? up|clos(?:e|es)|dominates?|cross(?:es)?|lines?|borders?|covers?)"  # "covers"
_CENTRE = r"(?:cent(?:er|re)|middle)"  # "middle"
_ADJECTIVES = r"(?:[\w'’-]+ ){0,3}?"
_SHOWS = (  # "appears to show", "is an old image of"
    r"(?:(?:appears?|seems?) to show|shows?|features?|depicts?|presents?|contains?|displays?|captures?|portrays?|"
    r"provides?|offers?|includes?|reveals?|(?:we|you|one) (?:can )?(?:also )?sees?|there (?:is|are)|is of|"
    rf"is (?:an? )?{_ADJECTIVES}{_IMAGE} of)"
)
_AN_IMAGE = rf"(?:the |this )(?:whole |entire )?{_IMAGE}"  # "the whole picture"


def _frame(pattern: str, replacement: str = "") -> tuple[re.Pattern[str], str]:
    """A verbose frame and what replaces it."""
    return re.compile(pattern, re.IGNORECASE), replacement


_FRAMES = (
    _frame(  # "In this aerial image we can see a pond", "The image also shows a pond"
        rf"^(?:in |on )?(?:the|this) {_ADJECTIVES}{_IMAGE},? (?:also |mainly |clearly |here )?{_SHOWS}\s+"
    ),
    _frame(
        rf"^(?:(?:this|it) is )?(?:an?|the) {_ADJECTIVES}{_IMAGE} (?:of|over|from above of) "
    ),  # "A view of a pond"
    _frame(  # "The main object in the center of the image is a pond"
        rf"^the (?:main|central) object,?(?: (?:in|at) the {_CENTRE}(?: of {_AN_IMAGE})?,?)? is "
    ),
    _frame(  # "In the center of the image there is a pond"
        rf"^(?:in|at|near) the (?:very )?{_CENTRE}(?: of {_AN_IMAGE})?,? "
        rf"(?=there (?:is|are)\b|{_STAND} |(?:we|you|one) )"
    ),
    _frame(r"^(?:also|additionally|furthermore|moreover|overall|in addition|finally),? "),  # "Additionally, a pond"
    _frame(r"^(?:there|here) (?:is|are|stands?|lies?)(?: also)? "),  # "There is also a pond"
    _frame(r"^(?:we|you|one) (?:can )?(?:also |clearly )?sees? "),  # "We can see a pond"
    _frame(rf"^{_STAND} {_OBJECT}"),  # "stand several trees"
    _frame(  # "a path runs here and a pond is visible": a clause of its own, so that the two do not run together
        rf"((?:^|[,;] )[^,;]*? (?:{_STAND}|{_FILL}|meets?|forms?|has|have|leads?|curves?|passes)\b[^,;]*?) and "
        rf"(?=(?:an?|another|the) [^,;]*? (?:is|was) {_ADVERB}{_SEEN}\b)",
        r"\1, and ",
    ),
    _frame(  # "a pond, which can be seen"
        r",? (?:which |that )?(?:can|could|may) (?:also |clearly |just )?be "
        r"(?:seen|found|observed|spotted|made out)\b"
    ),
    _frame(r",? (?:we|you|one) can (?:also |clearly )?see (?=\w)", ", "),  # "behind it we can see a pond"
    _frame(  # "a pond that lies next to a road"
        rf",? (?:which|that) {_STAND} (?=(?:also )?(?:next|to|near|beside|close|behind|in|on|at)\b)", " "
    ),
    _frame(rf"(?:,? (?:which|that))? (?:is|are|was|were) {_ADVERB}{_SEEN}\b(?! by\b)"),  # "a pond is clearly visible"
    _frame(  # "a pond takes up most of the middle of the image"
        r" (?:dominates?|occup(?:y|ies)|fills?|takes? up|forms?) (?:most of |much of |a large part of )?"
        rf"(?:(?:the |this )(?:{_CENTRE}|rest) of )?{_AN_IMAGE}\b"
    ),
    _frame(  # "a pond near the center of the picture"
        rf"(?: (?:in|near|at|around|of) (?:the )?(?:very )?{_CENTRE})? (?:in|of|on|across|within) {_AN_IMAGE}\b"
    ),
)

_EMPTY_WORD = re.compile(  # "campus": a statement of nothing but these says nothing
    r"(?i)the|this|that|a|an|of|in|on|at|by|from|with|and|is|are|it|its|to|image|picture|photo|photograph|view|"
    r"scene|shot|tile|shows|show|showing|depicts|presents|features|taken|seen|captured|above|aerial|satellite|"
    r"drone|ground|street|level|eye|bird|bird's|top|down|high|angle|large|big|modern|typical|general|"
    r"university|college|campus|urban|city|town|area|areas|setting|environment|building|buildings|complex|"
    r"place|landscape|surrounding|surroundings|overall|various|several|some|many|main|prominent|academic|open|"
    r"green|paths|appears|around|can|we|see|one"
)
_CHATTER = re.compile(  # "a peaceful atmosphere", "sorry", "www.example"
    rf"(?i)\b(?:{REFUSALS}|atmosphere|ambien(?:ce|t)|(?:a|an) (?:sense|feeling|impression) of|"
    r"overall (?:impression|feel|mood)|www\.|peaceful|serene|tranquil(?:ity)?)\b"
)
_PREPOSITION = re.compile(  # "towards"
    r"(?i)(?:on|to|at|in|into|along|across|near|from|towards?|toward|over|through|down|up|beyond)\b"
)
_AFTER_POSITION = re.compile(  # ", with", " there is"
    r"(?i)\s*(?:[,.;:!?]|$)|\s+(?:and|but|while|with|where|which|there|next|beside|behind|in|near|among|between|"
    rf"around|under|at|on|to|from|along|by|before|beyond|across|above|below|surrounded|an?|the|two|three|several|"
    rf"some|another|we|you|one|{_STAND}|can|has|have)\b"
)
_PARTICIPLE = re.compile(  # "a road running"
    r"(?i) (?:running|lying|sweeping|standing|stretching|extending|rising|facing|crossing|covering|filling|passing|"
    r"leading|going|curving|looking|sitting)(?=\s*$)"
)
_LOOSE_END = re.compile(  # "a hall, with", "a lawn covers"
    r"(?i),? (?:and|but|while|with|which|that|where|whose|of|in|on|at|to|from|(?<!close )by|near|along|next to|behind|"
    r"above|below|beneath|between|a|an|the|its|their|has|have|also|just|only|partly|attached|pass(?:es)?|leads?|"
    rf"{_SEEN}|(?P<verb>{_STAND}|{_FILL}))(?=\s*$)"
)
_BEFORE_NOUN = re.compile(  # "behind the": what follows is no verb (stands)
    r"(?i)\b(?:an?|the|its|their|this|these|of|with|by|and|behind|two|three|four|several|many|some|few|small|large|big|"
    r"long|short|wide|narrow|high|low|tall|white|black|gr[ae]y|red|blue|green|yellow|brown|orange|pink|dark|light|pale|"
    r"bright|(?!attached)\b\w+ed)$"
)
_BROKEN = re.compile(  # "lies here", "A hall beside a": a bare verb first, or a last word that asks for more
    rf"(?i)(?:{_STAND}|{_FILL}) (?!(?:of|with|for|and)\b)|"
    r".* (?:an?|the|its|their|of|at|to|from|with|and|or|but|while|which|that|where|whose|into|next|only|partly)$"
)
_ABOVE = re.compile(  # "just above the hall"
    r"(?i)(?<!from )\b(?:(?:just|directly|right|slightly) )?(?:above|below|beneath) "
    r"(?=(?:it|them|this|that|the|an?|its)\b)"
)
_BARE_ABOVE = re.compile(r"(?i)(?: and)? (?:above|below|beneath)(?=\s*(?:[,;.]|$))")  # " and below."
_ONE_THING = re.compile(  # "there are a pond": the other one is gone
    r"(?i)\bthere are (?=an? (?:(?! and )[^,;])*(?:[,;]|$))"
)
_DOUBLE_COMMA = re.compile(r"(?:,\s*)+(?=,)")  # ", ,"
_NO_RELATIVE = r"(?!(?:where|which|that|who)\b)[^,; ]+"
_IDLE_VERB = re.compile(  # "A pond lies, a road"
    rf"(?i)((?:^|[,;] )(?:{_NO_RELATIVE} )*?{_NO_RELATIVE}) (?:lies?|stands?|sits?|is|are|appears?|extends?|runs?)"
    r"(?=\s*(?:,|;)| and (?:an?|the|two|several|some|another)\b)"
)
_MORE_POSITION = re.compile(  # ", and the lower right"
    r"(?i)(?:(?:,|,? and) (?:(?:at|on|along|in|to) )?(?:the )?(?:upper|lower|left|right|top|bottom)"
    r"(?:[- ](?:left|right|side|edge|corner|part))*(?=[,.;]|$| and\b))+"
)
_WHOLE = re.compile(  # " of the image"
    rf"(?i) of (?:the|this|that) (?:[\w'’-]+ )?(?:{_IMAGE}|campus|area|place|site)\b"
)
_ITS_OWN = re.compile(r"(?i)\bwith [^,;]*$")  # "with a bay": a bay on its left is a part of it
_PART = re.compile(r"(?i)\b(?:end|half|part|corner|edge|roof)s?$")  # "the roof"
_BARE_SIDE = re.compile(r"(?i)(?:left|right|north|south|east|west)\b")  # "left of it"
_ORIENTED = re.compile(  # "vertical", "just below the center": how a thing lies, no more
    rf"(?i)(?:horizontal|vertical|diagonal)(?P<adverb>ly)?(?: across (?:the|this) {_IMAGE})?|"
    rf"(?P<below>(?:just |right |directly )?(?:below|above) the {_CENTRE})"
)
_TWO_CLAUSES = re.compile(  # "A pond, and a road runs"
    r"(?i)([^,;:]+), (?:and|while|but) (?!its\b|their\b|with\b|is\b|are\b)([^;:]+)"
)
_INVERTED = re.compile(rf"(?i)^{_STAND} (?!(?:of|with|for|and)\b)")  # "stand tall trees"
_LEADING = re.compile(r"(?i)^(?:[\s,.;:]+|(?:and|but|while|with)\s+)+")  # ", and "


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
    return _shorten(_INVERTED.sub("", _LEADING.sub("", rest)))


def _without_position(text: str, start: int, end: int) -> str:
    """`text` with the direction at `[start, end)` taken out, or, where it relates two things, made "next to"."""
    before, found, after = text[:start], text[start:end], text[end:]
    if oriented := _ORIENTED.fullmatch(found):
        if not (oriented["adverb"] or oriented["below"]):
            return before + after.lstrip()
        before = before.rstrip()
        return (_PARTICIPLE.sub("", before) if _AFTER_POSITION.match(after) else before) + after
    is_place = _PREPOSITION.match(found) is not None
    possessive = re.search(r"(?i)\b(its|their) ", found)
    if possessive and is_place and not _PART.search(found) and not _ITS_OWN.search(before):
        pronoun = "it" if possessive[1].lower() == "its" else "them"
        return f"{before}next to {pronoun}{after}" if _AFTER_POSITION.match(after) else text
    after = _MORE_POSITION.sub("", _WHOLE.sub("", after, count=1) if _WHOLE.match(after) else after, count=1)
    if after.startswith((" of ", " from ")):
        return f"{before}next to {after.split(' ', 2)[2]}" if is_place or _BARE_SIDE.match(found) else text
    verb = re.search(rf" {_FILL} $", before)
    if _AFTER_POSITION.match(after) and (is_place or verb):
        comma = "," if after.startswith(" and ") else ""  # what follows is another thing, not part of the one before
        return (before[: verb.start()] if verb else before.rstrip()) + comma + after
    return text


def _without_directions(text: str) -> str:
    """A statement without directions, as phrases where that leaves a sentence, else clause by clause; may be ""."""
    for direction in reversed(find_directions(text)):
        text = _without_position(text, direction.start, direction.end)
    text = _ABOVE.sub("next to ", _BARE_ABOVE.sub("", _shorten(_LEADING.sub("", text))))
    return keep_clauses(text, lambda clause: not find_directions(clause)) if find_directions(text) else text


def _without_loose_end(text: str) -> str:
    """A text that was cut at its end, without the words that led to what is gone."""
    if participle := _PARTICIPLE.search(text):
        return text[: participle.start()]
    while loose := _LOOSE_END.search(text):
        if loose["verb"] and _BEFORE_NOUN.search(text[: loose.start()]):
            break
        text = text[: loose.start()]
    return text


def _tidy(text: str, sentence: str) -> str:
    """What is left of `sentence`, from a capital to a stop and without loose words where it was cut; may be ""."""
    text = _DOUBLE_COMMA.sub("", clean_caption(_LEADING.sub("", text))).rstrip(" .,;:")
    if not sentence.rstrip(" .,;:!").endswith(" ".join(text.split()[-2:])):
        text = _without_loose_end(text)
    if text not in sentence:
        text = _IDLE_VERB.sub(r"\1", text)
    text = _ONE_THING.sub("there is ", text)
    text = clean_caption(text).rstrip(" ,;:")
    words = re.findall(r"[\w'’]+", text)
    if len(words) < 2 or all(map(_EMPTY_WORD.fullmatch, words)) or _CHATTER.search(text) or _BROKEN.match(text):
        return ""
    return text[0].upper() + text[1:] + ("" if text[-1] in ".!?…" else ".")


def _statement(sentence: str, platform: str) -> str:
    """What is left of a sentence for a platform, its clauses parted where a direction went; "" for nothing."""
    if _CHATTER.search(sentence):
        return ""
    text = _shorten(sentence)
    parts, directions = [_without_leading_position(text)], []
    if platform == "satellite":
        directions = [found.text for found in find_directions(sentence) if " " in found.text]
        text = _DOUBLE_COMMA.sub("", _without_directions(text))
        clauses = _TWO_CLAUSES.fullmatch(text) if directions else None
        parts = list(clauses.groups()) if clauses else [text]
    left = [_tidy(_shorten(_LEADING.sub("", without_hidden(part, platform))), sentence) for part in parts]
    left = [part for part in left if part and not any(direction in part for direction in directions)]
    if left and not sentence.startswith(left[0].split()[0]):  # what came before "another" is gone
        left[0] = _plain(left[0])
    return " ".join(left)


_OF_THE_BUILDING = re.compile(  # "a flat roof", "three-storey": what a query names first
    r"(?i)\b(?:roofs?|rooftops?|plan|footprint|[\w-]*-shaped|rectangular|circular|round|oblong|courtyard|wings?|"
    r"fa[cç]ades?|walls?|windows?|[\w-]*-?(?:store?y(?:ed)?|floor)|store?ys?|stories|floors|domes?|towers?|columns|"
    r"made of|clad in|brick|concrete|glass)\b"
)
_ABOUT_ELSEWHERE = re.compile(  # "next to a road", "A porch": where it lies, its entrance, a thing beside it
    r"(?i)(?:to|at|on|in|next to|near|beside|along|behind|around|across|opposite|north|south|east|west)\b|"
    r".*\b(?:next to|near|beside) the (?:main )?building\W*$|"
    r"(?!.*(?:roof|stor(?:e?y|ies)|floor|\bwalls?|fa[cç]ade|-shaped|\bplan|\bhouse|\bhall))"
    r".*\b(?:entrance|doors?|doorway|porch|portico)\b"
)
_NAMES_A_BUILDING = re.compile(  # "A large white hall": not a campus with a hall, nor a path to one
    r"(?i)(?:(?:an?|the|two|three|four|several|some) )?"
    r"(?:(?!(?:with|of|and|in|on|at|by|to|from|between|beside|next|near|all|up|around|along|above|behind|through|is|"
    r"has|the|an?|leads?|runs?|lies?|stands?|shows?|pass(?:es)?|cross(?:es)?|surrounds?)\b)[\w'’-]+ ){0,6}?"
    r"(?:building|house|hall|complex|tower|block|church|stadium|quadrangle|villa|skyscraper)s?\b"
)
_REFERS_BACK = re.compile(  # "Its wings", "one of them"
    r"(?i)(?:its?|they|their|them|this (?!is\b)|these|both|each|the \w+ ones?|other|another|more|further|"
    r"(?:one|two|some|most|both|part) (?:[\w-]+ )?of (?:it|them|its)|"
    r"(?:the|an?) (?:other|second|third|similar|further) \w+)\b"
)
_ONE_MORE = re.compile(  # "Another pond", "It is a hall"
    r"(?i)(?:it is an?|another|an?(?: second| third| further)) (?=(?P<next>[aeio](?!ne\b))?)"
)
_OF_IT = re.compile(r"(?i)(?:its|their) ")  # "Its wings"


def _plain(statement: str) -> str:
    """A statement that can open a text: "Another pond" becomes "A pond", "Its wings" become "The wings"."""
    if one_more := _ONE_MORE.match(statement):
        return f"A{'' if one_more['next'] is None else 'n'} {statement[one_more.end() :]}"
    return _OF_IT.sub("The ", statement, count=1) if _OF_IT.match(statement) else statement


def _refers_back(statement: str) -> bool:
    """Whether a statement cannot open a text, not even made plain."""
    return _REFERS_BACK.match(_plain(statement)) is not None


def _is_lead(statement: str, is_first: bool) -> bool:
    """Whether a statement describes the building itself rather than something near it or its entrance."""
    named = _OF_THE_BUILDING.search(statement) or (is_first and _NAMES_A_BUILDING.match(statement))
    return bool(named) and not _ABOUT_ELSEWHERE.match(statement)


def _compose(statements: list[str], target_chars: int) -> list[str]:
    """Texts put as queries are: what the building looks like, then some of what is around it.

    A statement that refers to one before it opens no text: it follows another, or goes.
    """
    lead: list[str] = []
    for number, statement in enumerate(statements):
        fits = not lead or len(" ".join([*lead, statement])) <= LEAD_SHARE * target_chars
        if fits and _is_lead(statement, number == 0) and (lead or not _refers_back(statement)):
            lead.append(statement)
    rest = [statement for statement in statements if statement not in lead]
    if not lead:
        opening_on = list(dropwhile(_refers_back, statements)) or statements
        texts = _join(opening_on, target_chars)
        return [_plain(text) for text in texts if not _refers_back(text)] or texts[:1]
    if not rest:
        return _join([_plain(lead[0]), *lead[1:]], target_chars)
    opening = " ".join([_plain(lead[0]), *lead[1:]])
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

    Statements are joined up to `target_chars` characters (a positive number, else `DataError`); none is ever cut.

    Example:
        >>> RuleRefiner().refine("The image shows a round pond. On the left side there is a car park.", "drone")
        ['A round pond. A car park.']
    """

    name = "rules"

    def __init__(self, target_chars: int = TARGET_CHARS) -> None:
        if target_chars < 1:
            raise DataError(f"target_chars is {target_chars}; give a positive number of characters")
        self.target_chars = target_chars

    def refine(self, caption: str, platform: str) -> list[str]:
        """Make query-length texts of a raw caption; from a platform beyond `schema.PLATFORMS` nothing is hidden.

        Returns:
            Distinct texts in the order of the caption, at least one: where the rules leave nothing, the caption
            itself, cleaned (it may then hold directions).

        Raises:
            DataError: the caption is empty, or `platform` no name of one.
        """
        check_platform(platform)
        cleaned = clean_caption(caption)
        if not cleaned:
            raise DataError(f"the caption {caption!r} is empty; drop it or write one")
        sentences = complete_sentences(caption) or split_sentences(caption)
        distinct = dict.fromkeys(filter(None, (_statement(sentence, platform) for sentence in sentences)))
        return _compose(list(distinct), self.target_chars) or [cleaned]
