"""Invariant: every benchmark runs as its command says and writes its ratios beside the floors its layers imply."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run_smoke(name: str, output: Path, *options: str) -> subprocess.CompletedProcess:
    command = [sys.executable, f"benchmarks/{name}.py", "--smoke", "--rounds", "2", "--output", str(output), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def results_of(name: str, output: Path) -> dict:
    process = run_smoke(name, output)
    assert process.returncode == 0, process.stderr
    metrics = json.loads((output / "metrics.json").read_text())
    assert metrics["command"] == f"python benchmarks/{name}.py --rounds 2 --smoke"
    assert (metrics["results"]["torch_threads"], metrics["results"]["rounds"]) == (1, 2)
    assert "over floor" in process.stdout
    return metrics["results"]


def check_ratios(comparison: dict, floors: dict[str, float]) -> None:
    ratios = comparison["ratios"]
    assert {pair: row["floor"] for pair, row in ratios.items()} == pytest.approx(floors)
    for pair, row in ratios.items():
        assert set(pair.split("/")) <= set(comparison["median_s"])
        assert 0 < row["lowest"] <= row["measured"] <= row["highest"]
        assert row["measured_over_floor"] == pytest.approx(row["measured"] / row["floor"])


@pytest.fixture(scope="module")
def encoding(tmp_path_factory: pytest.TempPathFactory) -> dict:
    return results_of("encoding", tmp_path_factory.mktemp("runs") / "encoding")


@pytest.mark.parametrize("modality", ["image", "text"])
def test_encoding_compares_equal_embeddings_with_layer_floors(encoding: dict, modality: str) -> None:
    model = encoding["model"]
    depth, tail = model[f"{modality}_layers"], model[f"{modality}_expert_layers"]
    assert (depth, tail, model["experts"]) == (3, 1, 3)
    assert encoding[modality]["max_abs_difference"] < 1e-5
    floors = {"shared/single_encoder": 5 / 3, "naive_ensemble/single_encoder": 3.0, "shared/naive_ensemble": 5 / 9}
    check_ratios(encoding[modality], floors)


def test_training_step_counts_the_frozen_trunk_once(tmp_path: Path) -> None:
    results = results_of("training_step", tmp_path / "training_step")
    trained = results["trained_parameters"]
    assert 0 < trained["expert"] < trained["full_fine_tuning"]
    # both towers have 2 frozen layers of 3, so their shares agree: (2 + 3 * 1) / (3 * 3)
    cached = results["step"]["ratios"]["expert_cached/full_fine_tuning"]["floor"]
    assert 3 / 9 < cached < 5 / 9
    check_ratios(results["step"], {"expert/full_fine_tuning": 5 / 9, "expert_cached/full_fine_tuning": cached})


@pytest.mark.slow
def test_a_cold_start_reads_the_same_backbones_and_the_experts_besides(tmp_path: Path) -> None:
    results = results_of("cold_start", tmp_path / "cold_start")
    weight_mb = results["weight_mb"]
    assert weight_mb["pemoe"] > weight_mb["by_hand"] > 0
    floor = weight_mb["pemoe"] / weight_mb["by_hand"]
    assert results["process"]["ratios"]["pemoe/by_hand"]["floor"] == pytest.approx(floor, rel=0.01)


@pytest.mark.slow
def test_a_step_by_hand_does_the_same_work(tmp_path: Path) -> None:
    results = results_of("step_by_hand", tmp_path / "step_by_hand")
    assert results["step"]["max_abs_difference"] < 1e-5
    trained = results["trained_parameters"]
    assert trained["pemoe"] - trained["by_hand"] == 1  # the model's own temperature, of the fused scores
    ratios = results["step"]["ratios"]
    assert 0.2 < ratios["pemoe_cached/by_hand"]["floor"] < 0.8
    check_ratios(results["step"], {pair: row["floor"] for pair, row in ratios.items()} | {"pemoe/by_hand": 1.0})


@pytest.mark.slow
def test_the_loader_is_measured_against_what_it_feeds(tmp_path: Path) -> None:
    results = results_of("loader", tmp_path / "loader")
    per_s = results["pictures_per_s"]
    assert results["loader"]["loader_over_step"] == pytest.approx(per_s["pemoe"] / per_s["step"], rel=0.05)
    check_ratios(results["loader"], {"pemoe/by_hand": 1.0, "pemoe/decode": 1.0})


@pytest.mark.slow
def test_every_part_for_a_gpu_runs_small_without_one(tmp_path: Path) -> None:
    command = [sys.executable, "benchmarks/gpu.py", "--small", "--output", str(tmp_path / "gpu")]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    results = json.loads((tmp_path / "gpu" / "metrics.json").read_text())["results"]
    assert not [name for name, part in results.items() if "not_run" in part]
    assert results["parity"]["float32"]["largest_difference"] < 1e-4
    step, large = results["step"], results["large_batch"]
    assert large["pairs"] > large["chunk"]
    assert large["tflop"] / large["pairs"] == pytest.approx(step["tflop"] / step["pairs"])
    assert results["cached_step"]["tflop"] < step["tflop"]
    assert results["schedule"]["total_hours"] == pytest.approx(sum(results["schedule"]["hours"].values()))
    assert results["search"]["gallery"] == [results["sizes"]["gallery"], results["sizes"]["vector_dim"]]


def test_a_used_directory_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    process = run_smoke("encoding", tmp_path)
    assert process.returncode == 2
    assert process.stderr.strip().splitlines()[-1].startswith(f"{tmp_path}: is not empty")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


RECIPE = """
data: {source: campus, options: {train_places: 4, test_places: 2, size_px: 32}, audit: false, sanitize: keep}
model: {text_repo: "tiny:text", vision_repo: "tiny:vision", options: {image_size: 56, vision_expert_layers: 2}}
global_batch_size: 4
cache_image_states: true
unified: {steps: 1}
contrastive: {steps: 1}
hard_negative: {steps: 1}
gate: {steps: 1}
"""


@pytest.mark.slow
def test_table_1_of_a_seed_with_its_intervals(tmp_path: Path) -> None:
    recipe, output = tmp_path / "tiny.yaml", tmp_path / "table"
    recipe.write_text(RECIPE)
    command = ["benchmarks/campus_table1.py", "--recipe", str(recipe), "--seeds", "5", "--output", str(output)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, check=True)
    results = json.loads((output / "metrics.json").read_text())["results"]
    rows = {row["name"]: row for row in results["seeds"]["5"]}
    assert list(rows)[:4] == ["unified", "unified+refined", "experts_uniform", "experts_gated"]
    assert results["means"]["unified"]["recall_at_1"] == rows["unified"]["recall_at_1"]
    gain = results["differences"]["experts_gated - unified: score"]
    assert gain["low"] <= gain["mean"] <= gain["high"]
    assert gain["mean"] == pytest.approx(rows["experts_gated"]["score"] - rows["unified"]["score"])
