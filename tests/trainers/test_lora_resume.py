"""Guards: a run of LoRA experts killed (SIGKILL) while its base or a stage is written, or in the gate, ends
after `resume` in the bytes of the uninterrupted one: stages, base, adapters and the merged model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SUPPORT = Path(__file__).resolve().parents[1] / "support"

# Imports once, then runs each job in a child of its own, with another random state each, which can be killed.
DRIVER = """
import json, os, signal, sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
import torch
from safetensors.torch import save_file
from tiny_data import build_processor, build_split
from transformers import TrainerCallback

from pemoe.trainers import stages
from pemoe.trainers.recipes import Recipe, build
from pemoe.trainers.starting import build_model


def die():
    os.kill(os.getpid(), signal.SIGKILL)


class Kill(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            die()


def run(number, job):
    torch.manual_seed(number)
    directory, (stage, step) = Path(job["directory"]), (job.get("kill") or " 0").split(" ")
    make_trainer = stages.StageRunner._trainer

    def watched(self, model, name, spec, folder, *platforms):
        trainer = make_trainer(self, model, name, spec, folder, *platforms)
        if name == stage:
            trainer.add_callback(Kill(int(step)))
        return trainer

    stages.StageRunner._trainer = watched

    def hook(event, arguments):
        if event == "os.rename" and str(arguments[1]).endswith(stage):
            die()

    if stage and step == "0":
        sys.addaudithook(hook)
    directory.mkdir(exist_ok=True)
    recipe = build(Recipe, job["recipe"], "test")
    model, processor = build_model(recipe)
    runner = stages.StageRunner(model, processor, build_split(), recipe, directory, job.get("resume", False))
    runner.run()
    runner.merge_adapters()
    model.save_pretrained(directory / "model")


codes = []
for number, job in enumerate(json.loads(Path(sys.argv[2]).read_text())):
    child = os.fork()
    if not child:
        try:
            run(number, job)
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(json.dumps(codes))
"""
STAGE = {"steps": 4, "learning_rate": 1e-2, "save_steps": 2}
RECIPE = {
    "global_batch_size": 4,
    "model": {
        "text_repo": "tiny:text",
        "vision_repo": "tiny:vision",
        "expert_type": "lora",
        "lora_rank": 2,
        "options": {"image_size": 56, "vision_expert_layers": 1, "text_expert_layers": 1, "gate_hidden_dim": 8},
    },
    **dict.fromkeys(("unified", "contrastive", "hard_negative", "gate"), STAGE),
    "mine": {"k": 2},
}
POINTS = ("base 0", "contrastive/done.json 0", "gate 3")  # exactly there; test_killed_runs.py kills anywhere


def run_jobs(folder: Path, jobs: list[dict]) -> list[int]:
    (folder / "driver.py").write_text(DRIVER)
    (folder / "jobs.json").write_text(json.dumps(jobs))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "driver.py", str(SUPPORT), "jobs.json"]
    process = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr[-3000:]
    codes = json.loads(process.stdout.strip().splitlines()[-1])
    assert all(code in (0, -9) for code in codes), process.stderr[-3000:]
    return codes


@pytest.mark.slow
def test_killed_and_resumed_it_ends_in_the_same_bytes(tmp_path: Path) -> None:
    runs = [{"directory": f"run-{number}", "recipe": RECIPE} for number in range(len(POINTS))]
    killed = [{**run, "kill": point} for run, point in zip(runs, POINTS, strict=True)]
    assert run_jobs(tmp_path, [{"directory": "whole", "recipe": RECIPE}, *killed]) == [0] + [-9] * len(POINTS)
    assert run_jobs(tmp_path, [{**run, "resume": True} for run in runs]) == [0] * len(POINTS)
    weights = [path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("*.safetensors")]
    kept = [path for path in weights if "checkpoint-" not in str(path)]
    assert len(kept) == 4 + 1 + 3 + 1  # stages, base, adapters, model
    for run in runs:
        for path in kept:
            same = (tmp_path / run["directory"] / path).read_bytes() == (tmp_path / "whole" / path).read_bytes()
            assert same, (run["directory"], path)
