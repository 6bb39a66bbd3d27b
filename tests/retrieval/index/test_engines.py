"""Invariants of every engine: an exact search is brute force over what is stored, whatever the filter; what a call has
written every later call sees, in this process and in others; what is bad is refused by name and changes nothing.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from gallery_rows import DAY_0, brute_force, draw_queries, draw_rows, hits_of, identity_of

from pemoe.retrieval.index import Filter, GalleryIndex
from pemoe.retrieval.index.errors import GalleryError
from pemoe.retrieval.index.records import VECTOR

D = 48
FILTERS = (
    Filter(),
    Filter(platforms=("drone", "ground")),
    Filter(box=(-40.0, 150.0, 40.0, -120.0)),
    Filter(near=(10.0, 20.0, 4000.0), platforms=("satellite",)),
    Filter(area={"type": "Polygon", "coordinates": [[[0, 0], [90, 0], [45, 70], [0, 0]]]}),
    Filter(since=DAY_0 + timedelta(days=1), until=DAY_0 + timedelta(days=3, microseconds=700)),
    Filter(image_ids=("r1", "r2", "missing")),
    Filter(place_ids=("place 3",)),
    Filter(place_ids=("nowhere",)),
    Filter(box=(89.0, 0.0, 90.0, 1.0)),
)


def fill(index: GalleryIndex, rows: pa.Table) -> GalleryIndex:
    index.add(rows)
    return index


def assert_exact(index: GalleryIndex, rows: pa.Table, where: Filter, k: int = 10, seed: int = 0) -> None:
    query = draw_queries(3, D, seed)
    for one, answer in zip(query, index.search(query, k, where, exact=True), strict=True):
        assert hits_of(answer) == brute_force(rows, one, k, where)


@pytest.fixture(params=["lance", pytest.param("milvus", marks=pytest.mark.slow)])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An address where no index is."""
    yield str(tmp_path / "gallery") if request.param == "lance" else request.getfixturevalue("milvus_uri")


@pytest.fixture
def make(uri: str) -> Callable[[pa.Table], GalleryIndex]:
    return lambda rows: fill(GalleryIndex.create(uri, identity_of(D)), rows)


def ids(prefix: str, n: int) -> list[str]:
    return [f"{prefix}{number}" for number in range(n)]


def test_exact_search_is_brute_force_under_every_filter(make: Callable) -> None:
    rows = draw_rows(ids("r", 700), D, seed=1)
    index = make(rows)
    for where in FILTERS:
        passed = int(where.mask(rows).sum())
        assert_exact(index, rows, where)
        assert index.count(where) == passed == len(index.read(["image_id"], where))
    assert {0, 2, 700} < {index.count(where) for where in FILTERS}  # all, none and few were among them


def test_equal_scores_go_by_id_and_k_may_exceed_the_rows(make: Callable) -> None:
    rows = draw_rows(ids("r", 60), D, seed=2)
    vectors = rows[VECTOR].combine_chunks().take(pa.array(np.arange(60) % 4))
    rows = rows.set_column(rows.column_names.index(VECTOR), rows.schema.field(VECTOR), vectors)
    index = make(rows)
    for k in (1, 7, 20, 60, 1000):
        assert_exact(index, rows, Filter(), k)
    assert len(index.search(draw_queries(1, D, 0), 1000)[0]) == 60


def test_an_empty_index_answers_with_empty_tables(uri: str) -> None:
    index = GalleryIndex.create(uri, identity_of(D))
    answer = index.search(draw_queries(2, D, 0), 5, columns=("image_id", "thumbnail"))
    assert [len(one) for one in answer] == [0, 0] and answer[0].column_names == ["image_id", "thumbnail", "score"]
    assert index.count() == index.delete(Filter(platforms=("drone",))) == 0
    index.optimize()


def test_columns_belong_to_their_rows(make: Callable) -> None:
    index = make(draw_rows(ids("r", 50), D, seed=3))
    for answer in index.search(draw_queries(2, D, 0), 7, columns=("thumbnail", "image_id", "content_sha256")):
        assert answer.column_names == ["thumbnail", "image_id", "content_sha256", "score"]
        assert [one.decode() for one in answer["thumbnail"].to_pylist()] == answer["image_id"].to_pylist()


