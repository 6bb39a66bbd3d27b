"""Mapping over an endless input with several threads, in order and in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_ordered(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    threads: int,
    window: int,
    on_stop: Callable[[], None] = lambda: None,
) -> Iterator[Result]:
    """Map items to results in their order, some at a time.

    Args:
        function: called from several threads.
        items: read by the caller's thread, at most `window` ahead of what was yielded.
        threads: calls at a time.
        window: items held at a time; at least `threads` are.
        on_stop: called once no result is wanted any more, before the calls on their way are waited for: after an
            error, or when the caller stops iterating.

    Yields:
        `function(item)`; the first error of a call is raised in its place, and nothing is started after it.

    Example:
        >>> list(map_ordered(lambda number: number * number, range(5), threads=2, window=4))
        [0, 1, 4, 9, 16]
    """
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) >= max(window, threads):
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            if waiting:
                on_stop()
            pool.shutdown(wait=True, cancel_futures=True)
