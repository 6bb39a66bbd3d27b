"""Guards the soak: killed twice in the middle of writes, an index loses no row and gives no wrong answer."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow  # three processes that import torch
def test_a_few_seconds_lose_nothing_and_answer_right() -> None:
    command = [sys.executable, "benchmarks/soak.py", "--minutes", "0.15", "--seed", "3"]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    results = json.loads(process.stdout)
    assert results["restarts"] == 2 and results["by_kind"]["search"] > 50 and results["rows"] > 0
    assert results["lost_rows"] == results["wrong_answers"] == 0
