"""Invariants of LanceDB's adapter: the nearest-neighbour index agrees with brute force, also under filters and with
rows that came later; SQL lets through every row that the filter does; a folder that holds anything else stays as it
is; what was acknowledged survives a kill; small writes do not fill the disk.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from gallery_rows import DAY_0, brute_force, draw_queries, draw_rows, draw_vectors, hits_of, identity_of

from pemoe.retrieval.index import Filter, GalleryIndex, lance
from pemoe.retrieval.index.errors import GalleryError
from pemoe.retrieval.index.records import table_of

D = 48
SUPPORT = Path(__file__).parents[2] / "support"


def ids(prefix: str, n: int) -> list[str]:
    return [f"{prefix}{number}" for number in range(n)]


def build(uri: Path, rows: pa.Table) -> GalleryIndex:
    index = GalleryIndex.create(str(uri), identity_of(rows.schema.field("vector").type.list_size))
    index.add(rows)
    return index


def test_damaged_files_are_one_line_that_names_the_index(tmp_path: Path) -> None:
    uri, query = tmp_path / "a.index", draw_queries(1, D, 0)
    build(uri, draw_rows(ids("r", 30), D, seed=1))
    for table, calls in (("gallery", ("read", "count", "search")), ("about", ("about",))):
        for file in (uri / f"{table}.lance" / "data").iterdir():
            file.write_bytes(file.read_bytes()[:100])
        engine = GalleryIndex.open(str(uri)).engine
        given = {
            "read": lambda engine=engine: engine.read(["name"], Filter()),
            "count": lambda engine=engine: engine.count(Filter(platforms=("drone",))),
            "search": lambda engine=engine: engine.search(query, 3, Filter(), None, ["name"]),
            "about": lambda engine=engine: engine.about,
        }
        for call in calls:
            with pytest.raises(GalleryError, match=r"a\.index: .*build it anew") as refused:
                given[call]()
            assert "\n" not in str(refused.value) and ".rs:" not in str(refused.value)


def test_exact_search_from_disk_is_brute_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lance, "EXACT_ROWS", 10)  # more rows than may lie in memory
    rows, query = draw_rows(ids("r", 300), D, seed=1), draw_queries(3, D, 0)
    index = build(tmp_path / "x", rows)
    for where in (Filter(), Filter(platforms=("drone",)), Filter(place_ids=("nowhere",))):
        for one, answer in zip(query, index.search(query, 10, where), strict=True):
            assert hits_of(answer) == brute_force(rows, one, 10, where)
    assert index.engine._resident is None


def test_nearest_index_finds_old_and_new_rows_and_obeys_filters(tmp_path: Path) -> None:
    rows, query = draw_rows(ids("r", 1000), D, seed=1), draw_queries(5, D, 0)
    index = build(tmp_path / "x", rows)
    index.optimize(nearest=True)
    later = draw_rows([*ids("r", 50), *ids("new", 50)], D, seed=2)  # not in the nearest-neighbour index yet
    index.upsert(later)
    rows = pa.concat_tables([rows.slice(50), later])
    area = {"type": "Polygon", "coordinates": [[[0, 0], [90, 0], [45, 70], [0, 0]]]}
    for where in (Filter(), Filter(platforms=("drone",)), Filter(area=area), Filter(near=(0.0, 0.0, 5000.0))):
        for one, answer in zip(query, index.search(query, 10, where, exact=False), strict=True):
            wanted = brute_force(rows, one, 10, where)
            assert len(set(hits_of(answer)) & set(wanted)) >= len(wanted) - 1
            assert hits_of(answer) == sorted(hits_of(answer), key=lambda hit: (-hit[1], hit[0]))
    every = index.search(query[:1], 5000, exact=False)[0]
    assert hits_of(every) == brute_force(rows, query[0], 5000, Filter())


@pytest.mark.parametrize(
    "where",
    [
        Filter(platforms=("drone", "it's")),
        Filter(box=(-40.0, 150.0, 40.0, -120.0)),
        Filter(near=(89.0, 10.0, 2000.0)),
        Filter(area={"type": "Polygon", "coordinates": [[[170, -10], [190, -10], [180, 60], [170, -10]]]}),
        Filter(since=DAY_0 + timedelta(hours=5, microseconds=300)),
        Filter(until=DAY_0 + timedelta(hours=5, microseconds=-300)),
        Filter(since=datetime(1, 1, 2), until=datetime(9999, 12, 30), platforms=("drone",)),
        Filter(box=(0.0, 0.0, 1.0, 1.0), near=(50.0, 50.0, 1.0)),
    ],
)
def test_sql_lets_through_whatever_the_filter_does(tmp_path: Path, where: Filter) -> None:
    rows = draw_rows(ids("r", 400), D, seed=3)
    index = build(tmp_path / "x", rows)
    passed = index.engine._gallery.search().where(lance.to_sql(where)).limit(10**6).to_arrow()
    exact = rows.filter(pa.array(where.mask(rows)))
    assert set(exact["image_id"].to_pylist()) <= set(passed["image_id"].to_pylist())
    assert index.read(["image_id"], where).sort_by("image_id").equals(exact.select(["image_id"]).sort_by("image_id"))


def test_sql_says_nothing_of_nothing() -> None:
    assert lance.to_sql(Filter()) is None


def test_paths_with_home_spaces_and_slashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for uri, folder in (("~/a b%20ü", "a b%20ü"), ("deep/er/", "deep/er"), ("./dot", "dot")):
        GalleryIndex.create(uri, identity_of(D)).add(draw_rows(["one"], D, seed=0))
        index = GalleryIndex.open(uri)
        monkeypatch.chdir("/")
        assert index.count() == GalleryIndex.open(str(tmp_path / folder)).count() == 1
        monkeypatch.chdir(tmp_path)


def test_a_folder_that_holds_something_else_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    (tmp_path / "file").write_text("no folder")
    for call in (lambda uri: GalleryIndex.create(uri, identity_of(D)), GalleryIndex.open):
        for uri in (tmp_path, tmp_path / "file", tmp_path / "file" / "below"):
            with pytest.raises(GalleryError) as error:
                call(str(uri))
            assert "\n" not in str(error.value)
    with pytest.raises(GalleryError, match="no such index"):
        GalleryIndex.open(str(tmp_path / "nothing"))
    assert sorted(one.name for one in tmp_path.iterdir()) == ["file", "thesis.txt"]


@pytest.mark.parametrize("left", ["gallery.lance/_versions", "gallery.lance/data", "about.lance/_versions", ""])
def test_create_goes_on_where_a_kill_stopped_it(tmp_path: Path, left: str) -> None:
    (tmp_path / "x" / left).mkdir(parents=True)
    with pytest.raises(GalleryError, match="holds no index"):
        GalleryIndex.open(str(tmp_path / "x"))
    assert GalleryIndex.create(str(tmp_path / "x"), identity_of(D)).count() == 0
    assert GalleryIndex.open(str(tmp_path / "x")).model == identity_of(D)


@pytest.mark.filterwarnings("ignore:optimize:UserWarning")  # no other process is at work on it
def test_many_small_writes_do_not_fill_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lance, "TIDY_EVERY", 8)
    monkeypatch.setattr(lance, "KEPT", timedelta(0))
    index = build(tmp_path / "x", draw_rows(ids("r", 20), D, seed=0))
    sizes = []
    for step in range(40):
        index.upsert(draw_rows([f"r{step % 20}"], D, seed=step))
        sizes.append(sum(1 for one in (tmp_path / "x").rglob("*") if one.is_file()))
    assert index.count() == 20 and max(sizes[20:]) <= max(sizes[:20]) + 5


WRITER = """
import sys
sys.path.insert(0, sys.argv[2])
from gallery_rows import draw_rows
from pemoe.retrieval.index.lance import LanceEngine
engine, trial = LanceEngine.open(sys.argv[1]), int(sys.argv[3])
for batch in range(10_000):
    engine.upsert(draw_rows([f"{trial}-{batch}-{row}" for row in range(40)], 48, seed=batch))
    print(batch, flush=True)
