"""Invariant: never more work at a time than workers, never more requests than places, no work for a client that has
gone, and every place and every byte is given back."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable

import pytest

from pemoe.retrieval.serving.limits import Limits, RequestError, TokenBuckets
from pemoe.retrieval.serving.work import ClientGoneError, WorkQueue


async def never() -> None:
    await asyncio.Event().wait()


async def soon() -> None:
    await asyncio.sleep(0.05)


def test_no_more_work_than_workers_and_no_more_requests_than_places() -> None:
    together, most, lock = 0, 0, threading.Lock()

    def work(_: threading.Event) -> int:
        nonlocal together, most
        with lock:
            together, most = together + 1, max(most, together + 1)
        time.sleep(0.01)
        with lock:
            together -= 1
        return 1

    async def ask(queue: WorkQueue) -> int:
        try:
            with queue.place():
                return await queue.run(work, never())
        except RequestError as error:
            return error.status

    async def many() -> list[int]:
        queue = WorkQueue(Limits(workers=2, waiting=5))
        answers = await asyncio.gather(*(ask(queue) for _ in range(50)))
        assert (queue.admitted, queue.running, queue.waiting) == (0, 0, 0)
        queue.close()
        return answers

    answers = asyncio.run(many())
    assert sorted(answers) == [1] * 7 + [503] * 43
    assert most == 2


def test_work_of_a_client_that_has_gone_is_never_begun() -> None:
    begun, may_end = [], threading.Event()

    async def hang_up() -> None:
        queue = WorkQueue(Limits())
        first = asyncio.ensure_future(queue.run(lambda _: may_end.wait(5), never()))
        await asyncio.sleep(0)
        with pytest.raises(ClientGoneError):
            await queue.run(begun.append, soon())
        may_end.set()
        assert await first
        assert await queue.run(lambda _: "next", never()) == "next"
        queue.close()

    asyncio.run(hang_up())
    assert begun == []


def test_running_work_is_told_that_nobody_waits_and_keeps_its_place_until_it_ends() -> None:
    told = threading.Event()

    def work(nobody_waits: threading.Event) -> None:
        assert nobody_waits.wait(5)
        time.sleep(0.05)
        told.set()

    async def hang_up() -> None:
        queue = WorkQueue(Limits())
        with pytest.raises(ClientGoneError):
            await queue.run(work, soon())
        assert queue.running == 1 and not told.is_set()
        assert await queue.run(lambda _: told.is_set(), never())
        queue.close()

    asyncio.run(hang_up())


def test_a_queue_that_does_not_move_lets_go() -> None:
    may_end = threading.Event()

    async def wait() -> None:
        queue = WorkQueue(Limits(queue_s=0.05))
        first = asyncio.ensure_future(queue.run(lambda _: may_end.wait(5), never()))
        await asyncio.sleep(0)
        with pytest.raises(RequestError, match="did not move"):
            await queue.run(lambda _: None, never())
        may_end.set()
        await first
        queue.close()

    asyncio.run(wait())


def test_bytes_are_counted_over_all_requests_and_given_back() -> None:
    async def count() -> None:
        queue = WorkQueue(Limits(held_mb=1))
        with queue.holding() as hold:
            hold(900_000)
            with pytest.raises(RequestError, match="large requests"), queue.holding() as other:
                other(90_000)
                other(90_000)
        with queue.holding() as hold:
            hold(1_000_000)

    asyncio.run(count())


def test_errors_of_the_work_come_out() -> None:
    def work(_: threading.Event) -> None:
        raise KeyError("a")

    async def fail(gone: Awaitable[None]) -> None:
        queue = WorkQueue(Limits())
        with pytest.raises(KeyError):
            await queue.run(work, gone)
        assert await queue.run(lambda _: 1, never()) == 1

    asyncio.run(fail(never()))


def test_buckets_fill_at_their_rate_and_their_table_is_bounded() -> None:
    now = 0.0
    buckets = TokenBuckets(per_minute=60, clients=100, now_s=lambda: now)
    assert [buckets.wait_s("anna") for _ in range(61)] == [0] * 60 + [1]
    now = 1.0
    assert [buckets.wait_s("anna") for _ in range(2)] == [0, 1]
    buckets.charge("anna", 1000)
    assert buckets.wait_s("anna") == 61
    for client in range(1000):
        buckets.wait_s(str(client))
    assert len(buckets) == 100
    now = 1e6
    assert [buckets.wait_s("999") for _ in range(61)] == [0] * 60 + [1]
