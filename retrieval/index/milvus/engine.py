"""An index on a Milvus server or cluster, `http://host:port/name`, through pymilvus.

Two collections: `NAME` holds the pictures, `NAME_about` the JSON beside them. The server's filter lets too much
through, never too little; what it gives passes `Filter.mask`, and is scored anew in one way. Every call asks for
"Strong" consistency: it sees all that has returned before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from pemoe.retrieval.index.errors import GalleryError
from pemoe.retrieval.index.filters import NEEDED, Filter
from pemoe.retrieval.index.milvus.rows import (
    IDS_AT_ONCE,
    TEXTS,
    among,
    both,
    decode_rows,
    encode_facts,
    fields_of,
    quoted,
    to_expression,
)
from pemoe.retrieval.index.milvus.server import MAX_BYTES, MAX_ROWS, Server
from pemoe.retrieval.index.records import VECTOR, schema_of, to_vectors
from pemoe.retrieval.index.resident import best_rows, longest, rank_exactly

EXACT_ROWS = 200_000  # up to so many the server compares one by one (FLAT), beyond by a graph (HNSW)
SELECTIVE_ROWS = 5_000  # so few that pass a filter are read and scored here: a graph loses hits under a narrow filter
EF = 400  # candidates that a search of the graph keeps
NOTHING = Filter(box=(0.0, 0.0, 0.0, 0.0), near=(50.0, 50.0, 1.0))  # no row passes


class MilvusEngine:
    """See `Engine`. One process writes at a time; any number read.

    Options: `token` (or `MILVUS_TOKEN` in the environment), `db_name`, `timeout_s` of one call, and for `https://`
    `server_pem_path`, `server_name`, `ca_pem_path`, `client_pem_path`, `client_key_path`, as pymilvus has them.
    A large `add`, `upsert` or `delete` goes in several messages: one that was killed did a part of it.
    """

    def __init__(self, uri: str, server: Server, dimension: int, is_half: bool) -> None:
        self.uri, self._server, self._is_half = uri, server, is_half
        self._schema = schema_of(dimension)

    @classmethod
    def create(cls, uri: str, dimension: int, about: dict[str, Any], **options: Any) -> MilvusEngine:
        """Make an empty index; GalleryError where one is, or a collection that is none."""
        server = Server(uri, options)
        if server.description() is not None:
            if server.read_about() is not None:
                raise GalleryError(f"{uri}: there is an index already; add to it, or use another name")
            server.drop()  # what a killed `create` left
        is_half = server.version() >= (2, 4)
        server.create(dimension, is_half)
        server.write_about(about)
        return cls(uri, server, dimension, is_half)

    @classmethod
    def open(cls, uri: str, **options: Any) -> MilvusEngine:
        """Open an index; GalleryError where none is."""
        server = Server(uri, options)
        if server.description() is None or server.read_about() is None:
            raise GalleryError(f"{uri}: no such index; make it with pemoe index build DATA --model M --output {uri}")
        fields = {field["name"]: field for field in server.describe()["fields"]}
        server.call("load_collection", server.name)
        return cls(uri, server, int(fields[VECTOR]["params"]["dim"]), fields[VECTOR]["type"].name == "FLOAT16_VECTOR")

    @property
    def about(self) -> dict[str, Any]:
        """What was stored last, by whichever process."""
        about = self._server.read_about()
        if about is None:
            raise GalleryError(f"{self.uri}: the index is gone; build it anew")
        return about

    def write_about(self, about: dict[str, Any]) -> None:
        """Replace `about`."""
        self._server.write_about(about)

    def add(self, rows: pa.Table) -> None:
        """Append rows; GalleryError where an id is there."""
        there = self.read(["image_id"], Filter(image_ids=tuple(rows["image_id"].to_pylist()))) if len(rows) else ()
        if len(there):
            first = there["image_id"][0].as_py()
            raise GalleryError(f"{first!r}: is in the index ({len(there)} of {len(rows)} are); use upsert")
        self.upsert(rows)

    def upsert(self, rows: pa.Table) -> None:
        """Replace the rows of the same `image_id`, append the others; all are checked before the first is sent."""
        facts = rows.drop([VECTOR, "captured_at"]).append_column("captured_at", rows["captured_at"].cast(pa.int64()))
        encoded = [encode_facts(row) for row in facts.to_pylist()]
        vectors = to_vectors(rows[VECTOR]) if len(rows) else np.empty((0, 1))
        for start, stop in _batches([self._size(row) for row in encoded]):
            part = vectors[start:stop].astype(np.float16 if self._is_half else np.float32)
            message = [{**row, VECTOR: vector} for row, vector in zip(encoded[start:stop], part, strict=True)]
            self._server.call("upsert", self._server.name, message)

    def delete(self, where: Filter) -> int:
        """Remove rows; how many."""
        ids = self.read(["image_id"], where)["image_id"].to_pylist()
        for start in range(0, len(ids), IDS_AT_ONCE):
            self._server.call("delete", self._server.name, filter=among("image_id", ids[start : start + IDS_AT_ONCE]))
        return len(ids)

    def count(self, where: Filter) -> int:
        """Rows that pass."""
        if where.is_empty:
            return self._count("")
        return sum(len(part) for part in self._scan(["image_id"], where))

    def search(
        self, query: np.ndarray, k: int, where: Filter, exact: bool | None, columns: Sequence[str]
    ) -> list[pa.Table]:
        """For each query its best rows that pass."""
        has_graph = self._server.index_type() != "FLAT"
        if exact is False and not has_graph:
            raise GalleryError(
                f"{self.uri}: no nearest-neighbour index; run optimize(nearest=True), or search exactly"
            )
        if exact is None:
            exact = not has_graph or (not where.is_empty and self._count(to_expression(where)) <= SELECTIVE_ROWS)
        if exact and has_graph:
            return self._search_read(query, k, where, columns)
        return self._search_server(query, k, where, columns, is_graph=has_graph)

    def read(self, columns: Sequence[str], where: Filter) -> pa.Table:
        """The rows that pass."""
        parts = [part.select(list(columns)) for part in self._scan(columns, where)]
        return pa.concat_tables(parts) if parts else decode_rows([], columns, self._schema)

    def optimize(self, nearest: bool | None = None) -> None:
        """Write what is in memory to files, merge small ones, and build the index of vectors.

        Args:
            nearest: whether there shall be a graph (HNSW); None: beyond `EXACT_ROWS`. To change it the collection is
                released for a while: searches that other processes begin then fail and are to be tried again.
        """
        name = self._server.name
        self._server.call("flush", name)
        self._server.call("compact", name)
        wanted = "HNSW" if (self._count("") > EXACT_ROWS if nearest is None else nearest) else "FLAT"
        if self._server.index_type() != wanted:
            self._server.call("release_collection", name)
            self._server.call("drop_index", name, VECTOR)
            self._server.create_index(name, wanted)
            self._server.call("load_collection", name)

    def _search_server(
        self, query: np.ndarray, k: int, where: Filter, columns: Sequence[str], is_graph: bool
    ) -> list[pa.Table]:
        """The server's best, more of them until `k` pass and no other can be among the `k` best; scored anew here."""
        wanted = list(dict.fromkeys([*columns, *NEEDED, VECTOR]))
        answers: dict[int, pa.Table] = {}
        open_, asked = list(range(len(query))), k + max(16, k // 2)
        while open_ and self._fits(asked, wanted):
            for part in _parts(open_, MAX_BYTES // (asked * self._row_bytes(wanted))):
                for number, hits in zip(part, self._hits(query[part], asked, where, wanted), strict=True):
                    best = _best(query[number], k, hits.filter(pa.array(where.mask(hits))))
                    is_enough = len(best) == k and (is_graph or _is_settled(query[number], hits, best, self._is_half))
                    if is_enough or (len(hits) < asked and not is_graph):
                        answers[number] = best
            open_, asked = [number for number in open_ if number not in answers], asked * 4
        if open_:  # few rows pass, or many score the same
            answers |= dict(zip(open_, self._search_read(query[open_], k, where, columns), strict=True))
        return [answers[number].select([*columns, "score"]) for number in range(len(query))]

    def _search_read(self, query: np.ndarray, k: int, where: Filter, columns: Sequence[str]) -> list[pa.Table]:
        """The best of all rows that pass, read page by page and scored here."""
        best: list[list[tuple[float, str]]] = [[] for _ in query]
        for part in self._scan(["image_id", VECTOR], where):
            vectors, ids = np.array(to_vectors(part[VECTOR])), part["image_id"]  # torch wants to own it
            for number, (rows, scores) in enumerate(best_rows(query, vectors, None, k, ids, longest(vectors, ids))):
                new = zip((-scores).tolist(), ids.take(pa.array(rows)).to_pylist(), strict=True)
                best[number] = sorted([*best[number], *new])[:k]
        found = tuple({name for one in best for _, name in one})
        rows = self.read(list(dict.fromkeys(["image_id", *columns])), Filter(image_ids=found) if found else NOTHING)
        place = {name: number for number, name in enumerate(rows["image_id"].to_pylist())}
        answers = []
        for one in best:
            kept = [(-score, place[name]) for score, name in one if name in place]  # one may be deleted meanwhile
            shown = rows.take(pa.array([row for _, row in kept], pa.int64())).select(list(columns))
            answers.append(shown.append_column("score", pa.array([score for score, _ in kept], pa.float32())))
        return answers

    def _hits(self, query: np.ndarray, asked: int, where: Filter, columns: Sequence[str]) -> list[pa.Table]:
        """What the server finds for each query, sent at unit length, with its own score as `_distance`."""
        lengths = np.maximum(np.linalg.norm(query, axis=1, keepdims=True), 1e-30)  # any length ranks the same
        found = self._server.call(
            "search",
            self._server.name,
            data=list((query / lengths).astype(np.float16 if self._is_half else np.float32)),
            anns_field=VECTOR,
            limit=asked,
            filter=to_expression(where),
            search_params={"metric_type": "IP", "params": {"ef": max(EF, 2 * asked)}},
            output_fields=fields_of(columns),
            consistency_level="Strong",
        )
        tables = []
        for hits, length in zip(found, lengths.ravel().tolist(), strict=True):
            distances = pa.array([length * hit["distance"] for hit in hits], pa.float64())
            tables.append(
                decode_rows([hit["entity"] for hit in hits], columns, self._schema).append_column(
                    "_distance", distances
                )
            )
        return tables

    def _scan(self, columns: Sequence[str], where: Filter) -> Iterator[pa.Table]:
        """The rows that pass, page by page in the order of ids.

        pymilvus' own iterator takes the client's clock for the time that it reads at where the server is older than
        2.5; here every page is read as of now.
        """
        wanted = list(dict.fromkeys([*columns, *(() if where.is_empty else NEEDED), "image_id"]))
        size = min(MAX_ROWS, MAX_BYTES // self._row_bytes(wanted))
        for ids in _parts(where.image_ids, IDS_AT_ONCE) or [()]:
            condition, last = to_expression(replace(where, image_ids=ids)), ""
            while True:
                rows = self._query(both(f"image_id > {quoted(last)}", condition), fields_of(wanted), size)
                part = decode_rows(rows, wanted, self._schema)
                if len(part):
                    yield part if where.is_empty else part.filter(pa.array(where.mask(part)))
                if len(part) < size:
                    break
                last = max(part["image_id"].to_pylist())  # code points sort as the server's bytes do

    def _query(self, condition: str, fields: list[str], size: int) -> list[dict[str, Any]]:
        options = {"consistency_level": "Strong", "iterator": "True", "reduce_stop_for_best": "False"}
        return self._server.call(
            "query", self._server.name, filter=condition, output_fields=fields, limit=size, **options
        )

    def _count(self, condition: str) -> int:
        found = self._server.call(
            "query", self._server.name, filter=condition, output_fields=["count(*)"], consistency_level="Strong"
        )
        return int(found[0]["count(*)"])

    def _fits(self, rows: int, columns: Sequence[str]) -> bool:
        return rows <= MAX_ROWS and rows * self._row_bytes(columns) <= MAX_BYTES

    def _row_bytes(self, columns: Sequence[str]) -> int:
        """About what one row takes in an answer."""
        vector = self._schema.field(VECTOR).type.list_size * 4
        return 1000 + vector * (VECTOR in columns) + 20_000 * ("thumbnail" in columns)

    def _size(self, row: Mapping[str, Any]) -> int:
        return 200 + sum(len(row[name]) for name in TEXTS) + self._row_bytes([VECTOR])


def _batches(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Ranges of rows whose sizes in bytes add up to at most `MAX_BYTES`, one row at least."""
    start = total = 0
    for stop, size in enumerate(sizes):
        if total and total + size > MAX_BYTES:
            yield start, stop
            start, total = stop, 0
        total += size
    if start < len(sizes):
        yield start, len(sizes)


def _parts(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    size = max(1, size)
    return [items[start : start + size] for start in range(0, len(items), size)]


def _best(query: np.ndarray, k: int, rows: pa.Table) -> pa.Table:
    """The `k` best of some rows with `VECTOR`, with their exact `score`; equal ones by `image_id`."""
    best, scores = rank_exactly(query, to_vectors(rows[VECTOR]), np.arange(len(rows)), k, rows["image_id"])
    return rows.take(pa.array(best)).append_column("score", pa.array(scores))


def _is_settled(query: np.ndarray, hits: pa.Table, best: pa.Table, is_half: bool) -> bool:
    """Whether no row beyond the hits can be as good as the last of the best, for all the rounding of the server.

    It sums D products in fp32, off by at most `D u / (1 - D u) |q| |v|`, u = 2^-24 (Higham 2002, §3.1), of a query
    that was sent rounded to fp32 or, where `is_half`, fp16, off by u |q| |v| with that type's u; fused vectors are as
    long as each other, so that twice the longest hit bounds those that were not given.
    """
    vectors = to_vectors(hits[VECTOR]).astype(np.float64)
    longest_hit = float(np.sqrt(np.einsum("nd,nd->n", vectors, vectors).max()))
    relative = vectors.shape[1] * 2.0**-24 + (2.0**-11 if is_half else 2.0**-24)
    rounding = 2 * relative * float(np.linalg.norm(query.astype(np.float64))) * 2 * longest_hit
    return best["score"][-1].as_py() > min(hits["_distance"].to_pylist()) + rounding
