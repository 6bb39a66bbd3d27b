"""Taking directions out of sentences so that the rest still reads: "A pond lies on the left." -> "A pond can be seen."

The word that remains depends on how the direction hangs in its sentence: an adjective goes alone ("the left wing" ->
"the wing"), a relation becomes nearness ("left of the hall" -> "next to the hall"), a part of the picture becomes one
such part ("fills the upper left corner" -> "fills one corner"), an adverbial goes as a whole. Where the rest would
not read as a sentence, its clauses without directions are kept, and where there are none the sentence goes.
"""

from __future__ import annotations

import re

from pemoe.datasets_scripts.sanitize.directions import find_directions
from pemoe.datasets_scripts.sanitize.rules import IMAGE, NOUN
from pemoe.datasets_scripts.text.sentences import keep_clauses, normalize_space, split_sentences

_PREPOSITION = re.compile(  # "towards"
    r"(?i)(?:on|to|at|in|into|along|across|near|from|towards?|over|through|down|up|beyond|around|between|past|"
    r"in front|behind|ahead|just|above|below|beneath|facing|nearest|closest|away|horizontally|vertically|straight)\b"
)
_DETERMINER = re.compile(r"(?i)\b(?:the|its|their|your|our|my)\b")  # "on the left"
_PART = re.compile(rf"(?i)\b(?P<noun>{NOUN}|wing)(?P<image> of (?:the |this |an? )?{IMAGE})?$")  # "corner"
_END = re.compile(r"(?i)\b(?:top|bottom)$")  # "at the top"
_OF_IMAGE = re.compile(rf"(?i) of (?:the |this |an? )?{IMAGE}$")  # "the left of the image"
_JOIN = re.compile(r"(?i)[,/–-]?(?: (?:and|or|to|and to|or to|and on|and at))?(?: (?:the|both))? ?")  # " and ", ", "
_AND_OVER = re.compile(r"(?: and (?:just )?(?:above|below|beneath)(?=\s*(?:[,.;]|$)))?")  # " and below."
_POSITION_VERB = (
    r"(?:lies?|lay|stands?|sits?|runs?|extends?|stretch(?:es)?|pass(?:es)?|appears?|rises?|spreads?|grows?|sweeps?|"
    r"leads|goes|continues?|leaves|enters?|occurs|falls?|starts|curves?|follows|remains?)"
)
_BARE_VERB = re.compile(  # "a pond is located", "a road runs"
    r"(?i) (?:(?:is|are|was|were)(?: (?:located|situated|placed|positioned|arranged|parked|found))?|"
    rf"{_POSITION_VERB})$"
)
_BARE_PARTICIPLE = re.compile(  # "a hall, located"
    r"(?i),?(?: |^)(?<!\bis )(?<!\bare )(?<!\bbe )(?:located|situated|placed|positioned|lying|standing|facing|looking|"
    r"heading|going|moving|followed|running|extending|pointing|oriented|seen|sweeping)$"
)
_BARE_ADVERB = re.compile(  # "a road slightly", "a road, about 20 m"
    r"(?i)(?:(?:^|,? )(?:a (?:little|bit|few \w+)|slightly|just|directly|immediately|partly|far|further|about|due|"
    r"only|diagonally|(?<!\bthe )(?:second|third|fourth))"
    r"|,? (?:some |about )?[\d.]+ ?(?:k?m|met(?:er|re)s|kilomet(?:er|re)s|miles?|feet|ft|yards))$"
)
_INVERTED = re.compile(  # " stands a tower"
    rf"(?i),? (?P<verb>is|are|{_POSITION_VERB}) (?=(?:an?|the|one|two|three|four|five|several|some|many|\w+) )"
)
_CLAUSE_END = re.compile(r"\s*(?:[.,;:!?]|$|(?:and|while|but|whereas)\b)")  # " and a pond"
_FUNCTION_WORD = re.compile(  # " there is a pond": no noun
    r"(?i) (?:there|is|are|was|were|has|have|had|can|may|you|we|one (?:can|sees)|a|an|the|of|and|or|but|while|with|"
    r"next|beside|behind|by|near|in|on|at|to|from|into|onto|over|past|along|across|through|until|till|after|before|where|"
    r"which|that|it|its|this|these|those|two|three|four|several|some|many|as|than|for|around|between|under|above|"
    r"below|toward|towards|when|if|opposite|ends|belongs|slopes|narrows|opens|connects|merges|seems|bends|turns|"
    r"branches|surrounded|lined|covered|bordered|close|\w+ly|shows?|includes?|contains?|"
    rf"consists?|carries|carry|fills?|covers?|\w+ed (?:the|an?|its|by|in|with|to)|\w+s (?:the|an?|its|it|both)|"
    rf"relative|{_POSITION_VERB}|another|also|both|each|rather|i|then|so|too|without)\b"
)
_SHOWS = re.compile(r"(?i) (?:is|are|has|holds?|shows?|contains?)\b")  # " shows a hedge"
_ASIDE = re.compile(r"(?i), (?=(?:is|are|was|were|has|have|\w+s (?:an?|the|its))\b)")  # ", has a red roof"
_AMONG = re.compile(  # " of which is red"
    r" of (?=which\b|whom\b|them\b|these\b|those\b|the (?:two|three|four|five|pair|row)\b)"
)
_VERB = re.compile(  # "stands", "adjoins"
    r"(?i)\b(?:is|are|was|were|has|have|can|lie|stand|run|sit|cover|fill|surround|extend|turn|keep|go|follow|see|show|"
    r"\w{2,}[^\W_su]s|\w+(?:sses|shes|ches)|\w+ed)\b"
)
_DANGLING = re.compile(  # "a path to.", "a hall on the of"
    r"(?i)\b(?:of|the|an?|its|their|to|at|on|in|from|and|or|is|are|by|with|towards?|along|near|both|between|slightly|"
    r"just|far|very|while|but|faces?|facing|bounds?|looking|either|connects?|separates?|than|due|about|point|lead)\b,?"
    r"(?=\s*(?:[.;!?,]|$))|\b(?:on|in|at|along|near|from|the|an?|its) (?:of|is|are|and|or|there|stands?|lies?|with|"
    r"where|which)\b|\b(?:has|have) (?:from|of|on|at|in|to)\b|\b(?:is|are) (?:of|there|and|while|than|lies?|stands?)\b"
    r"|^(?:is|are|of|and|or|with|lies?|stands?)\b|\b(?:stands|runs) (?:are|have)\b|\b(?:the one|"
    r"oriented)(?=\s*[.;?!,]|$)|['’]s(?=\s*[.;!?,]|$)"
)


