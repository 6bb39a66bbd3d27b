"""A chat endpoint that says what a script says, over real sockets, and remembers every request.

In a thread: `with ScriptedLLM(script) as server`, where `script(body, times)` gives the `Reply` to a request body that
came `times` times before. As a process, for benchmarks: `python scripted_llm.py --latency-s 0.05 --slots 8`; it prints
its address, answers until it is ended, and says at `GET /log` how many requests it served.
"""

from __future__ import annotations

import argparse
import json
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Reply:
    """What the server does with one request.

    `fault`: "" answers; "reset" drops the connection at once; "cut" drops it in the middle of the body.
    """

    text: str = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    fault: str = ""
    body: bytes | None = None  # instead of a chat completion around `text`


@dataclass
class Logged:
    """One request as the server saw it."""

    body: dict
    headers: dict[str, str]
    started_s: float
    status: int = 0
    text: str = ""
    delivered: bool = False  # the whole response was handed to the socket


def description_of(body: dict) -> str:
    """The text of the user's message, pictures left out."""
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else next(part["text"] for part in content if part["type"] == "text")


def chat_completion(body: dict, text: str) -> bytes:
    tokens = {"prompt_tokens": len(json.dumps(body["messages"])) // 4, "completion_tokens": len(text) // 4 + 1}
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    usage = {**tokens, "total_tokens": sum(tokens.values())}
    answer = {"id": "chat-1", "object": "chat.completion", "created": 1, "model": body["model"]}
    return json.dumps({**answer, "choices": [choice], "usage": usage, "system_fingerprint": "s"}).encode()


class ScriptedLLM:
    """The server; `limit` is its rate limit as (requests a second, burst): what passes it gets 429 and is counted."""

    def __init__(
        self,
        script: Callable[[dict, int], Reply],
        slots: int = 64,
        limit: tuple[float, int] | None = None,
        retry_after_s: float = 1.0,
    ) -> None:
        self.log: list[Logged] = []
        self.violations = 0
        self._script = script
        self._slots = threading.Semaphore(slots)
        self._limit, self._retry_after_s = limit, retry_after_s
        self._level, self._level_at_s = float(limit[1]) if limit else 0.0, time.monotonic()
        self._times: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _handler_for(self))
        self.base_url = f"http://127.0.0.1:{self._server.server_port}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> ScriptedLLM:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def reply_to(self, logged: Logged) -> Reply:
        with self._lock:
            self.log.append(logged)
            if self._limit is not None and not self._admits():
                self.violations += 1
                return Reply(status=429, headers={"Retry-After": f"{self._retry_after_s:g}"})
            body = json.dumps(logged.body, sort_keys=True)
            times = self._times[body]
            self._times[body] += 1
        with self._slots:
            reply = self._script(logged.body, times)
            time.sleep(reply.delay_s)
        return reply

    def _admits(self) -> bool:
        rate, burst = self._limit
        now_s = time.monotonic()
        self._level = min(burst, self._level + rate * (now_s - self._level_at_s))
        self._level_at_s = now_s
        admitted = self._level >= 1
        self._level -= admitted
        return admitted


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_: object) -> None:
        """A client that went away is no news."""


def _handler_for(owner: ScriptedLLM) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            self._send(200, {}, json.dumps({"requests": len(owner.log), "violations": owner.violations}).encode())

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            logged = Logged(body, {name.lower(): value for name, value in self.headers.items()}, time.monotonic())
            reply = owner.reply_to(logged)
            logged.status, logged.text = reply.status, reply.text
            content = chat_completion(body, reply.text) if reply.status == 200 else reply.text.encode()
            if reply.fault:
                self._drop(content if reply.fault == "cut" else b"")
                return
            self._send(reply.status, reply.headers, reply.body if reply.body is not None else content)
            logged.delivered = True

        def _send(self, status: int, headers: dict[str, str], content: bytes) -> None:
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", **headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
            self.wfile.flush()

        def _drop(self, content: bytes) -> None:
            if content:
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content[: len(content) // 2])
                self.wfile.flush()
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # reset
            self.close_connection = True
            self.connection.close()

        def log_message(self, *_: object) -> None:
            """Quiet."""

    return Handler


def statements(*texts: str) -> str:
    """The answer that was asked for."""
    return json.dumps({"statements": list(texts)})


def sound_reply(body: dict, times: int = 0) -> Reply:
    """A usable answer for any of `numbered_caption`s."""
    number = description_of(body).split("number ")[1].split(" ")[0]
    return Reply(statements(f"Long white hall of number {number} with a flat grey roof, next to a round pond."))


def numbered_caption(number: int) -> str:
    """A caption with its number."""
    return (
        f"The image shows a long white hall of number {number} with a flat grey roof. "
        "On the left there is a round pond. A car park is behind the hall."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latency-s", type=float, default=0.05)
    parser.add_argument("--slots", type=int, default=8)
    options = parser.parse_args()

    def script(body: dict, times: int) -> Reply:
        reply = sound_reply(body, times)
        reply.delay_s = options.latency_s
        return reply

    with ScriptedLLM(script, slots=options.slots) as server:
        print(server.base_url, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
