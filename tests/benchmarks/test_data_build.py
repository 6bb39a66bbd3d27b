"""Invariant: the benchmark of builds runs as its command says; each program reads all rows, on one core, and is
charged with its own memory alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = {"build", "build_raw", "plain_map", "decode", "sanitize_captions"}
THREADS = """
import os, sys, threading
from pathlib import Path
sys.path.insert(0, "benchmarks")
import data_build
stop = threading.Event()
threading.Thread(target=stop.wait).start()
data_build._stay_on_one_core()
threads = [int(path.name) for path in Path("/proc/self/task").iterdir()]
cores = [sorted(os.sched_getaffinity(thread)) for thread in threads]
stop.set()
print(len(threads) > 1 and all(found == cores[0] and len(found) == 1 for found in cores))
"""


def run(*command: str) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


@pytest.mark.slow
def test_speed_and_memory_of_a_build_are_reported(tmp_path: Path) -> None:
    output = run("benchmarks/data_build.py", "--smoke", "--output", str(tmp_path / "run"))
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["command"] == "python benchmarks/data_build.py --rows 60 --rounds 1 --smoke"
    speed, memory = metrics["results"]["speed"], metrics["results"]["memory"]
    rates = speed["median_rows_per_s_per_core"]
    assert rates.keys() == PROGRAMS and min(rates.values()) > 0
    assert rates["decode"] > rates["build_raw"] > rates["build"], "a program does more than the one before"
    for pair, ratio in speed["ratios"].items():
        first, second = pair.split("/")
        assert ratio["lowest"] <= ratio["measured"] <= ratio["highest"]
        assert abs(ratio["measured"] - rates[first] / rates[second]) < 1e-9 * ratio["measured"]
    assert {name: reported["rows"] for name, reported in memory.items()} == {
        "a_fifth_of_the_rows": 24,
        "all_rows": 60,
        "a_fifth_at_512_px": 24,
    }
    peaks = [reported["peak_rss_mb"] for reported in memory.values()]
    assert 50 < min(peaks) <= max(peaks) < metrics["peak_rss_mb"] - 200, (
        "what started them, with torch, is not counted"
    )
    assert output.count("rows/s on one core") == len(PROGRAMS)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system binds no process to a core")
def test_every_thread_stays_on_one_core() -> None:
    assert run("-c", THREADS).strip() == "True"
