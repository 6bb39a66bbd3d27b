"""Guards what a stage tells: every logged figure is the mean of its steps, by hand; TensorBoard has the same; telling
moves no weight by a bit; validation places are in no stage; a loss or weight that is not finite stops the stage."""

from __future__ import annotations

import json
import logging
import math
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_data import build_processor, build_split
from tiny_models import build_tiny_model
from transformers import EarlyStoppingCallback, TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from pemoe.trainers import PeMoETrainer, PeMoETrainingArguments, TrainingError, mine_split, monitoring
from pemoe.trainers.batches.validation import as_queries, hold_out_places
from pemoe.trainers.monitoring import batch_hits
from pemoe.trainers.recipes import Recipe, build
from pemoe.trainers.stages import StageRunner

PLATFORMS = ("satellite", "drone", "ground")


def build_trainer(tmp_path, stage: str = "contrastive", steps: int = 7, **options) -> PeMoETrainer:
    names = ("eval_dataset", "callbacks")
    tables = {name: options.pop(name) for name in names if name in options}
    model = options.pop("model", None) or build_tiny_model(masked_platforms=options.pop("masked", []))
    rows = build_split()
    if stage == "hard_negative":
        tables["hard_negatives"] = mine_split(model, build_processor(), rows, k=3)
    shared = {"learning_rate": 1e-2, "save_strategy": "no", "disable_tqdm": True, "use_cpu": True, "logging_steps": 3}
    shared |= {"report_to": "none", "per_device_train_batch_size": 4, "lr_scheduler_type": "constant"}
    arguments = PeMoETrainingArguments(str(tmp_path), stage=stage, max_steps=steps, **(shared | options))
    return PeMoETrainer(model, arguments, rows, processing_class=build_processor(), **tables)


def means_by_hand(trainer: PeMoETrainer, steps: list[dict]) -> dict[str, float]:
    """The figures of some steps, query by query."""
    values: dict[str, list[float]] = {}
    names = trainer.stage_loss.platform_names
    mixed = trainer.args.stage == "gate" or trainer.model.config.is_unified
    for step in steps:
        platforms = [names[int(number)] for number in step["batch"]["platform_id"]]
        told = [(figures, None if mixed else platforms[0]) for figures in [whole_figures(step)]]
        told += [(query_figures(step, row, platforms[row], trainer), platforms[row]) for row in range(len(platforms))]
        for figures, platform in told:
            for name, value in figures.items():
                for ending in [""] if platform is None else ["", f"_{platform}"]:
                    values.setdefault(name + ending, []).append(value)
    return {name: sum(found) / len(found) for name, found in values.items()}


def whole_figures(step: dict) -> dict[str, float]:
    figures = {("loss" if name == "loss" else f"loss_{name}"): float(v) for name, v in step["parts"].items()}
    if "logit_scale" in step["embeds"]:
        figures["temperature"] = 1 / math.exp(float(step["embeds"]["logit_scale"]))
    return figures


def query_figures(step: dict, row: int, platform: str, trainer: PeMoETrainer) -> dict[str, float]:
    figures, embeds, place_id = {}, step["embeds"], step["batch"]["place_id"].tolist()
    if "query" in embeds:
        scores = [float(embeds["query"][row] @ picture) for picture in embeds["gallery"]]
        figures["batch_recall_at_1"] = float(place_id[scores.index(max(scores))] == place_id[row])
    if "gate_logits" in embeds:
        weights, experts = embeds["gate_logits"][row].softmax(0).tolist(), list(trainer.model.config.platforms)
        figures["gate_entropy"] = -sum(w * math.log(w) for w in weights if w)
        if platform in experts:
            figures["gate_accuracy"] = float(experts[weights.index(max(weights))] == platform)
    return figures


def train_noting_steps(trainer: PeMoETrainer) -> list[dict]:
    """Train; what each step was given and gave, before the optimizer moved anything."""
    steps: list[dict] = []
    compute_loss = trainer.compute_loss

    def noted(*arguments, **options):
        loss = compute_loss(*arguments, **options)
        steps.append({side: {k: v.clone() for k, v in kept.items()} for side, kept in trainer.last_step.items()})
        return loss

    trainer.compute_loss = noted
    trainer.train()
    return steps


CASES = {
    "contrastive": {"stage": "contrastive"},
    "hard_negative": {"stage": "hard_negative", "margin": 1.0, "info_nce_weight": 0.5},
    "gate": {"stage": "gate", "gate_loss": "both"},
    "gate_alone": {"stage": "gate", "gate_loss": "platform"},
    "unified": {"stage": "unified"},
    "chunks": {"stage": "gate", "gate_loss": "both", "chunk_size": 3},
}


