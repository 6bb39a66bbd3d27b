"""The service as a FastAPI application: places for words and pictures, health, figures, facts."""

from __future__ import annotations

import asyncio
import json
from threading import Event
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import Receive

from pemoe.common.version import __version__
from pemoe.retrieval.locating import Locator
from pemoe.retrieval.serving.answers import answer_of
from pemoe.retrieval.serving.guard import Door, Guard, read_body, refusal_body
from pemoe.retrieval.serving.limits import Limits, RequestError
from pemoe.retrieval.serving.measures import Measures, shown_repo
from pemoe.retrieval.serving.requests import JSON, Body, read_request
from pemoe.retrieval.serving.work import WorkQueue

PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
PICTURES = ("image/jpeg", "image/png", "image/webp")


class Service:
    """A locator behind its door and its queue.

    Args:
        locator: loaded, ready to answer.
        limits: of requests and of the whole.
        token, hosts: see `Door`.
    """

    def __init__(
        self, locator: Locator, limits: Limits, token: str | None = None, hosts: frozenset[str] | None = None
    ) -> None:
        self.locator, self.limits = locator, limits
        self.queue = WorkQueue(limits)
        self.door = Door(token, hosts, limits)
        self.measures = Measures(locator.index, lambda: self.queue.waiting)

    async def answer(self, request: Request) -> Response:
        """The places for one request."""
        content_type = request.headers.get("content-type", "")
        self._check_length(request)
        with self.queue.place(), self.queue.holding() as hold:
            body = await self._read(request.receive, hold)

            def work(nobody_waits: Event) -> tuple[int, bytes]:
                return self.work(body, content_type, nobody_waits)

            count, content = await self.queue.run(work, _hung_up(request.receive))
        self.door.charge(request.scope, count - 1)
        self.measures.queries.inc(count)
        return Response(content, media_type=JSON)

    def work(self, body: bytes, content_type: str, nobody_waits: Event) -> tuple[int, bytes]:
        """How many queries a request holds, and the JSON that answers it."""
        asked = read_request(body, content_type, self.limits)
        content = answer_of(self.locator, asked, self.limits, lambda: not nobody_waits.is_set())
        return len(asked.queries), json.dumps(content, ensure_ascii=False, allow_nan=False).encode()

    def describe(self) -> dict[str, Any]:
        """Facts of index and model."""
        index, model = self.locator.index, self.locator.index.model
        return {
            "version": __version__,
            "pictures": index.count(),
            "model": {**model.as_json(), "repo": shown_repo(model.repo)},
            "is_calibrated": index.calibration is not None,
            "limits": vars(self.limits),
        }

    def _check_length(self, request: Request) -> None:
        stated = request.headers.get("content-length", "0")
        if not stated.isdecimal() or int(stated) > self.limits.body_bytes:
            raise RequestError(413, f"the request is longer than {self.limits.body_bytes} bytes")

    async def _read(self, receive: Receive, hold: Any) -> bytes:
        try:
            return await asyncio.wait_for(read_body(receive, self.limits, hold), self.limits.body_s)
        except asyncio.TimeoutError:
            raise RequestError(408, f"the request did not arrive in {self.limits.body_s:g} s") from None


def build_app(
    locator: Locator,
    limits: Limits | None = None,
    token: str | None = None,
    hosts: frozenset[str] | None = None,
) -> FastAPI:
    """The service; `app.state.service` is its `Service`.

    Args:
        locator: loaded, ready to answer.
        limits: None for those of `Limits`.
        token: that requests must bear, all but /health; None asks for none.
        hosts: names that requests may come for; None for any.
    """
    service = Service(locator, limits or Limits(), token, hosts)
    title = "Describe a place, get it on a map"
    app = FastAPI(title=title, version=__version__, docs_url=None, redoc_url=None)  # those pages need a CDN
    app.state.service = service
    app.add_middleware(Guard, door=service.door, measures=service.measures, limits=service.limits)
    app.add_exception_handler(HTTPException, _refuse_route)
    answer = {"openapi_extra": {"requestBody": _request_schema()}, "summary": "Places for words and pictures"}

    @app.post("/", operation_id="locate_root", **answer)
    @app.post("/locate", operation_id="locate", **answer)
    async def locate(request: Request) -> Response:
        return await service.answer(request)

    @app.get("/health", summary="Whether requests are answered")
    async def health() -> JSONResponse:
        return JSONResponse({"status": "ready"})

    @app.get("/metrics", summary="Figures for Prometheus")
    async def metrics() -> Response:
        return Response(await asyncio.to_thread(service.measures.render), media_type=PROMETHEUS)

    @app.get("/info", summary="Facts of index, model and limits")
    async def info() -> JSONResponse:
        return JSONResponse(await asyncio.to_thread(service.describe))

    return app


async def _hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _refuse_route(_: Request, error: Exception) -> Response:
    """Wrong addresses and methods in the one form of all refusals."""
    status, headers = error.status_code, error.headers
    known = "POST / or /locate; GET /health, /metrics, /info, /openapi.json"
    said = {404: f"no such address; there are {known}", 405: f"no such method here; there are {known}"}
    refusal = RequestError(status, said.get(status, str(error.detail)))
    return Response(refusal_body(refusal), status, headers=headers, media_type=JSON)


def _request_schema() -> dict[str, Any]:
    schema = Body.model_json_schema()
    definitions = schema.pop("$defs")
    schema = _inlined(schema, definitions)
    picture = {"schema": {"type": "string", "format": "binary"}}
    return {"required": True, "content": {JSON: {"schema": schema}, **dict.fromkeys(PICTURES, picture)}}


def _inlined(schema: Any, definitions: dict[str, Any]) -> Any:
    """A JSON schema whose definitions stand where they are named."""
    if isinstance(schema, list):
        return [_inlined(one, definitions) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inlined(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    return {name: _inlined(one, definitions) for name, one in schema.items()}
