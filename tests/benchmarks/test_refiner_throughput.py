"""Invariant: the throughput benchmark runs as its command says and measures against the endpoint's own limit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_refiner_throughput_is_reported_against_the_endpoints_limit(tmp_path: Path) -> None:
    command = [sys.executable, "benchmarks/refiner_throughput.py", "--smoke", "--rounds", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "0"}  # the endpoint is on this machine
    process = subprocess.run(
        [*command, "--output", str(tmp_path / "run")],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    results = json.loads((tmp_path / "run" / "metrics.json").read_text())["results"]
    assert results["endpoint"]["limit_per_s"] == 4 / 0.02
    ratios = results["seconds_a_caption"]["ratios"]
    assert ratios["plain_loop/server_limit"]["floor"] == 4
    assert ratios["refiner/server_limit"]["measured"] >= 1, "nothing passes the endpoint's limit"
    assert ratios["plain_loop/server_limit"]["measured"] >= 4
    assert ratios["refiner/plain_loop"]["measured"] == pytest.approx(
        ratios["refiner/server_limit"]["measured"] / ratios["plain_loop/server_limit"]["measured"], rel=0.5
    )
