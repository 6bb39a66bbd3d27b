"""Invariant: an index built by a Ray cluster holds the rows and the vectors, bit by bit, of one built by `ingest`, a
worker killed in the middle or not; a build that fails leaves no index, says why in one line, and hinders no later one.
"""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_data import build_processor
from tiny_models import build_tiny_model

from pemoe.retrieval.checkpoints import load_checkpoint
from pemoe.retrieval.index import GalleryIndex, ray_build
from pemoe.retrieval.index.errors import GalleryError
from pemoe.retrieval.index.identity import ModelIdentity
from pemoe.retrieval.index.ingest import ingest
from pemoe.retrieval.index.pictures import read_pictures
from pemoe.retrieval.index.ray_build import build_on_ray
from pemoe.retrieval.index.records import schema_of

PLACES, VIEWS, SIDE_PX = 25, 8, 700  # a picture takes about 10 ms to decode, so that a build lasts seconds
ROWS_PER_FRAGMENT = 32
ENCODER = b"ray::MapWorker(MapBatches(Encoder))"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    build_tiny_model().save_pretrained(folder)
    build_processor().save_pretrained(folder)
    return str(folder)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for place in range(PLACES):
        folder = tmp_path / "photos" / f"place{place:02d}"
        folder.mkdir(parents=True)
        for view in range(VIEWS):
            pixels = rng.integers(0, 255, (24, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((SIDE_PX, SIDE_PX)).save(folder / f"drone_{view}.jpg")
    return tmp_path / "photos"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A cluster of two nodes of two cores on the loopback."""
    from ray.cluster_utils import Cluster

    memory = {"object_store_memory": 80 * 2**20}
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as short:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("OMP_NUM_THREADS", "1")
        head = {"num_cpus": 2, "include_dashboard": False, "temp_dir": short}
        cluster = Cluster(initialize_head=True, head_node_args=head | memory)
        try:
            cluster.add_node(num_cpus=2, **memory)
            yield cluster.address
        finally:
            cluster.shutdown()


def encoders() -> list[int]:
    """Processes of this machine that hold a model."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (folder / "cmdline").read_bytes().startswith(ENCODER):
                found.append(int(folder.name))
        except OSError:  # ended meanwhile
            continue
    return found


def kill_one(files: Path, told: dict) -> None:
    """SIGKILL a process that encodes as soon as a file is written."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        written = len(list(files.glob("*.lance")))
        if written and (alive := encoders()):
            os.kill(alive[0], signal.SIGKILL)
            told.update(pid=alive[0], written=written)
            return
        time.sleep(0.01)


@pytest.mark.slow
def test_a_fault_leaves_nothing_and_a_killed_worker_changes_nothing(
    model: str, photos: Path, address: str, tmp_path: Path
) -> None:
    broken, output = photos / "place20" / "drone_3.jpg", tmp_path / "ray.index"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:200])
    with pytest.raises(GalleryError, match=r"place20/drone_3\.jpg: ") as refused:
        build_on_ray(str(output), str(photos), model, address, rows_per_fragment=ROWS_PER_FRAGMENT)
    assert "\n" not in str(refused.value)
    assert not output.exists()

    broken.write_bytes(whole)
    told: dict = {}
    killer = threading.Thread(target=kill_one, args=(output / "gallery.lance" / "data", told))
    killer.start()
    counts = build_on_ray(str(output), str(photos), model, address, rows_per_fragment=ROWS_PER_FRAGMENT)
    killer.join()
    total = PLACES * VIEWS
    assert told["written"] < total // ROWS_PER_FRAGMENT, "killed when all was written: it shows nothing"
    assert (counts.written, counts.unchanged) == (total, 0)

    loaded, processor = load_checkpoint(model)
    local = GalleryIndex.create(str(tmp_path / "local.index"), ModelIdentity.of(model, loaded))
    ingest(local, read_pictures(str(photos)), loaded, processor)
    built, columns = GalleryIndex.open(str(output)), schema_of(local.model.dimension).names
    assert built.model == local.model
    assert built.read(columns).sort_by("image_id").equals(local.read(columns).sort_by("image_id"))
    query = np.random.default_rng(1).standard_normal((3, local.model.dimension))
    assert [one.to_pydict() for one in built.search(query)] == [one.to_pydict() for one in local.search(query)]
    files = list((output / "gallery.lance" / "data").glob("*.lance"))
    assert len(files) == -(-total // ROWS_PER_FRAGMENT), "what the killed process wrote is gone"


def test_what_cannot_be_built_on_a_cluster_is_refused_before_one_is_asked(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, _ = load_checkpoint(model)
    there = str(tmp_path / "there")
    GalleryIndex.create(there, ModelIdentity.of(model, loaded))
    for uri, reason in ((there, "there is an index;"), ("http://127.0.0.1:1/x", "built without --ray")):
        with pytest.raises(GalleryError, match=reason):
            build_on_ray(uri, "campus", model, "127.0.0.1:1")
    for address in ("127.0.0.1:1", "ray://127.0.0.1:1", "nowhere", "127.0.0.1:x"):
        with pytest.raises(GalleryError, match=f"--ray {address}: .*ray start --head"):
            build_on_ray(str(tmp_path / "new"), "campus", model, address)
    monkeypatch.setattr(ray_build, "find_spec", lambda name: None)
    with pytest.raises(GalleryError, match=r'pip install "pemoe\[ray\]"'):
        build_on_ray(str(tmp_path / "new"), "campus", model)
    assert not (tmp_path / "new").exists()
