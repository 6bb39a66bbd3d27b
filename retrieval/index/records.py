"""What an index holds of each picture: the columns and their types."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pemoe.retrieval.index.errors import GalleryError

VECTOR = "vector"
# shown of a hit; not the vector and not the thumbnail, which are read for the few that are shown
FACTS = ("image_id", "place_id", "name", "platform", "latitude_deg", "longitude_deg", "captured_at", "path")


def schema_of(dimension: int) -> pa.Schema:
    """Columns of an index whose vectors have `dimension` = E * D entries.

    `image_id` is unique. `name` is what people call the place; `captured_at` is in UTC; `path` is where the picture
    was read; `content_sha256` is of its bytes, so that an unchanged picture is not encoded twice; `thumbnail` is JPEG.
    """
    return pa.schema(
        [
            pa.field("image_id", pa.string(), nullable=False),
            pa.field("place_id", pa.string(), nullable=False),
            pa.field("name", pa.string()),
            pa.field("platform", pa.string(), nullable=False),
            pa.field("latitude_deg", pa.float64()),
            pa.field("longitude_deg", pa.float64()),
            pa.field("captured_at", pa.timestamp("ms", tz="UTC")),
            pa.field("path", pa.string()),
            pa.field("content_sha256", pa.string()),
            pa.field("thumbnail", pa.binary()),
            pa.field(VECTOR, pa.list_(pa.float16(), dimension), nullable=False),
        ]
    )


def to_vector_column(vectors: np.ndarray) -> pa.FixedSizeListArray:
    """Vectors `(n, D)` as a column of fp16."""
    flat = np.ascontiguousarray(vectors, dtype=np.float16).ravel()
    return pa.FixedSizeListArray.from_arrays(pa.array(flat), vectors.shape[1])


def to_vectors(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """A column of fixed-size lists as `(n, D)` float16."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    dimension = array.type.list_size
    return array.flatten().to_numpy(zero_copy_only=False).reshape(-1, dimension)


def table_of(rows: list[dict], vectors: np.ndarray) -> pa.Table:
    """Rows, without their vectors, and vectors `(n, D)` as a table of `schema_of(D)`; missing values become null."""
    schema = schema_of(vectors.shape[1])
    columns = [pa.array([row.get(field.name) for row in rows], field.type) for field in schema if field.name != VECTOR]
    return pa.Table.from_arrays([*columns, to_vector_column(vectors)], schema=schema)


def check_rows(rows: pa.Table, dimension: int) -> pa.Table:
    """Rows as `schema_of(dimension)` has them, columns in its order, or a GalleryError that names the first bad row.

    Refused: columns that are missing, unknown or of another type, vectors of another length or not finite, an
    `image_id`, `place_id` or `platform` that is empty, an `image_id` that comes twice, coordinates outside
    -90..90 and -180..180, not finite, or half given.
    """
    rows = _conform(rows, schema_of(dimension))
    for name in ("image_id", "place_id", "platform"):
        _refuse(rows, [not one for one in rows[name].to_pylist()], lambda n, name=name: f"{name} is empty; give one")
    ids = rows["image_id"].to_pylist()
    first = {one: n for n, one in reversed(list(enumerate(ids)))}
    _refuse(
        rows, [first[one] != n for n, one in enumerate(ids)], lambda n: "is given twice; give each picture one row"
    )
    finite = np.isfinite(to_vectors(rows[VECTOR])).all(axis=1) if len(rows) else np.ones(0, dtype=bool)
    _refuse(rows, ~finite, lambda n: "its vector holds NaN or values beyond fp16; encode it again")
    _check_coordinates(rows)
    return rows


def check_columns(columns: Sequence[str], known: Sequence[str]) -> None:
    """Raise GalleryError for a column that there is not."""
    unknown = [name for name in columns if name not in known]
    if unknown:
        raise GalleryError(f"columns {unknown}: there are {', '.join(known)}")


def _conform(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    missing = [name for name in schema.names if name not in rows.column_names]
    unknown = [name for name in rows.column_names if name not in schema.names]
    if missing or unknown:
        raise GalleryError(f"rows: columns missing {missing}, unknown {unknown}; make them with records.table_of")
    length = getattr(rows.schema.field(VECTOR).type, "list_size", None)
    if length != schema.field(VECTOR).type.list_size:
        raise GalleryError(f"rows: vectors of length {length}, the index holds {schema.field(VECTOR).type.list_size}")
    for field in schema:
        if not field.nullable and rows[field.name].null_count:
            number = rows[field.name].is_null().to_pylist().index(True)
            raise GalleryError(f"row {number}: {field.name} is empty; give one")
    try:
        return rows.select(schema.names).cast(schema)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
        raise GalleryError(f"rows: {str(error).splitlines()[0]}; make them with records.table_of") from error


def _check_coordinates(rows: pa.Table) -> None:
    latitude, longitude = rows["latitude_deg"].to_pylist(), rows["longitude_deg"].to_pylist()
    half = [(north is None) != (east is None) for north, east in zip(latitude, longitude, strict=True)]
    _refuse(rows, half, lambda n: f"latitude_deg {latitude[n]}, longitude_deg {longitude[n]}; give both or none")
    for name, values, limit in (("latitude_deg", latitude, 90), ("longitude_deg", longitude, 180)):
        wrong = [one is not None and not -limit <= one <= limit for one in values]
        _refuse(rows, wrong, lambda n, v=values, a=name, b=limit: f"{a} {v[n]} is outside -{b}..{b}; correct it")


def _refuse(rows: pa.Table, wrong: Any, explain: Callable[[int], str]) -> None:
    """Raise for the first row that is wrong."""
    found = np.flatnonzero(wrong)
    if len(found):
        number = int(found[0])
        raise GalleryError(f"row {number} ({rows['image_id'][number].as_py()!r}): {explain(number)}")
