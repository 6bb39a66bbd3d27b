"""Minutes of mixed searches, adds, upserts and deletes against an index, every answer compared with brute force.

    python benchmarks/soak.py --minutes 10

A process serves an index in a temporary folder; this one sends it operations drawn from a seed and keeps the rows it
should hold in memory. After 10 % and after 20 % of the time the serving process is killed with SIGKILL in the middle
of a write and started again: of that write all must be there or nothing, of those before everything. `wrong_answers`
counts searches, counts and reads that are not what brute force over the rows in memory gives, `lost_rows` those of the
rows that are missing at the end or after a kill. RSS is that of the last process, in the first and the last third of
its life. JSON goes to stdout; the exit code is 1 where anything was lost or wrong.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pemoe.retrieval.index import Filter, GalleryIndex
from pemoe.retrieval.index.identity import ModelIdentity
from pemoe.retrieval.index.records import VECTOR, table_of, to_vectors

PLATFORMS = ("satellite", "drone", "ground")
DIMENSION = 96
FEWEST, MOST = 2_000, 5_000  # rows
LEAST_OPERATIONS = 200  # however short the time
KILLED_AT = (0.1, 0.2)  # of the time
SHARES = {"search": 0.6, "upsert": 0.14, "add": 0.12, "delete": 0.1, "count": 0.03, "optimize": 0.01}


def serve(uri: str, pipe: Connection) -> None:
    """Open the index and answer calls, (name, arguments), until the pipe closes."""
    index = GalleryIndex.open(uri)
    while True:
        try:
            name, arguments = pipe.recv()
        except EOFError:
            return
        pipe.send(getattr(index, name)(*arguments))


class Server:
    """The serving process."""

    def __init__(self, uri: str) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(uri, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self.rss_mb: list[float] = []

    def call(self, name: str, *arguments: Any) -> Any:
        """What the index answers."""
        self.pipe.send((name, arguments))
        answer = self.pipe.recv()
        self.rss_mb.append(self._rss_mb())
        return answer

    def kill_in(self, delay_s: float, name: str, *arguments: Any) -> None:
        """Start a call and kill the process while it is at it."""
        self.pipe.send((name, arguments))
        time.sleep(delay_s)
        self.process.kill()
        self.process.join()

    def _rss_mb(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024


class Soak:
    """Operations drawn from a seed, the rows that the index should hold, and what it did."""

    def __init__(self, uri: str, seed: int) -> None:
        self.uri, self.rng = uri, np.random.default_rng(seed)
        self.rows, self.drawn = table_of([], np.empty((0, DIMENSION))), 0
        self.counts: Counter[str] = Counter()
        self.lost_rows = self.wrong_answers = self.restarts = 0
        identity = ModelIdentity("soak", None, None, PLATFORMS, DIMENSION // len(PLATFORMS))
        GalleryIndex.create(uri, identity)
        self.server = Server(uri)

    def step(self) -> None:
        """One operation."""
        kind = str(self.rng.choice(list(SHARES), p=list(SHARES.values())))
        if len(self.rows) < FEWEST:
            kind = "add"
        self.counts[kind] += 1
        if kind in ("search", "count"):
            getattr(self, f"_{kind}")()
        elif kind == "optimize":
            self.server.call("optimize")
        else:
            argument, after = self._write(kind)
            self.server.call(kind, argument)
            self.rows = after

    def kill(self) -> None:
        """Kill the process in a write, start it again, and look for what was lost."""
        argument, after = self._write("upsert")
        self.server.kill_in(float(self.rng.uniform(0, 0.02)), "upsert", argument)
        self.server, self.restarts = Server(self.uri), self.restarts + 1
        there = self._stored()
        if there.equals(_sorted(after)):
            self.rows = after
        self._compare(there)

    def check_all(self) -> None:
        """Compare every row that is stored with the rows in memory."""
        self._compare(self._stored())

    def _stored(self) -> pa.Table:
        return _sorted(self.server.call("read", self.rows.column_names))

    def _compare(self, there: pa.Table) -> None:
        ids = set(there["image_id"].to_pylist())
        self.lost_rows += sum(one not in ids for one in self.rows["image_id"].to_pylist())
        self.wrong_answers += not there.equals(_sorted(self.rows))

    def _search(self) -> None:
        query = (0.5 * self._vectors(1)[0]).astype(np.float32)
        where, k = self._filter(), int(self.rng.choice([1, 10, 200, 10_000]))
        answer = self.server.call("search", query, k, where)[0]
        passed = self.rows.filter(pa.array(where.mask(self.rows)))
        scores = (to_vectors(passed[VECTOR]).astype(np.float64) @ query.astype(np.float64)).astype(np.float32)
        wanted = sorted(zip((-scores).tolist(), passed["image_id"].to_pylist(), strict=True))[:k]
        got = zip((-answer["score"].to_numpy()).tolist(), answer["image_id"].to_pylist(), strict=True)
        self.wrong_answers += list(got) != wanted

    def _count(self) -> None:
        where = self._filter()
        self.wrong_answers += self.server.call("count", where) != int(where.mask(self.rows).sum())

    def _write(self, kind: str) -> tuple[Any, pa.Table]:
        """What an operation is given, and the rows after it."""
        ids = self.rows["image_id"].to_pylist()
        if kind == "delete":
            n = len(ids) // 3 if len(ids) > MOST else int(self.rng.integers(1, 40))
            where = Filter(image_ids=tuple(self.rng.choice(ids, n).tolist()))
            if self.rng.random() < 0.3 and len(ids) <= MOST:
                where = Filter(near=(*self._point(), 300.0))
            return where, self.rows.filter(pa.array(~where.mask(self.rows)))
        kept = self.rng.choice(ids, 10, replace=False).tolist() if kind == "upsert" else []
        n = 500 if len(ids) < FEWEST else int(self.rng.integers(1, 40))
        new = self._draw([*kept, *(f"picture '{self.drawn + n}' ü%" for n in range(n))])
        gone = Filter(image_ids=tuple(kept)).mask(self.rows) if kept else np.zeros(len(ids), dtype=bool)
        return new, pa.concat_tables([self.rows.filter(pa.array(~gone)), new]).combine_chunks()

    def _draw(self, ids: list[str]) -> pa.Table:
        self.drawn += len(ids)
        facts = []
        for one in ids:
            latitude, longitude = (None, None) if self.rng.random() < 0.1 else self._point()
            place, platform = f"place {self.rng.integers(300)}", PLATFORMS[self.rng.integers(3)]
            facts.append(
                {"image_id": one, "place_id": place, "platform": platform}
                | {"latitude_deg": latitude, "longitude_deg": longitude, "thumbnail": one.encode()}
            )
        return table_of(facts, self._vectors(len(ids)))

    def _vectors(self, n: int) -> np.ndarray:
        vectors = np.random.default_rng(7).standard_normal((40, DIMENSION))[self.rng.integers(0, 40, n)]
        vectors = vectors + 0.5 * self.rng.standard_normal((n, DIMENSION))
        vectors[self.rng.random(n) < 0.1] = 1.0  # equal vectors, equal scores
        blocks = vectors.reshape(n, len(PLATFORMS), -1)
        return (blocks / np.linalg.norm(blocks, axis=-1, keepdims=True)).reshape(n, DIMENSION)

    def _filter(self) -> Filter:
        choices = (
            {},
            {"platforms": ("drone",)},
            {"near": (*self._point(), 2000.0)},
            {"box": (-20.0, 160.0, 30.0, -150.0), "platforms": ("ground", "satellite")},
            {"place_ids": (f"place {self.rng.integers(400)}",)},
        )
        return Filter(**choices[self.rng.integers(len(choices))])

    def _point(self) -> tuple[float, float]:
        return float(self.rng.uniform(-90, 90)), float(self.rng.uniform(-180, 180))


def _sorted(rows: pa.Table) -> pa.Table:
    return rows.sort_by("image_id").combine_chunks()


def run(minutes: float, seed: int) -> dict[str, Any]:
    """Soak for some minutes; the figures of the module's page."""
    with tempfile.TemporaryDirectory(prefix="pemoe-soak-") as folder:
        soak, started_s = Soak(str(Path(folder) / "index"), seed), time.monotonic()
        moments = [60 * minutes * share for share in KILLED_AT]
        while moments or soak.counts.total() < LEAST_OPERATIONS or time.monotonic() - started_s < 60 * minutes:
            soak.step()
            if moments and time.monotonic() - started_s > moments[0]:
                moments.pop(0)
                soak.kill()
        soak.check_all()
        files = [one.stat().st_size for one in Path(folder).rglob("*") if one.is_file()]
    soak.server.process.kill()
    rss_mb = soak.server.rss_mb
    third = max(1, len(rss_mb) // 3)
    return {
        "seed": seed,
        "minutes": minutes,
        "operations": sum(soak.counts.values()),
        "by_kind": dict(soak.counts),
        "rows": len(soak.rows),
        "restarts": soak.restarts,
        "lost_rows": soak.lost_rows,
        "wrong_answers": int(soak.wrong_answers),
        "rss_first_third_mb": round(float(np.mean(rss_mb[:third])), 1),
        "rss_last_third_mb": round(float(np.mean(rss_mb[-third:])), 1),
        "files": len(files),
        "disk_mb": round(sum(files) / 1e6, 1),
    }


def main() -> int:
    """Soak and print; 1 where anything was lost or wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    results = run(options.minutes, options.seed)
    print(json.dumps(results, indent=2))
    return int(bool(results["lost_rows"] or results["wrong_answers"]))


if __name__ == "__main__":
    sys.exit(main())
