"""Guards resuming: a run killed anywhere (SIGKILL) and resumed ends in the weights of the uninterrupted one, bit for
bit; finished stages are not run again; `done.json` stands only beside whole weights; a checkpoint cut short is passed
over."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pemoe.trainers.mining import NEGATIVES, load_negatives
from pemoe.trainers.stages import DONE, last_complete_checkpoint

SUPPORT = Path(__file__).resolve().parents[1] / "support"
STAGES = ("unified", "contrastive", "hard_negative", "gate")
ORDER = ("unified", "contrastive", "mine", "hard_negative", "gate")
STEPS = 5

# Imports once, then runs each job in a child of its own, which starts fresh, with another random state than the jobs
# before it, and can be killed. Steps are noted in steps.log before their kill.
DRIVER = """
import gc, json, os, signal, sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
import torch
from safetensors.torch import save_file
from tiny_data import build_processor, build_split
from tiny_models import build_tiny_model
from transformers import TrainerCallback

from pemoe.trainers.recipes import Recipe, build
from pemoe.trainers.stages import StageRunner


def die():
    os.kill(os.getpid(), signal.SIGKILL)


class Watch(TrainerCallback):
    def __init__(self, folder, log, kill_step):
        self.folder, self.log, self.kill_step = folder, log, kill_step

    def on_step_end(self, args, state, control, **kwargs):
        with self.log.open("a") as file:
            file.write(f"{self.folder} {state.global_step}\\n")
        if state.global_step == self.kill_step:
            die()


def watch_steps(directory, kill):
    make_trainer = StageRunner._trainer

    def watched(self, model, stage, spec, folder, *platforms):
        with (directory / "trainers.log").open("a") as file:
            file.write(f"{stage}\\n")
        trainer = make_trainer(self, model, stage, spec, folder, *platforms)
        kill_step = int(kill[1]) if kill[0] == stage else None
        trainer.add_callback(Watch(stage, directory / "steps.log", kill_step))
        return trainer

    StageRunner._trainer = watched


def die_when_touched(ending):
    def hook(event, arguments):
        opened = event == "open" and str(arguments[0]).endswith(ending) and "w" in (arguments[1] or "")
        if opened or (event == "os.rename" and str(arguments[1]).endswith(ending)):
            die()

    sys.addaudithook(hook)


def run(number, job):
    torch.manual_seed(1000 + number)  # what a run draws must not depend on this
    directory, kill = Path(job["directory"]), job.get("kill")
    watch_steps(directory, kill.split(" ") if kill else [None])
    if kill and "/" in kill:
        die_when_touched(kill)
    model = build_tiny_model(tail_dropout=0.1, masked_platforms=["drone"])
    recipe = build(Recipe, job["recipe"], "test")
    if recipe.precision == "bfloat16":
        model.to(torch.bfloat16)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "trainers.log").write_text("")
    runner = StageRunner(model, build_processor(), build_split(), recipe, directory, resume=job.get("resume", False))
    records = runner.run()
    final = {name: tensor.detach().contiguous() for name, tensor in model.named_parameters()}
    save_file(final, directory / "final.safetensors")
    last = {"records": records, "masked": list(model.config.masked_platforms), "training": model.training}
    (directory / "final.json").write_text(json.dumps(last))


gc.freeze()  # what is imported stays: the children's collections need not walk it
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


def recipe_of(**changes: object) -> dict:
    stage = {"steps": STEPS, "learning_rate": 1e-2, "weight_decay": 0.1, "warmup_steps": 1, "save_steps": 2}
    return {
        "seed": 3,
        "global_batch_size": 4,
        "unified": stage,
        "contrastive": stage,
        "mine": {"k": 3, "positive_ratio": 0.95},
        "hard_negative": stage,
        "gate": {**stage, "gate_loss": "both"},
        **changes,
    }


def run_jobs(folder: Path, jobs: list[dict]) -> list[int]:
    """Exit codes of the jobs, run one after the other; -9 for a killed one."""
    (folder / "driver.py").write_text(DRIVER)
    (folder / "jobs.json").write_text(json.dumps(jobs))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "driver.py", str(SUPPORT), "jobs.json"]
    process = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    codes = json.loads(process.stdout.strip().splitlines()[-1])
    assert all(code in (0, -9) for code in codes), process.stderr
    return codes


def steps_of(directory: Path, stage: str) -> list[int]:
    lines = (directory / "steps.log").read_text().splitlines()
    return [int(line.split()[1]) for line in lines if line.split()[0] == stage]


