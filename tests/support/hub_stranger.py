"""Subprocesses of somebody who has the Hub and the libraries, not this package: a home of their own, empty caches."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from local_hub import LocalHub
from local_hub_routes import Repo

from pemoe.trainers.experiments.fresh_process import PRELUDE

SUPPORT = str(Path(__file__).parent)
_KEPT_AT_HOME = ("MODULES", "EVALUATE", "DATASETS")  # caches that the tests' own environment may have moved


def run_on(hub: LocalHub, home: Path, code: str, *arguments: str) -> subprocess.CompletedProcess:
    """Python code with `hub` as the Hub, in a home directory that nothing else uses."""
    home.mkdir(exist_ok=True)
    caches = {f"HF_{name}_CACHE": str(home / name.lower()) for name in _KEPT_AT_HOME}
    env = {**hub.env(home), **caches, "PYTHONPATH": SUPPORT, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=home, env=env, capture_output=True, text=True, check=False)


def run_as_stranger(hub: LocalHub, home: Path, code: str, *arguments: str) -> dict:
    """The same where this package cannot be imported; the JSON that the code prints last comes back."""
    done = run_on(hub, home, PRELUDE + code, *arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    assert hub.token not in done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def copy_repo(hub: LocalHub, source: str, name: str, **changes: bytes | None) -> None:
    """A model repository `name` with the files of `source`, some changed or (None) left out."""
    files = {**hub.repos["model", source].files(), **changes}
    repo = hub.repos["model", name] = Repo("model", name, private=False)
    stored = {path: hub.store(content, path.endswith(hub.lfs_suffixes)) for path, content in files.items() if content}
    repo.commit("main", stored)


def publish(hub: LocalHub, root: Path) -> None:
    """Run `hub_publisher` against a Hub."""
    code = Path(SUPPORT, "hub_publisher.py").read_text()
    done = run_on(hub, root / "publisher", code, str(root))
    assert done.returncode == 0, done.stderr[-3000:]
    assert os.path.isfile(root / "vectors.json")
