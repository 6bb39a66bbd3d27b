"""Guards training on several processes: two gloo processes under DDP take the same platform at every step, share the
batch of one process without losing or doubling a place, move one expert alone, and end where one process ends."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pemoe.trainers.mining import NEGATIVES, load_negatives

pytestmark = pytest.mark.slow  # a minute, most of it starting processes

SUPPORT = Path(__file__).resolve().parents[1] / "support"
EXPERT_RUNS = ("contrastive", "hard_negative")
RUNS = (*EXPERT_RUNS, "gate")
STAGE_RUNS = ("stages", "resumed", "revived")
STEPS = 7

# argv: folder of the helpers, folder for the results, names of runs: stages of `train`, or directories of `run_stages`
SCRIPT = """
import hashlib, json, os, signal, sys, time
from pathlib import Path

sys.path.insert(0, sys.argv[1])
import numpy as np
import torch
from safetensors.torch import save_file
from tiny_data import build_processor, build_split
from tiny_models import build_tiny_model
from transformers import Trainer, TrainerCallback

from pemoe.trainers import PeMoETrainer, PeMoETrainingArguments
from pemoe.trainers.parallel.distributed import rank, world_size
from pemoe.trainers.recipes import Recipe, build
from pemoe.trainers.stages import StageRunner, process_options

BATCH, STEPS = 4, 7
OUT = Path(sys.argv[2])


def parameters(model):
    return {name: tensor.detach().clone() for name, tensor in model.named_parameters()}