def assert_same_run(directory: Path, reference: Path, stages: tuple[str, ...] = STAGES) -> None:
    files = [*(f"{stage}/trained.safetensors" for stage in stages), "final.safetensors"]
    for file in files:
        ours, theirs = load_file(directory / file), load_file(reference / file)
        assert ours.keys() == theirs.keys()
        different = [name for name in ours if not torch.equal(ours[name], theirs[name])]
        assert not different, f"{file}: {different}"
    negatives = [(folder / "mine" / NEGATIVES).read_bytes() for folder in (directory, reference)]
    assert negatives[0] == negatives[1]
    ours, theirs = (json.loads((folder / "final.json").read_text()) for folder in (directory, reference))
    assert (ours["masked"], ours["training"]) == (theirs["masked"], theirs["training"])
    for stage, record in theirs["records"].items():
        kept = {name: value for name, value in record.items() if name not in ("seconds", "train_loss")}
        assert {name: ours["records"][stage][name] for name in kept} == kept


def whole(directory: str, **changes: object) -> dict:
    return {"directory": directory, "recipe": recipe_of(**changes)}


# Where the run dies: after a step, or when a file is about to be opened or put in its place. Then the stage that is
# unfinished, and the steps that the resumed run makes of it; the Trainer saves every second step and the last.
POINTS = {
    "unified 3": ("unified", [3, 4, 5]),
    "contrastive 1": ("contrastive", [1, 2, 3, 4, 5]),
    "contrastive 3": ("contrastive", [3, 4, 5]),
    "contrastive/checkpoint-4/trainer_state.json": ("contrastive", [3, 4, 5]),
    "contrastive/trained.safetensors": ("contrastive", []),
    "contrastive/done.json": ("contrastive", []),
    "drone/negatives-000000000.parquet": ("mine", []),
    "mine/negatives.parquet": ("mine", []),
    "mine/done.json": ("mine", []),
    "hard_negative 4": ("hard_negative", [3, 4, 5]),
    "gate 3": ("gate", [3, 4, 5]),
    "gate/done.json": ("gate", []),
}
BF16 = {"precision": "bfloat16", "cache_image_states": True, "unified": {}}


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """A folder with "whole", the uninterrupted run; for each point "killed-POINT" and "POINT", its resumed copy; and
    the copies "finished", "cut" and "cut-all" with damage done, and "bf16" runs."""
    folder = tmp_path_factory.mktemp("runs")
    names = {point: name_of(point) for point in POINTS}
    jobs = [whole("whole"), whole("bf16-whole", **BF16)]
    jobs += [{**whole(f"killed-{name}"), "kill": point} for point, name in names.items()]
    jobs += [{**whole("bf16", **BF16), "kill": "hard_negative 1"}]
    assert run_jobs(folder, jobs) == [0, 0] + [-9] * (len(names) + 1)
    for name in names.values():
        shutil.copytree(folder / f"killed-{name}", folder / name)
    shutil.copytree(folder / "whole", folder / "finished")
    for name in ("cut", "cut-all"):
        shutil.copytree(folder / "killed-contrastive_3", folder / name)
        shutil.copytree(folder / name / "contrastive" / "checkpoint-2", folder / name / "contrastive" / "checkpoint-4")
        cut_short(folder / name / "contrastive" / "checkpoint-4" / "trainer_state.json")
    cut_short(folder / "cut-all" / "contrastive" / "checkpoint-2" / "trainer_state.json")
    resumed = [whole(name) for name in (*names.values(), "finished", "cut", "cut-all")] + [whole("bf16", **BF16)]
    assert run_jobs(folder, [{**job, "resume": True} for job in resumed]) == [0] * len(resumed)
    return folder


def name_of(point: str) -> str:
    return point.replace("/", "_").replace(" ", "_")


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_the_whole_run_learns_in_every_stage(runs: Path) -> None:
    stages = [load_file(runs / "whole" / stage / "trained.safetensors") for stage in STAGES[1:]]
    weight, gate = "experts.drone.visual_projection.weight", "gate.output.weight"
    assert not torch.equal(stages[0][weight], stages[1][weight]) and torch.equal(stages[1][weight], stages[2][weight])
    assert torch.equal(stages[0][gate], stages[1][gate]) and not torch.equal(stages[1][gate], stages[2][gate])
    assert all(steps_of(runs / "whole", stage) == list(range(1, STEPS + 1)) for stage in STAGES)
    negatives = load_negatives(runs / "whole" / "mine" / NEGATIVES, n_rows=24, k=3)
    assert (negatives >= 0).any(axis=1).mean() > 0.5
    assert json.loads((runs / "whole" / "final.json").read_text())["masked"] == []


