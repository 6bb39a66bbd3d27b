"""Clients of the service for `locate.py`: what a request takes under 8 of them, beside an application that gives back
what it gets, in turns.
"""

from __future__ import annotations

import http.client
import json
import re
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from pemoe.common.errors import InputError

CLIENTS = 8
SENTENCES = (
    "A round white arena beside a car park",
    "A red roof. Two trees stand in front of the door",
    "A long grey building by a pond, not the one with the fountain",
    "Tall brick hall with a courtyard",
)
ECHO = """
import socket, uvicorn
from fastapi import FastAPI, Request
app = FastAPI()
@app.post("/")
async def echo(request: Request):
    return await request.json()
bound = socket.create_server(("127.0.0.1", 0))
print(f"http://127.0.0.1:{bound.getsockname()[1]}", flush=True)
uvicorn.Server(uvicorn.Config(app, log_level="critical")).run(sockets=[bound])
"""


@contextmanager
def clocked(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Add what the block takes to an entry."""
    started_s = time.perf_counter()
    yield
    seconds[name] += time.perf_counter() - started_s


def measure_service(index: Path, checkpoint: str, rounds: int) -> dict[str, Any]:
    """Latency of `pemoe serve` under 8 clients, and of an echo beside it, in turns."""
    served = [sys.executable, "-m", "pemoe", "serve", "--index", str(index), "--model", checkpoint, "--port", "0"]
    programs = {"pemoe": served, "echo": [sys.executable, "-c", ECHO]}
    latencies: dict[str, list[float]] = {name: [] for name in programs}
    walls: dict[str, float] = defaultdict(float)
    with started(programs) as addresses:
        for number in range(rounds + 1):
            for name, (host, port) in addresses.items():
                measured: list[float] = []
                with clocked(walls if number else defaultdict(float), name):
                    ask_together(host, port, measured)
                if number:
                    latencies[name] += measured
    return {
        name: {
            "requests": len(measured),
            "p50_ms": 1000 * float(np.percentile(measured, 50)),
            "p99_ms": 1000 * float(np.percentile(measured, 99)),
            "requests_per_s": len(measured) / walls[name],
        }
        for name, measured in latencies.items()
    } | {"clients": CLIENTS}


@contextmanager
def started(programs: dict[str, list[str]]) -> Iterator[dict[str, tuple[str, int]]]:
    """Processes that say `http://host:port`, and their addresses."""
    processes = []
    try:
        for command in programs.values():
            pipe = subprocess.PIPE
            processes.append(subprocess.Popen(command, stdout=pipe, stderr=subprocess.STDOUT, text=True))
        yield {name: address_of(process) for name, process in zip(programs, processes, strict=True)}
    finally:
        for process in processes:
            process.terminate()
            process.wait(30)


def address_of(process: subprocess.Popen) -> tuple[str, int]:
    """The address that a process says, its later lines read and dropped; InputError where it ends before."""
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if match := re.search(r"http://([\d.]+):(\d+)", line):
            threading.Thread(target=process.stdout.read, daemon=True).start()
            return match[1], int(match[2])
    raise InputError(f"{' '.join(process.args)}: ended: {''.join(said)[-300:]}")


def ask_together(host: str, port: int, latencies: list[float], requests: int = 4) -> None:
    """Eight clients that send one request after another; what each took."""
    faults: list[str] = []

    def client(number: int) -> None:
        connection = http.client.HTTPConnection(host, port, timeout=120)
        for turn in range(requests):
            body = json.dumps({"inputs": SENTENCES[(number + turn) % len(SENTENCES)], "parameters": {"top_k": 5}})
            started_s = time.perf_counter()
            connection.request("POST", "/", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            content = answer.read()
            latencies.append(time.perf_counter() - started_s)
            if answer.status != 200:
                faults.append(f"{answer.status} {content[:200]!r}")
        connection.close()

    threads = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if faults:
        raise InputError(f"http://{host}:{port}: {faults[0]}")
