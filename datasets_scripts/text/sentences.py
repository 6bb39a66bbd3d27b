"""Splitting captions into sentences and clauses: abbreviations, decimals, ellipses, `[MOF]` joints, cuts."""

from __future__ import annotations

import re
from collections.abc import Callable

_LONG_CHARS = 150  # below it, a last sentence without a stop is taken for a short query, not for a cut

_JOINT = re.compile(r"(?i)\[\s*MOF\s*\]")  # "[MOF]"
_SPACE_BEFORE_STOP = re.compile(r"\s+(?=[.,;!?](?:\s|$))")  # " ."
_STOP = re.compile(  # "a hall. ", "a roof.The wall", "it? "
    r"(?<![.!?…])(?P<stop>[.!?…]+)[\"'”’)\]]*(?:\s+|(?<=[a-z)]\.)(?=[A-Z][a-z]))"
)
_CLOSERS = "\"'”’)]"
_ABBREVIATION = re.compile(  # "approx"
    r"(?i)(?:st|dr|mr|mrs|ms|prof|mt|ft|approx|ca|cf|e\.g|i\.e|etc|vs|no|fig|ave|blvd|rd|hwy|dept|univ|bldg|inc|co|ltd|jr|"
    r"sr|sq|min|max|u\.s|u\.k|n\.w|s\.w|n\.e|s\.e)"
)
_STARTERS = re.compile(  # "Beside the hall"
    r"(?:The|A|An|It|Its|There|This|These|Those|That|They|Their|In|On|At|To|From|Behind|Beside|Next|Around|Near|Trees|"
    r"Two|Three|Several|Some|Many|One|Another)\b"
)

_CLAUSE = re.compile(  # "; ", " while ", " and a pond"
    r"([;:]\s+|,?\s+(?:while|whereas)\s+|,\s+(?:and|but)\s+|,\s+(?=(?:which|where|whose|with|an?|the|two|several)\s)|"
    r"\s+and\s+(?=(?:an?|the|two|three|several|some|many|another)\s))"
)
_DEPENDENT = re.compile(  # "which is old", "surrounded"
    r"(?i)(?:which|where|whose|with|that|its?|they|their|them|one of|each|both|is|are|has|have|\w+ing|\w+ed)\b"
)

_ASKS_FOR_MORE = re.compile(  # "a lawn with the"
    r"(?i)(?:,|\b(?:an?|the|its|their|of|at|to|from|with|and|or|but|while|which|that|where|whose|into|is|are|has|have))$"
)


def normalize_space(text: str) -> str:
    """Collapse white space to single blanks, and take away blanks before a stop or comma.

    Example:
        >>> normalize_space(" A  pond ,\\n a road . ")
        'A pond, a road.'
    """
    return _SPACE_BEFORE_STOP.sub("", " ".join(text.split()))


def clean_caption(caption: str) -> str:
    """A caption with `[MOF]` joints replaced by a blank and white space normalised; "" stays "".

    Example:
        >>> clean_caption("A pond.[MOF]  A road.")
        'A pond. A road.'
    """
    return normalize_space(_JOINT.sub(" ", caption))


def _is_boundary(before: str, stop: str, after: str) -> bool:
    """Whether `stop` ends the sentence `before`, given the text `after` it."""
    if stop != ".":
        return not (("..." in stop or "…" in stop) and after[:1].islower())
    words = before.split()
    word = words[-1].lstrip("(\"'“‘") if words else ""
    if len(words) == 1 and word.isdigit():
        return False  # "1. The building ..." numbers a sentence
    if _ABBREVIATION.fullmatch(word) or (len(word) == 1 and word.isupper()):
        return _STARTERS.match(after) is not None
    return True


def _split_segment(text: str) -> list[str]:
    """The sentences of a text without joints."""
    text = normalize_space(text)
    sentences, start = [], 0
    for match in _STOP.finditer(text):
        if _is_boundary(text[start : match.start()], match["stop"], text[match.end() :]):
            sentences.append(text[start : match.end()].strip())
            start = match.end()
    return [sentence for sentence in [*sentences, text[start:].strip()] if sentence]


def split_sentences(text: str) -> list[str]:
    """Split a caption into sentences, each with its own stop; a text without a stop is one sentence.

    Abbreviations ("St.", "approx.") end a sentence only before a word that starts one ("Main St. The hall ..."),
    decimals never do, an ellipsis only before a capital. `[MOF]` joints part sentences and are removed, white space
    is normalised, a missing last stop stays missing. [] for an empty or blank text.

    Example:
        >>> split_sentences("St. Mary's is 3.5 m high. A pond lies beside it")
        ["St. Mary's is 3.5 m high.", 'A pond lies beside it']
    """
    return [sentence for part in _JOINT.split(text) for sentence in _split_segment(part)]


def _is_truncated(sentences: list[str], caption_chars: int) -> bool:
    """Whether the last sentence was cut off: no final stop, and where it is alone, a word that asks for another."""
    if not sentences or caption_chars < _LONG_CHARS:
        return False
    if sentences[-1].rstrip(_CLOSERS).endswith((".", "!", "?", "…")):
        return False
    return len(sentences) > 1 or _ASKS_FOR_MORE.search(sentences[0]) is not None


def complete_sentences(text: str) -> list[str]:
    """The sentences of a caption without those cut off at its end or at a `[MOF]` joint, if it has 150 characters.

    Example:
        >>> complete_sentences("A pond lies in a park. A road")
        ['A pond lies in a park.', 'A road']
    """
    kept = []
    for part in _JOINT.split(text):
        sentences = _split_segment(part)
        kept += sentences[:-1] if _is_truncated(sentences, len(text)) else sentences
    return kept


def keep_clauses(text: str, is_wanted: Callable[[str], bool]) -> str:
    """The wanted clauses of a sentence, joined as they were; one such as "which ..." goes with what it hangs on.

    Example:
        >>> keep_clauses("A pond lies here, and a gate stands there", lambda clause: "gate" not in clause)
        'A pond lies here'
    """
    parts = ["", *_CLAUSE.split(text)]  # joint, clause, joint, clause, ...
    kept, head_kept = "", False
    for joint, clause in zip(parts[::2], parts[1::2], strict=True):
        stands_alone = not joint or not _DEPENDENT.match(clause)
        if is_wanted(clause) and (stands_alone or head_kept):
            kept += (joint if kept else "") + clause
            head_kept = True
        elif stands_alone:
            head_kept = False
    return kept
