"""Guards mining's memory: the search at 38,000 pictures holds blocks, never the scores of all pairs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def measure(output: Path, queries: int, gallery: int) -> dict:
    sizes = ["--queries", str(queries), "--gallery", str(gallery), "--dim", "64", "--output", str(output)]
    command = [sys.executable, "benchmarks/mining_memory.py", *sizes]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    assert "peak_rss_gb" in process.stdout
    return json.loads((output / "metrics.json").read_text())


@pytest.mark.slow  # 38,000 pictures
def test_the_peak_does_not_grow_with_the_pairs(tmp_path: Path) -> None:
    small, large = measure(tmp_path / "small", 2_000, 4_096), measure(tmp_path / "large", 30_000, 38_000)
    results = large["results"]
    assert results["floor_operations"] == 2 * 30_000 * 38_000 * 64 and results["score_matrix_gb"] == 4.56
    grown_gb = (large["peak_rss_mb"] - small["peak_rss_mb"]) / 1e3
    assert grown_gb < 0.4  # one chunk of scores with its copies, the vectors' pages, the row numbers
