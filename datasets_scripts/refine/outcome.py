"""What goes into a refiner and what comes out of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

STATEMENT_KEY = "statements"  # of the JSON that a language model answers with
MIN_CHARS, MAX_CHARS = 25, 400  # of a statement; a test query of GeoText-1652 has 227 on average

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


@dataclass(frozen=True)
class Tokens:
    """Tokens of one or more calls; they add up."""

    prompt: int = 0
    completion: int = 0

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(self.prompt + other.prompt, self.completion + other.completion)

    @property
    def total(self) -> int:
        """Prompt and completion together."""
        return self.prompt + self.completion


@dataclass(frozen=True)
class RefineRequest:
    """One raw caption to refine, from one of `schema.PLATFORMS`; `image` is the encoded picture that it describes."""

    caption: str
    platform: str
    image: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Rejection:
    """A statement or answer, as it came, that is not used; `reason` is a key of `REASONS`, `detail` is for people."""

    reason: str
    text: str
    detail: str


@dataclass(frozen=True)
class Refinement:
    """The texts of one caption and where they come from.

    Args:
        texts: distinct texts in order, at least one.
        refiner: name of the refiner, or "rule_fallback" where a model was tried and nothing of it could be used.
        rejections: what was not used, in order.
        calls: answers received from the backend now.
        cached: answers taken from the cache.
        retries: requests sent again after a fault (429, 5xx, timeout, lost connection) or after a rejected answer.
        tokens: what the calls of now cost; nothing for cached answers.
    """

    texts: list[str]
    refiner: str
    rejections: tuple[Rejection, ...] = ()
    calls: int = 0
    cached: int = 0
    retries: int = 0
    tokens: Tokens = Tokens()


class Refiner(Protocol):
    """Rewrites captions one by one, as `RuleRefiner` does; a build and its report call it by its `name`."""

    name: str

    def refine(self, caption: str, platform: str) -> list[str]:
        """The texts of a caption that is not blank, at least one; `platform` is one of `schema.PLATFORMS`."""


class Prices(Protocol):
    """What tokens cost."""

    def usd(self, tokens: Tokens) -> float | None:
        """Dollars; None where no price is known."""
