"""Judging what a language model said: which statements may be used, and why the others may not."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from pemoe.datasets_scripts.refine.outcome import MAX_CHARS, MIN_CHARS, REASONS, STATEMENT_KEY, Rejection
from pemoe.datasets_scripts.sanitize import find_directions
from pemoe.datasets_scripts.text.refusals import REFUSALS
from pemoe.datasets_scripts.text.sentences import normalize_space
from pemoe.datasets_scripts.text.similarity import FUNCTION_WORDS, content_of, say_the_same, words_of
from pemoe.datasets_scripts.text.visibility import HIDDEN_ADJECTIVES, HIDDEN_NOUNS

COPIED_WORDS = 7  # in a row, shared with the instruction
MIN_CAPTION_SHARE = 0.25  # of a statement's content words, found in the caption
MIN_FUNCTION_SHARE, MIN_LATIN_SHARE = 0.08, 0.9

_ANY_CASE = re.IGNORECASE
_FENCE = re.compile(r"^```(?:json)?\s*\n(?P<inside>.*)\n```$", re.DOTALL | _ANY_CASE)  # three backticks, answer, three
_THOUGHT = re.compile(r"^\s*<think>.*?</think>", re.DOTALL)  # "<think>Well.</think>"
# what refuses in any text ("unable to see"), and what only a model says that was asked ("I must decline")
_REFUSAL = re.compile(  # "I must decline", "no image was provided"
    rf"\b(?:{REFUSALS}|as an? (?:artificial|assistant)|i(?:['’]m| am) (?:unable|not able|an? ai)|"
    r"i (?:can[’]?t|can not|could not|couldn['’]t|won['’]t|must decline)|apologies|unable to (?:assist|help|view)|"
    r"(?:no|any) image (?:was |is )?(?:provided|attached|given))\b",
    _ANY_CASE,
)
_CHATTER = re.compile(  # "Sure, here it is", "Here are the statements", "let me know"
    r"^(?:(?:sure|certainly|of course|absolutely|okay|ok|great)[,!.]|"
    r"here(?:['’]s| is| are)\b|below (?:is|are)\b|the following\b|note\b)"
    r"|\b(?:let me know|hope this helps|feel free|as requested|i have (?:rewritten|written)|i (?:rewrote|wrote)|"
    r"here (?:is|are) (?:the|your|a few|some|\w+) (?:rewritten |refined )?(?:statements?|sentences?|descriptions?)|"
    r"rewritten (?:statement|description|caption)s?|(?:the|this) (?:caption|description|prompt|instruction)s?)\b",
    _ANY_CASE,
)
_MARKUP = re.compile(  # "**A hall**", "1. A hall", "[MOF]"
    r"[*_#`~|<>{}\[\]\\]|^\s*(?:[-•+]|\d+[.)])\s|\w+\"\s*:|https?:|www\.|\.\.\.|…|\bMOF\b|\n|\ufffd", re.MULTILINE
)
_HALF_PAIR = re.compile("[\ud800-\udfff]")  # of a surrogate pair; JSON can spell it, UTF-8 cannot
_PICTURE = re.compile(
    r"\b(?:the|this|an?) (?:\w+ )?(?:image|picture|photo|photograph|frame|screen)\b", _ANY_CASE
)  # "the left image"
_ELSEWHERE = re.compile(  # "next to", "north", "there is"
    r"(?:to|at|on|in|near|next to|beside|alongside|along|behind|around|across|opposite|between|before|beyond|among|by|"
    r"from|surrounded|surrounding|nearby|adjacent|there (?:is|are)|north|south|east|west|it|they|its|their)\b",
    _ANY_CASE,
)
_FOREIGN = frozenset(
    words_of(
        "der die das und ein eine einem einen mit ist neben le la les des du une un et avec est dans sur el los las "
        "una con en il della di lo gli os uma um com na het een de van naast och ett med"
    )
)
_HIDDEN = {
    name: re.compile(rf"\b(?:{nouns}|{HIDDEN_ADJECTIVES[name]})\b", _ANY_CASE) for name, nouns in HIDDEN_NOUNS.items()
}
_UNUSABLE = {"refusal": _REFUSAL, "chatter": _CHATTER, "markup": _MARKUP, "about_the_picture": _PICTURE}


@dataclass(frozen=True)
class Question:
    """What an answer is judged against; `is_text_only`: the model knew the caption alone, whose words come back."""

    caption: str
    platform: str
    instruction: str
    max_statements: int
    is_text_only: bool


def _is_english(text: str) -> bool:
    """Whether a text reads as English: Latin letters, and English function words before those of its neighbours."""
    letters = [letter for letter in text if letter.isalpha()]
    words = words_of(text)
    english, foreign = (sum(word in known for word in words) for known in (FUNCTION_WORDS, _FOREIGN))
    latin = sum(letter.isascii() for letter in letters)
    return latin >= MIN_LATIN_SHARE * max(len(letters), 1) and english >= MIN_FUNCTION_SHARE * len(words) + foreign


def _shares_words(text: str, instruction: str) -> str:
    """The first run of `COPIED_WORDS` words that a text shares with the instruction; "" for none."""
    instructed, words = f" {' '.join(words_of(instruction))} ", words_of(text)
    runs = (" ".join(words[start : start + COPIED_WORDS]) for start in range(len(words) - COPIED_WORDS + 1))
    return next((run for run in runs if f" {run} " in instructed), "")


def _without_json(answer: str, text: str, error: Exception) -> Rejection:
    """Why an answer is no JSON: a refusal, chatter around it, or something else."""
    if refusal := _REFUSAL.search(text):
        return Rejection("refusal", answer, repr(refusal[0]))
    is_inside = f'"{STATEMENT_KEY}"' in text and not text.startswith("{")
    if is_inside or getattr(error, "msg", "") == "Extra data":
        return Rejection("chatter", answer, "words beside the JSON")
    if chatter := _CHATTER.search(text):
        return Rejection("chatter", answer, repr(chatter[0]))
    return Rejection("not_json", answer, f"no JSON: {error}")


def _parse_statements(answer: str) -> list[str] | Rejection:
    """The statements of an answer, with a code fence or a thought taken away; a `Rejection` when there are none."""
    text = _THOUGHT.sub("", answer).strip()
    fenced = _FENCE.match(text)
    text = fenced["inside"].strip() if fenced else text
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError) as error:
        return _without_json(answer, text, error)
    statements = parsed.get(STATEMENT_KEY) if isinstance(parsed, dict) else None
    if not isinstance(statements, list) or not all(isinstance(statement, str) for statement in statements):
        return Rejection("wrong_shape", answer, REASONS["wrong_shape"])
    if not any(statement.strip() for statement in statements):
        return Rejection("empty", answer, REASONS["empty"])
    return [_HALF_PAIR.sub("\ufffd", statement) for statement in statements]


def _fault_of_form(text: str) -> tuple[str, str] | None:
    """What is wrong with a statement as a piece of writing: (reason, detail)."""
    if len(text) < MIN_CHARS or len(text) > MAX_CHARS:
        return "too_short" if len(text) < MIN_CHARS else "too_long", f"{len(text)} characters"
    for reason, pattern in _UNUSABLE.items():
        if found := pattern.search(text):
            return reason, repr(found[0].strip())
    words = words_of(text)
    if text[-1].isalnum() and len(words) > 1 and words[-1] in FUNCTION_WORDS - {"it", "one"}:
        return "cut_off", f"ends with {words[-1]!r}"
    return None if _is_english(text) else ("not_english", "by its letters and function words")


def _fault_of_content(text: str, question: Question) -> tuple[str, str] | None:
    """What is wrong with what a statement says: (reason, detail)."""
    if run := _shares_words(text, question.instruction):
        return "copied_prompt", repr(run)
    if question.platform == "satellite" and (directions := find_directions(text)):
        return "direction", ", ".join(f"{found.text!r} ({found.frame})" for found in directions)
    if hidden := _HIDDEN[question.platform].search(text):
        return "hidden", f"{hidden[0]!r} from {question.platform}"
    if opening := _ELSEWHERE.match(text):
        return "not_the_building", f"opens with {opening[0]!r}"
    words = content_of(text)
    shared = len(words & content_of(question.caption))
    if question.is_text_only and shared < MIN_CAPTION_SHARE * max(len(words), 1):
        return "unrelated", f"{shared} of {len(words)} content words are in the caption"
    return None


def validate(answer: str, question: Question) -> tuple[list[str], list[Rejection]]:
    """Judge an answer, word for word as the model gave it.

    Returns:
        The statements that may be used, in order, and every rejection with its reason; an answer that cannot be read
        as asked gives one rejection, else each rejected statement gives one.

    Example:
        >>> question = Question("A white hall by a pond.", "satellite", "Rewrite.", 3, is_text_only=True)
        >>> answer = '{"statements": ["White hall beside a small pond", "White hall, a pond on its left"]}'
        >>> validate(answer, question)[0]
        ['White hall beside a small pond.']
    """
    statements = _parse_statements(answer)
    if isinstance(statements, Rejection):
        return [], [statements]
    kept: list[str] = []
    rejected = []
    for statement in statements:
        text = normalize_space(statement) if "\n" not in statement.strip() else statement.strip()
        fault = _fault_of_form(text) or _fault_of_content(text, question)
        if fault is None and any(say_the_same(text, other) for other in kept):
            fault = "duplicate", REASONS["duplicate"]
        if fault is None and len(kept) == question.max_statements:
            fault = "too_many", f"more than {question.max_statements}"
        if fault is None:
            kept.append(text[0].upper() + text[1:] + ("" if text[-1] in ".!?" else "."))
        else:
            rejected.append(Rejection(fault[0], statement, fault[1]))
    return kept, rejected