@pytest.mark.parametrize("case", CASES)
def test_logged_figures_are_the_means_of_their_steps(tmp_path, case: str) -> None:
    options = dict(CASES[case])
    if case == "unified":
        options["model"] = build_tiny_model().share_trunks(["all"])
    trainer = build_trainer(tmp_path, **options)
    steps = train_noting_steps(trainer)
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["step"] for entry in logs] == [1, 3, 6, 7]  # the first, every third, the last
    for entry, (start, end) in zip(logs, [(0, 1), (1, 3), (3, 6), (6, 7)], strict=True):
        expected = means_by_hand(trainer, steps[start:end])
        told = {"step", "epoch", "grad_norm", "learning_rate", "images_per_second"}
        assert entry.keys() == expected.keys() | told
        assert {name: entry[name] for name in expected} == pytest.approx(expected, rel=1e-4, abs=1e-6)
        assert entry["images_per_second"] > 0 and entry["grad_norm"] > 0
    parts = {name for name in logs[-1] if name in ("loss_info_nce", "loss_triplet", "loss_platform")}
    both = {"loss_info_nce", "loss_triplet"} if case == "hard_negative" else {"loss_info_nce", "loss_platform"}
    assert parts <= both and parts


def test_hits_of_a_batch_one_by_one() -> None:
    generator = torch.Generator().manual_seed(0)
    query, gallery = torch.randn(9, 4, generator=generator), torch.randn(9, 4, generator=generator)
    place_id = torch.tensor([1, 1, 2, 3, 3, 3, 4, 5, 6])
    best = [max(range(9), key=lambda j: float(query[i] @ gallery[j])) for i in range(9)]
    expected = [float(place_id[j] == place_id[i]) for i, j in enumerate(best)]
    assert batch_hits(query, gallery, place_id).tolist() == expected and 0 < sum(expected) < 9


def test_pictures_are_counted_with_their_negatives_and_without_the_time_of_an_evaluation(
    tmp_path, monkeypatch
) -> None:
    now_s = [0.0]
    monkeypatch.setattr(monitoring.time, "monotonic", lambda: now_s[0])

    class Clock(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs) -> None:
            now_s[0] += 2.0

        def on_evaluate(self, args, state, control, **kwargs) -> None:
            now_s[0] += 50.0

    options = {"eval_strategy": "steps", "eval_steps": 2, "eval_dataset": build_split(3, split="test")}
    trainer = build_trainer(tmp_path, "hard_negative", callbacks=[Clock()], **options)
    trainer.train()
    speeds = [entry["images_per_second"] for entry in trainer.state.log_history if "images_per_second" in entry]
    assert speeds == pytest.approx([4.0] * 4)  # 4 pairs with 4 negatives in 2 s


