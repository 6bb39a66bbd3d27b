"""Sending requests: at the allowed pace, within the budget, again after a fault, not at all once it is hopeless."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pemoe.datasets_scripts.refine.llm.budget import Budget
from pemoe.datasets_scripts.refine.llm.cache import Answer
from pemoe.datasets_scripts.refine.outcome import Tokens
from pemoe.datasets_scripts.schema import DataError

FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 1.0, 60.0
LONG_WAIT_S = 60.0  # a wait the server asks for that is worth a warning

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sampling:
    """How a model draws its answer; part of the cache's key.

    Args:
        temperature: 0 for the likeliest words.
        max_tokens: longest answer.
        seed: for servers that take one.
    """

    temperature: float
    max_tokens: int
    seed: int


class FaultError(Exception):
    """A call that failed in a way that may pass: told by `args[0]`; `retry_after_s` where the server named a time."""

    def __init__(self, told: str, retry_after_s: float | None = None) -> None:
        super().__init__(told)
        self.retry_after_s = retry_after_s


class UnreachableError(FaultError):
    """A connection that nobody takes: may pass while a server restarts; `args[0]` says where, why and what to do."""


class NoAnswerError(Exception):
    """Every try for one caption failed; told by `args[0]`."""


class Backend(Protocol):
    """What can be asked: `name` is the model's, for the cache; `takes_images` says whether it sees pictures.

    `ask` returns the answer, and raises `FaultError` for what may pass (`UnreachableError` where nobody listens) and
    `DataError` for what will not.
    """

    name: str
    takes_images: bool

    def ask(self, messages: Sequence[dict], sampling: Sampling) -> Answer:
        """Put one question."""


class Pacer:
    """Spaces the starts of requests evenly, and holds all of them back when the server asks for a pause.

    Args:
        per_minute: requests a minute at most; None for no limit.
        stopped: waiting ends early once it is set.

    Raises:
        DataError: the limit is not positive.
    """

    def __init__(self, per_minute: float | None, stopped: threading.Event) -> None:
        if per_minute is not None and per_minute <= 0:
            raise DataError(f"requests_per_minute is {per_minute}; give a positive number, or None for no limit")
        self._spacing_s = 60.0 / per_minute if per_minute else 0.0
        self._stopped = stopped
        self._lock = threading.Lock()
        self._next_s = 0.0
        self._paused_until_s = 0.0

    def wait(self) -> None:
        """Return when the next request may start."""
        while not self._stopped.is_set():
            with self._lock:
                now_s = time.monotonic()
                start_s = max(now_s, self._next_s, self._paused_until_s)
                self._next_s = start_s + self._spacing_s
            if start_s > now_s:
                self._stopped.wait(start_s - now_s)
            if self._paused_until_s <= start_s:
                return

    def pause(self, seconds: float) -> None:
        """Start nothing for so long."""
        with self._lock:
            self._paused_until_s = max(self._paused_until_s, time.monotonic() + seconds)


class Caller:
    """Asks a backend until it answers, for several threads at a time.

    Faults are retried after `backoff_s * 2^n`, times a factor drawn from [0.5, 1.5), at most a minute, or after what
    the server asked for. It stops for good, and every thread with it, on an error that another try cannot mend, when
    the budget is used up, and when the endpoint is down: nobody takes the first connection, nothing ever came, or
    several captions in a row failed.

    Args:
        backend: what to ask.
        budget: what it may cost.
        per_minute: requests a minute at most; None for no limit.
        retries: tries after the first one.
        backoff_s: about the wait before the first of them.
        seed: of the draws.

    Raises:
        DataError: the limit is not positive.
    """

    def __init__(
        self, backend: Backend, budget: Budget, per_minute: float | None, retries: int, backoff_s: float, seed: int
    ) -> None:
        self.budget = budget
        self._backend = backend
        self._stopped = threading.Event()
        self._pacer = Pacer(per_minute, self._stopped)
        self._retries = retries
        self._backoff_s = backoff_s
        self._generator = np.random.default_rng(seed)
        self._lock = threading.Lock()
        self._error: DataError | None = None
        self._has_answered = False  # in this run or an earlier one
        self._was_reached = False  # in this run
        self._failures = 0
        self._failures_to_stop: int | None = None

    def expect(self, has_answered: bool, failures_to_stop: int | None) -> None:
        """Say when captions without an answer mean that the endpoint is down.

        Args:
            has_answered: it answered in an earlier run; else the first caption without an answer stops this one.
            failures_to_stop: captions in a row without an answer that stop it; None never stops.
        """
        self._has_answered, self._failures_to_stop = has_answered, failures_to_stop

    def restart(self) -> None:
        """Allow calls again after a stop."""
        self._error = None
        self._failures = 0
        self._stopped.clear()

    def stop(self, error: DataError | None = None) -> None:
        """Send nothing any more; what is on its way is still received."""
        with self._lock:
            self._error = self._error or error
        self._stopped.set()

    def ask(
        self, messages: Sequence[dict], sampling: Sampling, at_most: Tokens, keep: Callable[[Answer], None]
    ) -> tuple[Answer, int]:
        """Ask until there is an answer, and hand it to `keep` before anything else happens.

        Args:
            messages, sampling: what to ask, and how.
            at_most: what the call may cost, to be reserved.
            keep: commits the answer.

        Returns:
            The answer, and how many requests before it failed.

        Raises:
            NoAnswerError: all tries failed.
            DataError: an error that stays, a used-up budget (`BudgetError`), an endpoint that is down, or a stop.
        """
        try:
            self.budget.reserve(at_most)
        except DataError as error:
            self.stop(error)
            raise
        spent = Tokens()
        try:
            answer, faults = self._try(messages, sampling, keep)
            spent = answer.tokens
        finally:
            self.budget.settle(at_most, spent)
        return answer, faults

    def _try(self, messages: Sequence[dict], sampling: Sampling, keep: Callable[[Answer], None]) -> tuple[Answer, int]:
        """The tries for one question."""
        told = ""
        for number in range(self._retries + 1):
            self._pacer.wait()
            self._check()
            try:
                answer = self._backend.ask(messages, sampling)
                keep(answer)
            except FaultError as fault:
                told = str(fault)
                self._check_reached(fault)
                if number < self._retries:
                    self._back_off(number, fault.retry_after_s)
            except DataError as error:
                self.stop(error)
                raise
            else:
                self._count_answer()
                return answer, number
        self._count_failure(told)
        raise NoAnswerError(f"{self._tries} failed, the last one with: {told}")

    @property
    def _tries(self) -> str:
        """How often one question is put."""
        return f"{self._retries + 1} {'tries' if self._retries else 'try'}"

    def _check_reached(self, fault: FaultError) -> None:
        """Raise, for good, where nobody has taken a connection yet: waiting would not help."""
        with self._lock:
            self._was_reached = self._was_reached or not isinstance(fault, UnreachableError)
            is_lost = not self._was_reached and self._failures_to_stop is not None
        if is_lost:
            error = DataError(str(fault))
            self.stop(error)
            raise error

    def _check(self) -> None:
        """Raise what stopped the run."""
        if self._stopped.is_set():
            error = self._error or DataError("the run was stopped")
            raise type(error)(*error.args)

    def _back_off(self, number: int, retry_after_s: float | None) -> None:
        """Wait before the next try; a time named by the server holds for everybody."""
        with self._lock:
            factor = 0.5 + self._generator.random()
        wait_s = min(self._backoff_s * 2**number, LONGEST_BACKOFF_S) * factor
        if retry_after_s is not None:
            if retry_after_s > LONG_WAIT_S:
                _LOGGER.warning("%s asks to wait %.0f s", self._backend.name, retry_after_s)
            self._pacer.pause(retry_after_s)
            wait_s = retry_after_s
        self._stopped.wait(wait_s)

    def _count_answer(self) -> None:
        with self._lock:
            self._has_answered = self._was_reached = True
            self._failures = 0

    def _count_failure(self, told: str) -> None:
        """One caption without an answer; stops the run when that is no accident."""
        with self._lock:
            self._failures += 1
            is_down = not self._has_answered or self._failures >= (self._failures_to_stop or 0)
        if is_down and self._failures_to_stop is not None:
            error = DataError(f"{self._backend.name}: no answer after {self._tries}, the last one: {told}")
            self.stop(error)
            raise error
