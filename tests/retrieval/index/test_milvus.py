"""Invariant: what Milvus holds reads back as it was, missing values as missing ones and never as 0, 0; its conditions
let through every row that passes; addresses and faults are refused in one line that shows no token."""

from __future__ import annotations

from datetime import datetime, timezone

import numpy as np
import pyarrow as pa
import pytest

from pemoe.retrieval.index import Filter, GalleryIndex
from pemoe.retrieval.index.errors import GalleryError
from pemoe.retrieval.index.milvus.engine import _is_settled
from pemoe.retrieval.index.milvus.rows import decode_rows, encode_facts, to_expression
from pemoe.retrieval.index.records import VECTOR, table_of

NEEDED = {"image_id": "a", "place_id": "p", "platform": "drone"}
ROWS = [
    NEEDED,
    {**NEEDED, "name": "", "path": 'ü "図"\n\\', "latitude_deg": 0.0, "longitude_deg": 0.0, "thumbnail": b""},
    {**NEEDED, "latitude_deg": -90.0, "longitude_deg": 180.0, "thumbnail": bytes(range(256))},
    {**NEEDED, "captured_at": datetime(1969, 7, 20, 20, 17, 40, 123000, tzinfo=timezone.utc)},
]


def test_rows_read_back_as_they_were() -> None:
    table = table_of(ROWS, np.random.default_rng(0).standard_normal((len(ROWS), 4)))
    plain = table.drop([VECTOR]).to_pylist()
    times = table["captured_at"].cast("int64").to_pylist()
    stored = [encode_facts({**row, "captured_at": time}) for row, time in zip(plain, times, strict=True)]
    assert not any(value is None for row in stored for value in row.values())
    stored = [{**row, VECTOR: vector} for row, vector in zip(stored, table[VECTOR].to_pylist(), strict=True)]
    assert decode_rows(stored, table.column_names, table.schema).to_pylist() == table.to_pylist()
    halves = [{**row, VECTOR: [np.float16(row[VECTOR]).tobytes()]} for row in stored]  # as newer servers give them
    assert decode_rows(halves, [VECTOR], table.schema)[VECTOR].to_pylist() == table[VECTOR].to_pylist()


def test_text_that_is_too_long_is_refused_by_name() -> None:
    row = {**table_of(ROWS[:1], np.zeros((1, 4))).drop([VECTOR]).to_pylist()[0]}
    for name, value in (("place_id", "ü" * 2049), ("name", "x" * 65_536), ("thumbnail", bytes(50_000))):
        with pytest.raises(GalleryError, match=rf"'a': .*{name}.* bytes, Milvus holds"):
            encode_facts({**row, name: value})


def test_conditions() -> None:
    assert to_expression(Filter()) == ""
    assert to_expression(Filter(image_ids=('a"\\',))) == r'image_id in ["a\"\\"]'
    assert to_expression(Filter(box=(0, 0, 1, 1), near=(50, 50, 1))) == '(image_id == "")'
    assert to_expression(Filter(box=(0, 170, 1, -170))).count("||") == 1
    since = datetime(1970, 1, 1, 0, 0, 0, 1500, tzinfo=timezone.utc)
    assert to_expression(Filter(since=since, until=since)) == "captured_at >= 1 && captured_at <= 1"


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("http://127.0.0.1:19530", "no name"),
        ("http://127.0.0.1:19530/a-b", "no name"),
        ("http://127.0.0.1:19530/a/b", "no name"),
        ("http://127.0.0.1:99999/a", "Port out of range"),
        ("http://me:secret@127.0.0.1:1/a", "credentials"),
        ("http://127.0.0.1:1/a", "start the server"),
        ("https://127.0.0.1:1/a", "start the server"),
    ],
)
def test_bad_addresses_are_refused_in_one_line_without_the_token(address: str, message: str) -> None:
    with pytest.raises(GalleryError, match=message) as caught:
        GalleryIndex.open(address, token="me:secret", timeout_s=1.0)
    assert "\n" not in str(caught.value) and "secret" not in str(caught.value)


def test_options_that_are_not_known_are_refused() -> None:
    with pytest.raises(GalleryError, match="no option storage_options"):
        GalleryIndex.open("http://127.0.0.1:1/a", storage_options={})


@pytest.mark.parametrize("is_half", [True, False])
def test_a_row_that_the_query_was_rounded_past_may_still_be_the_best(is_half: bool) -> None:
    """Among rows that the server scores alike, which one is given first is left to how the query was rounded."""
    rng = np.random.default_rng(0)
    query = rng.normal(size=32).astype(np.float32)
    query /= np.linalg.norm(query)
    sent = query.astype(np.float16 if is_half else np.float32).astype(np.float64)
    error = query.astype(np.float64) - sent
    rows = table_of([{**NEEDED, "image_id": one} for one in "ab"], np.stack([query, query]))
    lost = float(np.linalg.norm(error))  # what a unit vector along the error gains over its score at the server
    for gap, is_settled in ((0.5 * lost, False), (0.01, True)):
        hits = rows.append_column("_distance", pa.array([1.0, 1.0 - gap]))
        best = rows.slice(0, 1).append_column("score", pa.array([1.0], pa.float32()))
        assert _is_settled(query, hits, best, is_half) is is_settled