def _groups(text: str) -> list[tuple[int, int]]:
    """The stretches to take out: directions, coordinated ones ("on the left and the right") as one."""
    groups: list[tuple[int, int]] = []
    for found in find_directions(text):
        end = found.end + len(_AND_OVER.match(text[found.end :])[0])
        between = text[groups[-1][1] : found.start] if groups else "."
        if _JOIN.fullmatch(between) and not (between.startswith(",") and _PREPOSITION.match(found.text)):
            groups[-1] = (groups[-1][0], end)
        else:
            groups.append((found.start, end))
    return groups


def _head(span: str) -> str:
    """Preposition and determiner of a direction: "on the upper left side" -> "on the"."""
    words = [match[0] for match in (_PREPOSITION.match(span), _DETERMINER.search(span)) if match]
    return " ".join(dict.fromkeys(words))


def _relation(span: str, noun: str) -> str:
    """What stands for a direction before "of": "on the left side" -> "on the side", "to the left" -> "next to"."""
    if noun and _PREPOSITION.match(span):
        return f"{_head(span)} {noun.removeprefix('hand').strip(' -')}"
    if noun:
        return _part_of_picture(span)
    if _END.search(span):
        return f"{_head(span)} end"
    return "in" if re.match(r"in\b", span, re.IGNORECASE) else "next to"


def _part_of_picture(span: str) -> str:
    """What stands for a direction that is a thing of its own: "the upper left corner" -> "one corner"."""
    part = _PART.search(span)
    if part is None:
        image = _OF_IMAGE.search(span)
        return f"part{image[0]}" if image else "one side"
    noun = re.sub(r"^hand[ -]", "", part["noun"].lower())
    if noun.endswith("ground"):
        return "part of the view"
    if noun.endswith("s") and not noun.startswith("two"):
        return f"the {noun}"
    return ("" if noun.startswith("two") else "one ") + noun + (part["image"] or "")


def _after_counter(before: str, noun: str) -> str | None:
    """What stands for a direction after "both", "either", a number, an article or a possessive; None after others."""
    counter = re.search(r"(?i)(?:['’]s|\b(?:both|either|an?|one|two|three|four|this|that|each|every)) $", before)
    word = counter[0].strip().lower() if counter else ""
    if word in ("both", "either"):
        return "sides" if word == "both" else "side"
    return noun if word and (noun or word.endswith(("'s", "’s"))) else None


def _is_adjective(span: str, after: str) -> bool:
    """Whether a noun follows the direction: "the left" in "the left wing" and in "the left, smaller wing is red"."""
    if (_PART.search(span) and not span.endswith("-side")) or _OF_IMAGE.search(span):
        return False
    listed = re.match(r", [\w-]+ [\w-]+ (?:is|are|has|have)\b| (?:two|three|four)\b", after)
    precedes_noun = re.match(r" [a-z]", after) and not _FUNCTION_WORD.match(after)
    return bool(precedes_noun or (listed and _DETERMINER.match(span)))


