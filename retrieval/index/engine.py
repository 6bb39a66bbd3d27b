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
    returned is seen by every later call, of other processes too, and survives `kill -9`; one that was killed did all,
    in batches of 5,000 ids for `delete`, or nothing. `create` that was killed left no index, or an empty one. What
    comes in has passed `records.check_rows`; filters are what `Filter.mask` says, of every engine.
    """

    uri: str

    @classmethod
    def create(cls, uri: str, dimension: int, about: dict[str, Any], **options: Any) -> Engine:
        """Make an empty index of vectors of that length."""

    @classmethod
    def open(cls, uri: str, **options: Any) -> Engine:
        """Open an index."""

    @property
    def about(self) -> dict[str, Any]:
        """What was stored last, by whichever process."""

    def write_about(self, about: dict[str, Any]) -> None:
        """Replace `about`."""

    def add(self, rows: pa.Table) -> None:
        """Append rows; GalleryError where an id is there, and nothing is added."""

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

        `exact`: True scores every row, equal scores by `image_id`; False uses the nearest-neighbour index, or is
        refused where there is none; None chooses.
        """

    def read(self, columns: Sequence[str], where: Filter) -> pa.Table:
        """The rows that pass, in no order that means anything."""

    def optimize(self, nearest: bool | None = None) -> None:
        """Compact files; build or extend the nearest-neighbour index: True, False, or None where the rows are many."""


def engine_of(uri: str) -> type[Engine]:
    """The engine of an address: a path or `s3://` is LanceDB, `http://` Milvus."""
    if not uri.strip():
        raise GalleryError("the address of the index is empty; name a directory")
    scheme = urlsplit(uri).scheme.lower() if "://" in uri else ""
    if scheme not in ENGINES:
        known = ", ".join(f"{one}://" for one in ENGINES if one)
        raise GalleryError(f"{uri}: no engine for {scheme}://; use a directory, {known}")
    module, _, name = ENGINES[scheme].partition(":")
    return getattr(import_module(module), name)
