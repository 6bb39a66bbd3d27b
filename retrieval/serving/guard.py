"""Before every route: token, host, rate, stopping; after it: one JSON line for a refusal, figures, a line of log."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import time
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from itertools import chain
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pemoe.retrieval.serving.limits import Limits, RequestError, TokenBuckets, client_key
from pemoe.retrieval.serving.measures import Measures
from pemoe.retrieval.serving.work import ClientGoneError

LOCATING = ("/", "/locate")
PATHS = (*LOCATING, "/health", "/metrics", "/info", "/openapi.json")  # others are not written down: they may hold text
HUNG_UP = 499  # as nginx notes a client that left; nobody receives it
DRAIN_S, DRAIN_BYTES = 2, 64_000_000  # of the rest of a refused request, so that the client reads why

requests_log = logging.getLogger("pemoe.requests")
faults_log = logging.getLogger("pemoe.faults")


class Door:
    """Who may come in.

    Args:
        token: that requests must bear, all but /health; None asks for none.
        hosts: names that requests may come for; None for any. A page on the web that has its own name point at this
            computer comes for another one.
        limits: headers, rate and clients.
    """

    def __init__(self, token: str | None, hosts: frozenset[str] | None, limits: Limits) -> None:
        self._token = None if token is None else token.encode()
        self._hosts, self._head_bytes = hosts, limits.head_bytes
        self.buckets = TokenBuckets(limits.rate_per_minute, limits.clients)
        self.is_stopping = False

    def check(self, scope: Scope, headers: Headers) -> None:
        """Raise RequestError unless the request may come in."""
        if self.is_stopping:
            raise RequestError(503, "stopping", retry_after_s=5)
        head = chain((scope["raw_path"], scope["query_string"]), *headers.raw)
        if sum(map(len, head)) > self._head_bytes:  # the server bounds what comes in pieces, not what comes at once
            raise RequestError(400, f"headers of more than {self._head_bytes} bytes")
        if self._hosts is not None and _host_of(headers.get("host", "")) not in self._hosts:
            raise RequestError(403, "this service answers to localhost alone; to other names with a token")
        is_locating = scope["path"] in LOCATING
        wait_s = self.buckets.wait_s(client_of(scope)) if is_locating else 0
        if wait_s:
            raise RequestError(429, "too many requests", wait_s)
        if scope["path"] != "/health" and not self._knows(headers.getlist("authorization")):
            raise RequestError(401, "unauthorized")
        if scope["query_string"] and is_locating:
            raise RequestError(422, "parameters go into the JSON, not into the address")

    def charge(self, scope: Scope, queries: int) -> None:
        """Count the further queries of a batch."""
        self.buckets.charge(client_of(scope), queries)

    def _knows(self, said: list[str]) -> bool:
        if self._token is None:
            return True
        kind, _, word = said[0].partition(" ") if len(said) == 1 else ("", "", "")
        return hmac.compare_digest(word.strip().encode("utf-8", "replace"), self._token) and kind.lower() == "bearer"


class Guard:
    """ASGI middleware around all routes.

    Args:
        app: the routes.
        door, measures, limits: of the service.
    """

    def __init__(self, app: ASGIApp, door: Door, measures: Measures, limits: Limits) -> None:
        self._app, self._door, self._measures, self._limits = app, door, measures, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(receive, send, self._limits.send_s)
        started_s = time.perf_counter()
        with self._measures.in_flight.track_inprogress():
            await self._answer(scope, exchange)
        seconds = time.perf_counter() - started_s
        path = scope["path"] if scope["path"] in PATHS else "other"
        self._measures.requests.labels(path, str(exchange.status)).inc()
        self._measures.seconds.labels(path).observe(seconds)
        line = (client_of(scope), scope["method"], path, exchange.status, 1000 * seconds)
        requests_log.info("%s %s %s %d %.1f ms", *line)

    async def _answer(self, scope: Scope, exchange: _Exchange) -> None:
        headers = Headers(scope=scope)
        if headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers:
            exchange.has_all = True
        try:
            self._door.check(scope, headers)
            await self._app(scope, exchange.receive, exchange.send)
        except RequestError as refusal:
            await exchange.refuse(refusal)
        except ClientGoneError:
            exchange.status = HUNG_UP
        except Exception:
            faults_log.exception("a request failed")
            await exchange.refuse(RequestError(500, "internal error"))


class _Exchange:
    """The two halves of a connection: what has come in, and what has gone out, each send within `send_s`."""

    def __init__(self, receive: Receive, send: Send, send_s: float) -> None:
        self._receive, self._send, self._send_s = receive, send, send_s
        self.has_all = False
        self.status = HUNG_UP
        self._has_started = False

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            self.has_all = True
        return message

    async def send(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status, self._has_started = message["status"], True
            if not self.has_all:
                message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
        try:
            await asyncio.wait_for(self._send(message), self._send_s)
        except asyncio.TimeoutError:
            raise ClientGoneError from None

    async def refuse(self, refusal: RequestError) -> None:
        if self._has_started:  # the answer has been cut; the server closes the connection
            return
        await self._drain()
        body = refusal_body(refusal)
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        if refusal.retry_after_s is not None:
            headers.append((b"retry-after", str(refusal.retry_after_s).encode()))
        if refusal.status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        try:
            await self.send({"type": "http.response.start", "status": refusal.status, "headers": headers})
            await self.send({"type": "http.response.body", "body": body})
        except ClientGoneError:
            self.status = HUNG_UP

    async def _drain(self) -> None:
        """Let go the rest of the request: a client that is cut while it sends never reads the answer."""

        async def rest() -> None:
            gone_bytes = 0
            while not self.has_all and gone_bytes < DRAIN_BYTES:
                gone_bytes += len((await self.receive()).get("body", b""))

        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(rest(), DRAIN_S)


def refusal_body(refusal: RequestError) -> bytes:
    """The JSON line of a refusal.

    Example:
        >>> refusal_body(RequestError(401, "unauthorized"))
        b'{"error": "unauthorized"}'
    """
    return json.dumps({"error": " ".join(refusal.message.split())}).encode()


def client_of(scope: Scope) -> str:
    """Whom a request comes from."""
    return client_key(scope["client"][0]) if scope.get("client") else "unknown"


def _host_of(header: str) -> str:
    """The name in a Host header, without its port."""
    name = header[: header.rfind("]") + 1] if header.startswith("[") else header.partition(":")[0]
    return name.strip("[]").lower()


async def read_body(receive: Receive, limits: Limits, hold: Callable[[int], None]) -> bytes:
    """The bytes of a request, counted as they come, whatever it said of their number.

    Raises:
        RequestError: 413 for too many, or whatever `hold` raises; ClientGoneError.
    """
    parts, length = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        part = message.get("body", b"")
        length += len(part)
        if length > limits.body_bytes:
            raise RequestError(413, f"the request is longer than {limits.body_bytes} bytes")
        hold(len(part))
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)
