"""Invariant: the benchmark of search, ingest, locate and service runs as its command says; exact search finds what
brute force finds, shares add up to one, and the service answers every request of its clients."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_data import build_processor
from tiny_models import build_tiny_model

ROOT = Path(__file__).resolve().parents[2]


def run(*options: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "benchmarks/locate.py", *options]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_all_parts_are_measured_in_one_run(tmp_path: Path) -> None:
    model = tmp_path / "model"
    build_tiny_model().save_pretrained(model)
    build_processor().save_pretrained(model)
    small = ["--rows", "1200", "--rounds", "2", "--places", "6", "--model", str(model)]
    process = run(*small, "--output", str(tmp_path / "run"))
    assert process.returncode == 0, process.stderr
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    expected = "--rows 1200 --parts search ingest locate service --rounds 2"
    assert metrics["command"] == f"python benchmarks/locate.py {expected}"
    results = metrics["results"]
    search = results["search"]["1200"]
    assert search["recall_at_10"]["exact"] == 1.0
    assert search["recall_at_10"]["nearest"] > 0.5
    assert set(search["median_ms"]) == {"read_fp32", "read_fp16", "torch_fp32", "torch_fp16", "exact", "nearest"}
    for found in search["ratios"].values():
        assert 0 < found["lowest"] <= found["measured"] <= found["highest"]
    assert results["ingest"]["rows"]["rows_per_s"]["index"] > 0
    pictures = results["ingest"]["pictures"]
    assert (pictures["pictures"], pytest.approx(1)) == (36, sum(pictures["share"].values()))
    located = results["locate"]
    assert located["rows"] == 1200
    assert sum(located["share"].values()) == pytest.approx(1)
    assert min(located["share"].values()) > -0.01, "a step is counted twice"
    service = results["service"]
    for name in ("pemoe", "echo"):
        assert service[name]["requests"] == service["clients"] * 4 * 2
        assert 0 < service[name]["p50_ms"] <= service[name]["p99_ms"]
    assert service["echo"]["p50_ms"] < service["pemoe"]["p50_ms"]


@pytest.mark.slow
def test_parts_that_encode_ask_for_a_model(tmp_path: Path) -> None:
    process = run("--parts", "search", "locate", "--output", str(tmp_path))
    assert process.returncode == 2
    assert "--model is needed by locate" in process.stderr