def test_writes_are_seen_at_once_by_another_handle(uri: str, make: Callable) -> None:
    rows = draw_rows(ids("r", 200), D, seed=4)
    index, other = make(rows), GalleryIndex.open(uri)
    assert_exact(other, rows, Filter())
    for step in range(6):
        changed = draw_rows([*ids("r", 5 * step + 1), f"new{step}"], D, seed=10 + step)
        index.upsert(changed)
        doomed = (f"r{150 + step}", "missing")
        assert index.delete(Filter(image_ids=doomed)) == 1
        gone = (*changed["image_id"].to_pylist(), *doomed)
        rows = pa.concat_tables([rows.filter(pa.array(~Filter(image_ids=gone).mask(rows))), changed])
        for one in (index, other):
            assert one.count() == len(rows)
            assert_exact(one, rows, FILTERS[step % 3], seed=step)
    assert other.read(["image_id"])["image_id"].to_pylist() == sorted(
        rows["image_id"].to_pylist(), key=other.read(["image_id"])["image_id"].to_pylist().index
    )


def test_reopening_keeps_rows_model_and_calibration(uri: str, make: Callable) -> None:
    rows = draw_rows(ids("r", 40), D, seed=5)
    early = GalleryIndex.open(make(rows).engine.uri)
    assert early.calibration is None
    GalleryIndex.open(uri).set_calibration({"bias": 1.5})
    again = GalleryIndex.open(uri)
    assert again.model == identity_of(D) and again.calibration == early.calibration == {"bias": 1.5}
    assert_exact(again, rows, Filter())
    stored = again.read(rows.column_names).sort_by("image_id")
    assert stored.equals(rows.sort_by("image_id"))


@pytest.mark.parametrize("odd", ["it's", '"%_\\', "ümläut 図", "a;b--", "new\nline", "' OR '1'='1"])
def test_ids_of_any_text_are_found_replaced_and_removed(make: Callable, odd: str) -> None:
    index, where = make(draw_rows([odd, "plain"], D, seed=6)), Filter(image_ids=(odd,))
    index.upsert(draw_rows([odd], D, seed=7))
    assert index.count() == 2 and index.read(["content_sha256"], where)["content_sha256"].to_pylist() == ["7"]
    assert hits_of(index.search(draw_queries(1, D, 0), 5, where)[0])[0][0] == odd
    assert index.delete(where) == 1 and index.read(["image_id"])["image_id"].to_pylist() == ["plain"]


def changed(rows: pa.Table, column: str, values: list) -> pa.Table:
    number = rows.column_names.index(column)
    return rows.set_column(number, rows.schema.field(column), pa.array(values, rows.schema.field(column).type))


BAD = {
    "row 1 ('r0'): is given twice": lambda rows: changed(rows, "image_id", ["r0", "r0", "r2"]),
    "row 2 ('r2'): platform is empty": lambda rows: changed(rows, "platform", ["drone", "drone", ""]),
    "row 0 (''): image_id is empty": lambda rows: changed(rows, "image_id", ["", "r1", "r2"]),
    "row 1 ('r1'): latitude_deg 90.5 is outside": lambda rows: changed(rows, "latitude_deg", [1.0, 90.5, 2.0]),
    "row 0 ('r0'): longitude_deg nan is outside": lambda rows: changed(rows, "longitude_deg", [np.nan, 1.0, 2.0]),
    "row 2 ('r2'): latitude_deg None": lambda rows: changed(rows, "latitude_deg", [1.0, 2.0, None]),
    "missing ['thumbnail']": lambda rows: rows.drop(["thumbnail"]),
    "vectors of length 24": lambda rows: draw_rows(ids("r", 3), 24, seed=0),
    "row 1 ('r1'): its vector holds NaN": lambda rows: changed(rows, VECTOR, [[0.0] * D, [np.nan] * D, [0.0] * D]),
}