def _stand_in(before: str, span: str, after: str) -> tuple[str, str] | None:
    """What replaces a direction, and the text after it; None where it is an adverbial and goes as a whole."""
    part = _PART.search(span)
    noun = part["noun"].lower() if part else ""
    counted = _after_counter(before, noun)
    if counted is not None:
        return counted, after
    if _AMONG.match(after):
        return "one", after
    if after.startswith(" of ") and not _OF_IMAGE.search(span) and not (_DETERMINER.match(span) and not noun):
        return _relation(span, noun), after if noun or _END.search(span) else after.removeprefix(" of")
    if span.lower() == "left" and after.startswith(" to the "):
        return "next", after
    if _is_adjective(span, after):
        return _head(span), after.removeprefix(",")
    is_thing = _DETERMINER.match(span) or (not before and _SHOWS.match(after))
    return (_part_of_picture(span), after) if is_thing and not _PREPOSITION.match(span) else None


def _take_out(text: str, start: int, end: int) -> str:
    """`text` with the direction at `[start, end)` taken out and the words around it made to fit."""
    before, span, after = text[:start], text[start:end], text[end:]
    replaced = _stand_in(before, span, after)
    if replaced is not None:
        rest = f"{replaced[0]}{replaced[1]}".lstrip()
        return _with_article(before, rest) + rest
    before, participles = _BARE_PARTICIPLE.subn("", _BARE_ADVERB.sub("", before.rstrip()))
    if before.endswith(",") and _ASIDE.match(after):
        before, after = before[:-1], after[1:]
    inverted = _INVERTED.match(after)
    if inverted and re.search(r"(?:^|[,;] (?:and|while|but)?|\band)$", before):
        there = "there is" if inverted["verb"].lower().endswith("s") else "there are"
        return f"{before} {there} {after[inverted.end() :]}"
    if participles:
        after = after.removeprefix(",")
    elif _CLAUSE_END.match(after):
        before = _BARE_VERB.sub(" can be seen", before)
    return f"{before} {after}"


def _with_article(before: str, rest: str) -> str:
    """`before` with its last word, where that is "a" or "an", as suits the first letter of `rest`."""
    return re.sub(r"\b([Aa])n? $", lambda match: f"{match[1]}{'n' * (rest[:1].lower() in 'aeio')} ", before)


def _tidy(text: str, like: str) -> str:
    """Blanks, commas, the capital and the stop of a sentence as they were in `like`."""
    text = normalize_space(re.sub(r"\s*([,;:])(?:\s*,)+", r"\1", text))
    text = re.sub(r"\bthe (one of (?:the|which))\b", r"\1", text, flags=re.IGNORECASE)
    text = re.sub(r",(?=[.;:!?])|\s+(?:and|or|but|while)(?=[.;!?]|$)", "", text)
    text = re.sub(r"^(?:[,;:.\s-]+|(?:and|but|while)\b\s*)+", "", text)
    if like[:1].isupper():
        text = text[:1].upper() + text[1:]
    stop = like[-1:] if like[-1:] in ".!?" else ""
    return text if not text or not stop or text.endswith((".", "!", "?")) else text.rstrip(",;: ") + stop


def _reads(text: str, like: str) -> bool:
    """Whether what is left of the sentence `like` is one: no direction, nothing dangling, a verb where it had one."""
    dangling = any(text[match.start() : match.end() + 1] not in like for match in _DANGLING.finditer(text))
    if dangling or find_directions(text):
        return False
    words = re.findall(r"\w[\w'’-]*", text)
    return len(words) >= 3 and (_VERB.search(text) is not None or _VERB.search(like) is None)


def _masked_sentence(sentence: str) -> str:
    """A sentence without its directions, or its clauses that have none; "" where neither reads."""
    masked = sentence
    for start, end in reversed(_groups(sentence)):
        masked = _take_out(masked, start, end)
    clauses = keep_clauses(sentence, lambda clause: not find_directions(clause))
    tidied = (_tidy(text, sentence) for text in (masked, clauses))
    return next((text for text in tidied if _reads(text, sentence)), "")


def mask_directions(text: str) -> str:
    """A text with its directions taken out, so that the rest is still made of sentences.

    Sentences without a direction are unchanged but for white space. One of which only a fragment would be left is
    dropped; "" when none is left.

    Example:
        >>> mask_directions("On the left side there is a pond. The right wing is taller. A car park lies at the top.")
        'There is a pond. The wing is taller. A car park can be seen.'
    """
    sentences = split_sentences(text)
    masked = [_masked_sentence(sentence) if find_directions(sentence) else sentence for sentence in sentences]
    return " ".join(filter(None, masked))
