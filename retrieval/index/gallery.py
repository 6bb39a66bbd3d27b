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
from pemoe.retrieval.index.records import FACTS


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
        """Append pictures (`records.table_of`) whose ids are new."""
        self.engine.add(self._checked(rows))

    def upsert(self, rows: pa.Table) -> None:
        """Replace pictures of the same `image_id`, append the others."""
        self.engine.upsert(self._checked(rows))

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
            exact: True scores every picture, False uses the nearest-neighbour index, None chooses by size.
            columns: of the answer.

        Returns:
            One table per query: `columns` and `score` (float32), falling; equal scores by `image_id`. Empty where
            nothing passes.

        Raises:
            GalleryError: vectors of another length, k below 1, NaN.
        """
        query = np.atleast_2d(np.asarray(query, dtype=np.float32))
        if query.shape[1] != self.model.dimension or not np.isfinite(query).all() or k < 1:
            raise GalleryError(f"search: {query.shape} with k = {k}; give finite (Q, {self.model.dimension}), k >= 1")
        return self.engine.search(query, k, where or Filter(), exact, columns)

    def read(self, columns: Sequence[str] = FACTS, where: Filter | None = None) -> pa.Table:
        """The pictures that pass, as a table."""
        return self.engine.read(columns, where or Filter())

    def optimize(self) -> None:
        """Compact files; build or extend the nearest-neighbour index where the pictures are many."""
        self.engine.optimize()

    def _checked(self, rows: pa.Table) -> pa.Table:
        ids = rows["image_id"].to_pylist()
        if len(set(ids)) < len(ids):
            raise GalleryError("rows: an image_id comes twice; give each picture one row")
        return rows
