"""Vectors of an index held in memory as they are stored, fp16, and exact search over them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from pemoe.retrieval.index.errors import GalleryError
from pemoe.retrieval.index.records import FACTS, VECTOR, to_vectors

ROW_ID = "_rowid"  # Lance's address of a row: fragment and place in it; the row behind it never changes
HELD = (*FACTS, VECTOR)
TILE_ENTRIES = 2**22  # that are fp32 at a time, 16 MB: they stay in the cache, and threads meet seldom
RESCORED = 256  # rows that are fp64 at a time
QUERIES = 64  # that share one pass; bounds the coarse scores to QUERIES x rows x 4 bytes
RELOAD = 0.25  # share of rows, new or gone, from which all are read anew
SPARE = 0.125  # room for rows to come; untouched pages take no memory
MAX_CHUNKS = 16  # of the table of facts


@dataclass(frozen=True)
class Resident:
    """One version of a gallery in memory: `rows * (2 D + about 200)` bytes, 1.3 GB for 200,000 rows of D = 3072.

    A later version shares the matrix with an earlier one: new rows go to its spare end, rows that are gone are only
    marked. So a search that has begun ends on the version that it began with.

    Args:
        version: of the table.
        row_ids: `(n,)` uint64, Lance's addresses.
        live: `(n,)` bool, False for a row that is gone.
        facts: `FACTS` of the n rows.
        vectors: `(capacity, D)` float16, the first n filled.
        reach: an upper bound of the vectors' lengths.
    """

    version: int
    row_ids: np.ndarray
    live: np.ndarray
    facts: pa.Table
    vectors: np.ndarray
    reach: float

    @classmethod
    def read(cls, version: int, rows: int, batches: Iterable[pa.RecordBatch], dimension: int) -> Resident:
        """Read a table of that many rows, given as batches of `HELD` and `ROW_ID`; one batch beyond it in memory."""
        vectors = np.empty((int(rows * (1 + SPARE)) + 1024, dimension), dtype=np.float16)
        tables, filled, reach = [], 0, 0.0
        for batch in batches:
            part = pa.Table.from_batches([batch])
            new = vectors[filled : filled + len(part)]
            new[:] = to_vectors(part[VECTOR])
            reach = max(reach, longest(new, part["image_id"]))
            tables.append(part.drop([VECTOR]))
            filled += len(part)
        known = pa.concat_tables(tables).combine_chunks() if tables else _no_facts()
        row_ids = known[ROW_ID].to_numpy()
        return cls(version, row_ids, np.ones(filled, dtype=bool), known.select(list(FACTS)), vectors, reach)

    def follow(self, version: int, row_ids: np.ndarray, take: Callable[[list[int]], pa.Table]) -> Resident | None:
        """The same for a later version, of which only the new rows are read; None where most of it is new.

        Args:
            version: the later one.
            row_ids: all of its rows, in any order.
            take: rows by address, in any order, with `HELD` and `ROW_ID`.
        """
        live = np.isin(self.row_ids, row_ids)
        added = np.setdiff1d(row_ids, self.row_ids)
        if len(added) + len(live) - live.sum() > RELOAD * len(live):
            return None
        if not len(added):
            return replace(self, version=version, live=live)
        part, n = take(added.tolist()), len(self.row_ids)
        vectors = self._with_room(n + len(part))
        new = vectors[n : n + len(part)]
        new[:] = to_vectors(part[VECTOR])
        facts = pa.concat_tables([self.facts, part.select(list(FACTS))])
        return Resident(
            version,
            np.concatenate([self.row_ids, part[ROW_ID].to_numpy()]),
            np.concatenate([live, np.ones(len(part), dtype=bool)]),
            facts.combine_chunks() if facts["image_id"].num_chunks > MAX_CHUNKS else facts,
            vectors,
            max(self.reach, longest(new, part["image_id"])),
        )

    def search(self, query: np.ndarray, k: int, mask: np.ndarray | None) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each query the numbers and scores of its at most `k` best rows that are there and pass `mask`."""
        passed = self.live if mask is None else self.live & mask
        rows = None if passed.all() else np.flatnonzero(passed)
        return best_rows(query, self.vectors[: len(passed)], rows, k, self.facts["image_id"], self.reach)

    def _with_room(self, rows: int) -> np.ndarray:
        if rows <= len(self.vectors):
            return self.vectors
        grown = np.empty((int(rows * (1 + SPARE)), self.vectors.shape[1]), dtype=np.float16)
        grown[: len(self.row_ids)] = self.vectors[: len(self.row_ids)]
        return grown


