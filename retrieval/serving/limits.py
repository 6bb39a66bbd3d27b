"""What one client may ask of the service, and how it is refused."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address

MB = 1_000_000
JSON_MB = 1  # of a request beside its picture: sentences, an area


@dataclass(frozen=True)
class Limits:
    """Bounds of a request and of the whole service; one that is crossed answers 4xx or 503, in one JSON line.

    text_characters, sentences: of one query; queries: of one request; places: in one answer; image_mb, image_px: of
    one picture as sent, and decoded; head_bytes: of the address and the headers; json_depth, json_parts: brackets
    inside brackets, and commas and brackets in all.
    workers: queries at work at a time; waiting: requests beside them, being read or in the queue, and held_mb: the
    bytes that all of them may hold. rate_per_minute: queries of one client, 0 for any number; clients: that are
    remembered for it.
    body_s: until a request has arrived; queue_s: in the queue; send_s: until a client takes its answer; stop_s: for
    what is at work or waiting when the service is told to stop.
    """

    text_characters: int = 2000
    sentences: int = 16
    queries: int = 32
    places: int = 100
    image_mb: float = 10
    image_px: int = 50_000_000
    head_bytes: int = 16_384
    json_depth: int = 16
    json_parts: int = 200_000
    workers: int = 1
    waiting: int = 64
    held_mb: float = 128
    rate_per_minute: int = 0
    clients: int = 10_000
    body_s: float = 15
    queue_s: float = 30
    send_s: float = 15
    stop_s: float = 20

    @property
    def body_bytes(self) -> int:
        """Of a whole request: a picture in base64 and the JSON around it."""
        return int(MB * (self.image_mb * 4 / 3 + JSON_MB))


class RequestError(Exception):
    """A request that is not answered: its status, one line for the client, and after how long to try again."""

    def __init__(self, status: int, message: str, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.retry_after_s = status, message, retry_after_s


class TokenBuckets:
    """A bucket of tokens per client, filled at one rate; a query takes one.

    Args:
        per_minute: tokens that flow in, and the most that a bucket holds; 0 lets everything pass.
        clients: buckets that are kept; the client that was away the longest is forgotten first.
        now_s: a clock.

    Example:
        >>> buckets = TokenBuckets(per_minute=2, clients=10, now_s=lambda: 0.0)
        >>> [buckets.wait_s("anna"), buckets.wait_s("anna"), buckets.wait_s("anna"), buckets.wait_s("ben")]
        [0, 0, 30, 0]
    """

    def __init__(self, per_minute: int, clients: int, now_s: Callable[[], float] = time.monotonic) -> None:
        self._per_minute, self._clients, self._now_s = per_minute, clients, now_s
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # client -> tokens, when

    def __len__(self) -> int:
        return len(self._buckets)

    def wait_s(self, client: str) -> int:
        """Take a token: 0, or the whole seconds until there is one."""
        if self._per_minute == 0:
            return 0
        tokens = self._tokens(client)
        if tokens >= 1:
            self._store(client, tokens - 1)
            return 0
        return max(1, math.ceil((1 - tokens) * 60 / self._per_minute))

    def charge(self, client: str, tokens: int) -> None:
        """Take tokens that were not asked for before; a bucket may owe as many as it holds."""
        if self._per_minute and tokens:
            self._store(client, max(-self._per_minute, self._tokens(client) - tokens))

    def _tokens(self, client: str) -> float:
        tokens, then_s = self._buckets.get(client, (float(self._per_minute), self._now_s()))
        return min(self._per_minute, tokens + (self._now_s() - then_s) * self._per_minute / 60)

    def _store(self, client: str, tokens: float) -> None:
        self._buckets[client] = tokens, self._now_s()
        self._buckets.move_to_end(client)
        if len(self._buckets) > self._clients:
            self._buckets.popitem(last=False)


def client_key(host: str) -> str:
    """Whom a rate is counted for: an IPv4 address, the /64 network of an IPv6 one, which a client owns whole.

    Example:
        >>> client_key("10.0.0.1"), client_key("2001:db8::1:2"), client_key("testclient")
        ('10.0.0.1', '2001:db8::/64', 'testclient')
    """
    try:
        address = ip_address(host)
    except ValueError:
        return host
    if not isinstance(address, IPv6Address):
        return host
    return str(address.ipv4_mapped or f"{IPv6Address(int(address) >> 64 << 64)}/64")