@pytest.mark.parametrize("point", POINTS)
def test_killed_and_resumed_equals_uninterrupted(runs: Path, point: str) -> None:
    assert_same_run(runs / name_of(point), runs / "whole")


@pytest.mark.parametrize("point", POINTS)
def test_only_what_is_missing_is_run_again(runs: Path, point: str) -> None:
    killed, resumed = runs / f"killed-{name_of(point)}", runs / name_of(point)
    stage, expected = POINTS[point]
    finished = {done.parent.name for done in killed.glob("*/done.json")}
    assert finished == set(ORDER[: ORDER.index(stage)])
    assert steps_of(resumed, stage)[len(steps_of(killed, stage)) :] == expected
    for name in finished:
        assert steps_of(resumed, name) == steps_of(killed, name)
        kept = [path for path in (killed / name).iterdir() if path.is_file()]
        assert all((resumed / name / path.name).stat().st_mtime_ns == path.stat().st_mtime_ns for path in kept)


@pytest.mark.parametrize("point", POINTS)
def test_done_stands_only_beside_whole_weights(runs: Path, point: str) -> None:
    for done in (runs / f"killed-{name_of(point)}").glob("*/done.json"):
        stage = done.parent.name
        assert json.loads(done.read_text()).keys() == json.loads((runs / "whole" / stage / DONE).read_text()).keys()
        if stage == "mine":
            assert (done.parent / NEGATIVES).read_bytes() == (runs / "whole" / "mine" / NEGATIVES).read_bytes()
        else:
            weights = "trained.safetensors"
            assert (done.parent / weights).read_bytes() == (runs / "whole" / stage / weights).read_bytes()


@pytest.mark.parametrize(("name", "steps"), [("cut", [3, 4, 5]), ("cut-all", [1, 2, 3, 4, 5])])
def test_checkpoint_cut_short_is_passed_over(runs: Path, name: str, steps: list[int]) -> None:
    assert_same_run(runs / name, runs / "whole")
    assert steps_of(runs / name, "contrastive") == [1, 2, 3, *steps]


def test_resuming_a_finished_run_only_reads(runs: Path) -> None:
    assert_same_run(runs / "finished", runs / "whole")
    assert (runs / "finished" / "steps.log").read_text() == (runs / "whole" / "steps.log").read_text()
    made = {run: (runs / run / "trainers.log").read_text().split() for run in ("whole", "finished", "gate_3")}
    assert made == {"whole": list(STAGES), "finished": [], "gate_3": ["gate"]}


def test_bf16_run_resumes_in_fp32_weights(runs: Path) -> None:
    """The experts of a finished stage are fp32 although the model starts in bf16; trunk states are cached here."""
    assert_same_run(runs / "bf16", runs / "bf16-whole", STAGES[1:])
    weights = load_file(runs / "bf16-whole" / "contrastive" / "trained.safetensors")
    assert any(not torch.equal(tensor, tensor.bfloat16().float()) for tensor in weights.values())


def test_newest_whole_checkpoint_is_found(tmp_path) -> None:
    assert last_complete_checkpoint(tmp_path / "none") is None
    for step, text in ((2, "{}"), (10, "{}"), (9, "{}"), (30, '{"half": '), (40, None)):
        directory = tmp_path / f"checkpoint-{step}"
        directory.mkdir()
        if text is not None:
            (directory / "trainer_state.json").write_text(text)
    assert last_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")


@pytest.mark.parametrize("name", ["drone/adapter_model.safetensors", "optimizer.pt", "rng_state_1.pth"])
@pytest.mark.parametrize("kept", [0, 0.5, 0.99])
def test_a_checkpoint_whose_tensors_end_early_is_passed_over(name: str, kept: float, tmp_path: Path) -> None:
    for step in (2, 4):
        checkpoint = tmp_path / f"checkpoint-{step}"
        (checkpoint / "drone").mkdir(parents=True)
        (checkpoint / "trainer_state.json").write_text("{}")
        save_file({"a": torch.ones(9)}, checkpoint / "drone" / "adapter_model.safetensors")
        for file in ("optimizer.pt", "rng_state_1.pth"):
            torch.save({"a": torch.ones(9)}, checkpoint / file)
    assert last_complete_checkpoint(tmp_path) == str(checkpoint)
    content = (checkpoint / name).read_bytes()
    (checkpoint / name).write_bytes(content[: int(kept * len(content))])
    assert last_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-2")
