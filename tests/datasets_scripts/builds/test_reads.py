"""Invariant: a build with an audit and comparing filters reads each archive and each JSON file twice and no more:
once to look, once to build; a tree with one split alone is audited and built as any other."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
from geotext_layout import write_geotext_layout

from pemoe.datasets_scripts import load_source
from pemoe.datasets_scripts.audit import survey
from pemoe.datasets_scripts.builds.audited import audited_build
from pemoe.datasets_scripts.builds.dataset import BuildPlan
from pemoe.datasets_scripts.builds.prepare import prepare_splits
from pemoe.datasets_scripts.schema import DataError
from pemoe.datasets_scripts.sources.geotext import files, reader

COMPARING = ["duplicate_image", "shared_caption"]
PLAN = BuildPlan(None, None)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Five archives; one picture repeats another, one caption another place's."""
    campus = load_source("campus", train_places=3, test_places=2, drone_views=1, ground_views=1, size_px=96, workers=1)
    rows = campus["train"].cast_column("image", datasets.Image(decode=False)).to_list()
    rows[-1]["image"], rows[-1]["captions"][0] = rows[0]["image"], rows[0]["captions"][0]
    campus["train"] = datasets.Dataset.from_list(rows, features=campus["train"].features)
    return write_geotext_layout(campus, tmp_path / "tree")


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each archive and JSON file is opened, by name."""
    counts: Counter[str] = Counter()

    def count(module: Any, name: str) -> None:
        read = getattr(module, name)

        def counted(path: Path | None, *args: Any) -> Iterator[Any]:
            counts[Path(path).name] += 1
            return read(path, *args)

        monkeypatch.setattr(module, name, counted)

    count(files, "iter_image_members")
    count(reader, "iter_records")
    count(survey, "iter_records")
    return counts


def build(root: Path, output: Path, names: list[str], **options: Any) -> dict[str, Any]:
    return audited_build("geotext1652", root, {"filters": names}, output, PLAN, **options)


def test_each_archive_and_json_file_is_read_once_to_look_and_once_to_build(
    tree: Path, tmp_path: Path, opened: Counter[str]
) -> None:
    reported = build(tree, tmp_path / "built", COMPARING)
    assert reported["reports"]["filters"] == {name: {"dropped": 1, "changed": 0} for name in sorted(COMPARING)[::-1]}
    assert len(opened) == 5 + 2 and set(opened.values()) == {2}
    page = (tmp_path / "built" / "reports" / "audit.html").read_text()
    assert page.count("data:image/jpeg;base64,") > 2


def test_what_is_read_to_learn_from_is_read_no_oftener(tree: Path, opened: Counter[str]) -> None:
    prepare_splits("geotext1652", tree, {"filters": COMPARING})
    assert len(opened) == 5 + 2 and set(opened.values()) == {2}
    opened.clear()
    prepare_splits("geotext1652", tree)  # other options, so it is audited again
    assert set(opened.values()) == {2}


def test_without_an_audit_the_comparing_filters_look_for_themselves(
    tree: Path, tmp_path: Path, opened: Counter[str]
) -> None:
    audited = build(tree, tmp_path / "audited", COMPARING)
    opened.clear()
    reported = build(tree, tmp_path / "built", COMPARING, audit=False)
    assert set(opened.values()) == {2}
    assert reported["counts"] == audited["counts"] and reported["reports"]["filters"] == audited["reports"]["filters"]
    opened.clear()
    build(tree, tmp_path / "plain", [], audit=False)
    assert set(opened.values()) == {1}


@pytest.mark.parametrize("name", ["train.json", "test_951_version.json"])
@pytest.mark.parametrize("content", [None, "[]"])
def test_a_tree_with_one_split_alone_is_built(tree: Path, tmp_path: Path, name: str, content: str | None) -> None:
    (tree / name).unlink() if content is None else (tree / name).write_text(content)
    reported = build(tree, tmp_path / "built", COMPARING)
    empty, other = ("train", "test") if name == "train.json" else ("test", "train")
    assert reported["counts"][empty] == {} and reported["counts"][other]["satellite"]["images"] == (
        2 if other == "test" else 3
    )
    found = json.loads((tmp_path / "built" / "reports" / "audit.json").read_text())
    assert found["images"].keys() == {other}
    rows = load_source("parquet", tmp_path / "built")
    assert rows[empty].num_rows == 0 < rows[other].num_rows


@pytest.mark.parametrize("audit", [True, False])
def test_a_tree_without_records_is_refused_in_one_line(tree: Path, tmp_path: Path, audit: bool) -> None:
    for path in tree.glob("*.json"):
        path.write_text("[]")
    with pytest.raises(DataError, match=r"^[^\n]* holds no records[^\n]*$"):
        build(tree, tmp_path / "built", [], audit=audit)
    assert not (tmp_path / "built").exists()