def test_tensorboard_holds_what_the_log_holds(tmp_path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    options = {"eval_strategy": "steps", "eval_steps": 3, "eval_dataset": build_split(3, split="test")}
    trainer = build_trainer(tmp_path / "run", report_to=None, **options)
    trainer.train()
    (events,) = (tmp_path / "run" / "runs").rglob("events.out.*")
    reader = EventAccumulator(str(events)).Reload()
    found = {tag: {event.step: event.value for event in reader.Scalars(tag)} for tag in reader.Tags()["scalars"]}
    logged: dict[str, dict[int, float]] = {}
    for entry in trainer.state.log_history:
        for name, value in entry.items():
            if name != "step":
                tag = f"eval/{name[5:]}" if name.startswith("eval_") else f"train/{name}"
                logged.setdefault(tag, {})[entry["step"]] = value
    assert found.keys() == logged.keys() and {"train/loss_drone", "eval/recall_at_1"} <= found.keys()
    for tag, values in logged.items():
        assert found[tag] == pytest.approx(values, rel=1e-6)


@pytest.mark.parametrize(
    ("report_to", "installed", "expected"),
    [(None, True, ["tensorboard"]), (None, False, []), ("none", True, []), ([], True, []), ("trackio", True, None)],
)
def test_logs_go_where_they_are_asked_to(tmp_path, monkeypatch, report_to, installed: bool, expected) -> None:
    monkeypatch.setattr(monitoring, "is_tensorboard_available", lambda: installed)
    monkeypatch.setattr(monitoring, "get_available_reporting_integrations", lambda: ["tensorboard"])
    if expected is None:
        with pytest.raises(TrainingError, match="report_to: trackio is not installed"):
            PeMoETrainingArguments(str(tmp_path), max_steps=1, report_to=report_to)
        return
    assert PeMoETrainingArguments(str(tmp_path), max_steps=1, report_to=report_to).report_to == expected


def test_no_logs_means_none(tmp_path) -> None:
    trainer = build_trainer(tmp_path, steps=2, logging_strategy="no")
    trainer.train()
    assert not [entry for entry in trainer.state.log_history if "loss" in entry]


def recipe_of(**changes: object) -> Recipe:
    stage = {"steps": 4, "learning_rate": 1e-2, "weight_decay": 0.1}
    gate, mine = {**stage, "gate_loss": "both"}, {"k": 3}
    stages = {"unified": stage, "contrastive": stage, "mine": mine, "hard_negative": stage, "gate": gate}
    return build(Recipe, {"seed": 3, "global_batch_size": 4, **stages, **changes}, "test")


def run_stages(directory, recipe: Recipe, rows=None, resume: bool = False, **options) -> StageRunner:
    model = build_tiny_model(tail_dropout=0.1)
    held_out = hold_out_places(build_split() if rows is None else rows, recipe.validation.places, recipe.seed)
    options = {"validation": held_out[1], **options}
    return StageRunner(model, build_processor(), held_out[0], recipe, directory, resume=resume, **options)


@pytest.mark.slow
def test_telling_moves_no_weight_by_a_bit(tmp_path) -> None:
    rows, validation = hold_out_places(build_split(), 2, seed=3)
    silent = run_stages(tmp_path / "silent", recipe_of(logging_steps=0, report_to=[]), rows)
    silent.run()
    told = recipe_of(logging_steps=1, validation={"places": 2, "eval_steps": 1})
    telling = run_stages(tmp_path / "telling", told, build_split())
    assert telling.rows["image_id"] == rows["image_id"] and telling.validation["image_id"] == validation["image_id"]
    telling.run()
    for stage in recipe_of().stages:
        ours, theirs = (load_file(tmp_path / run / stage / "trained.safetensors") for run in ("silent", "telling"))
        assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
        assert [entry for entry in read_log(tmp_path / "silent" / stage) if "loss" in entry] == []
        log = read_log(tmp_path / "telling" / stage)
        assert [entry["step"] for entry in log if "loss" in entry] == [1, 2, 3, 4]
        evaluated = [entry for entry in log if "eval_recall_at_1" in entry]
        assert [entry["step"] for entry in evaluated] == [1, 2, 3, 4]
        record = json.loads((tmp_path / "telling" / stage / "done.json").read_text())
        last = {name[5:]: value for name, value in evaluated[-1].items() if name.startswith("eval_")}
        assert record["validation"] == {"step": 4, **last}
        assert "validation" not in json.loads((tmp_path / "silent" / stage / "done.json").read_text())
    figures = PeMoETrainer(  # what the last stage left
        telling.model,
        PeMoETrainingArguments(str(tmp_path), max_steps=1, stage="gate", use_cpu=True, report_to="none"),
        eval_dataset=telling.validation,
        processing_class=build_processor(),
    ).evaluate()
    assert {name: value for name, value in figures.items() if name != "epoch"}.items() <= evaluated[-1].items()


def read_log(directory) -> list[dict]:
    return json.loads((directory / "log.json").read_text())


def test_validation_places_are_drawn_by_seed_whole_and_apart() -> None:
    rows = build_split(10)
    kept, validation = hold_out_places(rows, 3, seed=1)
    assert len(set(validation["place_id"])) == 3 and not set(kept["place_id"]) & set(validation["place_id"])
    assert sorted([*kept["image_id"], *validation["image_id"]]) == sorted(rows["image_id"])
    shuffled = rows.shuffle(seed=5)
    assert set(hold_out_places(shuffled, 3, seed=1)[1]["place_id"]) == set(validation["place_id"])
    others = {tuple(sorted(set(hold_out_places(rows, 3, seed)[1]["place_id"]))) for seed in range(5)}
    assert len(others) > 1
    assert hold_out_places(rows, 0, seed=1) == (rows, None)
    with pytest.raises(TrainingError, match=r"validation\.places: 9 of 10 places leave too few to train on"):
        hold_out_places(rows, 9, seed=1)


def test_queries_are_the_captions_trained_on() -> None:
    rows = build_split(2)
    assert as_queries(rows, "captions") is rows
    asked = as_queries(rows, "refined_captions")
    assert asked["captions"] == rows["refined_captions"] and rows["captions"] != rows["refined_captions"]


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ({"logging_steps": -1}, "logging_steps: -1"),
        ({"logging_steps": 2.5}, "logging_steps must be int"),
        ({"report_to": "tensorboard"}, "report_to must be list"),
        ({"report_to": ["notebook"]}, "report_to: 'notebook' is unknown, use one of all, none"),
        ({"report_to": [3]}, "report_to: 3 is unknown"),
        ({"validation": {"places": -1}}, r"validation\.places: -1"),
        ({"validation": {"eval_steps": 5}}, r"validation\.eval_steps: there is nothing to evaluate on"),
        ({"validation": {"place": 5}}, "unknown key 'place'"),
    ],
)
def test_wrong_fields_are_refused(content: dict, word: str) -> None:
    with pytest.raises(TrainingError, match=word):
        recipe_of(**content)


