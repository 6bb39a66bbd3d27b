"""`pemoe train` on two processes, forked from one that has imported everything: a start costs seconds, not ten.

Reads one job a line on stdin, `{"recipe": path, "output": path, "log": path, "resume": bool, "kill": moment}`, and
answers with one line, `{"codes": [...], "events": n}`. An event is the first process opening for writing, renaming,
making or removing something below the run's directory; a moment is None (let it run) or `{"event": n, "after_s": s}`,
so long after the n-th event, or exactly at it where s is 0.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import sys
import time
from contextlib import suppress

import datasets  # noqa: F401 -- this and the next: imported once, before the forks
import peft  # noqa: F401
import timm  # noqa: F401
import torch

import pemoe.trainers.train  # noqa: F401
from pemoe.cli import main

PROCESSES = 2
EVENTS = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def watch_files(output: str, last: int | None, told: int) -> None:
    """Write a byte for each event to `told`; stop at event `last`, and wait there for the end."""
    seen = 0

    def hook(event: str, arguments: tuple) -> None:
        nonlocal seen
        if event not in EVENTS or os.getpid() != owner:
            return
        path = str(arguments[1] if event == "os.rename" else arguments[0])
        if event == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return
        if path.startswith(output):
            seen += 1
            os.write(told, b".")
            if seen == last:
                os.kill(owner, signal.SIGSTOP)  # here and now; the parent ends it

    owner = os.getpid()
    sys.addaudithook(hook)


def run_rank(rank: int, port: int, job: dict, told: int) -> None:
    os.setsid()  # one signal ends it and its workers
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(PROCESSES), LOCAL_WORLD_SIZE=str(PROCESSES))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    torch.manual_seed(random.SystemRandom().getrandbits(32))  # a run must not depend on it
    if rank == 0:
        moment = job["kill"] or {"after_s": 1}
        watch_files(job["output"], None if moment["after_s"] else moment["event"], told)
    words = ["train", "--config", job["recipe"], "--output", job["output"], *(["--resume"] if job["resume"] else [])]
    sys.argv = ["pemoe", *words]
    main()


def start(rank: int, port: int, job: dict, told: int) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        run_rank(rank, port, job, told)
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def end(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:  # forked, but not yet at the head of its group
        os.kill(pid, signal.SIGKILL)


def run_job(job: dict) -> dict:
    port, (heard, told) = free_port(), os.pipe()
    os.set_blocking(heard, False)
    running = [start(rank, port, job, told) for rank in range(PROCESSES)]
    codes, events, last_s = {}, 0, float("inf")
    while len(codes) < PROCESSES:
        with suppress(BlockingIOError):
            events += len(os.read(heard, 65536))
        if job["kill"] and last_s == float("inf") and events >= job["kill"]["event"]:
            last_s = time.monotonic() + job["kill"]["after_s"]
        if time.monotonic() > last_s or any(codes.values()):  # where one failed the other would wait for it
            for pid in set(running) - set(codes):
                end(pid)
        for pid in set(running) - set(codes):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                codes[pid] = os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.close(heard)
    os.close(told)
    return {"codes": [codes[pid] for pid in running], "events": events}


if __name__ == "__main__":
    torch.set_num_threads(1)
    for line in sys.stdin:
        print(json.dumps(run_job(json.loads(line))), flush=True)
