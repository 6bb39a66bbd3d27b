"""A Hugging Face Hub for tests: a real HTTP server that speaks as much of the Hub's protocol as its client needs."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from local_hub_routes import ROUTES, Answer, Blob, Repo, Routes

CLOSE = -1  # a fault: the connection ends without an answer


class Request(NamedTuple):
    """One request as it came in; `status` is what it was answered with."""

    method: str
    path: str
    body_bytes: int
    status: int
    range: str = ""  # the header Range


class LocalHub:
    """The server; use it as a context manager.

    Args:
        root: directory for what is uploaded.
        user: owner whom the token belongs to; `orgs` may be written to as well, other owners give 403.
        token: the only one accepted.
        lfs_suffixes: files whose content goes up by itself, not inside the commit.
        fault: called for every request before it is served, with (method, path, count of requests so far); a status or
            an `Answer` to give instead, `CLOSE`, or None. A test may as well kill the client in it, or let it wait.
        cut: called with (method, path) before a request's body is read; where true, the connection breaks in the
            middle of it.
        on_body: called with (path, bytes sent of this answer) before every MiB of an answer's body; what it raises
            breaks the connection.
    """

    def __init__(
        self,
        root: Path,
        user: str = "me",
        token: str = "hf_local_secret",
        orgs: tuple[str, ...] = (),
        lfs_suffixes: tuple[str, ...] = (".parquet", ".safetensors", ".bin"),
        fault: Callable[[str, str, int], int | Answer | None] | None = None,
        cut: Callable[[str, str], bool] | None = None,
        on_body: Callable[[str, int], None] | None = None,
    ) -> None:
        self.root, self.user, self.token, self.orgs = root, user, token, orgs
        self.lfs_suffixes, self.fault, self.cut, self.on_body = lfs_suffixes, fault, cut, on_body
        self.repos: dict[tuple[str, str], Repo] = {}
        self.requests: list[Request] = []
        self.lock = threading.RLock()
        (root / "objects").mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> LocalHub:
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = _Server(("127.0.0.1", 0), handler)
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *failure: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def env(self, home: Path, token: str | None = None) -> dict[str, str]:
        """Environment of a subprocess that takes this server for the Hub; `token` "" for none at all."""
        foreign = ("HF_", "HUGGING_FACE", "TRANSFORMERS_")  # what other tests of this process set
        kept = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
        given = self.token if token is None else token
        return {
            **kept,
            **({"HF_TOKEN": given} if given else {}),
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }

    def sent(self, method: str, pattern: str) -> list[Request]:
        """Requests answered well whose path holds the regular expression."""
        return [
            one
            for one in self.requests
            if one.method == method and re.search(pattern, one.path) and one.status // 100 == 2
        ]

    def store(self, content: bytes, lfs: bool) -> Blob:
        digest = hashlib.sha256(content).hexdigest()
        path = self.root / "objects" / digest
        path.write_bytes(content)
        git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        return Blob(digest if lfs else git, len(content), lfs, path)

    def may_write(self, name: str) -> bool:
        return name.split("/")[0] in (self.user, *self.orgs)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A killed client leaves broken connections behind; anything else is printed."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(Routes, BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _serve(self) -> None:
        self.url = urlsplit(self.path)
        path, size_bytes = unquote(self.url.path), int(self.headers.get("Content-Length") or 0)
        if self.hub.cut and self.hub.cut(self.command, path):
            self.rfile.read(size_bytes // 2)
            raise ConnectionResetError(path)
        self.body = self.rfile.read(size_bytes)
        fault = self.hub.fault(self.command, path, len(self.hub.requests)) if self.hub.fault else None
        injected = Answer(fault, {"error": "injected"}) if isinstance(fault, int) else fault
        answer = injected or self._route(path)
        asked = self.headers.get("Range") or ""
        self.hub.requests.append(Request(self.command, path, len(self.body), answer.status, asked))
        if fault == CLOSE:
            self.close_connection = True
            return
        self._send(answer)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve  # noqa: N815

    def _route(self, path: str) -> Answer:
        with self.hub.lock:
            for method, pattern, serve in ROUTES:
                found = re.fullmatch(pattern, path)
                if found and self.command.replace("HEAD", "GET") == method:
                    named = found.groupdict()
                    if "plural" in named:
                        named["kind"] = (named.pop("plural") or "models").removesuffix("s")
                    return serve(self, **named)
        return Answer(404, {"error": f"no such page: {self.command} {path}"})

    def _send(self, answer: Answer) -> None:
        is_raw = isinstance(answer.body, bytes)
        body = answer.body if is_raw else json.dumps(answer.body).encode()
        defaults = {"Content-Type": "application/octet-stream" if is_raw else "application/json"}
        try:
            self.send_response(answer.status)
            for name, value in {**defaults, **answer.headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            for sent in range(0, len(body) if self.command != "HEAD" else 0, 2**20):
                if self.hub.on_body:
                    self.hub.on_body(unquote(self.url.path), sent)
                self.wfile.write(body[sent : sent + 2**20])
        except ConnectionError:  # the client was killed
            self.close_connection = True

    def log_message(self, *words: object) -> None:
        """Keeps quiet: `requests` is the log."""