@pytest.mark.parametrize("at_once", [True, False])
def test_a_loss_that_is_not_finite_stops_in_its_stage(tmp_path, monkeypatch, at_once: bool) -> None:
    if not at_once:  # as on a GPU or several processes: seen with the next log, evaluation, checkpoint or end
        monkeypatch.setattr(monitoring, "world_size", lambda: 2)
    options = {"learning_rate": 1e30, "save_strategy": "steps", "save_steps": 4, "steps": 9, "logging_strategy": "no"}
    trainer = build_trainer(tmp_path, **options)
    with pytest.raises(TrainingError) as error:
        trainer.train()
    message = str(error.value)
    assert "\n" not in message and "try a lower one or more warmup_steps" in message
    assert "stage 'contrastive': the loss is not finite at step 4 on satellite, with learning_rate 1e+30" in message
    assert trainer.state.global_step == 4 and not list(tmp_path.glob(f"{PREFIX_CHECKPOINT_DIR}*"))


@pytest.mark.parametrize(("logging_strategy", "found"), [("steps", "the loss"), ("no", "a weight")])
def test_a_loss_of_a_users_own_that_is_not_finite_stops_too(
    tmp_path, monkeypatch, logging_strategy: str, found: str
) -> None:
    """With the next log, or at the end."""
    own = lambda self, model, *_, **__: model.experts["satellite"].logit_scale * torch.nan  # noqa: E731
    monkeypatch.setitem(globals(), "PeMoETrainer", type("OwnLoss", (PeMoETrainer,), {"compute_loss": own}))
    trainer = build_trainer(tmp_path, steps=2, logging_strategy=logging_strategy)
    with pytest.raises(TrainingError, match=f"stage 'contrastive': {found} is not finite at step"):
        trainer.train()


@pytest.mark.parametrize("save_strategy", ["steps", "no"])
def test_weights_that_are_not_finite_are_never_written(tmp_path, save_strategy: str) -> None:
    class Poison(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs) -> None:
            if state.global_step == 2:  # the last step: no loss sees it
                model.experts["drone"].visual_projection.weight.data[0, 0] = torch.nan

    trainer = build_trainer(tmp_path, steps=2, save_strategy=save_strategy, callbacks=[Poison()])
    with pytest.raises(TrainingError, match="stage 'contrastive': a weight is not finite at step 2, with"):
        trainer.train()
    assert not list(tmp_path.glob(f"{PREFIX_CHECKPOINT_DIR}*"))


def test_a_stage_that_fails_leaves_no_record(tmp_path, capsys) -> None:
    stage = {"steps": 6, "learning_rate": 1e30}
    runner = run_stages(tmp_path, build(Recipe, {"global_batch_size": 4, "contrastive": stage}, "test"))
    with pytest.raises(TrainingError, match="stage 'contrastive': the loss is not finite at step 4 on satellite"):
        runner.run()
    assert not [*tmp_path.rglob("*.safetensors"), *tmp_path.rglob("*.json")]
    assert capsys.readouterr().out == ""


def test_resume_is_silent_about_trunks_alone(tmp_path, caplog, monkeypatch) -> None:
    trainer = build_trainer(tmp_path)
    monkeypatch.setattr(logging.getLogger("transformers"), "level", logging.WARNING)  # a command may have silenced it
    complete = trainer.model.state_dict()

    def told(*left_out: str) -> str:
        caplog.clear()
        part = {name: tensor for name, tensor in complete.items() if not name.startswith(left_out)}
        trainer._issue_warnings_after_load(trainer.model.load_state_dict(part, strict=False))
        return caplog.text

    trunks = ("text_trunk.", "vision_trunk.")
    assert told() == told(*trunks) == ""
    text = told(*trunks, "experts.drone.logit_scale")
    assert "missing keys in the checkpoint model loaded: ['experts.drone.logit_scale']" in text
    assert "text_trunk.encoder.layer.0" in told("text_trunk.")  # a damaged checkpoint, not one of the experts alone
    trained = next(name for name, _ in trainer.model.named_parameters() if name.startswith("text_trunk."))
    trainer.model.get_parameter(trained).requires_grad_(True)
    assert f"['{trained}']" in told(*trunks)


