"""An index in a folder, or in object storage: LanceDB."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import datetime, timedelta
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from pemoe.retrieval.index.errors import GalleryError
from pemoe.retrieval.index.filters import NEEDED, Filter
from pemoe.retrieval.index.records import FACTS, VECTOR, schema_of, to_vectors
from pemoe.retrieval.index.resident import HELD, ROW_ID, Resident, best_rows, longest, rank_exactly

if TYPE_CHECKING:
    from lancedb.db import DBConnection
    from lancedb.table import Table

GALLERY, ABOUT, LOCK = "gallery", "about", "write.lock"
OURS = {f"{GALLERY}.lance", f"{ABOUT}.lance", LOCK}  # what a folder may hold that becomes an index
EXACT_ROWS = 200_000  # up to so many are scored one by one, from memory
SELECTIVE_ROWS = 5_000  # so few that pass a filter are scored one by one too
KEPT = timedelta(minutes=5)  # old versions: longer than any call that may still be reading one
METADATA_BYTES = 64 << 20  # kept of manifests and file footers
TIDY_EVERY = 256  # versions; bounds files and old versions of many small writes
IDS_AT_ONCE = 5_000  # in one condition
NO_LIMIT = 10**9
PARTITION_ROWS = 20_000
PROBED = 20  # partitions that a search looks into
_SOURCES = re.compile(r"(, /[^,]+\.rs:\d+:\d+)+$")  # where in Lance's own code a fault came up
_HINT = "; where files of the index are missing or cut, build it anew with --overwrite"
SCALARS = ("image_id", "place_id", "latitude_deg", "longitude_deg", "captured_at")  # have sorted indexes


def _reporting(call: Callable[..., Any]) -> Callable[..., Any]:
    """A method that reads, whose faults of the files under it are one line, as of `_reported`."""

    @wraps(call)
    def reported(self: LanceEngine, *arguments: Any, **named: Any) -> Any:
        with _reported(self.uri, _HINT):
            return call(self, *arguments, **named)

    return reported


class LanceEngine:
    """See `Engine`; `options` go to `lancedb.connect` (`storage_options` of object storage).

    Exact search reads the vectors once into memory (`Resident`: 1.3 GB for 200,000 rows of 3072) and from then on only
    what other calls and processes changed. Beyond `EXACT_ROWS`, exact search reads the rows that pass batch by batch,
    and the nearest-neighbour index, once `optimize` has built it, answers from disk.

    A folder has one writer at a time: the others wait at its `write.lock`. In object storage there is no such lock, so
    let one process write. Every `TIDY_EVERY` versions a write compacts the files itself, which rewrites them.
    """

    def __init__(self, uri: str, database: DBConnection) -> None:
        self.uri = uri
        self._database = database
        self._gallery, self._about = database.open_table(GALLERY), database.open_table(ABOUT)
        self._resident: tuple[Table, Resident] | None = None
        self._about_read: tuple[int, dict[str, Any]] | None = None
        self._reading = threading.Lock()

    @classmethod
    def create(cls, uri: str, dimension: int, about: dict[str, Any], **options: Any) -> LanceEngine:
        """Make an empty index; GalleryError where one is, or where a folder holds anything else."""
        uri = _resolve(uri)
        _check_folder(uri)
        with _reported(uri), _locked(uri):
            database = _connect(uri, options)
            if _has(database, ABOUT):
                raise GalleryError(f"{uri}: there is an index already; add to it, or name another directory")
            if _has(database, GALLERY):  # of a `create` that was killed
                if database.open_table(GALLERY).count_rows():
                    raise GalleryError(f"{uri}: holds pictures without their model; name another directory")
                database.drop_table(GALLERY)
            database.create_table(GALLERY, schema=schema_of(dimension))
            database.create_table(ABOUT, data=_about_row(about))  # last: it makes it an index
        return cls(uri, database)

    @classmethod
    def open(cls, uri: str, **options: Any) -> LanceEngine:
        """Open an index; GalleryError where none is."""
        uri = _resolve(uri)
        if "://" not in uri and not Path(uri).is_dir():
            raise GalleryError(f"{uri}: no such index; make it with pemoe index build DATA --model M --output {uri}")
        database = _connect(uri, options)
        if not (_has(database, ABOUT) and _has(database, GALLERY)):
            raise GalleryError(f"{uri}: holds no index; make it with pemoe index build DATA --model M --output {uri}")
        return cls(uri, database)

    @property
    @_reporting
    def about(self) -> dict[str, Any]:
        """What `write_about` stored last, in whichever process."""
        version = self._about.version
        if self._about_read is None or self._about_read[0] != version:
            self._about_read = version, json.loads(self._about.to_arrow()["json"][0].as_py())
        return self._about_read[1]

    def write_about(self, about: dict[str, Any]) -> None:
        """Replace `about`, in one commit."""
        with self._writing():
            self._about.add(_about_row(about), mode="overwrite")

    def add(self, rows: pa.Table) -> None:
        """Append rows; GalleryError where an id is there."""
        with self._writing():
            there = self.read(["image_id"], Filter(image_ids=tuple(rows["image_id"].to_pylist()))) if len(rows) else ()
            if len(there):
                first = there["image_id"][0].as_py()
                raise GalleryError(f"{first!r}: is in the index ({len(there)} of {len(rows)} are); use upsert")
            self._gallery.add(rows)

    def upsert(self, rows: pa.Table) -> None:
        """Replace the rows of the same `image_id`, append the others, in one commit."""
        if not len(rows):
            return
        with self._writing():
            merge = self._gallery.merge_insert("image_id").when_matched_update_all().when_not_matched_insert_all()
            merge.execute(rows)

    def delete(self, where: Filter) -> int:
        """Remove rows; how many."""
        with self._writing():
            ids = self.read(["image_id"], where)["image_id"].to_pylist()
            for start in range(0, len(ids), IDS_AT_ONCE):
                self._gallery.delete(_among("image_id", ids[start : start + IDS_AT_ONCE]))
        return len(ids)

    @_reporting
    def count(self, where: Filter) -> int:
        """Rows that pass."""
        if where.is_empty:
            return self._gallery.count_rows()
        if self._resident is not None:
            _, held = self._held()
            return int((held.live & where.mask(held.facts)).sum())
        return sum(len(batch) for batch in _scan(self._view(), NEEDED, where))

    @_reporting
    def search(
        self, query: np.ndarray, k: int, where: Filter, exact: bool | None, columns: Sequence[str]
    ) -> list[pa.Table]:
        """For each query its best rows that pass."""
        if exact is False and not self._is_indexed():
            raise GalleryError(f"{self.uri}: no nearest-neighbour index; run optimize(nearest=True) first")
        if exact is None:
            exact = self._is_small() or not self._is_indexed() or self._is_selective(where)
        if not exact:
            return self._search_nearest(query, k, where, columns)
        return (self._search_held if self._is_small() else self._search_stored)(query, k, where, columns)

    @_reporting
    def read(self, columns: Sequence[str], where: Filter) -> pa.Table:
        """The rows that pass."""
        wanted = list(dict.fromkeys([*columns, *(() if where.is_empty else NEEDED)]))
        parts = [part.select(list(columns)) for part in _scan(self._view(), wanted, where)]
        schema = self._gallery.schema
        return pa.concat_tables(parts) if parts else pa.schema([schema.field(one) for one in columns]).empty_table()

    def optimize(self, nearest: bool | None = None) -> None:
        """Compact files, drop versions older than `KEPT`, and build or extend the indexes.

        Args:
            nearest: whether there shall be a nearest-neighbour index; None: beyond `EXACT_ROWS`.
        """
        from lancedb.index import Bitmap, BTree, IvfHnswSq

        with self._writing():
            self._tidy()
            rows = self._gallery.count_rows()
            if not (rows and (rows > EXACT_ROWS if nearest is None else nearest)):
                return
            there = {one.columns[0] for one in self._gallery.list_indices()}
            partitions = max(1, rows // PARTITION_ROWS)
            wanted: dict[str, Any] = {name: BTree() for name in SCALARS}
            wanted["platform"] = Bitmap()
            wanted[VECTOR] = IvfHnswSq(
                distance_type="dot", num_partitions=partitions, m=16, ef_construction=100, sample_rate=64
            )
            for column, config in wanted.items():
                if column not in there:
                    self._gallery.create_index(column, config=config)

    def _search_held(self, query: np.ndarray, k: int, where: Filter, columns: Sequence[str]) -> list[pa.Table]:
        view, held = self._held()
        found = held.search(query, k, None if where.is_empty else where.mask(held.facts))
        if set(columns) <= set(FACTS):
            facts = held.facts.select(list(columns))
            return [_with_scores(facts.take(pa.array(rows)), scores) for rows, scores in found]
        return _shown(view, [(held.row_ids[rows], scores) for rows, scores in found], columns)

    def _search_stored(self, query: np.ndarray, k: int, where: Filter, columns: Sequence[str]) -> list[pa.Table]:
        view = self._view()
        best: list[list[tuple[float, str, int]]] = [[] for _ in query]
        for part in _scan(view, [*NEEDED, VECTOR], where):
            vectors = np.array(to_vectors(part[VECTOR]))
            reach = longest(vectors, part["image_id"])
            for n, (rows, scores) in enumerate(best_rows(query, vectors, None, k, part["image_id"], reach)):
                of = part.select(["image_id", ROW_ID]).take(pa.array(rows))
                new = zip((-scores).tolist(), of["image_id"].to_pylist(), of[ROW_ID].to_pylist(), strict=True)
                best[n] = sorted([*best[n], *new])[:k]
        found = [(np.array([row for *_, row in one], np.uint64), -np.array([s for s, *_ in one])) for one in best]
        return _shown(view, found, columns)

    def _search_nearest(self, query: np.ndarray, k: int, where: Filter, columns: Sequence[str]) -> list[pa.Table]:
        view, answers = self._view(), []
        for one in query:
            hits = _nearest(view, one, k, where)
            if len(hits) < k:  # the graph gave up before the rows ran out, or they did
                answers += self._search_stored(one[None], k, where, columns)
                continue
            best, scores = rank_exactly(one, to_vectors(hits[VECTOR]), np.arange(len(hits)), k, hits["image_id"])
            answers += _shown(view, [(hits[ROW_ID].to_numpy()[best], scores)], columns)
        return answers

    def _held(self) -> tuple[Table, Resident]:
        """The newest version and its rows in memory."""
        with self._reading:
            if self._resident is None or self._resident[1].version != self._gallery.version:
                view, held = self._view(), self._resident and self._resident[1]
                held = held and held.follow(view.version, _row_ids(view), lambda rows: _take(view, rows, HELD))
                self._resident = None  # so that what is read anew does not lie in memory twice
                self._resident = view, held or _read_all(view)
            return self._resident

    def _view(self) -> Table:
        """The newest version, which stays what it is."""
        view = self._database.open_table(GALLERY)
        view.checkout(view.version)
        return view

    def _is_small(self) -> bool:
        return self._gallery.count_rows() <= EXACT_ROWS

    def _is_indexed(self) -> bool:
        return any(one.columns == [VECTOR] for one in self._gallery.list_indices())

    def _is_selective(self, where: Filter) -> bool:
        condition = to_sql(where)
        return condition is not None and self._gallery.count_rows(condition) <= SELECTIVE_ROWS

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Alone among the writers of a folder; tidies up after many versions."""
        with _reported(self.uri), _locked(self.uri):
            before = self._gallery.version + self._about.version
            yield
            if (self._gallery.version + self._about.version) // TIDY_EVERY > before // TIDY_EVERY:
                self._tidy()

    def _tidy(self) -> None:
        for table in (self._gallery, self._about):
            table.optimize(cleanup_older_than=KEPT)


