"""What mining found, as Parquet: one row per query, with the scores; and as the array that training reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pemoe.common.files import write_atomically

NEGATIVES = "negatives.parquet"
_KEY = b"pemoe"
SCHEMA = pa.schema(
    [
        ("row", pa.int64()),  # of the training split
        ("caption", pa.int64()),  # the query's number among the captions of its row
        ("image_id", pa.string()),
        ("place_id", pa.string()),
        ("negatives", pa.list_(pa.int64())),  # rows, the highest score first; fewer than k where no more were found
        ("negative_image_id", pa.list_(pa.string())),
        ("scores", pa.list_(pa.float32())),
        ("positive_score", pa.float32()),  # of the row's own picture
    ]
)


def build_table(
    row: np.ndarray,
    caption: np.ndarray,
    negatives: np.ndarray,
    scores: np.ndarray,
    positive: np.ndarray,
    image_id: Sequence[str],
    place_id: Sequence[str],
) -> pa.Table:
    """Rows of `SCHEMA` for q queries.

    Args:
        row, caption, positive: of each query, `(q,)`.
        negatives, scores: `(q, k)` row numbers, -1 for none, and their scores.
        image_id, place_id: of every row of the split.
    """
    found = [list(line[line >= 0]) for line in negatives]
    columns = {
        "row": row,
        "caption": caption,
        "image_id": [image_id[number] for number in row],
        "place_id": [place_id[number] for number in row],
        "negatives": found,
        "negative_image_id": [[image_id[number] for number in line] for line in found],
        "scores": [line[: len(kept)] for line, kept in zip(scores, found, strict=True)],
        "positive_score": positive,
    }
    return pa.table(columns, schema=SCHEMA)


def join_tables(path: Path, parts: Sequence[Path], key: dict) -> None:
    """Write the tables of `parts` one after another into `path`, whole or not at all, one in memory at a time."""
    schema = SCHEMA.with_metadata({_KEY: json.dumps(key)})

    def write(temporary: Path) -> None:
        with pq.ParquetWriter(temporary, schema) as writer:
            for part in parts:
                writer.write_table(pq.read_table(part, schema=SCHEMA))

    write_atomically(path, write)


def read_key(path: Path) -> dict:
    """What a file of `join_tables` was made from: its `key`."""
    return json.loads(pq.read_schema(path).metadata[_KEY])


def load_negatives(path: Path, n_rows: int, k: int) -> np.ndarray:
    """The mined negatives as training reads them.

    Where a row has several queries, what they found is joined: a picture counts with its highest score, equal scores
    go to the lower row number, and the first `k` are kept. A picture that one caption's filter left out may come in
    by another caption of the row.

    Returns:
        `(n_rows, k)` int64 row numbers, the highest score first; -1 where there are fewer, and for rows without query.

    Raises:
        OSError: no such file.
    """
    table = pq.read_table(path, columns=["row", "negatives", "scores"])
    lists = table["negatives"].combine_chunks()
    counts = lists.value_lengths().to_numpy(zero_copy_only=False)
    row = np.repeat(table["row"].to_numpy(), counts)
    negative, score = lists.flatten().to_numpy(), table["scores"].combine_chunks().flatten().to_numpy()
    order = np.lexsort((negative, -score, row))
    row, negative = row[order], negative[order]
    _, first = np.unique(row * n_rows + negative, return_index=True)  # of a pair met twice, the higher score
    first.sort()
    row, negative = row[first], negative[first]
    place = np.arange(len(row)) - np.searchsorted(row, row)  # among the negatives of its row
    negatives = np.full((n_rows, k), -1, dtype=np.int64)
    negatives[row[place < k], place[place < k]] = negative[place < k]
    return negatives
