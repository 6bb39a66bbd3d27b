"""A user's words as statements: what the place has, and what it has not. English only."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pemoe.datasets_scripts.text.sentences import normalize_space, split_sentences

_NOT_NEGATED = re.compile(  # the comment at a line is an example that it matches
    r"(?i)\bnot (?:only|just|merely|simply|solely|to mention|until|unlike|without)\b"  # "not only a pond but"
    r"|\bnot (?:very |too |so |that )?(?:far|long|distant)\b"  # "not far from the road"
    r"|\bnot (?:all|every|always|quite|entirely|completely|fully|necessarily|one but)\b"  # "not quite round"
    r"|\b(?:not|no) (?:more|less|fewer|later|earlier|\w+er) than\b"  # "no fewer than three towers"
    r"|\b(?:nothing but|nothing else|no longer|no doubt|no matter|no other|no one)\b"  # "nothing but lawn"
    r"|\bno\.? ?\d"  # "No. 10"
    r"|\bno[ -](?:parking|entry|smoking|access)\b"  # "a no-entry sign"
    r"|\bwithout (?:a |any )?(?:doubt|question|exception|fail)\b"  # "without doubt a church"
)
_OF_VERB = r"(?:n['’]?t|(?: ?not))"  # "isn't", "is not"
_NEGATOR = re.compile(  # "the roof isn't", "has no", "not", "instead of"
    r"(?i)(?P<subject>\b(?:the|its|their|an?) (?!(?:building|place|one|site)\b)\w+ |^(?!this |its )\w+s )?"
    rf"(?:\b(?:is|are|was|were){_OF_VERB}\b"
    rf"|\b(?:does|do|did|has|have|had|can?|could|should|must|would){_OF_VERB}"
    r"(?: (?:have|be|show|see|contain|include))?\b)"
    r"|\b(?:(?:with|has|have|having|there (?:is|are)|there['’]s) )?(?:no|not any|neither|none of)\b(?! ?\d)(?!-)"
    r"|\b(?:it['’]s |that['’]s )?(?:not|never|nor)\b(?!-)"
    r"|\b(?:without|lacks?|lacking|devoid of|free of|instead of|rather than|nowhere near"
    r"|(?:in )?the absence of)\b"
)
_OR_LIST = re.compile(r"(?i)(?:, (?:an? |any |the )?\w+(?: \w+)?)*,? n?or\b")  # ", cars or", after "no trees"
_SCOPE_END = re.compile(  # where what is negated ends
    r"(?i)[;:—–]|,|\s(?:but|yet|although|though|while|whereas|however)\b"
    r"|\sand (?=(?:with|without|no|not|it|its|there|this|that|is|are|has|have|the)\b)"
)
_EMPTY = re.compile(  # a rest that says nothing
    r"(?i)(?:(?:and|but|or|with|it|its|it['’]s|this|that|they|there|is|are|was|has|have|which|one|the|an?|"
    r"place|site|please|so|also|i|you|we|mean|meant|want|see)\b|[\s\W])*"
)
_LOOSE = re.compile(  # of a rest: "and", before what follows; "that", after what precedes
    r"(?i)^(?:[\s,;:—–-]|(?:and|but|or|it|so)\b)+|(?:[\s,;:.!?—–-]|\b(?:and|but|or|that|which|it|is|are|has|have))+$"
)
_EDGES = " ,;:.!?—–-"


@dataclass(frozen=True)
class Statement:
    """One thing that a query says of the place.

    sentence: as written, to be shown; content: what is compared with pictures, of a negated statement without the
    negation ("not the one with the fountain": "the one with the fountain").
    """

    sentence: str
    content: str
    negated: bool = False


def read_statements(texts: str | Sequence[str]) -> tuple[Statement, ...]:
    """A query's sentences as statements; a sentence that has and has not ("red, without a pond") becomes two or more.

    Negation is read in English alone: not, n't, no, without, never, neither ... nor, lacks, devoid of, free of,
    instead of, rather than. It reaches to the next comma, "but", "while" or the sentence's end, and over lists joined
    by "or". "not far from", "not only", "nothing but", "no longer" and their like are no negation.

    Returns:
        Statements in the order of the texts; () where there is no word.

    Example:
        >>> [(one.content, one.negated) for one in read_statements("A red hall without a pond. Not the tall one.")]
        [('A red hall', False), ('a pond', True), ('the tall one', True)]
    """
    texts = (texts,) if isinstance(texts, str) else texts
    return tuple(part for text in texts for sentence in split_sentences(text) for part in _read_sentence(sentence))


def refine(texts: str | Sequence[str], further: str) -> tuple[str, ...]:
    """The query that a further sentence makes of an earlier one: the same as all sentences at once.

    Example:
        >>> refine("red hall", "not the one with the fountain")
        ('red hall', 'not the one with the fountain')
    """
    return (*((texts,) if isinstance(texts, str) else texts), further)


def positive_text(statements: Sequence[Statement]) -> str:
    """What the place has, as one text; "" where everything is negated."""
    return " ".join(one.content for one in statements if not one.negated)


def _read_sentence(sentence: str) -> list[Statement]:
    """Its negated spans as statements, after what is left between them as one."""
    negators = _negators(sentence)
    if not negators:
        return [Statement(sentence, sentence)] if re.search(r"\w", sentence) else []
    rest, negated, start = [], [], 0
    for match in negators:
        if match.start() < start:  # within the reach of the one before
            continue
        end = _scope_end(sentence, match.end())
        content = sentence[match.end() : end].strip(_EDGES)
        rest.append(sentence[start : match.start()])
        start = end
        if not _EMPTY.fullmatch(content):
            written = sentence[match.start() : end].strip(_EDGES)
            content = re.sub(r"(?i)\bnor\b", "or", f"{match['subject'] or ''}{content}")
            negated.append(Statement(written, content, negated=True))
    parts = [_LOOSE.sub("", part) for part in [*rest, sentence[start:]]]
    kept = normalize_space(", ".join(part for part in parts if not _EMPTY.fullmatch(part)))
    return [*([Statement(kept, kept)] if kept else []), *negated]


def _negators(sentence: str) -> list[re.Match]:
    kept = [match.span() for match in _NOT_NEGATED.finditer(sentence)]
    found = _NEGATOR.finditer(sentence)
    return [one for one in found if not any(one.start() < end and start < one.end() for start, end in kept)]


def _scope_end(sentence: str, start: int) -> int:
    """Where the negation ends whose content begins at `start`."""
    first = _SCOPE_END.search(sentence, start)
    if first is None:
        return len(sentence)
    listed = _OR_LIST.match(sentence, first.start())
    return _scope_end(sentence, listed.end()) if listed else first.start()
