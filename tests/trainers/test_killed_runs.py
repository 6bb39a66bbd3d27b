"""Guards: a run with every option on, two processes and loader workers, that `kill -9` ends at 20 random moments and
that is taken up each time with `--resume`, ends in the same bytes as a run that nothing ended."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.slow  # four minutes: 22 starts of two processes

KILLS, SEED = 20, 11
EARLY_S, LATE_S = 8.0, 1.2  # one kill in five comes within so long of the start, the others of the first step's bar
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
            "image_size": 112,
            "text_expert_layers": 2,
            "vision_expert_layers": 2,
            "gate_hidden_dim": 64,
            "tail_dropout": 0.1,
        },
    },
    "caption_column": "refined_captions",
    "global_batch_size": 4,
    "augment": "transform",
    "num_workers": 1,
    "unified": {**STAGE, "steps": 4},
    "contrastive": {**STAGE, "steps": 9},
    "mine": {"k": 3},
    "hard_negative": {**STAGE, "steps": 9},
    "gate": {**STAGE, "steps": 6, "gate_loss": "both"},
}
CHANGES = {"alternate": {}}  # name: what a case changes in the recipe


def start(recipe: Path, output: Path, log: Path, resume: bool) -> subprocess.Popen:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "pemoe"]
    command = [*launch, "train", "--config", str(recipe), "--output", str(output), *(["--resume"] if resume else [])]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    with log.open("w") as file:  # in a session of its own: one signal ends the launcher, the processes, their workers
        return subprocess.Popen(command, env=environment, stdout=file, stderr=file, start_new_session=True)


def end(process: subprocess.Popen) -> None:
    """SIGKILL to the launcher and all that it started; torchrun's processes lead sessions of their own."""
    alive = [process.pid]
    for pid in alive:  # grows as children are found
        os.kill(pid, signal.SIGSTOP)
        tasks = Path(f"/proc/{pid}/task")
        alive += [int(child) for task in tasks.glob("*/children") for child in task.read_text().split()]
    for pid in alive:
        os.kill(pid, signal.SIGKILL)
    process.wait()


def ends_before(process: subprocess.Popen, log: Path, draw: random.Random) -> bool:
    """Wait for a random moment, of the start or of the training; whether the run ends before it."""
    is_early, delay_s = draw.random() < 0.2, draw.random()
    trains = re.compile(r"(unified|contrastive|hard_negative|gate): ")
    while not (is_early or process.poll() is not None or trains.search(log.read_text())):
        time.sleep(0.02)
    try:
        process.wait(timeout=delay_s * (EARLY_S if is_early else LATE_S))
    except subprocess.TimeoutExpired:
        return False
    return True


def progress(output: Path) -> str:
    """Which stages a run has finished, and its last checkpoint."""
    done = [path.parent.name for path in sorted(output.glob("*/done.json"))]
    return f"done {done}, checkpoints {sorted(str(p.relative_to(output)) for p in output.glob('*/checkpoint-*'))}"


def weights_of(output: Path) -> dict[str, str]:
    """Hash of every file of weights and negatives that a run leaves."""
    names = ("trained.safetensors", "negatives.npy", "model.safetensors")
    files = [path for path in sorted(output.rglob("*")) if path.name in names and "checkpoint-" not in str(path)]
    return {str(path.relative_to(output)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("case", sorted(CHANGES))
def test_a_run_killed_again_and_again_ends_in_the_same_bytes(case: str, tmp_path: Path) -> None:
    recipe, log = tmp_path / "recipe.yaml", tmp_path / "log.txt"
    recipe.write_text(yaml.safe_dump({**RECIPE, **CHANGES[case]}))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert start(recipe, whole, log, resume=False).wait(timeout=300) == 0, log.read_text()[-4000:]
    moments, draw, kills = [], random.Random(SEED), 0
    while kills < KILLS:
        process = start(recipe, killed, log, resume=killed.exists())
        if ends_before(process, log, draw):
            break
        end(process)
        kills += 1
        moments.append(progress(killed))
    else:
        process = start(recipe, killed, log, resume=killed.exists())
    assert process.wait(timeout=300) == 0, "\n".join([*moments, log.read_text()[-4000:]])
    assert kills >= KILLS // 2, "\n".join(["the run was over too soon", *moments])
    assert weights_of(killed) == weights_of(whole), "\n".join(moments)
    figures = [json.loads((path / "metrics.json").read_text())["results"]["test"] for path in (killed, whole)]
    assert figures[0] == figures[1], "\n".join(moments)
