"""Guards: a defect of one's own is one entry in `DEFECTS`; audit, named filter and build know it from there."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path

import datasets
import pytest
from geotext_layout import write_geotext_layout
from PIL import Image

from pemoe.datasets_scripts import load_source
from pemoe.datasets_scripts.audit.defects import DEFECTS
from pemoe.datasets_scripts.builds.audited import audited_build
from pemoe.datasets_scripts.builds.dataset import BuildPlan
from pemoe.datasets_scripts.builds.rows import filters_of
from pemoe.datasets_scripts.schema import DataError

OWN_DEFECTS = """
import re

from PIL import Image, ImageStat

from pemoe.datasets_scripts.audit.captions import Found
from pemoe.datasets_scripts.audit.defects import DEFECTS, Defect


def find_shouting(caption, split, platform):
    spans = tuple(match.span() for match in re.finditer(r"[A-Z]{4,}", caption))
    return Found("shouts", spans) if spans else None


def find_night(image, platform):
    return "is dark" if platform == "drone" and ImageStat.Stat(image.convert("L")).mean[0] < 20 else None


for own in (
    Defect("shouting", "warning", "caption", "It shouts.", "the filter removes such sentences",
           filter="drop_sentences", check=find_shouting),
    Defect("night", "error", "image", "It was taken at night.", "the filter drops the image",
           filter="drop_image", check=find_night),
):
    DEFECTS[own.name] = own
"""


@pytest.fixture
def own_defects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_defects.py").write_text(OWN_DEFECTS)
    monkeypatch.syspath_prepend(tmp_path)
    known = dict(DEFECTS)
    importlib.import_module("own_defects")
    yield
    DEFECTS.clear()
    DEFECTS.update(known)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A campus with one caption that shouts and one drone picture taken at night."""
    campus = load_source("campus", train_places=2, test_places=1, drone_views=1, ground_views=1, size_px=96, workers=1)
    rows = campus["train"].cast_column("image", datasets.Image(decode=False)).to_list()
    rows[0]["captions"] = ["On the left side stands a hall. LOOK AT THAT."]
    campus["train"] = datasets.Dataset.from_list(rows, features=campus["train"].features)
    root = write_geotext_layout(campus, tmp_path / "tree", archives=False)
    dark = next(path for path in sorted((root / "images" / "train").rglob("image-*")))
    with Image.open(dark) as image:
        image.point(lambda value: value // 20).save(dark)
    return root


def build(root: Path, output: Path, *names: str) -> dict:
    return audited_build("geotext1652", root, {"filters": list(names)}, output, BuildPlan(None, None))


def test_a_defect_of_ones_own_is_found_filtered_and_built(own_defects: None, tree: Path, tmp_path: Path) -> None:
    assert {"shouting", "night"} <= set(filters_of("geotext1652")) & set(filters_of("folder"))
    with pytest.raises(DataError, match=re.escape("1 night") + r".*--filter night"):
        build(tree, tmp_path / "refused", "shouting")
    report = build(tree, tmp_path / "built", "shouting", "night")
    assert report["reports"]["filters"] == {
        "shouting": {"dropped": 0, "changed": 1},
        "night": {"dropped": 1, "changed": 0},
    }
    found = json.loads((tmp_path / "built" / "reports" / "audit.json").read_text())["defects"]
    assert (found["shouting"]["count"], found["night"]["count"]) == (1, 1)
    rows = load_source("parquet", tmp_path / "built")["train"]
    assert ["On the left side stands a hall."] in rows["captions"]
    assert len(rows) == len(load_source("geotext1652", tree)["train"]) - 1
