"""An index in a folder, or in object storage: LanceDB."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from pemoe.retrieval.index.errors import GalleryError
from pemoe.retrieval.index.filters import NEEDED, Filter
from pemoe.retrieval.index.records import VECTOR, schema_of, to_vectors
from pemoe.retrieval.scoring import search

if TYPE_CHECKING:
    from lancedb.table import Table

GALLERY, ABOUT = "gallery", "about"  # tables


class LanceEngine:
    """See `Engine`; `options` go to `lancedb.connect` (`storage_options` of object storage)."""

    def __init__(self, uri: str, gallery: Table, about: Table) -> None:
        self.uri, self._gallery, self._about = uri, gallery, about
        self.about: dict[str, Any] = json.loads(about.to_arrow()["json"][0].as_py())

    @classmethod
    def create(cls, uri: str, dimension: int, about: dict[str, Any], **options: Any) -> LanceEngine:
        """Make an empty index; GalleryError where one is."""
        import lancedb

        database = lancedb.connect(uri, **options)
        if ABOUT in _tables(database):
            raise GalleryError(f"{uri}: there is an index already; add to it, or name another directory")
        gallery = database.create_table(GALLERY, schema=schema_of(dimension), mode="overwrite")
        facts = database.create_table(ABOUT, data=pa.table({"json": [json.dumps(about)]}))
        return cls(uri, gallery, facts)

    @classmethod
    def open(cls, uri: str, **options: Any) -> LanceEngine:
        """Open an index; GalleryError where none is."""
        import lancedb

        if "://" not in uri and not Path(uri).is_dir():
            raise GalleryError(f"{uri}: no such index; make it with pemoe index build DATA --model M --output {uri}")
        database = lancedb.connect(uri, read_consistency_interval=_always(), **options)
        if ABOUT not in _tables(database):
            raise GalleryError(f"{uri}: holds no index; make it with pemoe index build DATA --model M --output {uri}")
        return cls(uri, database.open_table(GALLERY), database.open_table(ABOUT))

    def write_about(self, about: dict[str, Any]) -> None:
        """Replace `about`."""
        self._about.add(pa.table({"json": [json.dumps(about)]}), mode="overwrite")
        self.about = about

    def add(self, rows: pa.Table) -> None:
        """Append rows whose ids are new."""
        self._gallery.add(rows)

    def upsert(self, rows: pa.Table) -> None:
        """Replace the rows of the same `image_id`, append the others."""
        merge = self._gallery.merge_insert("image_id").when_matched_update_all().when_not_matched_insert_all()
        merge.execute(rows)

    def delete(self, where: Filter) -> int:
        """Remove rows; how many."""
        doomed = self.read(["image_id"], where)["image_id"].to_pylist()
        quoted = ", ".join("'" + one.replace("'", "''") + "'" for one in doomed)
        if doomed:
            self._gallery.delete(f"image_id IN ({quoted})")
        return len(doomed)

    def count(self, where: Filter) -> int:
        """Rows that pass."""
        return self._gallery.count_rows() if where.is_empty else len(self.read(["image_id"], where))

    def search(
        self, query: np.ndarray, k: int, where: Filter, exact: bool | None, columns: Sequence[str]
    ) -> list[pa.Table]:
        """For each query its best rows that pass."""
        rows = self.read([*columns, VECTOR], where)
        if not len(rows):
            return [rows.drop([VECTOR]).append_column("score", pa.array([], pa.float32()))] * len(query)
        scores, found = search(query, to_vectors(rows[VECTOR]), min(k, len(rows)))
        shown = rows.select(list(columns))
        return [
            shown.take(numbers).append_column("score", pa.array(of)) for numbers, of in zip(found, scores, strict=True)
        ]

    def read(self, columns: Sequence[str], where: Filter) -> pa.Table:
        """The rows that pass."""
        wanted = list(dict.fromkeys([*columns, *NEEDED]))
        rows = self._gallery.search().select(wanted).limit(10**9).to_arrow()
        return rows.filter(pa.array(where.mask(rows))).select(list(columns))

    def optimize(self) -> None:
        """Compact files."""
        self._gallery.optimize()


def _tables(database: Any) -> list[str]:
    return list(database.table_names())


def _always() -> Any:
    from datetime import timedelta

    return timedelta(0)
