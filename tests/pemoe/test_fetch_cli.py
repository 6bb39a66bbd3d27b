"""Guards: `pemoe data fetch` says licence, number and size before it starts, never waits for an answer where nobody
can give one, and its folder goes into the next command; `pemoe --version` answers at once."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import assert_refused, run, run_fresh
from defect_tree import write_clean_tree
from local_hub import LocalHub
from local_hub_routes import Repo

from pemoe import __version__
from pemoe.datasets_scripts.sources.registry import public_source

NAME = public_source("geotext1652")[1].repo_id
TELLS = (NAME, "geotext-1652-research-use", "University-1652", "agreement", "files")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LocalHub, str]]:
    """A Hub that holds the repository, and its commit."""
    root = tmp_path_factory.mktemp("published")
    tree = write_clean_tree(root / "tree", train_places=2)
    with LocalHub(root / "hub", lfs_suffixes=(".json", ".gz")) as hub:
        hub.repos["dataset", NAME] = repo = Repo("dataset", NAME, private=False)
        files = {path.relative_to(tree).as_posix(): path.read_bytes() for path in tree.rglob("*") if path.is_file()}
        yield hub, repo.commit("main", {path: hub.store(data, lfs=False) for path, data in files.items()})


def test_a_script_gets_the_terms_first_and_goes_on_with_yes(
    published: tuple[LocalHub, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    hub, commit = published
    env = {key: value for key, value in hub.env(tmp_path / "home", token="").items() if "OFFLINE" not in key}
    asked = run_fresh(env, tmp_path, "data", "fetch", "geotext1652", "--output", "out")
    assert asked.returncode == 2 and asked.stdout == ""
    assert all(word in asked.stderr for word in (*TELLS, commit))
    assert "give --yes" in asked.stderr.splitlines()[-1]
    dry = run_fresh(env, tmp_path, "data", "fetch", "geotext1652", "--output", "out", "--dry-run", "--json")
    plan = json.loads(dry.stdout)
    assert dry.returncode == 0 and plan["commit"] == commit and plan["total_bytes"] > 0
    assert not (tmp_path / "out").exists()
    assert not hub.sent("GET", "/resolve/")
    done = run_fresh(env, tmp_path, "data", "fetch", "geotext1652", "--output", "out", "--yes", "--json")
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert {**record, "directory": None} == {
        "directory": None,
        **json.loads((tmp_path / "out/fetch.json").read_text()),
    }
    assert run(monkeypatch, "data", "audit", str(tmp_path / "out"), "--output", str(tmp_path / "audit")) == 0
    capsys.readouterr()


def test_at_a_terminal_it_asks_and_no_is_no(published: tuple[LocalHub, str], tmp_path: Path) -> None:
    hub, _ = published
    env = {key: value for key, value in hub.env(tmp_path / "home", token="").items() if "OFFLINE" not in key}
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "pemoe", "data", "fetch", "geotext1652", "--output", "out"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=env, cwd=tmp_path, stdin=theirs, **pipes) as process:
        os.write(ours, b"n\n")
        out, errors = process.communicate(timeout=60)
    os.close(ours)
    os.close(theirs)
    assert process.returncode == 0 and not out.strip()
    assert "Fetch them?" in errors and "Nothing was fetched." in errors
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_fetched_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys, tmp_path: Path) -> None:
    assert_refused(monkeypatch, capsys, ["data", "fetch", "campus"], "use geotext1652")
    (tmp_path / "mine.txt").write_text("mine")
    assert_refused(monkeypatch, capsys, ["data", "fetch", "geotext1652", "--output", str(tmp_path)], "--output")


def test_fetch_explains_itself_with_an_example(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    assert run(monkeypatch, "data", "fetch", "--help") == 0
    assert "Example: pemoe data fetch geotext1652" in " ".join(capsys.readouterr().out.replace("│", " ").split())


def test_the_version_is_told_at_once(tmp_path: Path) -> None:
    started_s = time.monotonic()
    loaded = "import sys; from pemoe.cli import app; app(['--version'], standalone_mode=False); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True)
    first, _, modules = done.stdout.partition("\n")
    assert first == f"pemoe {__version__}"
    assert not {"torch", "transformers", "datasets"} & set(modules.split())
    asked = run_fresh(dict(os.environ), tmp_path, "--version")
    assert (asked.returncode, asked.stdout, asked.stderr) == (0, f"pemoe {__version__}\n", "")
    assert time.monotonic() - started_s < 20
