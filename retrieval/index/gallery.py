"""`GalleryIndex`: seven calls over pictures with places and coordinates, the same on a laptop and on a cluster."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pemoe.retrieval.index.engine import Engine, engine_of
from pemoe.retrieval.index.errors import GalleryError
from pemoe.retrieval.index.filters import Filter
from pemoe.retrieval.index.identity import ModelIdentity
from pemoe.retrieval.index.records import FACTS, check_columns, check_rows, schema_of

MAX_QUERY = 1e6  # entries of fused queries are at most 1; far beyond it fp32 overflows


class GalleryIndex:
    """Pictures as fused vectors of Eq. 1, `[v_1 ... v_E]`, searched by inner product.

    Args:
        engine: see `open` and `create`.

    Example:
        >>> index = GalleryIndex.open("campus.index")  # doctest: +SKIP
        >>> index.search(query, k=5, where=Filter(platforms=("drone",)))[0].to_pylist()  # doctest: +SKIP
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @classmethod
    def create(cls, uri: str, model: ModelIdentity, **options: Any) -> GalleryIndex:
        """Make an empty index for a model's vectors.

        Args:
            uri: a directory, `s3://bucket/folder`, or `http://host:19530/name` of a Milvus server.
            model: whose vectors it will hold.
            options: of the engine, as `storage_options`.

        Raises:
            GalleryError: an index is there already, or the address cannot be reached.
        """
        return cls(engine_of(uri).create(uri, model.dimension, {"model": model.as_json()}, **options))

    @classmethod
    def open(cls, uri: str, **options: Any) -> GalleryIndex:
        """Open an index; GalleryError where none is."""
        return cls(engine_of(uri).open(uri, **options))

    @property
    def model(self) -> ModelIdentity:
        """Whose vectors it holds."""
        return ModelIdentity.from_json(self.engine.about["model"])

    @property
    def calibration(self) -> dict[str, Any] | None:
        """What turns scores into probabilities, or None."""
        return self.engine.about.get("calibration")

    def set_calibration(self, calibration: dict[str, Any] | None) -> None:
        """Store what turns scores into probabilities."""
        self.engine.write_about({**self.engine.about, "calibration": calibration})

    def add(self, rows: pa.Table) -> None:
        """Append pictures (`records.table_of`).

        Raises:
            GalleryError: a row that `records.check_rows` refuses, or an id that is there; nothing is added then.
        """
        self.engine.add(check_rows(rows, self.model.dimension))

    def upsert(self, rows: pa.Table) -> None:
        """Replace pictures of the same `image_id`, append the others; GalleryError as for `add`, nothing done then."""
        self.engine.upsert(check_rows(rows, self.model.dimension))

    def delete(self, where: Filter) -> int:
        """Remove pictures; returns how many. GalleryError for a filter that lets everything pass."""
        if where.is_empty:
            raise GalleryError("delete: an empty filter would remove everything; name what to remove")
        return self.engine.delete(where)

    def count(self, where: Filter | None = None) -> int:
        """Pictures that pass."""
        return self.engine.count(where or Filter())

    def search(
        self,
        query: np.ndarray,
        k: int = 10,
        where: Filter | None = None,
        exact: bool | None = None,
        columns: Sequence[str] = FACTS,
    ) -> list[pa.Table]:
        """The at most `k` best pictures of each query.

        Args:
            query: fused vectors `(Q, E * D)` or `(E * D,)`.
            k: pictures per query.
            where: which pictures are searched.
            exact: True scores every picture, False uses the nearest-neighbour index that `optimize` built, None
                chooses by size.
            columns: of the answer.

        Returns:
            One table per query: `columns` and `score` (float32), falling; equal scores by `image_id`. Empty where
            nothing passes.

        Raises:
            GalleryError: vectors of another length, k below 1, NaN, values beyond 1e6; `exact=False` with no
                nearest-neighbour index; a column that there is not.
        """
        query = np.atleast_2d(np.asarray(query, dtype=np.float32))
        wide, dimension = query.shape[-1], self.model.dimension
        if query.ndim != 2 or wide != dimension or not (np.abs(query) <= MAX_QUERY).all() or k < 1:
            raise GalleryError(f"search: {query.shape} with k = {k}; give finite (Q, {dimension}), k >= 1")
        check_columns(columns, schema_of(dimension).names)
        return self.engine.search(query, k, where or Filter(), exact, columns)

    def read(self, columns: Sequence[str] = FACTS, where: Filter | None = None) -> pa.Table:
        """The pictures that pass, as a table in no order that means anything."""
        check_columns(columns, schema_of(self.model.dimension).names)
        return self.engine.read(columns, where or Filter())

    def optimize(self, nearest: bool | None = None) -> None:
        """Compact files, drop old versions, and build or extend the nearest-neighbour index.

        Args:
            nearest: whether there shall be one; None: where the pictures are so many that a search uses it.
        """
        self.engine.optimize(nearest)
