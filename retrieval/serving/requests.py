"""What a client asks, from the bytes it sent: the JSON shape of Inference Endpoints, read strictly."""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from dataclasses import dataclass, replace
from typing import Annotated, Any, NoReturn

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    model_validator,
)

from pemoe.common.errors import InputError
from pemoe.retrieval.index import Filter
from pemoe.retrieval.locating.where import filter_of
from pemoe.retrieval.serving.limits import MB, Limits, RequestError

JSON = "application/json"
_DATA_URL = re.compile(r"data:image/[\w.+-]+;base64,")
_PARTS = (b",", b":", b"[", b"{")
_DIGITS = 20  # of a whole number
_SHOWN = 60  # characters of a client's own words in an answer


Degrees = Annotated[float, Field(allow_inf_nan=False)]
Ids = Annotated[list[str], Field(max_length=1000)]
Sentences = str | list[str]


class Parameters(BaseModel):
    """How a query is answered."""

    model_config = ConfigDict(extra="forbid", strict=True)

    top_k: int = Field(5, ge=1, description="places in the answer")
    platforms: Ids = Field([], description="pictures of these platforms alone")
    near: list[Degrees] | None = Field(None, min_length=2, max_length=2, description="latitude, longitude")
    radius_km: Degrees | None = Field(None, gt=0, description="around near")
    box: list[Degrees] | None = Field(None, min_length=4, max_length=4, description="south, west, north, east")
    area: dict[str, Any] | None = Field(None, description="GeoJSON Polygon or MultiPolygon")
    since: str | None = Field(None, description="pictures taken at this time or later; ISO 8601")
    until: str | None = Field(None, description="pictures taken at this time or earlier; a day means its end")
    image_ids: Ids = Field([], description="these pictures alone")
    place_ids: Ids = Field([], description="pictures of these places alone")
    refine: Sentences = Field([], description="further sentences, as: not the one with the fountain")
    thumbnails: bool = Field(False, description="small JPEG pictures, as data: URLs")

    @model_validator(mode="after")
    def _check_near(self) -> Parameters:
        if (self.near is None) != (self.radius_km is None):
            raise ValueError("near and radius_km belong together: give both")
        return self

    def where(self) -> Filter:
        """Which pictures are searched; GalleryError for a place or a time that is none."""
        where = filter_of(self.near, self.radius_km, self.area, self.platforms, self.since, self.until)
        box = None if self.box is None else tuple(self.box)
        return replace(where, box=box, image_ids=tuple(self.image_ids), place_ids=tuple(self.place_ids))


class Query(BaseModel):
    """What is looked for: sentences about one place, a picture of it, or both."""

    model_config = ConfigDict(extra="forbid", strict=True)

    text: Sentences = Field([], description="one or several sentences about one place")
    image: str | None = Field(None, description="a picture, in base64 or as a data: URL")


def _kind(value: object) -> str:
    return {dict: "query", list: "batch"}.get(type(value), "query" if isinstance(value, Query) else "text")


_Text, _Query = Annotated[str, Tag("text")], Annotated[Query, Tag("query")]
One = Annotated[_Text | _Query, Discriminator(_kind)]
Batch = Annotated[list[One], Tag("batch")]
_TAGS = ("text", "query", "batch", "str", "list[str]")  # of unions, in the place of a fault


class Body(BaseModel):
    """A request; a list of inputs is a batch, answered by a list in the same order."""

    model_config = ConfigDict(extra="forbid", strict=True)

    inputs: Annotated[_Text | _Query | Batch, Discriminator(_kind)]
    parameters: Parameters = Parameters()


@dataclass(frozen=True)
class Wanted:
    """One query, read: its sentences and its picture as encoded bytes, decoded when its turn comes."""

    texts: tuple[str, ...]
    image: bytes | None = None


@dataclass(frozen=True)
class Asked:
    """One request, read; a batch is answered by a list."""

    queries: tuple[Wanted, ...]
    parameters: Parameters
    where: Filter
    is_batch: bool = False