"""


@pytest.mark.slow  # 20 processes
def test_a_kill_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    index, rng, total = build(tmp_path / "x", draw_rows(["first"], D, seed=0)), np.random.default_rng(3), 1
    for trial in range(20):
        command = [sys.executable, "-c", WRITER, str(tmp_path / "x"), str(SUPPORT), str(trial)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            last = -1
            for line in writer.stdout:
                last = int(line)
                if last >= 1:
                    break
            try:
                writer.wait(timeout=float(rng.uniform(0, 0.1)))
            except subprocess.TimeoutExpired:
                os.kill(writer.pid, signal.SIGKILL)
            last = max([last, *map(int, writer.stdout.read().split())])
        assert writer.returncode == -signal.SIGKILL
        there = {one for one in index.read(["image_id"])["image_id"].to_pylist() if one.startswith(f"{trial}-")}
        acknowledged = {f"{trial}-{batch}-{row}" for batch in range(last + 1) for row in range(40)}
        one_more = {f"{trial}-{last + 1}-{row}" for row in range(40)}  # written, but killed before it could say so
        assert there in (acknowledged, acknowledged | one_more)
        total += len(there)
    stored = draw_rows([f"19-1-{row}" for row in range(40)], D, seed=1).sort_by("image_id")
    where = Filter(image_ids=tuple(stored["image_id"].to_pylist()))
    assert index.read(stored.column_names, where).sort_by("image_id").equals(stored)
    index.upsert(draw_rows(["last"], D, seed=0))  # the lock of the killed is free
    assert index.count() == total + 1


@pytest.mark.slow  # 50,000 rows
def test_nearest_index_finds_99_of_100_at_50_000_rows(tmp_path: Path) -> None:
    n, dimension, rng = 50_000, 384, np.random.default_rng(0)
    index = GalleryIndex.create(str(tmp_path / "x"), identity_of(dimension))
    for start in range(0, n, 10_000):
        clusters, latitude, longitude = rng.integers(0, 500, 10_000), *rng.uniform(-80, 80, (2, 10_000))
        places = zip(clusters, latitude, longitude, strict=True)
        facts = [
            {"image_id": f"{start + row}", "place_id": f"{place}", "platform": "drone"}
            | {"latitude_deg": north, "longitude_deg": east}
            for row, (place, north, east) in enumerate(places)
        ]
        index.add(table_of(facts, draw_vectors(clusters, dimension, seed=start)))
    index.optimize(nearest=True)
    gates = np.repeat(rng.dirichlet(np.ones(3), 100), dimension // 3, axis=1)
    query = (gates * draw_vectors(rng.integers(0, 500, 100), dimension, seed=1)).astype(np.float32)
    for where in (Filter(), Filter(box=(-16.0, -16.0, 16.0, 16.0))):
        assert where.is_empty or 0.035 * n < index.count(where) < 0.045 * n
        wanted, found = (index.search(query, 10, where, exact=exact) for exact in (True, False))
        shared = [len(set(hits_of(a)) & set(hits_of(b))) / 10 for a, b in zip(wanted, found, strict=True)]
        assert np.mean(shared) >= 0.99
