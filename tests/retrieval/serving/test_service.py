"""Invariant: whatever a client sends, it gets JSON: the places that `Locator.locate` finds, or one line with a 4xx;
and the next request is answered."""

from __future__ import annotations

import base64
import io
import json
import logging
import zipfile
import zlib
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import ExifTags, Image
from tiny_service import write_index

from pemoe.retrieval.index import Filter, GalleryIndex
from pemoe.retrieval.locating import Locator
from pemoe.retrieval.serving.app import build_app
from pemoe.retrieval.serving.limits import Limits
from pemoe.retrieval.serving.requests import Parameters

LIMITS = Limits(text_characters=200, sentences=3, queries=3, places=10, image_mb=0.1, image_px=1_000_000)
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def locator(tmp_path_factory: pytest.TempPathFactory) -> Locator:
    return Locator.open(write_index(tmp_path_factory.mktemp("service"))[0])


@pytest.fixture
def client(locator: Locator) -> Iterator[TestClient]:
    with TestClient(build_app(locator, LIMITS)) as client:
        yield client


def encoded(picture: Image.Image | None = None, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    (picture or Image.new("RGB", (40, 40), "teal")).save(buffer, kind, **options)
    return buffer.getvalue()


def as_text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("picture.png", encoded())
    return buffer.getvalue()


def bomb() -> bytes:
    """A PNG of a few hundred bytes that says it has 60,000 x 60,000 pixels."""
    head = b"IHDR" + (60_000).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    rows = b"IDAT" + zlib.compress(bytes(60_000))
    chunks = b"".join(
        (len(one) - 4).to_bytes(4, "big") + one + zlib.crc32(one).to_bytes(4, "big") for one in (head, rows, b"IEND")
    )
    return b"\x89PNG\r\n\x1a\n" + chunks


def test_the_answer_is_the_locators(client: TestClient, locator: Locator) -> None:
    parameters = {"top_k": 2, "platforms": ["drone"], "near": [50.0, 10.0], "radius_km": 3, "thumbnails": True}
    where = Filter(platforms=("drone",), near=(50.0, 10.0, 3.0))
    expected = locator.locate(("red roof",), None, where, 2).as_json(thumbnails=True)
    for path in ("/", "/locate"):
        answer = client.post(path, json={"inputs": "red roof", "parameters": parameters})
        assert (answer.status_code, answer.json()) == (200, expected)
    assert expected["places"] and "thumbnail" in expected["places"][0]["pictures"][0]


def test_a_list_is_a_batch_and_several_sentences_are_one_query(client: TestClient) -> None:
    batch = client.post("/", json={"inputs": ["red roof", {"text": ["blue wall", "door"]}]}).json()
    assert [one["texts"] for one in batch] == [["red roof"], ["blue wall", "door"]]
    assert batch[0] == client.post("/", json={"inputs": "red roof"}).json()
    refined = client.post("/", json={"inputs": "blue wall", "parameters": {"refine": "door"}}).json()
    assert refined == batch[1]


def test_a_picture_is_looked_for_in_every_form(client: TestClient, locator: Locator) -> None:
    picture = Image.effect_noise((60, 40), 90).convert("RGB")
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    for kind, options in (("PNG", {}), ("JPEG", {"exif": turned}), ("WEBP", {"lossless": True})):
        sent, mime = encoded(picture, kind, **options), f"image/{kind.lower()}"
        expected = locator.locate((), sent).as_json()
        as_url = {"inputs": {"image": f"data:{mime};base64,{as_text(sent)}"}}
        for answer in (
            client.post("/", json={"inputs": {"image": as_text(sent)}}),
            client.post("/locate", json=as_url),
            client.post("/", content=sent, headers={"content-type": mime}),
        ):
            assert (answer.status_code, answer.json()) == (200, expected)
    assert expected["places"] and expected["places"] != locator.locate((), encoded()).as_json()["places"]
    both = {"inputs": [{"text": "red roof", "image": as_text(sent)}, "red roof"]}
    answer = client.post("/", json=both).json()
    assert answer == [locator.locate("red roof", image).as_json() for image in (sent, None)]


def test_a_day_alone_is_the_whole_day() -> None:
    where = Parameters(since="2024-05-31", until="2024-05-31").where()
    assert where.since == datetime(2024, 5, 31, tzinfo=timezone.utc)
    assert where.until == datetime(2024, 5, 31, 23, 59, 59, 999999, timezone.utc)
    where = Parameters(until="2024-05-31T12:00:00Z").where()
    assert where.until == datetime(2024, 5, 31, 12, tzinfo=timezone.utc)


NUMBERS = ("NaN", "Infinity", "-Infinity", "1e400", "9" * 5000)
TEXTS = {
    "no JSON": (400, b"{"),
    "nothing": (400, b""),
    "no object": (422, b"[]"),
    "no inputs": (422, b"{}"),
    "UTF-16": (400, '{"inputs": "a"}'.encode("utf-16")),
    "deep": (400, b'{"inputs": ' + b"[" * 50 + b"]" * 50 + b"}"),
    "very deep": (400, b"[" * 100_000),
    "many parts": (413, b'{"inputs": [' + b"[]," * 300_000 + b"[]]}"),
    "null character": (400, b'{"inputs": "a\\u0000b"}'),
    "half a character": (400, b'{"inputs": "\\ud800"}'),
    "half a character as key": (400, b'{"inputs": "a", "\\udfff": 1}'),
    "a key twice": (400, b'{"inputs": "a", "inputs": "b"}'),
    **{f"number {one[:9]}": (400, f'{{"inputs": "a", "parameters": {{"top_k": {one}}}}}'.encode()) for one in NUMBERS},
}


@pytest.mark.parametrize("case", TEXTS)
def test_what_is_no_clean_json_is_refused(case: str, client: TestClient) -> None:
    status, body = TEXTS[case]
    check_refused(client, status, body)


INPUTS = {
    "blank": (422, " "),
    "number": (422, 1),
    "null": (422, None),
    "empty batch": (422, []),
    "nested batch": (422, [["a"]]),
    "large batch": (422, ["a"] * 4),
    "long text": (413, "a" * 201),
    "long together": (413, {"text": ["a" * 150, "b" * 60]}),
    "many sentences": (413, {"text": ["a"] * 4}),
    "no text": (422, {"text": []}),
    "unknown key": (422, {"text": "a", "images": "b"}),
    "address of a picture": (422, {"image": "http://127.0.0.1/a.png"}),
    "path of a picture": (422, {"image": "../../etc/passwd"}),
    "file address": (422, {"image": "file:///etc/passwd"}),
    "zip": (422, {"image": as_text(zipped())}),
    "HTML": (422, {"image": as_text(b"<html><script>")}),
    "HTML that says image": (422, {"image": "data:image/png;base64," + as_text(b"<html>")}),
    "GIF": (422, {"image": as_text(encoded(kind="GIF"))}),
    "cut picture": (422, {"image": as_text(encoded(Image.effect_noise((90, 90), 50))[:-900])}),
    "empty picture": (422, {"image": ""}),
    "pixel bomb": (413, {"image": as_text(bomb())}),
    "large picture": (413, {"image": as_text(encoded(Image.new("L", (1001, 1000))))}),
    "many bytes": (413, {"image": as_text(bytes(100_001))}),
}


@pytest.mark.parametrize("case", INPUTS)
def test_inputs_that_say_nothing_or_too_much_are_refused(case: str, client: TestClient) -> None:
    status, inputs = INPUTS[case]
    check_refused(client, status, json.dumps({"inputs": inputs}).encode())


PARAMETERS = (
    {"topk": 3},
    {"top_k": 0},
    {"top_k": 11},
    {"top_k": True},
    {"top_k": 2.5},
    {"top_k": "3"},
    {"near": [50, 10]},
    {"radius_km": 1},
    {"near": [50], "radius_km": 1},
    {"near": [50, 10], "radius_km": 0},
    {"near": [50, "10"], "radius_km": 1},
    {"box": [1, 2, 3]},
    {"since": "2024"},
    {"since": 1700000000},
    {"until": "2024-13-45"},
    {"platforms": "drone"},
    {"area": [1, 2]},
    {"thumbnails": "yes"},
    {"refine": [""]},
)


@pytest.mark.parametrize("parameters", PARAMETERS, ids=str)
def test_parameters_are_honoured_or_refused_by_name(parameters: dict, client: TestClient) -> None:
    said = check_refused(client, 422, json.dumps({"inputs": "a", "parameters": parameters}).encode())
    assert any(name in said for name in (*parameters, "inputs" if "refine" in parameters else "parameters"))


def test_odd_ids_find_nothing_and_break_nothing(client: TestClient) -> None:
    for name in ("../../etc/passwd", "'; DROP TABLE gallery; --", "%00", "é" * 100):
        answer = client.post("/", json={"inputs": "red roof", "parameters": {"image_ids": [name]}})
        assert (answer.status_code, answer.json()["places"]) == (200, [])


def test_other_types_addresses_and_methods_are_refused(client: TestClient) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=a", ""):
        check_refused(client, 415, b'{"inputs": "a"}', {"content-type": kind})
    check_refused(client, 422, zipped(), {"content-type": "image/png"})
    for method, path, status in (("GET", "/", 405), ("POST", "/health", 405), ("GET", "/docs", 404)):
        answer = client.request(method, path)
        assert answer.status_code == status and list(answer.json()) == ["error"]
    assert client.post("/?top_k=1", json={"inputs": "a"}).status_code == 422


def test_a_body_without_a_length_is_counted_as_it_comes(client: TestClient) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        while sent < 20_000_000:
            sent += 100_000
            yield b" " * 100_000

    answer = client.post("/", content=endless(), headers=JSON)
    assert answer.status_code == 413 and list(answer.json()) == ["error"]
    check_refused(client, 413, b"{}", {**JSON, "content-length": "99999999999"})


def test_headers_and_addresses_that_come_at_once_are_bounded(client: TestClient) -> None:
    check_refused(client, 400, b'{"inputs": "a"}', {**JSON, "x": "a" * 40_000})
    check_refused(client, 400, b'{"inputs": "a"}', {**JSON, **{f"x-{number}": "a" * 70 for number in range(300)}})
    assert client.get("/health?" + "a" * 20_000).status_code == client.get("/" + "a" * 20_000).status_code == 400
    assert client.post("/", json={"inputs": "red roof"}, headers={"x": "a" * 15_000}).status_code == 200


def test_health_info_figures_and_openapi(client: TestClient) -> None:
    client.post("/", json={"inputs": ["red roof", "door"]})
    client.post("/", content=b"{", headers=JSON)
    client.get("/some words that somebody typed")
    assert client.get("/health").json() == {"status": "ready"}
    assert client.get("/info").json()["pictures"] == 24
    figures = client.get("/metrics").text
    for line in (
        'pemoe_requests_total{path="/",status="200"} 1.0',
        'pemoe_requests_total{path="/",status="400"} 1.0',
        'pemoe_requests_total{path="other",status="404"} 1.0',
        "pemoe_queries_total 2.0",
        "pemoe_index_pictures 24.0",
        'pemoe_request_seconds_count{path="/"} 2.0',
    ):
        assert line in figures
    assert "somebody" not in figures
    schema = client.get("/openapi.json").json()["paths"]["/"]["post"]["requestBody"]["content"]
    assert "near" in schema["application/json"]["schema"]["properties"]["parameters"]["properties"]


def test_pictures_of_other_writers_are_seen(tmp_path: Path) -> None:
    index_path, _ = write_index(tmp_path)
    with TestClient(build_app(Locator.open(index_path))) as client:
        assert "pemoe_index_pictures 24.0" in client.get("/metrics").text
        GalleryIndex.open(index_path).delete(Filter(place_ids=("0002",)))
        assert "pemoe_index_pictures 20.0" in client.get("/metrics").text
        places = client.post("/", json={"inputs": "red roof", "parameters": {"top_k": 10}}).json()["places"]
        assert "0002" not in {place["place_id"] for place in places}


def test_only_the_token_opens(locator: Locator) -> None:
    with TestClient(build_app(locator, LIMITS, token="correct-horse")) as client:
        for said in ("", "Bearer", "Bearer wrong", "Basic correct-horse", "correct-horse", "Bearer correct-horse1"):
            answer = client.post("/", json={"inputs": "a"}, headers={"authorization": said})
            assert (answer.status_code, answer.json()) == (401, {"error": "unauthorized"})
        assert client.get("/metrics").status_code == client.get("/nothing").status_code == 401
        assert client.get("/health").status_code == 200
        good = client.post("/", json={"inputs": "red roof"}, headers={"authorization": "Bearer correct-horse"})
        assert good.status_code == 200


def test_a_page_under_another_name_is_turned_away(locator: Locator) -> None:
    hosts = frozenset({"localhost", "127.0.0.1", "::1"})
    with TestClient(build_app(locator, LIMITS, hosts=hosts)) as client:
        for host, status in (("evil.example", 403), ("localhost:8000", 200), ("127.0.0.1", 200), ("[::1]:80", 200)):
            assert client.get("/health", headers={"host": host}).status_code == status


def test_a_rate_counts_every_query_of_a_batch(locator: Locator) -> None:
    with TestClient(build_app(locator, Limits(rate_per_minute=3))) as client:
        assert client.post("/", json={"inputs": ["red roof", "door", "blue wall"]}).status_code == 200
        answer = client.post("/", json={"inputs": "red roof"})
        assert answer.status_code == 429 and 1 <= int(answer.headers["retry-after"]) <= 20
        assert client.get("/health").status_code == 200


def test_a_stopping_service_takes_nothing_new(client: TestClient) -> None:
    client.app.state.service.door.is_stopping = True
    for answer in (client.get("/health"), client.post("/", json={"inputs": "a"})):
        assert (answer.status_code, answer.json()) == (503, {"error": "stopping"})
        assert answer.headers["retry-after"] == "5"


def test_a_fault_of_ours_is_logged_and_told_in_a_line(
    client: TestClient, locator: Locator, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def late(*_: object, **__: object) -> None:
        raise TimeoutError("the store does not answer")

    for fault in (None, late):
        caplog.clear()
        monkeypatch.setattr(locator.model, "get_text_features", fault)
        answer = client.post("/", json={"inputs": "red roof"})
        assert (answer.status_code, answer.json()) == (500, {"error": "internal error"})
        assert [one.name for one in caplog.records if one.exc_info] == ["pemoe.faults"]
    monkeypatch.undo()
    assert client.post("/", json={"inputs": "red roof"}).status_code == 200


def test_logs_hold_no_words_of_a_query(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    client.post("/", json={"inputs": "my secret garden"})
    client.post("/", json={"inputs": "my secret garden", "parameters": {"x": 1}})
    client.get("/my-secret-garden")
    ours = [one.getMessage() for one in caplog.records if one.name.startswith("pemoe")]
    assert len(ours) == 3 and not any("secret" in line for line in ours)


def check_refused(client: TestClient, status: int, body: bytes, headers: dict | None = None) -> str:
    """One JSON line with that status, and the next request is answered."""
    answer = client.post("/", content=body, headers=headers or JSON)
    assert (answer.status_code, list(answer.json())) == (status, ["error"]), answer.text
    said = answer.json()["error"]
    assert said and "\n" not in said and len(said) < 400
    assert "Traceback" not in said
    assert client.get("/health").status_code == 200
    return said
