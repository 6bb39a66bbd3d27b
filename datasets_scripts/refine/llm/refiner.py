"""The LLM refiner: a language model rewrites captions; what it says is checked, kept, and never paid twice."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import KW_ONLY, asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from pemoe.datasets_scripts.refine.llm.budget import Budget, BudgetError, estimate_tokens
from pemoe.datasets_scripts.refine.llm.cache import Answer, AnswerCache, CacheKey
from pemoe.datasets_scripts.refine.llm.calls import Backend, Caller, NoAnswerError, Sampling
from pemoe.datasets_scripts.refine.llm.prompts import UnreadableImageError, build_messages, load_prompts
from pemoe.datasets_scripts.refine.llm.validation import Question, validate
from pemoe.datasets_scripts.refine.outcome import REASONS, Refinement, RefineRequest, Rejection, Tokens
from pemoe.datasets_scripts.refine.rules import RuleRefiner
from pemoe.datasets_scripts.schema import PLATFORMS, DataError

COMPLETION_TOKENS = 180  # of an answer, before the cache holds any to learn from


@dataclass(frozen=True)
class Estimate:
    """What refining would cost if every answer were usable at once; nothing was sent to find out.

    Of all `requests`, repeated ones counted, the `cached` ones need no call; tokens and dollars (None without prices)
    are those of the `calls`.
    """

    requests: int
    calls: int
    cached: int
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float | None


@dataclass
class LLMRefiner:
    """Rewrites training captions for their platform with a language model, and by rules where that fails.

    Every answer is committed to a cache file as soon as it is read, so a run that is killed goes on where it stopped:
    just run it again. An answer with no usable statement is asked for once more, with the reason; then the fallback
    speaks. The same holds for a caption whose requests all fail, unless the endpoint itself seems to be down, which
    ends the run.

    Args:
        backend: `EndpointBackend`, `LocalBackend` or anything with their `name`, `takes_images` and `ask`.
        cache_path: SQLite file of all answers, keyed by model, prompt version and input; made when absent. Several
            processes may share it: what one received the others do not ask for.
        prompt_version: of the packaged prompts.
        concurrency: requests on their way at a time.
        requests_per_minute: limit, evenly spaced; None for none.
        budget_tokens, budget_usd: caps on what this refiner may spend; None for none. The one in USD needs prices.
        usd_per_million_in, usd_per_million_out: price of a million prompt and completion tokens.
        retries: tries after a fault (429, 5xx, timeout, lost connection), with growing waits.
        backoff_s: about the first of these waits.
        failures_to_stop: so many captions in a row without an answer, or a first one with none ever, end the run;
            None leaves all of them to the fallback.
        answers: answers asked for at most, for one caption.
        max_statements: statements of one answer.
        temperature, max_tokens: of the answer; part of the cache's key, as the seed is.
        image_tokens: what the model counts for one picture, for estimates and the budget.
        fallback: speaks when the model has nothing usable; None for `RuleRefiner()`.
        seed: of the model's and the waits' draws.

    Raises:
        DataError: an argument out of range, an unknown prompt version, or a cache file that cannot be used.

    Example:
        >>> refiner = LLMRefiner(EndpointBackend("m", "http://127.0.0.1:8000"), "c.sqlite")   # doctest: +SKIP
        >>> refiner.refine("The image shows a long white hall. On the left is a pond.", "satellite")  # doctest: +SKIP
        ['Long white hall next to a pond.']
    """

    name: ClassVar[str] = "llm"

    backend: Backend
    cache_path: str | Path
    _: KW_ONLY
    prompt_version: str = "v1"
    concurrency: int = 8
    requests_per_minute: float | None = None
    budget_tokens: int | None = None
    budget_usd: float | None = None
    usd_per_million_in: float | None = None
    usd_per_million_out: float | None = None
    retries: int = 5
    backoff_s: float = 1.0
    failures_to_stop: int | None = 5
    answers: int = 2
    max_statements: int = 3
    temperature: float = 0.3
    max_tokens: int = 500
    image_tokens: int = 1000
    fallback: Any = None
    seed: int = 0
    _busy: set[CacheKey] = field(default_factory=set, init=False, repr=False)
    _idle: threading.Condition = field(default_factory=threading.Condition, init=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("concurrency", "answers", "max_statements", "max_tokens"):
            if getattr(self, name) < 1:
                raise DataError(f"{name} is {getattr(self, name)}; give 1 or more")
        pace = self.requests_per_minute
        if pace is not None and pace <= 0:
            raise DataError(f"requests_per_minute is {pace}; give a positive number, or None for no limit")
        if self.retries < 0 or self.backoff_s < 0 or self.temperature < 0:
            raise DataError("retries, backoff_s or temperature is negative; give zero or more")
        self.fallback = self.fallback if self.fallback is not None else RuleRefiner()
        self.budget = Budget(self.budget_tokens, self.budget_usd, self.usd_per_million_in, self.usd_per_million_out)
        self._prompts = load_prompts(self.prompt_version, self.max_statements)
        self.cache = AnswerCache(self.cache_path)
        self._caller = Caller(
            self.backend,
            self.budget,
            per_minute=self.requests_per_minute,
            retries=self.retries,
            backoff_s=self.backoff_s,
            failures_to_stop=self.failures_to_stop,
            has_answered=self.cache.mean_tokens(self.backend.name, self.prompt_version) is not None,
            seed=self.seed,
        )

    @property
    def takes_images(self) -> bool:
        """Whether the model looks at the picture beside its caption."""
        return self.backend.takes_images

    @property
    def platforms(self) -> tuple[str, ...]:
        """The platforms that there is a prompt for."""
        return tuple(self._prompts)

    def refine(self, caption: str, platform: str, image: bytes | None = None) -> list[str]:
        """Distinct texts of one raw caption, at least one; the picture is used only by a backend that takes images.

        Raises:
            DataError: an empty caption, a platform not of `schema.PLATFORMS`, or what `refine_batch` raises.
        """
        return self.refine_batch([RefineRequest(caption, platform, image)])[0].texts

    def refine_batch(self, requests: Iterable[RefineRequest]) -> list[Refinement]:
        """Refine many captions at a time: one `Refinement` for each, in their order.

        Raises:
            BudgetError: the cap leaves no room for the next request.
            DataError: an endpoint that refuses (400, 401, 404 ...) or is down, a bad request, a broken cache. All
                that was received stays in the cache: once mended, the same call goes on.
        """
        return list(self.map_ordered(self.refine_request, requests))

    def map_ordered(
        self, function: Callable[[Any], Any], items: Iterable[Any], window: int | None = None
    ) -> Iterator[Any]:
        """Map a function that refines over items, `concurrency` at a time, results in order.

        The items are read by the caller's thread, at most `window` ahead of what was yielded (None for four for each
        thread). The first error of a call is raised in its place. However it ends, nothing is sent afterwards.
        """
        self._caller.restart()
        try:
            yield from self._map(function, items, max(window or 4 * self.concurrency, self.concurrency))
        except BudgetError as error:
            line = f"the budget is used up ({error}); all {len(self.cache)} answers are kept in {self.cache_path}"
            raise BudgetError(f"{line}: give a larger budget and run again to go on") from None

    def _map(self, function: Callable[[Any], Any], items: Iterable[Any], window: int) -> Iterator[Any]:
        """The results in order; calls on their way are waited for at the end, others cancelled."""
        waiting: deque[Future[Any]] = deque()
        with ThreadPoolExecutor(self.concurrency) as pool:
            try:
                for item in items:
                    waiting.append(pool.submit(function, item))
                    if len(waiting) >= window:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                if waiting:
                    self._caller.stop()
                pool.shutdown(cancel_futures=True)

    def refine_request(self, request: RefineRequest) -> Refinement:
        """Refine one caption, from the cache as far as it reaches; may be called from several threads."""
        if request.platform not in PLATFORMS:
            raise DataError(f"unknown platform {request.platform!r}: use one of {', '.join(PLATFORMS)}")
        if not request.caption.strip():
            raise DataError(f"the caption {request.caption!r} is empty; drop it or write one")
        key = self._key(request)
        with self._alone(key):
            return self._refine(request, key)

    def _refine(self, request: RefineRequest, key: CacheKey) -> Refinement:
        """Answers one after another until one is usable."""
        rejections: list[Rejection] = []
        calls = cached = faults = 0
        tokens = Tokens()
        for number in range(self.answers):
            answer = self.cache.get(key, number)
            cached += answer is not None
            if answer is None:
                try:
                    answer, failed = self._ask(request, key, number, rejections)
                except UnreadableImageError as error:
                    rejections.append(Rejection("unreadable_image", "", str(error)))
                    break
                except NoAnswerError as error:
                    faults += self.retries
                    rejections.append(Rejection("no_answer", "", str(error)))
                    break
                calls, faults, tokens = calls + 1, faults + failed, tokens + answer.tokens
            texts, rejected = self._judge(request, key, number, answer)
            rejections += rejected
            if texts:
                retries = faults + number * (calls > 0)
                return Refinement(texts, "llm", tuple(rejections), calls, cached, retries, tokens)
        texts = self.fallback.refine(request.caption, request.platform)
        retries = faults + max(calls - 1, 0)
        return Refinement(texts, "rule_fallback", tuple(rejections), calls, cached, retries, tokens)

    def _ask(
        self, request: RefineRequest, key: CacheKey, number: int, rejections: list[Rejection]
    ) -> tuple[Answer, int]:
        """Ask the backend for an answer and commit it."""
        complaints = tuple(dict.fromkeys(REASONS[rejection.reason] for rejection in rejections))
        prompt = self._prompts[request.platform]
        messages = build_messages(prompt, request.caption, self._image(request), complaints)
        at_most = Tokens(self._prompt_tokens(request), self.max_tokens)
        sampling, keep = self._sampling(number), partial(self.cache.put, key, number)
        answer, failed = self._caller.ask(messages, sampling, at_most, keep)
        kept = self.cache.get(key, number) or answer  # another process may have been first
        return Answer(kept.text, answer.tokens), failed

    def _judge(
        self, request: RefineRequest, key: CacheKey, number: int, answer: Answer
    ) -> tuple[list[str], list[Rejection]]:
        """Validate an answer, and note in the cache what was wrong with it."""
        prompt, is_text_only = self._prompts[request.platform], self._image(request) is None
        question = Question(request.caption, request.platform, prompt, self.max_statements, is_text_only)
        texts, rejected = validate(answer.text, question)
        if rejected:
            self.cache.note(key, number, [asdict(rejection) for rejection in rejected])
        return texts, rejected

    def estimate(self, requests: Iterable[RefineRequest]) -> Estimate:
        """What refining would cost, from the lengths of the texts and of the answers received so far; sends nothing.

        Captions whose cached answers were all rejected cost one more answer, if one is left.
        """
        count = calls = prompt_tokens = 0
        seen = set()
        for request in requests:
            count += 1
            key = self._key(request)
            if key not in seen and self._needs_call(request, key):
                calls += 1
                prompt_tokens += self._prompt_tokens(request)
            seen.add(key)
        mean = self.cache.mean_tokens(self.backend.name, self.prompt_version)
        tokens = Tokens(prompt_tokens, calls * (mean.completion if mean else COMPLETION_TOKENS))
        return Estimate(count, calls, count - calls, tokens.prompt, tokens.completion, self.budget.usd(tokens))

    def _needs_call(self, request: RefineRequest, key: CacheKey) -> bool:
        """Whether the cache alone does not settle a request."""
        for number in range(self.answers):
            answer = self.cache.get(key, number)
            if answer is None or self._judge(request, key, number, answer)[0]:
                return answer is None
        return False

    def _image(self, request: RefineRequest) -> bytes | None:
        return request.image if self.backend.takes_images else None

    def _prompt_tokens(self, request: RefineRequest) -> int:
        """About what the prompt of a request costs."""
        text = estimate_tokens(self._prompts[request.platform] + request.caption)
        return text + (self.image_tokens if self._image(request) is not None else 0)

    def _sampling(self, number: int) -> Sampling:
        return Sampling(self.temperature, self.max_tokens, self.seed + number)

    def _key(self, request: RefineRequest) -> CacheKey:
        """The cache's key of a request: model, prompt version, and a hash of all that shapes the answer."""
        image = self._image(request)
        parts = {
            "caption": request.caption,
            "platform": request.platform,
            "image": hashlib.sha256(image).hexdigest() if image is not None else None,
            "instruction": self._prompts[request.platform],
            "sampling": asdict(self._sampling(0)),
        }
        text = json.dumps(parts, sort_keys=True, ensure_ascii=False)
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        return CacheKey(self.backend.name, self.prompt_version, digest)

    @contextmanager
    def _alone(self, key: CacheKey) -> Iterator[None]:
        """Keep other threads from asking the same meanwhile."""
        with self._idle:
            self._idle.wait_for(lambda: key not in self._busy)
            self._busy.add(key)
        try:
            yield
        finally:
            with self._idle:
                self._busy.discard(key)
                self._idle.notify_all()
