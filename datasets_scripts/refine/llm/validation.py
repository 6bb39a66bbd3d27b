"""Judging what a language model said: which statements may be used, and why the others may not."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import lru_cache

from pemoe.datasets_scripts.refine.outcome import Rejection
from pemoe.datasets_scripts.sanitize import find_directions
from pemoe.datasets_scripts.text.refusals import REFUSALS
from pemoe.datasets_scripts.text.sentences import normalize_space
from pemoe.datasets_scripts.text.visibility import HIDDEN_ADJECTIVES, HIDDEN_NOUNS

STATEMENT_KEY = "statements"
MIN_CHARS, MAX_CHARS = 25, 400  # of a statement; a test query of GeoText-1652 has 227 on average
COPIED_WORDS = 7  # in a row, shared with the instruction
SAME_SHARE = 0.9  # of the words of two statements; more, with the same numbers, and they say the same
MIN_CAPTION_SHARE = 0.25  # of a statement's content words, found in the caption
MIN_FUNCTION_SHARE, MIN_LATIN_SHARE = 0.08, 0.9

REASONS = {  # every reason there is, as reported to people and, on a second try, to the model
    "no_answer": "no answer came from the endpoint",
    "unreadable_image": "the image cannot be read",
    "chatter": "there is chatter around the answer",
    "refusal": "it refuses or speaks of itself",
    "not_json": "it is not the JSON object that was asked for",
    "wrong_shape": f'the JSON is not an object with a list of texts under "{STATEMENT_KEY}"',
    "empty": "it holds no statement",
    "too_many": "there are more statements than asked for",
    "too_short": f"shorter than {MIN_CHARS} characters",
    "too_long": f"longer than {MAX_CHARS} characters",
    "about_the_picture": "it speaks of the picture instead of the place",
    "cut_off": "it breaks off",
    "markup": "it holds markup, JSON or placeholders",
    "not_english": "it is not in English",
    "copied_prompt": "it repeats the instruction",
    "direction": "it names a direction, which turning the image makes untrue",
    "hidden": "it names what this platform cannot see",
    "not_the_building": "it does not open with the building itself",
    "unrelated": "it has next to nothing of the description",
    "duplicate": "it says the same as another statement",
}

_ANY_CASE = re.IGNORECASE
_FENCE = re.compile(r"^```(?:json)?\s*\n(?P<inside>.*)\n```$", re.DOTALL | _ANY_CASE)
_THOUGHT = re.compile(r"^\s*<think>.*?</think>", re.DOTALL)
# what refuses in any text ("unable to see"), and what only a model says that was asked ("I must decline")
_REFUSAL = re.compile(
    rf"\b(?:{REFUSALS}|as an? (?:artificial|assistant)|i(?:['’]m| am) (?:unable|not able|an? ai)|"
    r"i (?:can[’]?t|can not|could not|couldn['’]t|won['’]t|must decline)|apologies|unable to (?:assist|help|view)|"
    r"(?:no|any) image (?:was |is )?(?:provided|attached|given))\b",
    _ANY_CASE,
)
_CHATTER = re.compile(
    r"^(?:(?:sure|certainly|of course|absolutely|okay|ok|great)[,!.]|"
    r"here(?:['’]s| is| are)\b|below (?:is|are)\b|the following\b|note\b)"
    r"|\b(?:let me know|hope this helps|feel free|as requested|i have (?:rewritten|written)|i (?:rewrote|wrote)|"
    r"here (?:is|are) (?:the|your|a few|some|\w+) (?:rewritten |refined )?(?:statements?|sentences?|descriptions?)|"
    r"rewritten (?:statement|description|caption)s?|(?:the|this) (?:caption|description|prompt|instruction)s?)\b",
    _ANY_CASE,
)
_MARKUP = re.compile(
    r"[*_#`~|<>{}\[\]\\]|^\s*(?:[-•+]|\d+[.)])\s|\w+\"\s*:|https?:|www\.|\.\.\.|…|\bMOF\b|\n|\ufffd", re.MULTILINE
)
_HALF_PAIR = re.compile("[\ud800-\udfff]")  # of a surrogate pair; JSON can spell it, UTF-8 cannot
_PICTURE = re.compile(r"\b(?:the|this|an?) (?:\w+ )?(?:image|picture|photo|photograph|frame|screen)\b", _ANY_CASE)
_ELSEWHERE = re.compile(
    r"(?:to|at|on|in|near|next to|beside|alongside|along|behind|around|across|opposite|between|before|beyond|among|by|"
    r"from|surrounded|surrounding|nearby|adjacent|there (?:is|are)|north|south|east|west|it|they|its|their)\b",
    _ANY_CASE,
)
_ENGLISH = frozenset(
    re.findall(
        r"\w+",
        "the a an and of with is are in on at by to next beside near its it has have that which from between behind "
        "around some several two three four surrounded one there under over into onto along for as opposite",
    )
)
_NUMBERS = frozenset(
    ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
)
_FOREIGN = frozenset(
    re.findall(
        r"\w+",
        "der die das und ein eine einem einen mit ist neben le la les des du une un et avec est dans sur el los las "
        "una con en il della di lo gli os uma um com na het een de van naast och ett med",
    )
)
_HIDDEN = {
    name: re.compile(rf"\b(?:{HIDDEN_NOUNS[name]}|{HIDDEN_ADJECTIVES[name]})\b", _ANY_CASE) for name in HIDDEN_NOUNS
}


@dataclass(frozen=True)
class Question:
    """What an answer is judged against.

    Args:
        caption: the raw caption.
        platform: one of `schema.PLATFORMS`.
        instruction: the prompt that the model was given.
        max_statements: how many statements it may give.
        is_text_only: whether the caption is all the model knew; then its words have to come back.
    """

    caption: str
    platform: str
    instruction: str
    max_statements: int
    is_text_only: bool


def words_of(text: str) -> list[str]:
    """Lower-case words of a text, for comparisons.

    Example:
        >>> words_of("The U-shaped hall, again!")
        ['the', 'u', 'shaped', 'hall', 'again']
    """
    return re.findall(r"[^\W_]+", text.lower())


@lru_cache(maxsize=1024)  # a statement is compared with all others of its row
def _content(text: str) -> frozenset[str]:
    """What the words of a text are about: no function words, endings cut so that "roofs" meets "roof"."""
    return frozenset(word[:5].rstrip("s") for word in words_of(text) if word not in _ENGLISH)


@lru_cache(maxsize=1024)
def _numbers(text: str) -> frozenset[str]:
    """The numbers of a text, as digits or words."""
    return frozenset(word for word in words_of(text) if word.isdigit() or word in _NUMBERS)


def say_the_same(first: str, second: str) -> bool:
    """Whether two statements are near-duplicates: nearly the same set of content words and the same numbers.

    Example:
        >>> say_the_same("A round pond beside a road.", "Beside the road is a round pond.")
        True
        >>> say_the_same("A hall beside two ponds.", "A hall beside three ponds.")
        False
    """
    one, two = _content(first), _content(second)
    return _numbers(first) == _numbers(second) and len(one & two) >= SAME_SHARE * max(len(one | two), 1)


def is_english(text: str) -> bool:
    """Whether a text reads as English: Latin letters, and English function words before those of its neighbours.

    Example:
        >>> is_english("A long hall beside a pond."), is_english("Ein langes Gebäude neben einem Teich.")
        (True, False)
    """
    letters = [letter for letter in text if letter.isalpha()]
    words = words_of(text)
    english, foreign = (sum(word in known for word in words) for known in (_ENGLISH, _FOREIGN))
    latin = sum(letter.isascii() for letter in letters)
    return latin >= MIN_LATIN_SHARE * max(len(letters), 1) and english >= MIN_FUNCTION_SHARE * len(words) + foreign


def _shares_words(text: str, instruction: str) -> str:
    """The first run of `COPIED_WORDS` words that a text shares with the instruction; "" for none."""
    instructed = " ".join(words_of(instruction))
    words = words_of(text)
    runs = (" ".join(words[start : start + COPIED_WORDS]) for start in range(len(words) - COPIED_WORDS + 1))
    return next((run for run in runs if f" {run} " in f" {instructed} "), "")


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


def parse_statements(answer: str) -> list[str] | Rejection:
    """The statements of an answer, with a code fence or a thought taken away; a `Rejection` when there are none.

    Example:
        >>> parse_statements('{"statements": ["A hall."]}')
        ['A hall.']
        >>> parse_statements("Sure! A hall.").reason
        'chatter'
    """
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
    for reason, pattern in (
        ("refusal", _REFUSAL),
        ("chatter", _CHATTER),
        ("markup", _MARKUP),
        ("about_the_picture", _PICTURE),
    ):
        if found := pattern.search(text):
            return reason, repr(found[0].strip())
    if text[-1].isalnum() and len(words_of(text)) > 1 and words_of(text)[-1] in _ENGLISH - {"it", "one"}:
        return "cut_off", f"ends with {words_of(text)[-1]!r}"
    return None if is_english(text) else ("not_english", "by its letters and function words")


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
    words = _content(text)
    shared = len(words & _content(question.caption))
    if question.is_text_only and shared < MIN_CAPTION_SHARE * max(len(words), 1):
        return "unrelated", f"{shared} of {len(words)} content words are in the caption"
    return None


def _finish(text: str) -> str:
    """A statement with a capital in front and a stop at its end."""
    return text[0].upper() + text[1:] + ("" if text[-1] in ".!?" else ".")


def validate(answer: str, question: Question) -> tuple[list[str], list[Rejection]]:
    """Judge an answer.

    Args:
        answer: what the model said, word for word.
        question: what it was asked.

    Returns:
        The statements that may be used, in order, and every rejection with its reason; an answer that cannot be read
        as asked gives one rejection, else each rejected statement gives one.

    Example:
        >>> question = Question("A white hall by a pond.", "satellite", "Rewrite.", 3, is_text_only=True)
        >>> answer = '{"statements": ["White hall beside a small pond", "White hall, a pond on its left"]}'
        >>> validate(answer, question)[0]
        ['White hall beside a small pond.']
    """
    statements = parse_statements(answer)
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
            kept.append(_finish(text))
        else:
            rejected.append(Rejection(fault[0], statement, fault[1]))
    return kept, rejected
