"""Guards run directories: nothing is deleted that was not offered, files are whole or as they were, and `metrics.json`
has its keys."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pemoe import __version__
from pemoe.common import runs
from pemoe.common.files import write_atomically, write_json
from pemoe.common.runs import RunError, prepare_output, write_metrics


def fill(directory: Path, *names: str) -> Path:
    directory.mkdir(parents=True)
    for name in names:
        (directory / name).write_text("{}")
    return directory


def test_new_and_empty_directories_are_made(tmp_path) -> None:
    assert prepare_output(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert prepare_output(str(tmp_path / "a" / "b")).is_dir()
    assert (
        prepare_output(tmp_path / "c", overwrite=True).is_dir()
        and prepare_output(tmp_path / "d", resume=True).is_dir()
    )


def test_resuming_removes_what_a_kill_left_half_written(tmp_path) -> None:
    fill(tmp_path / ".model.tmp", "config.json")
    fill(tmp_path / "stage", ".done.json.77.tmp", ".tmpAb12Cd", "done.json", "a.tmp")
    prepare_output(tmp_path, resume=True)
    kept = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")]
    assert sorted(kept) == ["stage", "stage/a.tmp", "stage/done.json"]


def test_full_directory_is_refused_and_kept(tmp_path) -> None:
    directory = fill(tmp_path / "run", "metrics.json", "notes.txt")
    with pytest.raises(RunError, match="not empty") as error:
        prepare_output(directory)
    assert str(directory) in str(error.value) and "--overwrite" in str(error.value) and "\n" not in str(error.value)
    assert sorted(path.name for path in directory.iterdir()) == ["metrics.json", "notes.txt"]


@pytest.mark.parametrize("mark", ["metrics.json", "recipe.json"])
def test_overwrite_empties_an_earlier_run(tmp_path, mark: str) -> None:
    directory = fill(tmp_path / "run", mark, ".hidden")
    fill(directory / "gate", "done.json")
    assert list(prepare_output(directory, overwrite=True).iterdir()) == []


@pytest.mark.parametrize("names", [["thesis.tex"], [".hidden"], ["done.json", "trained.safetensors"]])
def test_overwrite_spares_what_is_no_run(tmp_path, names: list[str]) -> None:
    directory = fill(tmp_path / "home", *names)
    with pytest.raises(RunError, match="no earlier run"):
        prepare_output(directory, overwrite=True)
    assert sorted(path.name for path in directory.iterdir()) == sorted(names)


def test_resume_keeps_everything(tmp_path) -> None:
    directory = fill(tmp_path / "run", "recipe.json", "notes.txt")
    for overwrite in (False, True):
        prepare_output(directory, overwrite=overwrite, resume=True)
        assert sorted(path.name for path in directory.iterdir()) == ["notes.txt", "recipe.json"]


@pytest.mark.parametrize("options", [{}, {"overwrite": True}, {"resume": True}])
@pytest.mark.parametrize("below", ["", "run"])
def test_a_file_is_no_directory(tmp_path, options: dict, below: str) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(RunError, match=f"{tmp_path}.*--output") as error:
        prepare_output(tmp_path / "file" / below, **options)
    assert "\n" not in str(error.value)
    assert (tmp_path / "file").read_text() == "kept"


def half_then_raise(path: Path) -> None:
    path.write_text("half")
    raise OSError("disk full")


def test_failing_writer_leaves_the_old_file(tmp_path) -> None:
    write_json(tmp_path / "a.json", {"old": 1})
    with pytest.raises(OSError, match="disk full"):
        write_atomically(tmp_path / "a.json", half_then_raise)
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"new": object()})
    assert json.loads((tmp_path / "a.json").read_text()) == {"old": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    with pytest.raises(OSError, match="disk full"):
        write_atomically(tmp_path / "new.json", half_then_raise)
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_writing_replaces_in_one_move(tmp_path) -> None:
    """The old file stays whole until the writer is done; the new one is written beside it, on the same disk."""
    target = tmp_path / "a.json"
    write_json(target, {"old": 1})

    def write(path: Path) -> None:
        path.write_text("new")
        assert path.parent == tmp_path and path != target
        assert json.loads(target.read_text()) == {"old": 1}

    write_atomically(target, write)
    assert target.read_text() == "new"
    write_json(target, [1, 2])
    assert json.loads(target.read_text()) == [1, 2] and target.read_text().endswith("\n")
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_machines_whose_processes_have_one_number_write_one_file(tmp_path, monkeypatch) -> None:
    def write(path: Path) -> None:
        path.write_text("ours")
        monkeypatch.setattr("platform.node", lambda: "another-machine")
        write_json(tmp_path / "a.json", "theirs")

    write_atomically(tmp_path / "a.json", write)
    assert (tmp_path / "a.json").read_text() == "ours" and len(list(tmp_path.iterdir())) == 1


def test_kill_while_writing_leaves_the_old_file(tmp_path) -> None:
    write_json(tmp_path / "a.json", {"old": 1})
    code = (
        "import os, signal, sys; from pathlib import Path; from pemoe.common.files import write_atomically\n"
        "def write(path):\n    path.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)\n"
        "write_atomically(Path(sys.argv[1]), write)"
    )
    process = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.json")], check=False)
    assert process.returncode == -signal.SIGKILL
    assert json.loads((tmp_path / "a.json").read_text()) == {"old": 1}


def test_metrics_have_their_keys(tmp_path) -> None:
    started_s = time.monotonic() - 2.5
    metrics = write_metrics(tmp_path, "pemoe train --seed 3", 3, started_s, {"rows": [{"recall_at_1": 0.5}]})
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics
    names = ["command", "version", "commit", "seed", "device", "wall_s", "peak_rss_mb", "results"]
    assert list(metrics) == names
    assert (metrics["command"], metrics["version"], metrics["seed"]) == ("pemoe train --seed 3", __version__, 3)
    assert metrics["results"] == {"rows": [{"recall_at_1": 0.5}]}
    assert 2.5 <= metrics["wall_s"] < 60
    assert metrics["commit"] is None or len(metrics["commit"]) == 40
    assert isinstance(metrics["device"], str) and metrics["device"]


def test_peak_memory_is_in_megabytes(tmp_path) -> None:
    import numpy as np

    held = np.ones(150_000_000, dtype=np.uint8)  # 150 MB, touched
    peak_mb = write_metrics(tmp_path, "x", None, time.monotonic(), {})["peak_rss_mb"]
    total_mb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e6
    assert held.nbytes / 1e6 < peak_mb < total_mb


def git(directory: Path, *words: str) -> str:
    command = ["git", "-C", str(directory), "-c", "user.name=a", "-c", "user.email=a@b", *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("place", [".", "vendor/pemoe"])
def test_the_commit_is_that_of_the_repository_whose_root_holds_the_package(tmp_path: Path, place: str) -> None:
    """A copy inside another project is that project's, and says nothing of ours."""
    copy = tmp_path / "project" / place / "common"
    shutil.copytree(Path(runs.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
    git(tmp_path / "project", "init", "-q")
    untracked = commit_recorded_by(copy / "runs.py")
    git(tmp_path / "project", "add", "-A")
    git(tmp_path / "project", "commit", "-qm", "all")
    head = git(tmp_path / "project", "rev-parse", "HEAD")
    assert untracked is None
    assert commit_recorded_by(copy / "runs.py") == (head if place == "." else None)


def commit_recorded_by(path: Path) -> str | None:
    spec = importlib.util.spec_from_file_location("copied_runs", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module._commit()
