"""Rows of an index as Milvus holds them, and filters as its conditions.

Milvus before 2.5 has no null, so that a row is written without any: coordinates that are missing are `NOWHERE`, beyond
every place on the earth, a missing time is `NEVER`, a missing thumbnail is empty text, and what is not filtered by
stands in one JSON object. A thumbnail is `=` and base64: 49,000 bytes of JPEG fit.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

import numpy as np
import pyarrow as pa

from pemoe.retrieval.index.errors import GalleryError
from pemoe.retrieval.index.filters import Filter
from pemoe.retrieval.index.records import VECTOR, to_vector_column

# VARCHAR fields and the most bytes of UTF-8 in them; 65,535 is Milvus' own limit
TEXTS = {"image_id": 4096, "place_id": 4096, "platform": 256, "facts": 65_535, "thumbnail": 65_535}
IN_FACTS = ("name", "path", "content_sha256")  # as one JSON object in `facts`
NOWHERE = 1000.0  # degrees
NEVER = -(2**63)  # ms
IDS_AT_ONCE = 5_000  # in one condition
EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def encode_facts(row: dict[str, Any]) -> dict[str, Any]:
    """All of a row but its vector as fields without null; `captured_at` is given in ms since 1970.

    GalleryError for text that is too long.
    """
    thumbnail, time = row["thumbnail"], row["captured_at"]
    fields = {
        **{name: row[name] for name in ("image_id", "place_id", "platform")},
        **{name: NOWHERE if row[name] is None else row[name] for name in ("latitude_deg", "longitude_deg")},
        "captured_at": NEVER if time is None else time,
        "facts": json.dumps({name: row[name] for name in IN_FACTS}, ensure_ascii=False),
        "thumbnail": "" if thumbnail is None else "=" + base64.b64encode(thumbnail).decode(),
    }
    for name, most in TEXTS.items():
        length = len(fields[name].encode())
        if length > most:
            what = "name and path" if name == "facts" else name
            raise GalleryError(f"{row['image_id'][:80]!r}: {what} of {length} bytes, Milvus holds {most}; shorten it")
    return fields


def decode_rows(rows: Iterable[Mapping[str, Any]], columns: Sequence[str], schema: pa.Schema) -> pa.Table:
    """Rows as the server gives them, as a table of `columns`."""
    rows = list(rows)
    facts = [json.loads(row["facts"]) for row in rows] if set(columns) & set(IN_FACTS) else []
    arrays = [_column(schema.field(name), facts if name in IN_FACTS else rows) for name in columns]
    return pa.Table.from_arrays(arrays, schema=pa.schema([schema.field(name) for name in columns]))


def fields_of(columns: Iterable[str]) -> list[str]:
    """The fields of the collection that hold columns."""
    return list(dict.fromkeys("facts" if name in IN_FACTS else name for name in columns))


def _column(field: pa.Field, rows: list[Mapping[str, Any]]) -> pa.Array:
    if field.name == VECTOR:
        vectors = [_half(row[VECTOR]) for row in rows]
        return to_vector_column(np.stack(vectors) if vectors else np.empty((0, field.type.list_size)))
    values = [row[field.name] for row in rows]
    if field.name == "thumbnail":
        values = [base64.b64decode(one[1:]) if one else None for one in values]
    if field.name in ("latitude_deg", "longitude_deg"):
        values = [None if one == NOWHERE else one for one in values]
    if field.name == "captured_at":
        return pa.array([None if one == NEVER else one for one in values], pa.int64()).cast(field.type)
    return pa.array(values, field.type)


def _half(vector: Any) -> np.ndarray:
    """A vector as the server gives it, numbers or bytes, as float16."""
    if isinstance(vector, list) and len(vector) == 1 and isinstance(vector[0], bytes):
        vector = vector[0]
    return np.frombuffer(vector, np.float16) if isinstance(vector, bytes) else np.asarray(vector, np.float16)


def to_expression(where: Filter) -> str:
    """A condition of Milvus that every row fulfils which passes the filter, and few others; "" where all may.

    Example:
        >>> to_expression(Filter(platforms=("drone", "street")))
        'platform in ["drone", "street"]'
    """
    columns = {"platform": where.platforms, "image_id": where.image_ids, "place_id": where.place_ids}
    parts = [among(column, names) for column, names in columns.items() if 0 < len(names) <= IDS_AT_ONCE]
    boxes = where.bounds()
    if boxes is not None:
        parts.append("(" + (" || ".join(_inside(*box) for box in boxes) or 'image_id == ""') + ")")
    if where.since is not None:
        parts.append(f"captured_at >= {_milliseconds(where.since)}")
    if where.until is not None:
        parts.append(f"captured_at <= {_milliseconds(where.until)}")
    return " && ".join(parts)


def among(column: str, names: Iterable[str]) -> str:
    """A condition that a column is one of some texts."""
    return f"{column} in [{', '.join(map(quoted, names))}]"


def both(one: str, other: str) -> str:
    """Both conditions; the second may be ""."""
    return f"{one} && ({other})" if other else one


def quoted(text: str) -> str:
    """A text in a condition; Milvus reads the escapes of JSON."""
    return json.dumps(text, ensure_ascii=False)


def _inside(south: float, west: float, north: float, east: float) -> str:
    sides = (("latitude_deg", south, north), ("longitude_deg", west, east))
    return "(" + " && ".join(f"{name} >= {float(a)!r} && {name} <= {float(b)!r}" for name, a, b in sides) + ")"


def _milliseconds(time: datetime) -> int:
    """The whole millisecond at or before."""
    return (time - EPOCH) // timedelta(milliseconds=1)
