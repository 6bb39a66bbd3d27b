"""Invariant: `pemoe serve` as a process answers on, in flat memory, through floods, slow and broken clients; told to
stop, it finishes what it has begun, refuses the rest, and ends with 0."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from tiny_service import Server, serving, write_index

from pemoe.retrieval.locating import Locator
from pemoe.retrieval.serving.app import build_app
from pemoe.retrieval.serving.limits import Limits
from pemoe.retrieval.serving.server import bind, run_server

QUERY = {"inputs": "red roof seen from drone"}
HEAD = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_index(tmp_path_factory.mktemp("process"))[0]


@pytest.fixture(scope="module")
def server(index: str) -> Iterator[Server]:
    with serving(index, "--max-waiting", "16", "--log-requests") as server:
        yield server


def said_to(server: Server, data: bytes) -> bytes:
    """What a raw connection gets back until it is closed."""
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.settimeout(30)
        connection.sendall(data)
        received = b""
        try:
            while part := connection.recv(65536):
                received += part
        except ConnectionResetError:
            pass
        return received


@pytest.mark.slow
def test_a_thousand_at_once_are_answered_or_told_to_try_again(server: Server) -> None:
    server.ask("POST", "/", QUERY)
    before_mb, health_s = server.rss_mb(), []

    def watch(done: threading.Event) -> None:
        while not done.is_set():
            started_s = time.monotonic()
            assert server.ask("GET", "/health")[0] == 200
            health_s.append(time.monotonic() - started_s)

    done = threading.Event()
    watcher = threading.Thread(target=watch, args=(done,))
    watcher.start()
    for _ in range(2):
        with ThreadPoolExecutor(1000) as clients:
            statuses = Counter(clients.map(lambda _: server.ask("POST", "/", QUERY)[0], range(1000)))
        assert set(statuses) <= {200, 503} and sum(statuses.values()) == 1000 and statuses[200] >= 17
    done.set()
    watcher.join()
    assert server.rss_mb() < before_mb + 150
    assert max(health_s) < 10
    assert server.ask("POST", "/", QUERY)[0] == 200


@pytest.mark.slow
def test_large_bodies_leave_memory_flat(server: Server) -> None:
    text = json.dumps({"inputs": "x" * 10_000_000}).encode()
    long = b'{"inputs": "' + b"x" * 40_000_000

    def send(body: bytes) -> int:
        try:
            return server.ask("POST", "/", body, Content_Type="application/json")[0]
        except ConnectionError:  # who goes on sending what is refused is cut in the end
            return 0

    assert send(text) == 413
    before_mb = server.rss_mb()
    with ThreadPoolExecutor(8) as clients:
        statuses = set(clients.map(send, [text, long] * 16))
    assert statuses <= {0, 413, 503} and 413 in statuses
    assert server.rss_mb() < before_mb + 200
    assert server.ask("POST", "/", QUERY)[0] == 200


@pytest.mark.slow
def test_what_is_no_http_is_refused_in_a_line(server: Server) -> None:
    body = json.dumps(QUERY).encode()
    chunked = HEAD + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    for data in (
        b"GARBAGE\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 40_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX: " + b"a" * 400_000 + b"\r\n\r\n",
        chunked + b"ZZ\r\n",
        HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n{}",
        HEAD + b"Content-Length: -5\r\n\r\n{}",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
    ):
        answer = said_to(server, data)
        assert answer.startswith(b"HTTP/1.1 400") and b'{"error": ' in answer, data[:60]
    whole = chunked + f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n"
    assert said_to(server, whole).startswith(b"HTTP/1.1 200")
    with socket.create_connection(("127.0.0.1", server.port)) as connection:  # gone in the middle of its body
        connection.sendall(HEAD + b"Content-Length: 1000\r\n\r\n{")
    assert server.ask("POST", "/", QUERY)[0] == 200


@pytest.mark.slow
def test_slow_clients_are_let_go(server: Server) -> None:
    """Headers within 10 s, a body within 15 s; meanwhile others are served."""
    connections = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(100)]
    for number, connection in enumerate(connections):
        connection.settimeout(25)
        connection.sendall(HEAD + (b"Content-Length: 99\r\n\r\n{" if number < 10 else b""))
    assert server.ask("POST", "/", QUERY)[0] == 200
    started_s = time.monotonic()
    answers = [first_bytes(connection) for connection in connections]
    assert time.monotonic() - started_s < 20
    assert all(one.startswith(b"HTTP/1.1 408") for one in answers[:10])
    assert set(answers[10:]) == {b""}
    assert server.ask("POST", "/", QUERY)[0] == 200


@pytest.mark.slow
def test_an_answer_that_nobody_takes_is_not_kept(index: str) -> None:
    app, bound = build_app(Locator.open(index), Limits(send_s=1)), bind("127.0.0.1", 0)
    app.state.service.work = lambda *_: (1, b" " * 20_000_000)
    taken_bytes = []

    def ask() -> None:
        with socket.create_connection(bound.getsockname()) as connection:
            connection.sendall(HEAD + b"Content-Length: 2\r\n\r\n{}")
            time.sleep(6)
            with suppress(ConnectionError):
                while part := connection.recv(65536):
                    taken_bytes.append(len(part))
        os.kill(os.getpid(), signal.SIGTERM)

    run_server(app, bound, on_ready=threading.Thread(target=ask).start)
    assert 0 < sum(taken_bytes) < 20_000_000


def first_bytes(connection: socket.socket) -> bytes:
    with connection:
        try:
            return connection.recv(1000)
        except ConnectionResetError:
            return b""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_stop_it_finishes_what_it_has_and_ends_well(index: str, number: signal.Signals) -> None:
    with serving(index, "--log-requests", PEMOE_TOKEN="secret-word") as server:
        bearer = {"Authorization": "Bearer secret-word"}
        assert server.ask("POST", "/", QUERY)[0] == 401
        batch = {"inputs": ["red roof seen from drone"] * 32}
        with ThreadPoolExecutor(20) as clients:
            asked = [clients.submit(server.ask, "POST", "/", batch, **bearer) for _ in range(8)]
            while not re.search(r"requests_in_flight [5-9]", server.ask("GET", "/metrics", **bearer)[1]):
                time.sleep(0.01)
            server.process.send_signal(number)
            late = []
            while not all(one.done() for one in asked):
                try:
                    late.append(server.ask("GET", "/health")[0])
                except (ConnectionError, OSError):
                    break
            answers = [one.result() for one in asked]
        assert [status for status, _ in answers] == [200] * 8
        assert set(late) <= {200, 503} and 503 in late and late == sorted(late)
        assert server.process.wait(20) == 0
        log = server.log.read_text()
    assert "Traceback" not in log and "roof" not in log and "secret-word" not in log
    assert log.count("POST / 200") == 8


@pytest.mark.slow
def test_a_second_signal_ends_it_at_once(index: str) -> None:
    with serving(index, "--stop-s", "600") as server:
        stuck = socket.create_connection(("127.0.0.1", server.port))
        stuck.sendall(HEAD + b"Content-Length: 1000\r\n\r\n{")
        time.sleep(0.5)
        server.process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        assert server.process.poll() is None
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(5) == 130
        stuck.close()


@pytest.mark.slow
def test_what_lasts_longer_than_the_stop_is_cut(index: str) -> None:
    with serving(index, "--stop-s", "1") as server:
        stuck = socket.create_connection(("127.0.0.1", server.port))
        stuck.sendall(HEAD + b"Content-Length: 1000\r\n\r\n{")
        time.sleep(0.5)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(8) == 0
        stuck.close()


@pytest.mark.slow
def test_a_start_that_cannot_be_is_refused_in_a_line(index: str, tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "fastapi.py").write_text("raise ModuleNotFoundError(name='fastapi')")
    taken = socket.create_server(("127.0.0.1", 0))
    port = str(taken.getsockname()[1])
    cases = (
        (("--port", port), {}, f"127.0.0.1:{port}"),
        (("--host", "0.0.0.0"), {}, "--no-token"),
        (("--host", "no.such.name.invalid", "--no-token"), {}, "no.such.name.invalid"),
        (("--token-file", str(tmp_path / "empty")), {}, "empty"),
        (("--token-file", str(tmp_path / "none")), {}, "cannot be read"),
        (("--no-token",), {"PEMOE_TOKEN": "a"}, "--no-token"),
        ((), {"PYTHONPATH": str(tmp_path)}, "pemoe[serve]"),
    )
    for options, env, said in cases:
        command = [sys.executable, "-m", "pemoe", "serve", "--index", index, "--port", "0", *options]
        done = subprocess.run(
            command, env={**os.environ, **env}, capture_output=True, text=True, timeout=60, check=False
        )
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
        assert said in done.stderr and done.stderr.startswith("pemoe: ")
    taken.close()
