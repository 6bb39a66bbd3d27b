"""A model's work in several processes, each with the model; where the process that asked ends, they end."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.sharedctypes import Synchronized
from typing import Any, TypeVar

import torch
from transformers.utils import logging

from pemoe.common.errors import InputError
from pemoe.modeling_pemoe import PeMoEModel, PeMoEProcessor
from pemoe.retrieval.checkpoints import load_checkpoint

Item, Result = TypeVar("Item"), TypeVar("Result")
_HELD: dict[str, Any] = {}  # of a worker: its model and processor


def map_with_model(
    function: Callable[[Item, PeMoEModel, PeMoEProcessor], Result],
    items: Iterable[Item],
    checkpoint: str,
    workers: int,
) -> Iterator[Result]:
    """`function(item, model, processor)` for every item, in their order; `workers` + 1 items wait in memory.

    Args:
        function: what pickle finds by its name.
        items: read as they are needed.
        checkpoint: directory or Hub id that every process loads.
        workers: processes. They share the threads of this one; on several GPUs they take turns.

    Raises:
        InputError: a process was killed; and what `function` raises.
    """
    spawn = multiprocessing.get_context("spawn")  # CUDA and LanceDB do not outlive a fork
    threads = max(1, torch.get_num_threads() // workers)
    pool = ProcessPoolExecutor(workers, spawn, _load, (checkpoint, threads, spawn.Value("i", 0)))
    waiting: deque = deque()
    try:
        for item in items:
            waiting.append(pool.submit(_call, function, item))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        what = f"one of {workers} processes has ended, perhaps for want of memory"
        raise InputError(f"{what}; use fewer --workers; what was written stays, run again with --resume") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _load(checkpoint: str, threads: int, started: Synchronized) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it, and ends this one
    threading.Thread(target=_end_with_parent, daemon=True).start()
    logging.disable_progress_bar()
    torch.set_num_threads(threads)
    with started.get_lock():
        number = started.value
        started.value += 1
    is_on_gpu = torch.cuda.is_available()
    device = torch.device("cuda", number % torch.cuda.device_count()) if is_on_gpu else torch.device("cpu")
    _HELD["model"], _HELD["processor"] = load_checkpoint(checkpoint, device)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _call(function: Callable, item: Any) -> Any:
    return function(item, _HELD["model"], _HELD["processor"])