def to_sql(where: Filter) -> str | None:
    """A condition that every row fulfils which passes the filter, and few others; None where it would say nothing.

    Example:
        >>> to_sql(Filter(platforms=("drone",)))
        "platform IN ('drone')"
    """
    columns = {"platform": where.platforms, "image_id": where.image_ids, "place_id": where.place_ids}
    parts = [_among(column, names) for column, names in columns.items() if 0 < len(names) <= IDS_AT_ONCE]
    boxes = where.bounds()
    if boxes is not None:
        parts.append("(" + (" OR ".join(_inside(*box) for box in boxes) or "false") + ")")
    bounds = ((">=", where.since, timedelta(0)), ("<=", where.until, timedelta(milliseconds=1)))
    known = [(sign, time + more) for sign, time, more in bounds if time is not None and 1700 < time.year < 2200]
    parts += [f"captured_at {sign} {_instant(time)}" for sign, time in known]  # nanoseconds end near those years
    return " AND ".join(parts) or None


def _inside(south: float, west: float, north: float, east: float) -> str:
    sides = (("latitude_deg", south, north), ("longitude_deg", west, east))
    return "(" + " AND ".join(f"{name} >= {low:.17g} AND {name} <= {high:.17g}" for name, low, high in sides) + ")"


def _instant(time: datetime) -> str:
    """The whole millisecond before, which is what `captured_at` holds."""
    return f"CAST('{time.strftime('%Y-%m-%dT%H:%M:%S')}.{time.microsecond // 1000:03d}Z' AS TIMESTAMP)"


