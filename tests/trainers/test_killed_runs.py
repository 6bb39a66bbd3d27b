"""Guards: a run with every option on, two processes and loader workers, that `kill -9` ends at 20 moments, drawn
from what it does to files and the time between, and that is taken up each time with `--resume`, ends in the same bytes
as one that nothing ended: stages, logs, figures, base, adapters, negatives, model; no temporary file is left."""

from __future__ import annotations

import copy
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.slow

DRIVER = Path(__file__).resolve().parents[1] / "support" / "forked_runs.py"
KILLS, SEED = 20, 11
LATEST_S = 1.0  # of the kills that come after an event of files, every second one; the others come at it
STAGE = {"learning_rate": 1e-3, "weight_decay": 1e-4, "warmup_steps": 1, "save_steps": 2}
RECIPE: dict = {  # every option that a run has: add new ones here
    "seed": 3,
    "data": {
        "source": "campus",
        "options": {"train_places": 8, "test_places": 3, "drone_views": 1, "ground_views": 1},
        "audit": False,
        "sanitize": "keep",
    },
    "model": {
        "text_repo": "tiny:text",
        "vision_repo": "tiny:vision",
        "platforms": ["satellite", "drone", "ground"],
        "options": {
            "image_size": 56,
            "text_expert_layers": 1,
            "vision_expert_layers": 1,
            "gate_hidden_dim": 16,
            "tail_dropout": 0.1,
        },
    },
    "caption_column": "refined_captions",
    "global_batch_size": 4,
    "augment": "transform",
    "augmented_views": 2,
    "cache_image_states": True,
    "feature_cache": {"batch_size": 4},
    "num_workers": 1,
    "chunk_size": 1,
    "logging_steps": 2,
    "report_to": ["none"],
    "validation": {"places": 2, "eval_steps": 2},
    "unified": {**STAGE, "steps": 3},
    "contrastive": {**STAGE, "steps": 7, "neighbours": "embedding", "neighbour_refresh_steps": 3},
    "mine": {"k": 3, "captions": "all"},
    "hard_negative": {**STAGE, "steps": 5},
    "gate": {**STAGE, "steps": 3, "gate_loss": "both"},
}
CASES = {  # name: what a case changes in the recipe's model, and in the rest of it
    "adapters": ({"expert_type": "lora", "lora_rank": 2}, {}),
    "one by one": ({}, {"platform_order": "one_by_one", "augment": "none", "augmented_views": 0}),
}
TIMES = ("seconds", "_per_second", "_runtime")


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen]:
    cache = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(tmp_path_factory.mktemp("cache"))}
    quiet = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, str(DRIVER)], env=os.environ | cache | quiet, **pipes) as process:
        yield process
        process.stdin.close()


def run(driver: subprocess.Popen, folder: Path, kill: dict | None = None) -> tuple[list[int], int]:
    """Exit codes of both processes of a run in `folder/run`, taken up where there is one, and its events of files."""
    output = folder / "run"
    words = {"recipe": str(folder / "recipe.yaml"), "output": str(output), "log": str(folder / "log.txt")}
    driver.stdin.write(json.dumps({**words, "resume": output.exists(), "kill": kill}) + "\n")
    driver.stdin.flush()
    answer = json.loads(driver.stdout.readline())
    return answer["codes"], answer["events"]


def progress(output: Path) -> list[str]:
    """Which stages a run has finished, and its checkpoints."""
    found = [*output.glob("*/done.json"), *output.glob("**/checkpoint-*")]
    return sorted(str(path.relative_to(output)) for path in found)


def without_times(record: object) -> object:
    if isinstance(record, list):
        return [without_times(entry) for entry in record]
    if isinstance(record, float):
        return round(record, 6)  # the mean loss of a resumed stage is summed in another order
    if not isinstance(record, dict):
        return record
    return {name: without_times(part) for name, part in record.items() if not name.endswith(TIMES)}


def content_of(output: Path) -> dict[str, object]:
    """Every file that a run leaves outside its checkpoints and its cache, without what is measured of the time."""
    found = {}
    for path in sorted(output.rglob("*")):
        name = str(path.relative_to(output))
        if path.is_dir() or "checkpoint-" in name or name.startswith("feature_cache/"):
            continue
        is_record = path.name in ("done.json", "log.json")
        found[name] = without_times(json.loads(path.read_text())) if is_record else path.read_bytes()
        if path.name == "log.json":
            found[name][-1].pop("train_loss")  # the Trainer's last word, of the steps since the start
    found["metrics.json"] = without_times(json.loads((output / "metrics.json").read_text())["results"])
    return found


@pytest.mark.parametrize("case", CASES)
def test_a_run_killed_again_and_again_ends_in_the_same_bytes(
    case: str, tmp_path: Path, driver: subprocess.Popen
) -> None:
    recipe, output, log = copy.deepcopy(RECIPE), tmp_path / "run", tmp_path / "log.txt"
    recipe["model"] |= CASES[case][0]
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe | CASES[case][1]))
    codes, events = run(driver, tmp_path)
    assert codes == [0, 0], log.read_text()[-4000:]
    whole = content_of(output.rename(tmp_path / "whole"))  # the killed run takes its place: adapters name their base
    draw, killed = random.Random(SEED), []
    for number in range(KILLS):
        kill = {"event": draw.randint(1, 3 * events // KILLS), "after_s": draw.uniform(0, LATEST_S) * (number % 2)}
        codes, _ = run(driver, tmp_path, kill)
        assert set(codes) <= {0, -9}, f"{killed} {kill} {codes} {log.read_text()[-4000:]}"
        if -9 not in codes:
            break
        killed.append({**kill, "left": progress(output)})
    assert run(driver, tmp_path)[0] == [0, 0], log.read_text()[-4000:]
    assert len(killed) >= KILLS // 2, killed
    again = content_of(output)
    assert sorted(again) == sorted(whole), killed
    assert [name for name in whole if again[name] != whole[name]] == [], killed
    assert [path for path in output.rglob("*") if path.name.endswith(".tmp") or ".tmp" in path.suffixes] == [], killed