def test_early_stopping_and_the_best_model_follow_the_log(tmp_path) -> None:
    options = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1, "steps": 20}
    options |= {"load_best_model_at_end": True, "metric_for_best_model": "recall_at_1", "learning_rate": 1e-9}
    stop = EarlyStoppingCallback(early_stopping_patience=2)
    trainer = build_trainer(tmp_path, eval_dataset=build_split(3, split="test"), callbacks=[stop], **options)
    trainer.train()
    assert trainer.state.global_step == 3 and trainer.state.best_model_checkpoint.endswith("checkpoint-1")
    assert [entry["step"] for entry in trainer.state.log_history if "loss" in entry] == [1, 3]


def test_the_bar_shows_figures(tmp_path, capsys) -> None:
    recipe = recipe_of(unified={}, hard_negative={}, gate={}, logging_steps=1, validation={"places": 2})
    run_stages(tmp_path, recipe, show_progress=True).run()
    out, err = capsys.readouterr()
    last = err.replace("\r", "\n").strip().splitlines()[-1]
    assert out == "" and last.startswith("contrastive: 100%") and "4/4" in last
    assert all(f"{name}=" in last for name in ("loss", "batch R@1", "images/s", "validation R@1"))


# argv: folder of the helpers, file for the logs
SCRIPT = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
from tiny_data import build_processor, build_split
from tiny_models import build_tiny_model
from pemoe.trainers import PeMoETrainer, PeMoETrainingArguments, TrainingError
from pemoe.trainers.parallel.distributed import process_options, rank, world_size

W, logs = int(os.environ.get("WORLD_SIZE", "1")), {}
shared = {"max_steps": 5, "logging_steps": 2, "save_strategy": "no", "disable_tqdm": True, "report_to": "none"}
shared |= {"per_device_train_batch_size": 4 // W, "adam_epsilon": 1e-4, **process_options()}

def train(stage, **options):
    arguments = PeMoETrainingArguments(sys.argv[2] + stage, stage=stage, **shared, **options)
    model = build_tiny_model(tail_dropout=0.0)
    trainer = PeMoETrainer(model, arguments, build_split(), processing_class=build_processor())
    trainer.train()
    return trainer.state.log_history

for stage in ("contrastive", "gate"):
    logs[stage] = train(stage, learning_rate=1e-3, gate_loss="both")
try:
    train("contrastive", learning_rate=1e30)
except TrainingError as error:
    logs["fault"] = str(error)
if W > 1:
    import torch.distributed
    torch.distributed.destroy_process_group()
open(f"{sys.argv[2]}-{os.environ.get('RANK', '0')}.json", "w").write(json.dumps(logs))
"""


def logs_of(folder: Path, processes: int) -> list[dict]:
    """What each of so many processes logged."""
    (folder / "script.py").write_text(SCRIPT)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--master-port", port]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    support, out = Path(__file__).resolve().parents[1] / "support", folder / f"of{processes}"
    command = [sys.executable, *(launch if processes > 1 else []), "script.py", str(support), str(out)]
    subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True, timeout=200)
    return [json.loads((folder / f"of{processes}-{rank}.json").read_text()) for rank in range(processes)]


@pytest.mark.slow
def test_two_processes_log_what_one_logs(tmp_path) -> None:
    (one,), two = logs_of(tmp_path, 1), logs_of(tmp_path, 2)
    for stage in ("contrastive", "gate"):
        for ours, *theirs in zip(one[stage], two[0][stage], two[1][stage], strict=True):
            for entry in theirs:
                assert ours.keys() == entry.keys()
                timed = ("images_per_second", "train_runtime", "train_steps_per_second", "train_samples_per_second")
                told = {name: value for name, value in ours.items() if name not in (*timed, "total_flos")}
                assert {name: entry[name] for name in told} == pytest.approx(told, rel=1e-3, abs=1e-5)
    assert two[0]["fault"] == two[1]["fault"] and "the loss is not finite at step 4 on satellite" in one["fault"]
    assert two[0]["fault"] == one["fault"]