def _among(column: str, names: Sequence[str]) -> str:
    return f"{column} IN ({', '.join(_quoted(name) for name in names)})"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _scan(view: Table, columns: Sequence[str], where: Filter) -> Iterator[pa.Table]:
    """The rows that pass, exactly, part by part, with `ROW_ID`; `columns` hold `NEEDED` where there is a filter."""
    query = view.search().select(list(columns)).with_row_id(True).limit(NO_LIMIT)
    condition = to_sql(where)
    for batch in (query if condition is None else query.where(condition, prefilter=True)).to_batches():
        part = pa.Table.from_batches([batch])
        part = part if where.is_empty else part.filter(pa.array(where.mask(part)))
        if len(part):
            yield part


def _nearest(view: Table, query: np.ndarray, k: int, where: Filter) -> pa.Table:
    """More than the `k` nearest by the index, to be rescored; all that it gives where that is fewer."""
    unit = (query / max(float(np.linalg.norm(query)), 1e-30)).astype(np.float16)  # any length ranks the same
    condition, asked = to_sql(where), k + min(4 * k, 400)
    while True:
        search = view.search(unit, vector_column_name=VECTOR).distance_type("dot").nprobes(PROBED).with_row_id(True)
        search = search if condition is None else search.where(condition, prefilter=True)
        wanted = [*NEEDED, VECTOR, "_distance"]
        hits = search.ef(max(200, 2 * asked)).limit(asked).select(wanted).to_arrow()
        passed = hits.filter(pa.array(where.mask(hits)))
        if len(passed) >= k or len(hits) < asked:
            return passed
        asked *= 4


