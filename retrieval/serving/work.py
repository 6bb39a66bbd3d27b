"""The queue: few queries at work, a bounded number waiting, none for a client that has gone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from threading import Event
from typing import TypeVar

from pemoe.retrieval.serving.limits import MB, Limits, RequestError

Answer = TypeVar("Answer")
BUSY_S = 1  # after which a client that found the queue full should try again


class ClientGoneError(Exception):
    """The client hung up before it was answered."""


class WorkQueue:
    """Threads for the model, so that the event loop stays free, and places before them.

    Args:
        limits: workers, waiting, held_mb, queue_s.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._pool = ThreadPoolExecutor(limits.workers, thread_name_prefix="locate")
        self._free = asyncio.Semaphore(limits.workers)
        self.admitted = 0  # requests being read, waiting or at work
        self.running = 0
        self._held_bytes = 0

    @property
    def waiting(self) -> int:
        """Requests being read or in the queue."""
        return max(0, self.admitted - self.running)

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place for one request, from before its body is read; RequestError 503 where all are taken."""
        if self.admitted >= self._limits.workers + self._limits.waiting:
            raise RequestError(503, "busy; try again", BUSY_S)
        self.admitted += 1
        try:
            yield
        finally:
            self.admitted -= 1

    @contextmanager
    def holding(self) -> Iterator[Callable[[int], None]]:
        """A function that counts bytes kept until the end of a request; RequestError 503 beyond `held_mb`."""
        held = 0

        def hold(count: int) -> None:
            nonlocal held
            if self._held_bytes + count > self._limits.held_mb * MB:
                raise RequestError(503, "busy with large requests; try again", BUSY_S)
            self._held_bytes, held = self._held_bytes + count, held + count

        try:
            yield hold
        finally:
            self._held_bytes -= held

    async def run(self, work: Callable[[Event], Answer], gone: Awaitable[None]) -> Answer:
        """What `work` returns in a thread.

        Args:
            work: takes an event that is set when nobody waits for the answer any more.
            gone: done when the client has hung up.

        Raises:
            ClientGoneError: it hung up; RequestError: 503 after `queue_s` in the queue; whatever `work` raises.
        """
        left = asyncio.ensure_future(gone)
        try:
            await self._wait_turn(left)
            return await self._work(work, left)
        finally:
            left.cancel()

    def close(self) -> None:
        """Take no more work."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _wait_turn(self, left: asyncio.Future) -> None:
        turn = asyncio.ensure_future(self._free.acquire())
        try:
            await asyncio.wait({turn, left}, timeout=self._limits.queue_s, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            await self._give_up(turn)
            raise
        if left.done() or not turn.done():
            await self._give_up(turn)
            raise ClientGoneError if left.done() else RequestError(503, "busy; the queue did not move in time", BUSY_S)

    async def _give_up(self, turn: asyncio.Future) -> None:
        if turn.done():
            self._free.release()
            return
        turn.cancel()
        with suppress(asyncio.CancelledError):
            await turn

    async def _work(self, work: Callable[[Event], Answer], left: asyncio.Future) -> Answer:
        nobody_waits = Event()
        running = asyncio.get_running_loop().run_in_executor(self._pool, work, nobody_waits)
        self.running += 1
        running.add_done_callback(self._finish)  # the thread's place is free when it is done, whoever still waits
        try:
            await asyncio.wait({running, left}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            nobody_waits.set()
        if not running.done():
            raise ClientGoneError
        return running.result()

    def _finish(self, running: asyncio.Future) -> None:
        self.running -= 1
        self._free.release()
        if not running.cancelled():
            running.exception()  # seen, also where nobody waits for it