class Watched(PeMoETrainer):
    \"\"\"Notes what each step sees, and what it changed.\"\"\"

    steps = ()

    def training_step(self, model, inputs, *rest):
        self.close_step()
        images = [hashlib.sha1(image.numpy().tobytes()).hexdigest() for image in inputs["pixel_values"]]
        texts = [ids[mask == 1].tolist() for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"])]
        places, platforms = inputs["place_id"].tolist(), inputs["platform_id"].tolist()
        negatives = images[len(texts):] or [None] * len(texts)
        rows = [list(row) for row in zip(places, platforms, images, negatives, texts)]
        self.steps = [*self.steps, {"rows": rows, "wrapped": type(model).__name__}]
        self.before = parameters(self.model)
        return super().training_step(model, inputs, *rest)

    def close_step(self):
        if self.steps:
            now = parameters(self.model)
            self.steps[-1]["changed"] = [name for name in now if not torch.equal(now[name], self.before[name])]


def negatives_of(rows):
    \"\"\"Another place's image of the same platform, but none for places 0 to 2: ranks hold unequal numbers.\"\"\"
    per_place = len(rows) // 6
    table = (np.arange(len(rows)) + per_place)[:, None] % len(rows)
    table[: 3 * per_place] = -1
    return table


def train(stage):
    model, rows = build_tiny_model(tail_dropout=0.0), build_split()
    arguments = PeMoETrainingArguments(
        output_dir=str(OUT / "trainer"),
        stage=stage,
        gate_loss="both",
        margin=1.0,
        max_steps=STEPS,
        learning_rate=1e-3,
        weight_decay=0.1,
        adam_epsilon=1e-4,  # rounding in a gradient that is zero but for it is not blown up to a full step
        lr_scheduler_type="constant",
        per_device_train_batch_size=BATCH // int(os.environ.get("WORLD_SIZE", "1")),
        save_strategy="no",
        disable_tqdm=True,
        **process_options(),
    )
    table = negatives_of(rows) if stage == "hard_negative" else None
    trainer = Watched(
        model, arguments, train_dataset=rows, processing_class=build_processor(), hard_negatives=table
    )
    trainer.train()
    trainer.close_step()
    name = f"{stage}-{rank()}of{world_size()}"
    save_file(parameters(model), OUT / f"{name}.safetensors")
    (OUT / f"{name}.json").write_text(json.dumps(trainer.steps))


class Kill(TrainerCallback):
    \"\"\"Rank 1 dies in step 3 of the second stage.\"\"\"

    def on_step_end(self, args, state, control, **kwargs):
        if rank() == 1 and args.stage == "hard_negative" and state.global_step == 3:
            os.kill(os.getpid(), signal.SIGKILL)


def patch(owner, name, make):
    setattr(owner, name, make(getattr(owner, name)))


def slow_on_rank_1(save_rng_state):
    def slowly(self, output_dir):
        time.sleep(0.3 * rank())
        save_rng_state(self, output_dir)

    return slowly


def with_kill(make_trainer):
    def made(self, *arguments):
        trainer = make_trainer(self, *arguments)
        trainer.add_callback(Kill())
        return trainer

    return made


def run_stages(directory, resume):
    if directory.name == "killed":
        patch(StageRunner, "_trainer", with_kill)
    if directory.name == "stages":
        patch(Trainer, "_save_rng_state", slow_on_rank_1)
    spec = {"steps": 5, "learning_rate": 1e-3, "save_steps": 2}
    recipe = {"global_batch_size": BATCH, "contrastive": spec, "hard_negative": spec, "mine": {"k": 3}}
    recipe |= {"unified": {**spec, "steps": 3}, "gate": {**spec, "gate_loss": "both"}}
    model = build_tiny_model(tail_dropout=0.1)
    torch.manual_seed(rank())
    placed = []
    sys.addaudithook(lambda event, args: placed.append(Path(args[1]).name) if event == "os.rename" else None)
    runner = StageRunner(model, build_processor(), build_split(), build(Recipe, recipe, "test"), directory, resume)
    runner.run()
    save_file(parameters(model), OUT / f"{directory.name}-{rank()}of{world_size()}.safetensors")
    (OUT / f"{directory.name}-{rank()}of{world_size()}.json").write_text(json.dumps(placed))
    np.save(OUT / f"{directory.name}-{rank()}of{world_size()}.npy", runner.hard_negatives)


for task in sys.argv[3:]:
    if task in ("contrastive", "hard_negative", "gate"):
        train(task)
    else:
        run_stages(OUT / task, resume=task != "stages")
if world_size() > 1:
    torch.distributed.destroy_process_group()
"""


def run_script(folder: Path, processes: int, *tasks: str, dies: bool = False) -> None:
    (folder / "script.py").write_text(SCRIPT)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--master-port", str(port)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, *(launch if processes > 1 else []), "script.py", str(SUPPORT), str(folder), *tasks]
    process = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert (process.returncode != 0) == dies, process.stderr[-6000:]


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    """What one process and each of two wrote: `{run}-{rank}of{processes}.{safetensors,json}`, and directories of two
    processes' stages: "stages" from the start, "resumed" and "killed" from its copies without the later stages, the
    last one killed inside one of them and run again."""
    folder = tmp_path_factory.mktemp("processes")
    run_script(folder, 1, *RUNS)
    run_script(folder, 2, *RUNS, "stages")
    for copy, removed in {"resumed": ("mine", "hard_negative", "gate"), "killed": ("hard_negative", "gate")}.items():
        shutil.copytree(folder / "stages", folder / copy)
        for name in removed:
            shutil.rmtree(folder / copy / name)
    run_script(folder, 2, "killed", dies=True)
    assert {path.name for path in (folder / "killed/hard_negative").iterdir()} - {"runs"} == {"checkpoint-2"}
    (folder / "killed").rename(folder / "revived")
    run_script(folder, 2, "resumed", "revived")
    return folder


def steps_of(results: Path, run: str, rank: int, processes: int) -> list[dict]:
    return json.loads((results / f"{run}-{rank}of{processes}.json").read_text())


@pytest.mark.parametrize("run", RUNS)
def test_the_processes_share_the_batch_of_one(results: Path, run: str) -> None:
    one, *two = (steps_of(results, run, rank, processes) for rank, processes in ((0, 1), (0, 2), (1, 2)))
    assert [len(steps) for steps in (one, *two)] == [STEPS] * 3
    assert {step["wrapped"] for steps in two for step in steps} == {"DistributedDataParallel"}
    for whole, first, second in zip(one, *two, strict=True):
        assert len(first["rows"]) == len(second["rows"]) == 2
        assert first["rows"] + second["rows"] == whole["rows"]  # place, platform, image, negative's image, text
        assert len({row[0] for row in whole["rows"]}) == 4


@pytest.mark.parametrize("run", EXPERT_RUNS)
@pytest.mark.parametrize("rank", [0, 1])
def test_every_step_moves_its_expert_alone_on_both_ranks(results: Path, run: str, rank: int) -> None:
    names = load_file(results / f"{run}-0of1.safetensors").keys()
    for number, step in enumerate(steps_of(results, run, rank, 2)):
        platform = ("satellite", "drone", "ground")[number % 3]  # from step 4 on: momentum and decay from before
        assert {row[1] for row in step["rows"]} == {number % 3}
        assert set(step["changed"]) == {name for name in names if name.startswith(f"experts.{platform}.")}


@pytest.mark.parametrize("run", RUNS)
def test_two_processes_end_where_one_ends(results: Path, run: str) -> None:
    one, *two = (load_file(results / f"{run}-{name}.safetensors") for name in ("0of1", "0of2", "1of2"))
    assert all(torch.equal(two[0][name], two[1][name]) for name in one)
    far = {name: float((one[name] - two[0][name]).abs().max()) for name in one}
    assert max(far.values()) < 1e-5, max(far, key=far.get)


def test_negatives_are_unequally_shared(results: Path) -> None:
    """What makes the case above hard: a step in which the ranks have different numbers of triplets."""
    pairs = zip(*(steps_of(results, "hard_negative", rank, 2) for rank in (0, 1)), strict=True)
    counts = [[sum(row[0] > 2 for row in step["rows"]) for step in pair] for pair in pairs]
    assert any(a != b for a, b in counts) and any(a and b for a, b in counts)


@pytest.mark.parametrize("run", STAGE_RUNS)
def test_stages_end_alike_on_both_ranks(results: Path, run: str) -> None:
    ours, theirs = (load_file(results / f"{run}-{rank}of2.safetensors") for rank in (0, 1))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    written = load_file(results / run / "gate" / "trained.safetensors")
    assert all(torch.equal(ours[name], written[name]) for name in written)
    negatives = [np.load(results / f"{run}-{rank}of2.npy") for rank in (0, 1)]
    written_negatives = load_negatives(results / run / "mine" / NEGATIVES, n_rows=24, k=3)
    assert np.array_equal(*negatives) and np.array_equal(negatives[0], written_negatives)


@pytest.mark.parametrize("run", ["resumed", "revived"])
def test_resumed_stages_end_where_the_first_run_ended(results: Path, run: str) -> None:
    first, resumed = (load_file(results / f"{name}-0of2.safetensors") for name in ("stages", run))
    assert all(torch.equal(first[name], resumed[name]) for name in first)


@pytest.mark.parametrize("run", STAGE_RUNS)
def test_one_set_of_files(results: Path, run: str) -> None:
    files = {"done.json", "log.json", "trained.safetensors"}
    stages = {path.name: {entry.name for entry in path.iterdir()} - {"runs"} for path in (results / run).iterdir()}
    trained = {name: {*files, "checkpoint-5"} for name in ("contrastive", "hard_negative", "gate")}
    assert stages == {"unified": {*files, "checkpoint-3"}, "mine": {"done.json", NEGATIVES}, **trained}
    first, second = (json.loads((results / f"{run}-{rank}of2.json").read_text()) for rank in (0, 1))
    assert "done.json" in first and not files & set(second) and NEGATIVES not in second  # one process writes
    for checkpoint in (results / run).glob("*/checkpoint-*"):
        assert {path.name for path in checkpoint.glob("rng_state*")} == {"rng_state_0.pth", "rng_state_1.pth"}


def test_a_checkpoint_is_closed_last(results: Path) -> None:
    """`trainer_state.json`, by which a checkpoint counts as whole, waits for the slower process's file."""
    for checkpoint in (results / "stages").glob("*/checkpoint-*"):
        states = [(checkpoint / f"rng_state_{rank}.pth").stat().st_mtime_ns for rank in (0, 1)]
        assert max(states) <= (checkpoint / "trainer_state.json").stat().st_mtime_ns
