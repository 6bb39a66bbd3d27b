"""A small built directory: the rendered campus, five places, two shards per platform in train; machine paths in it.
A Hub that holds one model in every form, its data and a metric."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hub_stranger import publish
from local_hub import LocalHub

from pemoe.datasets_scripts.audit.audit import Audit
from pemoe.datasets_scripts.audit.defects import Finding
from pemoe.datasets_scripts.builds.dataset import build_dataset
from pemoe.datasets_scripts.builds.plan import BuildPlan
from pemoe.datasets_scripts.campus.reader import CampusReader


def found() -> dict:
    """An audit's report: 1,200 findings of one kind on 30 images, one of another."""
    audit = Audit("/home/anna/geotext")
    for number in range(1200):
        audit.add(Finding("truncated_caption", "train", f"0001/{number % 30}.jpg", "is cut", text="rules | 1, of the"))
    audit.add(Finding("null_bbox", "train", "0001/1.jpg", "has no box"))
    return audit.to_dict()


def build_campus(root: Path, places_per_shard: int = 2) -> Path:
    options = {"root": "/home/anna berg/geotext", "cache": f"{root}/cache", "filters": ["a", "b"]}
    plan = BuildPlan(places_per_shard=places_per_shard, options=options)
    reader = CampusReader(train_places=3, test_places=2)
    build_dataset(reader, root, plan, audit=lambda _: found(), version="0.1.0")
    (root / "reports").mkdir(exist_ok=True)
    page = f"<p>{root}/drone, /home/anna berg/geotext</p><img src='data:,/9j/'>"
    (root / "reports" / "audit.html").write_text(page)
    (root / "reports" / "refine.json").write_text(json.dumps({"read": "/home/anna/photos/a.csv", "rows": 30}))
    return root


@pytest.fixture(scope="session")
def built_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_campus(tmp_path_factory.mktemp("built") / "campus")


@pytest.fixture
def built_dir(built_once: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil; its files still name the first directory, as after a move."""
    return Path(shutil.copytree(built_once, tmp_path / "campus"))


@pytest.fixture
def build() -> Callable[..., Path]:
    return build_campus


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LocalHub, Path]]:
    """A Hub after `hub_publisher`, and the directory of what it wrote."""
    root = tmp_path_factory.mktemp("published")
    with LocalHub(root / "hub") as hub:
        publish(hub, root)
        yield hub, root
