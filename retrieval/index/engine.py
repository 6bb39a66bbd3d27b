"""What a vector engine must do, and which engine an address names."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any, Protocol
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa

from pemoe.retrieval.index.errors import GalleryError
from pemoe.retrieval.index.filters import Filter

# scheme of the address -> module and class
ENGINES = {
    "": "pemoe.retrieval.index.lance:LanceEngine",
    "s3": "pemoe.retrieval.index.lance:LanceEngine",
    "gs": "pemoe.retrieval.index.lance:LanceEngine",
    "az": "pemoe.retrieval.index.lance:LanceEngine",
    "http": "pemoe.retrieval.index.milvus:MilvusEngine",
    "https": "pemoe.retrieval.index.milvus:MilvusEngine",
}


class Engine(Protocol):
    """A store of records (`records.schema_of`) under one address, with one small JSON object `about` beside them.

    `create` refuses an address where an index is, `open` one where none is (GalleryError, one line). A call that has
    returned is seen by every later call, of other processes too, and survives `kill -9`.
    """

    @classmethod
    def create(cls, uri: str, dimension: int, about: dict[str, Any], **options: Any) -> Engine:
        """Make an empty index of vectors of that length."""

    @classmethod
    def open(cls, uri: str, **options: Any) -> Engine:
        """Open an index."""

    about: dict[str, Any]

    def write_about(self, about: dict[str, Any]) -> None:
        """Replace `about`."""

    def add(self, rows: pa.Table) -> None:
        """Append rows whose ids are new."""

    def upsert(self, rows: pa.Table) -> None:
        """Replace the rows of the same `image_id`, append the others."""

    def delete(self, where: Filter) -> int:
        """Remove rows; how many."""

    def count(self, where: Filter) -> int:
        """Rows that pass."""

    def search(
        self, query: np.ndarray, k: int, where: Filter, exact: bool | None, columns: Sequence[str]
    ) -> list[pa.Table]:
        """For each query `(Q, D)` float32 its at most `k` best rows that pass, `columns` and a falling `score`.

        `exact`: True scores every row, False uses the nearest-neighbour index, None chooses.
        """

    def read(self, columns: Sequence[str], where: Filter) -> pa.Table:
        """The rows that pass, in no order that means anything."""

    def optimize(self) -> None:
        """Compact files; build or extend the nearest-neighbour index where the rows are many."""


def engine_of(uri: str) -> type[Engine]:
    """The engine of an address: a path or `s3://` is LanceDB, `http://` Milvus."""
    scheme = urlsplit(uri).scheme.lower() if "://" in uri else ""
    if scheme not in ENGINES:
        known = ", ".join(f"{one}://" for one in ENGINES if one)
        raise GalleryError(f"{uri}: no engine for {scheme}://; use a directory, {known}")
    module, _, name = ENGINES[scheme].partition(":")
    return getattr(import_module(module), name)
