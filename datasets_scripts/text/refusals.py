"""What gives away a refusal, an apology or a question that stands where a description should."""

from __future__ import annotations

import re

# alternatives between word boundaries, in any case: to be built upon, as in rf"\b(?:{REFUSALS}|peaceful)\b"
REFUSALS = (
    r"sorry|apologi[sz]e|as an ai|language model|i (?:cannot|can't|am unable)|unable to (?:see|describe|provide)"
)
WEB_ADDRESS = r"\bwww\.|https?://"  # "www.example.org"

_REFUSAL = re.compile(rf"\b(?:{REFUSALS})\b|{WEB_ADDRESS}", re.IGNORECASE)  # "Sorry, I cannot see it"
_OR_QUESTION = re.compile(rf"{_REFUSAL.pattern}|\?", re.IGNORECASE)  # "Where is it?"


def refusal_words(split: str | None) -> re.Pattern[str]:
    """What makes a text a refusal; a question is one in train alone, since a query may well ask."""
    return _OR_QUESTION if split == "train" else _REFUSAL