def read_request(body: bytes, content_type: str, limits: Limits) -> Asked:
    """The queries of a request.

    Args:
        body: as sent.
        content_type: of the header; an image type means that the body is a picture, and the whole query.
        limits: of sentences, pictures, queries, places.

    Raises:
        RequestError: 400 for what is no JSON, 413 for what is too long, 415 for other types, 422 for the rest.

    Example:
        >>> read_request(b'{"inputs": "white arena"}', "application/json", Limits()).queries[0].texts
        ('white arena',)
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind.startswith("image/"):
        return Asked((Wanted((), _bounded(body, limits)),), Parameters(), Filter())
    if kind != JSON:
        raise RequestError(
            415, f"send Content-Type: {JSON}, or image/jpeg, image/png, image/webp with the picture alone"
        )
    return read_content(_parse(body, limits), limits)


def read_content(content: Any, limits: Limits) -> Asked:
    """The queries of a request whose JSON has been parsed; see `read_request`."""
    _check_content(content, limits.json_depth)
    asked = _validated(content)
    if asked.parameters.top_k > limits.places:
        raise RequestError(422, f"parameters.top_k: at most {limits.places}")
    is_batch = isinstance(asked.inputs, list)
    inputs = asked.inputs if is_batch else [asked.inputs]
    if not 1 <= len(inputs) <= limits.queries:
        raise RequestError(422, f"inputs: a list holds 1 to {limits.queries} queries")
    further = _listed(asked.parameters.refine)
    try:
        where = asked.parameters.where()
    except InputError as error:
        raise RequestError(422, f"parameters: {error}") from None
    return Asked(tuple(_wanted(one, further, limits) for one in inputs), asked.parameters, where, is_batch)


def _wanted(one: str | Query, further: list[str], limits: Limits) -> Wanted:
    query = Query(text=one) if isinstance(one, str) else one
    texts = [*_listed(query.text), *further]
    if len(texts) > limits.sentences:
        raise RequestError(413, f"inputs: at most {limits.sentences} sentences in a query")
    if sum(map(len, texts)) > limits.text_characters:
        raise RequestError(413, f"inputs: at most {limits.text_characters} characters in a query")
    if not all(text.strip() for text in texts):
        raise RequestError(422, "inputs: a sentence is empty")
    if not texts and query.image is None:
        raise RequestError(422, "inputs: nothing to look for; give text, image, or both")
    return Wanted(tuple(texts), None if query.image is None else _from_base64(query.image, limits))


def _listed(text: Sentences) -> list[str]:
    return [text] if isinstance(text, str) else text


def _from_base64(text: str, limits: Limits) -> bytes:
    encoded = _DATA_URL.sub("", text, count=1)
    try:
        return _bounded(base64.b64decode(encoded, validate=True), limits)
    except (binascii.Error, ValueError):
        what = "is neither base64 nor a data: URL of a picture; nothing is downloaded here"
        raise RequestError(422, f"image: {what}") from None


def _bounded(data: bytes, limits: Limits) -> bytes:
    if not data:
        raise RequestError(422, "image: empty")
    if len(data) > limits.image_mb * MB:
        raise RequestError(413, f"image: more than {limits.image_mb:g} MB")
    return data


def _parse(body: bytes, limits: Limits) -> Any:
    """JSON of finite numbers, whole characters and keys that come once."""
    if sum(map(body.count, _PARTS)) > limits.json_parts:  # a byte of brackets becomes fifty in memory
        raise RequestError(413, f"the JSON has more than {limits.json_parts} parts")
    try:
        content = json.loads(
            body.decode("utf-8"),
            parse_constant=_refuse_number,
            parse_float=_finite,
            parse_int=_short,
            object_pairs_hook=_distinct,
        )
    except UnicodeDecodeError:
        raise RequestError(400, "the request is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise RequestError(400, f"the request is no JSON: {error.msg} at character {error.pos}") from None
    except RecursionError:
        raise RequestError(400, f"the JSON is nested deeper than {limits.json_depth}") from None
    return content


def _refuse_number(text: str) -> NoReturn:
    raise RequestError(400, f"{text[:_SHOWN]}: no number of JSON")


def _finite(text: str) -> float:
    return value if math.isfinite(value := float(text)) else _refuse_number(text)


def _short(text: str) -> int:
    return int(text) if len(text) <= _DIGITS else _refuse_number(text)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise RequestError(400, "a key comes twice in one object")
    return content


def _check_content(content: Any, depth: int) -> None:
    """Refuse what is nested deeper, null characters, and halves of a character."""
    level, seen = [content], 0
    while level:
        if (seen := seen + 1) > depth:
            raise RequestError(400, f"the JSON is nested deeper than {depth}")
        held = [one for one in level if isinstance(one, (dict, list))]
        texts = [one for one in level if isinstance(one, str)] + [
            k for one in held if isinstance(one, dict) for k in one
        ]
        if not all(_is_whole(text) for text in texts):
            raise RequestError(400, "a text holds a null character or half of a surrogate pair")
        level = [inner for one in held for inner in (one.values() if isinstance(one, dict) else one)]


def _is_whole(text: str) -> bool:
    return "\0" not in text and (text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text))


def _validated(content: Any) -> Body:
    if isinstance(content, dict) and "inputs" in content:
        try:
            return Body.model_validate(content)
        except ValidationError as error:
            raise RequestError(422, _explain(error)) from None
    raise RequestError(422, 'the request is no object with "inputs", as {"inputs": "white arena beside a car park"}')


_KNOWN = {"parameters": Parameters, "inputs": Query}


def _explain(error: ValidationError) -> str:
    """The first fault in one line: where, what, and what there is instead."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    steps = [str(one) for k, one in enumerate(first["loc"]) if not (k and one in _TAGS)]
    where, what = ".".join(steps)[:_SHOWN], first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        known = _KNOWN[steps[0]] if len(steps) > 1 else Body
        what = f"unknown; there are {', '.join(known.model_fields)}"
    return f"{where}: {what[0].lower()}{what[1:]}"
