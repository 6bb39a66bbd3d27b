"""Runs of seconds: the quickstart's recipe cut down, and modules started as torchrun and accelerate start them."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import yaml

from pemoe.trainers.recipes import load_recipe

TORCHRUN = ["torch.distributed.run", "--standalone", "--nproc-per-node=2"]
_ROOT = Path(__file__).resolve().parents[2]
CONFIGS = {path.stem: path for path in (_ROOT / "trainers" / "accelerate_configs").glob("*.yaml")}


def write_recipe(path: Path, **changes: object) -> str:
    """The packaged quickstart cut down to seconds."""
    recipe = dataclasses.asdict(load_recipe("quickstart"))
    recipe["data"]["options"] = {"train_places": 6, "test_places": 3, "drone_views": 1, "ground_views": 1}
    recipe.update(global_batch_size=4, **changes)
    for stage, steps in {"unified": 0, "contrastive": 3, "hard_negative": 3, "gate": 3}.items():
        recipe[stage].update(steps=steps, warmup_steps=0)
    path.write_text(yaml.safe_dump(recipe))
    return str(path)


def run_module(folder: Path, *words: str) -> subprocess.CompletedProcess:
    """`python -m WORDS` offline, in a process of its own, one thread each."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    options = {"capture_output": True, "text": True, "check": False, "timeout": 300}
    return subprocess.run([sys.executable, "-m", *words], cwd=folder, env=environment, **options)
