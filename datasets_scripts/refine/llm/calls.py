"""Sending requests: at the allowed pace, within the budget, again after a fault, not at all once it is hopeless."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import NoReturn, Protocol

from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from pemoe.datasets_scripts.refine.llm.budget import Budget
from pemoe.datasets_scripts.refine.llm.cache import Answer
from pemoe.datasets_scripts.refine.outcome import Tokens
from pemoe.datasets_scripts.schema import DataError

LONGEST_BACKOFF_S = 60.0
LONG_WAIT_S = 60.0  # a wait the server asks for that is worth a warning

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sampling:
    """How a model draws its answer, part of the cache's key: temperature 0 takes the likeliest words."""

    temperature: float
    max_tokens: int
    seed: int


class FaultError(Exception):
    """A call that failed in a way that may pass; `retry_after_s` where the server named a time."""

    def __init__(self, line: str, retry_after_s: float | None = None) -> None:
        super().__init__(line)
        self.retry_after_s = retry_after_s


class UnreachableError(FaultError):
    """A connection that nobody takes: may pass while a server restarts; says where, why and what to do."""


class NoAnswerError(Exception):
    """Every try for one caption failed."""


class Backend(Protocol):
    """What can be asked: `name` is the model's, for the cache; `takes_images` says whether it sees pictures."""

    name: str
    takes_images: bool

    def ask(self, messages: Sequence[dict], sampling: Sampling) -> Answer:
        """Put one question; raises `FaultError` for what may pass and `DataError` for what will not."""


class Pacer:
    """Spaces the starts of requests evenly, and holds all of them back when the server asks for a pause.

    `per_minute` is the number of requests at most, None for no limit; waiting ends early once `stopped` is set.
    """

    def __init__(self, per_minute: float | None, stopped: threading.Event) -> None:
        self._spacing_s = 60.0 / per_minute if per_minute else 0.0
        self._stopped = stopped
        self._lock = threading.Lock()
        self._next_s = 0.0

    def wait(self) -> None:
        """Return when the next request may start."""
        while True:
            with self._lock:
                wait_s = self._next_s - time.monotonic()
                if wait_s <= 0:
                    self._next_s = time.monotonic() + self._spacing_s
                    return
            if self._stopped.wait(wait_s):
                return

    def pause(self, seconds: float) -> None:
        """Start nothing for so long."""
        with self._lock:
            self._next_s = max(self._next_s, time.monotonic() + seconds)


@dataclass(eq=False)
class Caller:
    """Asks a backend until it answers, for several threads at a time.

    Faults are retried after `backoff_s * 2^n`, at most a minute, times a factor drawn from [0.5, 1.5), or after what
    the server asked for. It stops for good, and every thread with it, on an error that another try cannot mend, when
    the budget is used up, and when the endpoint is down: nobody takes the first connection, nothing ever came, or
    several captions in a row failed.

    Args:
        backend, budget, retries, backoff_s, seed: see `LLMRefiner`.
        per_minute: requests a minute at most; None for no limit.
        failures_to_stop: captions in a row without an answer that stop it; None never stops.
        has_answered: it answered in an earlier run; else the first caption without an answer stops this one.
    """

    backend: Backend
    budget: Budget
    _: KW_ONLY
    per_minute: float | None
    retries: int
    backoff_s: float
    failures_to_stop: int | None
    has_answered: bool
    seed: int

    def __post_init__(self) -> None:
        self._growing_s = wait_exponential(self.backoff_s, LONGEST_BACKOFF_S)
        self._jitter = random.Random(self.seed).uniform
        self._was_reached = False  # in this run
        self._failures = 0  # captions in a row
        self._error: DataError | None = None
        self._stopped, self._lock = threading.Event(), threading.Lock()
        self._pacer = Pacer(self.per_minute, self._stopped)

    def restart(self) -> None:
        """Allow calls again after a stop."""
        self._error, self._failures = None, 0
        self._stopped.clear()

    def stop(self, error: DataError | None = None) -> None:
        """Send nothing any more; what is on its way is still received."""
        with self._lock:
            self._error = self._error or error or DataError("the run was stopped")
        self._stopped.set()

    def ask(
        self, messages: Sequence[dict], sampling: Sampling, at_most: Tokens, keep: Callable[[Answer], None]
    ) -> tuple[Answer, int]:
        """Ask until there is an answer, and hand it to `keep`, which commits it, before anything else happens.

        `at_most` is what the call may cost, to be reserved.

        Returns:
            The answer, and how many requests before it failed.

        Raises:
            NoAnswerError: all tries failed.
            DataError: an error that stays, a used-up budget (`BudgetError`), an endpoint that is down, or a stop.
        """
        tries = Retrying(
            retry=retry_if_exception_type(FaultError),
            stop=stop_after_attempt(self.retries + 1),
            wait=self._wait_s,
            sleep=self._stopped.wait,
            retry_error_callback=self._give_up,
        )
        spent = Tokens()
        try:
            self.budget.reserve(at_most)
            try:
                answer = tries(self._ask_once, messages, sampling, keep)
                spent = answer.tokens
            finally:
                self.budget.settle(at_most, spent)
        except DataError as error:
            self.stop(error)
            raise
        return answer, tries.statistics["attempt_number"] - 1

    def _ask_once(self, messages: Sequence[dict], sampling: Sampling, keep: Callable[[Answer], None]) -> Answer:
        """One request, unless the run was stopped; without a server to wait for, its fault is an error that stays."""
        self._pacer.wait()
        if self._error is not None:
            raise self._error
        try:
            answer = self.backend.ask(messages, sampling)
            keep(answer)
        except UnreachableError as fault:
            if self._was_reached or self.failures_to_stop is None:
                raise
            raise DataError(str(fault)) from None
        except FaultError:
            self._was_reached = True
            raise
        with self._lock:
            self.has_answered = self._was_reached = True
            self._failures = 0
        return answer

    def _wait_s(self, state: RetryCallState) -> float:
        """Seconds before the next try; a time named by the server holds for everybody."""
        asked_s = state.outcome.exception().retry_after_s
        if asked_s is None:
            return self._growing_s(state) * self._jitter(0.5, 1.5)
        if asked_s > LONG_WAIT_S:
            _LOGGER.warning("%s asks to wait %.0f s", self.backend.name, asked_s)
        self._pacer.pause(asked_s)
        return asked_s

    def _give_up(self, state: RetryCallState) -> NoReturn:
        """One caption without an answer; stops the run when that is no accident."""
        tries, fault = f"{self.retries + 1} {'tries' if self.retries else 'try'}", state.outcome.exception()
        with self._lock:
            self._failures += 1
            is_down = not self.has_answered or self._failures >= (self.failures_to_stop or 0)
        if is_down and self.failures_to_stop is not None:
            raise DataError(f"{self.backend.name}: no answer after {tries}, the last one: {fault}")
        raise NoAnswerError(f"{tries} failed, the last one with: {fault}")
