"""What an index holds of each picture: the columns and their types."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

VECTOR = "vector"
# shown of a hit; not the vector and not the thumbnail, which are read for the few that are shown
FACTS = ("image_id", "place_id", "name", "platform", "latitude_deg", "longitude_deg", "captured_at", "path")


def schema_of(dimension: int) -> pa.Schema:
    """Columns of an index whose vectors have `dimension` = E * D entries.

    `image_id` is unique. `name` is what people call the place; `captured_at` is in UTC; `path` is where the picture
    was read; `content_sha256` is of its bytes, so that an unchanged picture is not encoded twice; `thumbnail` is JPEG;
    `hub_mean` and `hub_std` are of the picture's scores with the calibration's bank of queries.
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
            pa.field("hub_mean", pa.float32()),
            pa.field("hub_std", pa.float32()),
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
