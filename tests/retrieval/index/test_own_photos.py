"""Guards the way of a new user: photos with GPS in, a sentence, places with the photos' coordinates out; and that a
build that is killed anywhere goes on to the rows of one that was not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import run_fresh
from tiny_gallery import rows_of, save_tiny_checkpoint, write_photos

from pemoe.retrieval.index import GalleryIndex

pytestmark = pytest.mark.slow
ENV = {**os.environ, "OMP_NUM_THREADS": "1"}
SMALL = "from pemoe.retrieval.index import ingest; ingest.WRITTEN = 32; from pemoe.cli import main; main()"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny_checkpoint(tmp_path_factory.mktemp("model"))


def test_photos_in_a_sentence_coordinates_out(checkpoint: str, tmp_path: Path) -> None:
    positions = write_photos(tmp_path / "photos", 30)
    built = run_fresh(
        ENV, tmp_path, "index", "build", "photos", "--model", checkpoint, "--output", "my.index", "--json"
    )
    assert built.returncode == 0, built.stderr[-2000:]
    facts = json.loads(built.stdout)
    assert facts["pictures"] == facts["with_coordinates"] == 30 and facts["ingest"]["written"] == 30
    found = run_fresh(
        ENV, tmp_path, "locate", "red roof", "--index", "my.index", "--top", "30", "--format", "json"
    )  # fmt: skip
    assert found.returncode == 0, found.stderr[-2000:]
    places = json.loads(found.stdout)["places"]
    assert len(places) == 30
    for place in places:
        latitude_deg, longitude_deg = positions[f"{place['place_id']}.jpg"]
        assert place["latitude_deg"] == pytest.approx(latitude_deg, abs=1e-5)
        assert place["longitude_deg"] == pytest.approx(longitude_deg, abs=1e-5)


def test_a_build_killed_twice_goes_on_to_the_same_rows(checkpoint: str, tmp_path: Path) -> None:
    write_photos(tmp_path / "photos", 200)
    command = [sys.executable, "-c", SMALL, "index", "build", "photos", "--model", checkpoint, "--output"]
    for kept in (32, 96):
        resume = ["--resume"] if kept > 32 else []
        process = subprocess.Popen(
            [*command, "killed.index", *resume], env=ENV, cwd=tmp_path, stderr=subprocess.DEVNULL
        )
        while process.poll() is None and count(tmp_path / "killed.index") < kept:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert count(tmp_path / "killed.index") >= kept
    for name, resume in (("killed.index", ["--resume"]), ("whole.index", [])):
        subprocess.run([*command, name, *resume], env=ENV, cwd=tmp_path, check=True, stderr=subprocess.DEVNULL)
    killed, whole = (GalleryIndex.open(str(tmp_path / name)) for name in ("killed.index", "whole.index"))
    assert whole.count() == 200 and rows_of(killed) == rows_of(whole)


def count(path: Path) -> int:
    try:
        return GalleryIndex.open(str(path)).count()
    except ValueError:
        return 0
