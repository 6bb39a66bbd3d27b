"""Invariant: a file of queries is read in its order, or refused by the number of the line that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from pemoe.retrieval.index.errors import GalleryError
from pemoe.retrieval.locating.query_files import read_queries

GOOD = {
    "a.txt": "red hall\n\nround arena. No pond.\n",
    "a.csv": 'id,text\n1,red hall\n3,"round arena. No pond."\n',
    "a.jsonl": '{"id": 1, "text": "red hall"}\n\n{"text": "round arena. No pond."}\n',
}
WRONG = {
    "a.txt": {"red\nno\n": "line 2", "": "holds no query", "\n ": "holds no query"},
    "a.csv": {
        "text\na,b\n": "line 2",
        "text,platform\na,drone\n": "'platform' is not known",
        "id,text\n1,\n": "line 2",
        "id,text\n1\n": "line 2",
        "id\n1\n": "line 2",
    },
    "a.jsonl": {
        '{"text": "red"}\n{"text": 3}': "line 2",
        "[]": "line 1",
        "{": "line 1",
        '{"text": "red", "texts": []}': "line 1",
        '{"text": "red", "near": "1,2"}': "'near' is not known",
        '{"image": "gone.jpg"}': "no picture",
        '{"image": ["a"]}': "line 1",
        '{"id": true, "text": "red"}': "id is neither",
        "[" * 100000: "line 1",
    },
    "a.xlsx": {"red": "queries are read from"},
}


@pytest.mark.parametrize("name", GOOD)
def test_queries_come_in_their_order(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("\ufeff" + GOOD[name], encoding="utf-8")
    queries = read_queries(tmp_path / name)
    assert [one.query.texts for one in queries] == [("red hall",), ("round arena. No pond.",)]
    assert [one.name for one in queries] == ["1", "3"]


def test_a_picture_is_looked_for_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "one.jpg").write_bytes(b"any")
    (tmp_path / "a.jsonl").write_text('{"image": "one.jpg", "texts": ["red", "no pond"]}')
    query = read_queries(tmp_path / "a.jsonl")[0].query
    assert (query.image, query.texts) == (str(tmp_path / "one.jpg"), ("red", "no pond"))


@pytest.mark.parametrize(("name", "content"), [(name, one) for name, all_ in WRONG.items() for one in all_])
def test_a_wrong_line_is_named(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(GalleryError, match=WRONG[name][content]) as refused:
        read_queries(tmp_path / name)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 400


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(GalleryError, match="UTF-8"):
        read_queries(tmp_path / "a.txt")
