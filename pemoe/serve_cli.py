"""`pemoe serve`: parses, calls, prints; no logic."""

from __future__ import annotations

import logging
import os
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated

import typer

from pemoe.common.errors import InputError
from pemoe.console import note, quiet_transformers

TOKEN_VARIABLE = "PEMOE_TOKEN"


def serve(  # noqa: PLR0913 - options of a command
    index: Annotated[str, typer.Option(help="The index to search.")],
    model: Annotated[str | None, typer.Option(help="The index's model, where it has been moved.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen at; others than this machine's own need a token.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    token_file: Annotated[
        Path | None, typer.Option(help=f"File with the bearer token; or set {TOKEN_VARIABLE}.")
    ] = None,
    no_token: Annotated[bool, typer.Option("--no-token", help="Let anyone in, on other addresses too.")] = False,
    rate: Annotated[int, typer.Option(min=0, help="Queries of one client per minute; 0: any number.")] = 0,
    max_text: Annotated[int, typer.Option(min=1, help="Characters of a query.")] = 2000,
    max_image_mb: Annotated[float, typer.Option(min=0.001, max=100, help="Of a picture.")] = 10,
    max_waiting: Annotated[int, typer.Option(min=0, help="Requests waiting; more are told to try again.")] = 64,
    workers: Annotated[int, typer.Option(min=1, help="Queries at work at a time.")] = 1,
    stop_s: Annotated[float, typer.Option(min=0, help="For running queries when told to stop.")] = 20,
    behind_proxy: Annotated[
        bool, typer.Option("--behind-proxy", help="A proxy on this machine names the client in X-Forwarded-For.")
    ] = False,
    log_requests: Annotated[
        bool, typer.Option("--log-requests", help="A line per request on stderr, without its words.")
    ] = False,
) -> None:
    """Answer over HTTP, in the JSON of Inference Endpoints; /health, /metrics for Prometheus, /info.

    Example: pemoe serve --index photos.index

    Example: pemoe serve --index photos.index --host 0.0.0.0 --token-file token --rate 120
    """
    token = _read_token(token_file, no_token)
    is_open = not _is_loopback(host)
    if is_open and token is None and not no_token:
        raise InputError(f"--host {host}: others reach it; give --token-file or {TOKEN_VARIABLE}, or say --no-token")
    try:
        from pemoe.retrieval.serving.app import build_app
        from pemoe.retrieval.serving.limits import Limits
        from pemoe.retrieval.serving.server import bind, run_server
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("fastapi", "starlette", "uvicorn", "h11", "prometheus_client"):
            raise
        raise InputError(f'{error.name} is not installed: pip install "pemoe[serve]"') from error
    from pemoe.retrieval.locating import Locator

    quiet_transformers()
    bound = bind(host, port)
    locator = Locator.open(index, model)
    limits = Limits(
        text_characters=max_text, image_mb=max_image_mb, waiting=max_waiting, workers=workers,
        rate_per_minute=rate, stop_s=stop_s,
    )  # fmt: skip
    own = frozenset({"localhost", "127.0.0.1", "::1", host.lower()})
    app = build_app(locator, limits, token, None if is_open or token or behind_proxy else own)
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.ERROR)
    logging.getLogger("pemoe.requests").setLevel(logging.INFO if log_requests else logging.CRITICAL)
    name, at = bound.getsockname()[:2]
    shown = f"[{name}]" if ":" in name else name
    ready = f"pemoe: {locator.index.count():,} pictures at http://{shown}:{at}"
    run_server(app, bound, behind_proxy, lambda: note(ready))


def _read_token(path: Path | None, no_token: bool) -> str | None:
    """The token of a file or of the environment; never an option, which every user of the machine could read."""
    said = os.environ.get(TOKEN_VARIABLE)
    if no_token and (path is not None or said is not None):
        raise InputError(f"--no-token: a token is given too, by --token-file or {TOKEN_VARIABLE}; drop one of them")
    if path is not None:
        try:
            said = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"--token-file {path}: cannot be read: {getattr(error, 'strerror', None) or 'no text'}"
            ) from error
    if said is None:
        return None
    token = said.strip()
    if not token or not token.isprintable() or " " in token:
        raise InputError(f"{path or TOKEN_VARIABLE}: a token is one word; it is empty, or holds spaces")
    return token


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
