"""The application on a port: timeouts for slow clients, and a stop that lets running work finish."""

from __future__ import annotations

import os
import resource
import socket
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from pemoe.common.errors import InputError
from pemoe.retrieval.serving.guard import refusal_body
from pemoe.retrieval.serving.limits import RequestError

HEAD_S = 10  # in which a request's first line and headers must arrive
IDLE_S = 5  # that a connection stays open between requests
CONNECTIONS = 4096
SPARE_FILES = 256  # that the process may open beside its connections
INTERRUPTED = 130  # exit code after a second Ctrl-C


def bind(host: str, port: int) -> socket.socket:
    """A socket bound to an address, not yet listening, so that a client is let in when all is loaded.

    Raises:
        InputError: the port is taken, or the host is none of this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except (OSError, OverflowError) as error:
        raise InputError(
            f"{host}:{port}: {getattr(error, 'strerror', None) or error}; name another --port or --host"
        ) from error
    return bound


def run_server(
    app: FastAPI, bound: socket.socket, behind_proxy: bool = False, on_ready: Callable[[], None] = lambda: None
) -> None:
    """Answer requests until SIGTERM or SIGINT; a second one ends the process at once.

    Args:
        app: of `build_app`.
        bound: of `bind`.
        behind_proxy: whether a proxy on this machine may name the client in X-Forwarded-For.
        on_ready: called when the first request can come.
    """
    limits = app.state.service.limits
    _allow_files(CONNECTIONS + SPARE_FILES)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux; else an answer that is never taken is kept
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(1000 * limits.send_s))
    config = uvicorn.Config(
        app,
        http=_Connection,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=behind_proxy,
        forwarded_allow_ips="127.0.0.1,::1",
        timeout_keep_alive=IDLE_S,
        timeout_graceful_shutdown=2,
        h11_max_incomplete_event_size=limits.head_bytes,
    )
    _Server(config, on_ready).run(sockets=[bound])
    app.state.service.queue.close()


class _Server(uvicorn.Server):
    """Told to stop, it refuses what comes and finishes what it has, within `stop_s`."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready
        self._deadline_s: float | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        service = self.config.app.state.service
        if self._deadline_s is not None:
            os._exit(INTERRUPTED)
        service.door.is_stopping = True
        self._deadline_s = time.monotonic() + service.limits.stop_s

    async def on_tick(self, counter: int) -> bool:
        if self._deadline_s is not None:
            queue = self.config.app.state.service.queue
            if time.monotonic() > self._deadline_s:  # a thread cannot be ended, and Python would wait for it
                os._exit(0)
            self.should_exit = not queue.admitted and not queue.running
        return await super().on_tick(counter)


class _Connection(H11Protocol):
    """uvicorn's, that waits `HEAD_S` for headers, not for ever, and says in JSON what is no HTTP."""

    _head_timer: Any = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > CONNECTIONS:
            transport.abort()
            return
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        if self._head_timer is None and (self.cycle is None or self.cycle.response_complete):
            self._expect_head()
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before:
            self._forget_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_timer()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            most = self.config.h11_max_incomplete_event_size
            body = refusal_body(RequestError(400, f"no HTTP request, or headers of more than {most} bytes"))
            headers = [
                ("content-type", "application/json"),
                ("content-length", str(len(body))),
                ("connection", "close"),
            ]
            events = [h11.Response(status_code=400, headers=headers), h11.Data(data=body), h11.EndOfMessage()]
            self.transport.write(b"".join(self.conn.send(one) for one in events))
        self.transport.close()

    def _expect_head(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_S, self.transport.abort)

    def _forget_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


def _allow_files(count: int) -> None:
    """Raise this process's own limit of open files, where the machine lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