def _row_ids(view: Table) -> np.ndarray:
    return view.search().select([ROW_ID]).limit(NO_LIMIT).to_arrow()[ROW_ID].to_numpy()


def _read_all(view: Table) -> Resident:
    batches = view.search().select(list(HELD)).with_row_id(True).limit(NO_LIMIT).to_batches()
    dimension = view.schema.field(VECTOR).type.list_size
    return Resident.read(view.version, view.count_rows(), batches, dimension)


def _take(view: Table, row_ids: list[int], columns: Sequence[str]) -> pa.Table:
    """Rows by address, in no order."""
    return view.take_row_ids(row_ids).select(list(columns)).with_row_id().to_arrow()


def _shown(view: Table, found: list[tuple[np.ndarray, np.ndarray]], columns: Sequence[str]) -> list[pa.Table]:
    """The columns of found rows, `(row ids, scores)` per query; each row is read once."""
    row_ids = np.unique(np.concatenate([rows for rows, _ in found])) if found else np.empty(0, np.uint64)
    if not len(row_ids):
        empty = pa.schema([view.schema.field(name) for name in columns]).empty_table()
        return [_with_scores(empty, np.empty(0)) for _ in found]
    table = _take(view, row_ids.tolist(), columns)
    order = np.argsort(table[ROW_ID].to_numpy())
    table = table.take(pa.array(order)).select(list(columns))
    return [_with_scores(table.take(pa.array(np.searchsorted(row_ids, rows))), scores) for rows, scores in found]


def _with_scores(table: pa.Table, scores: np.ndarray) -> pa.Table:
    return table.append_column("score", pa.array(scores.astype(np.float32), pa.float32()))


def _resolve(uri: str) -> str:
    """A path in full, so that it stays the same when the process changes its directory."""
    return uri if "://" in uri else str(Path(uri).expanduser().absolute())


def _check_folder(uri: str) -> None:
    """Refuse a path that holds what is not ours, and make the folder."""
    if "://" in uri:
        return
    path = Path(uri)
    with _reported(uri):
        foreign = sorted(one.name for one in path.iterdir() if one.name not in OURS) if path.exists() else []
        if foreign:
            raise GalleryError(f"{uri}: holds something else ({foreign[0]}); name a new or empty directory")
        path.mkdir(parents=True, exist_ok=True)


def _connect(uri: str, options: dict[str, Any]) -> DBConnection:
    import lancedb

    # without a bound the facts of every version read stay in memory, up to a GB
    session = lancedb.Session(metadata_cache_size_bytes=METADATA_BYTES)
    with _reported(uri):
        return lancedb.connect(uri, read_consistency_interval=timedelta(0), **{"session": session, **options})


def _has(database: DBConnection, name: str) -> bool:
    """Whether there is a whole table of that name; one whose making was killed is none."""
    with _reported(database.uri):
        try:
            return bool(database.open_table(name).version)
        except ValueError as error:
            if "not found" in str(error):
                return False
            raise


@contextmanager
def _reported(uri: str, hint: str = "") -> Iterator[None]:
    """Faults of the disk, the network and the format as one line that names the index."""
    try:
        yield
    except GalleryError:
        raise
    except (OSError, RuntimeError, ValueError) as error:
        said = (str(error) or repr(error)).splitlines()[0]
        raise GalleryError(f"{uri}: {_SOURCES.sub('', said)}{hint}") from error


def _locked(uri: str) -> Any:
    """The lock of a folder's writers, released by the system when a process dies."""
    if "://" in uri:
        return nullcontext()
    from filelock import FileLock

    return FileLock(Path(uri) / LOCK)


def _about_row(about: dict[str, Any]) -> pa.Table:
    return pa.table({"json": [json.dumps(about)]})