def best_rows(
    query: np.ndarray, vectors: np.ndarray, rows: np.ndarray | None, k: int, image_ids: pa.ChunkedArray, reach: float
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The `k` best rows of each query, exactly: those that `exact_scores` of every row would give.

    A first pass in fp32 leaves out what cannot be among them. A sum of D products in fp32, in whatever order, is off
    by at most `g |q| |v|` with `g = D u / (1 - D u)`, `u = 2^-24` (Higham, Accuracy and Stability of Numerical
    Algorithms, 2002, §3.1), the exact score by `u |q| |v|` more. With b the sum of both, the k-th best row scores at
    least `c_k - b`, c_k being the k-th largest first score, so each of the best has one of at least `c_k - 2 b`.

    Args:
        query: `(Q, D)` float32, finite.
        vectors: `(n, D)` float16, finite.
        rows: numbers of the rows that are searched; None: all.
        k: at least 1.
        image_ids: of the n rows; equal scores go by them.
        reach: an upper bound of the vectors' lengths.

    Returns:
        Per query the numbers of at most k rows, int64, and their scores, float32, falling.
    """
    found = []
    for start in range(0, len(query), QUERIES):
        part = query[start : start + QUERIES]
        for one, coarse in zip(part, _coarse_scores(part, vectors, rows), strict=True):
            near = _candidates(coarse, k, _bound(one, reach))
            found.append(rank_exactly(one, vectors, near if rows is None else rows[near], k, image_ids))
    return found


def rank_exactly(
    query: np.ndarray, vectors: np.ndarray, rows: np.ndarray, k: int, image_ids: pa.ChunkedArray
) -> tuple[np.ndarray, np.ndarray]:
    """The at most `k` best of some rows by `exact_scores`, equal ones by `image_id`, and their scores, falling."""
    scores, ids = exact_scores(query, vectors, rows), image_ids.take(pa.array(rows)).to_pylist()
    order = sorted(range(len(rows)), key=lambda n: (-scores[n], ids[n]))[:k]
    return rows[order], scores[order]


def exact_scores(query: np.ndarray, vectors: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Inner products of a float32 query `(D,)` with rows of a float16 matrix, `(len(rows),)` float32.

    Products of fp32 and fp16 are exact in fp64; they are summed there and rounded once, so that a score does not
    depend on which rows it is computed with, or on how many threads.
    """
    wide, scores = query.astype(np.float64), np.empty(len(rows), dtype=np.float32)
    for start in range(0, len(rows), RESCORED):
        part = vectors[rows[start : start + RESCORED]].astype(np.float64)
        scores[start : start + RESCORED] = np.einsum("nd,d->n", part, wide)
    return scores


def longest(vectors: np.ndarray, image_ids: pa.ChunkedArray) -> float:
    """An upper bound of the lengths of vectors `(n, D)` float16; GalleryError naming one that is not finite."""
    reach = 0.0
    for part, tile in _float_tiles(vectors, None):
        squares = np.einsum("nd,nd->n", tile, tile)
        if not np.isfinite(squares).all():
            name = image_ids[part.start + int(np.flatnonzero(~np.isfinite(squares))[0])].as_py()
            raise GalleryError(f"{name}: its vector in the index is not finite; remove the picture or add it again")
        reach = max(reach, float(squares.max()))
    return 1.01 * reach**0.5


def _bound(query: np.ndarray, reach: float) -> float:
    """How far a score of the first pass may lie from the exact one; with room for fp32's smallest numbers."""
    unit, dimension = 2.0**-24, len(query)
    relative = dimension * unit / (1 - dimension * unit) + unit
    return relative * float(np.linalg.norm(query.astype(np.float64))) * reach + dimension * 2.0**-126


def _candidates(coarse: np.ndarray, k: int, bound: float) -> np.ndarray:
    if k >= len(coarse):
        return np.arange(len(coarse))
    least = float(np.partition(coarse, len(coarse) - k)[len(coarse) - k])
    return np.flatnonzero(coarse >= np.nextafter(np.float32(least - 2 * bound), np.float32(-np.inf)))


def _coarse_scores(query: np.ndarray, vectors: np.ndarray, rows: np.ndarray | None) -> np.ndarray:
    """Inner products in fp32, `(Q, rows)`."""
    import torch

    coarse = np.empty((len(query), len(vectors) if rows is None else len(rows)), dtype=np.float32)
    is_fp32 = torch.get_float32_matmul_precision() == "highest"  # below it, torch may multiply in bf16
    turned = torch.from_numpy(query.T.copy())
    for part, tile in _float_tiles(vectors, rows):
        product = (torch.from_numpy(tile) @ turned).numpy() if is_fp32 else tile @ query.T
        coarse[:, part] = product.T
    return coarse


def _float_tiles(vectors: np.ndarray, rows: np.ndarray | None) -> Iterator[tuple[slice, np.ndarray]]:
    """The rows as fp32, some at a time, in memory that the next ones overwrite."""
    import torch  # converts fp16 ten times as fast as numpy

    n, source = len(vectors) if rows is None else len(rows), torch.from_numpy(vectors)
    size = max(1, min(n, TILE_ENTRIES // vectors.shape[1]))
    tile = torch.empty(size, vectors.shape[1])
    for start in range(0, n, size):
        part = slice(start, min(start + size, n))
        filled = tile[: part.stop - start]
        filled.copy_(source[part] if rows is None else source[torch.from_numpy(rows[part])])
        yield part, filled.numpy()


def _no_facts() -> pa.Table:
    from pemoe.retrieval.index.records import schema_of

    fields = [schema_of(1).field(name) for name in FACTS]
    return pa.schema([*fields, pa.field(ROW_ID, pa.uint64())]).empty_table()