@pytest.mark.parametrize("said", BAD)
def test_bad_rows_are_refused_by_name_and_nothing_is_written(make: Callable, said: str) -> None:
    index = make(draw_rows(["there"], D, seed=8))
    bad = BAD[said](draw_rows(ids("r", 3), D, seed=9))
    for write in (index.add, index.upsert):
        with pytest.raises(GalleryError) as error:
            write(bad)
        assert said in str(error.value) and "\n" not in str(error.value)
    assert index.count() == 1


def test_add_refuses_an_id_that_is_there(make: Callable) -> None:
    index = make(draw_rows(ids("r", 3), D, seed=8))
    with pytest.raises(GalleryError, match=r"'r2': is in the index \(1 of 2 are\)"):
        index.add(draw_rows(["new", "r2"], D, seed=9))
    assert index.count() == 3


def test_bad_calls_are_refused(uri: str, make: Callable) -> None:
    index, query = make(draw_rows(ids("r", 3), D, seed=8)), draw_queries(1, D, 0)
    for call in (
        lambda: GalleryIndex.create(uri, identity_of(D)),
        lambda: index.search(query[:, 1:]),
        lambda: index.search(query * np.nan),
        lambda: index.search(query * 1e30),
        lambda: index.search(query, 0),
        lambda: index.search(query, exact=False),
        lambda: index.search(query, columns=("colour",)),
        lambda: index.read(("colour",)),
        lambda: index.delete(Filter()),
    ):
        with pytest.raises(GalleryError) as error:
            call()
        assert "\n" not in str(error.value)
    assert index.count() == 3


def test_readers_are_right_while_a_writer_writes(uri: str, make: Callable) -> None:
    """What a reader sees is one state of those that were written, each batch whole, never less than before."""
    index, done = make(draw_rows(ids("r", 100), D, seed=1)), threading.Event()
    faults: list[str] = []

    def read() -> None:
        other, least, query = GalleryIndex.open(uri), 100, draw_queries(1, D, 0)
        while not done.is_set():
            seen = len(other.search(query, 10_000, exact=True)[0])
            if seen < least or seen % 10:
                faults.append(f"{seen} rows after {least}")
            least = seen

    readers = [threading.Thread(target=read) for _ in range(2)]
    for one in readers:
        one.start()
    for step in range(15):
        index.upsert(draw_rows([*ids("r", 20), *ids(f"new{step}-", 10)], D, seed=step))
    done.set()
    for one in readers:
        one.join()
    assert not faults and index.count() == 250


READER = """
import sys
sys.path.insert(0, sys.argv[2])
from gallery_rows import draw_queries, hits_of
from pemoe.retrieval.index import GalleryIndex
index = GalleryIndex.open(sys.argv[1])
for line in sys.stdin:
    hits = hits_of(index.search(draw_queries(1, int(line), 0), 1000)[0])
    print([(one, float(score)) for one, score in hits], flush=True)
"""


@pytest.mark.slow  # starts a process that imports torch
def test_another_process_sees_writes_at_once(uri: str, make: Callable) -> None:
    rows = draw_rows(ids("r", 50), D, seed=1)
    index, support = make(rows), str(Path(__file__).parents[2] / "support")
    command = [sys.executable, "-c", READER, uri, support]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
        for step in range(4):
            reader.stdin.write(f"{D}\n")
            reader.stdin.flush()
            wanted = brute_force(rows, draw_queries(1, D, 0)[0], 1000, Filter())
            assert reader.stdout.readline().strip() == str([(one, float(score)) for one, score in wanted])
            index.upsert(new := draw_rows([f"r{step}", f"new{step}"], D, seed=step + 5))
            index.delete(Filter(image_ids=(f"r{40 + step}",)))
            gone = Filter(image_ids=(f"r{step}", f"r{40 + step}"))
            rows = pa.concat_tables([rows.filter(pa.array(~gone.mask(rows))), new])
        reader.stdin.close()
    assert reader.returncode == 0
