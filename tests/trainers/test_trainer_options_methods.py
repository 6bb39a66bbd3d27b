"""Guards: a subclass's own version of every method that docs/training.md calls working is called by a run, or the
method does what its name says when it is called; schedules and best models need what they say."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from tiny_data import build_split
from training_table import build_arguments, build_trainer, names_with
from transformers import SchedulerType, TrainerCallback
from transformers.trainer_callback import CallbackHandler

from pemoe.trainers import PeMoETrainer, TrainingError, saving
from pemoe.trainers.evaluating import figure_names
from pemoe.trainers.options import METRIC_SCHEDULERS, SCHEDULERS

TEST = build_split(3, split="test")
EACH_STEP = {"eval_strategy": "steps", "eval_steps": 1}
WORKING = names_with("Methods", "works")
CALLED: set[str] = set()


def record(name: str):
    """A subclass's version of a method: it notes the call, and does what it did before."""

    def method(self, *arguments, **options):
        CALLED.add(name)
        return getattr(super(Recorded, self), name)(*arguments, **options)

    return method


Recorded = type("Recorded", (PeMoETrainer,), {name: record(name) for name in WORKING if name[:7] != "get_opt"})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A training with evaluation, saving and a push, in which every hook was the user's."""
    directory, pushed = tmp_path_factory.mktemp("run"), []
    options = {"max_steps": 1, **EACH_STEP, "save_strategy": "steps", "save_steps": 1}
    with pytest.MonkeyPatch.context() as patch:
        hub = SimpleNamespace(create_repo=lambda name, **_: SimpleNamespace(repo_id=f"me/{name}"))
        patch.setattr("transformers.trainer.hf_api", lambda: hub)
        patch.setattr(saving, "push_folder", lambda *arguments, **_: pushed.append(arguments))
        trainer = build_trainer(directory, Recorded, {"eval_dataset": TEST}, **options)
        trainer.train()
        trainer.push_to_hub()
    called = set(CALLED)
    return SimpleNamespace(trainer=trainer, called=called, pushed=pushed, directory=directory)


HOOKS = (
    "create_accelerator_and_postprocess", "get_train_dataloader", "create_optimizer", "create_scheduler",
    "get_decay_parameter_names", "train", "training_step", "compute_loss", "compute_loss_context_manager",
    "autocast_smart_context_manager", "get_batch_samples", "set_initial_training_values",
    "get_total_train_batch_size", "evaluate", "save_model", "log", "store_flos", "floating_point_ops",
    "init_hf_repo", "create_model_card", "push_to_hub", "add_callback", "is_local_process_zero",
    "is_world_process_zero", "num_examples",
)  # fmt: skip


@pytest.mark.parametrize("name", HOOKS)
def test_hook_is_called_by_a_run(run: SimpleNamespace, name: str) -> None:
    assert name in run.called


def end(trainer: PeMoETrainer) -> bool:
    ended = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer.accelerator, "end_training", lambda: ended.append(1))
        trainer.end()
    return ended == [1]


def save_metrics(trainer: PeMoETrainer, directory) -> bool:
    trainer.save_metrics("eval", {"eval_recall_at_1": 0.5})
    return json.loads((directory / "eval_results.json").read_text()) == {"eval_recall_at_1": 0.5}


def save_state(trainer: PeMoETrainer, directory) -> bool:
    trainer.save_state()
    return json.loads((directory / "trainer_state.json").read_text())["global_step"] == 1


class Mine(TrainerCallback):
    """A callback of the user's own."""


def callbacks(trainer: PeMoETrainer) -> bool:
    mine = Mine()
    handler: CallbackHandler = trainer.callback_handler
    trainer.add_callback(mine)
    trainer.remove_callback(mine)
    gone = mine not in handler.callbacks
    trainer.add_callback(mine)
    return gone and trainer.pop_callback(Mine) is mine and mine not in handler.callbacks


def log_metrics(trainer: PeMoETrainer) -> bool:
    written: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("builtins.print", lambda *words, **_: written.extend(map(str, words)))
        trainer.log_metrics("eval", {"eval_score": 0.25})
    return any("eval_score" in line and "0.25" in line for line in written)


def create_both(trainer: PeMoETrainer) -> bool:
    trainer.optimizer = trainer.lr_scheduler = None
    trainer.create_optimizer_and_scheduler(num_training_steps=5)
    return trainer.optimizer is not None and trainer.lr_scheduler.optimizer is trainer.optimizer


def optimizer_group(trainer: PeMoETrainer) -> bool:
    matrix = next(p for p in trainer.model.experts.parameters() if p.requires_grad and p.dim() == 2)
    trainer.optimizer = None
    trainer.create_optimizer()
    return any(p is matrix for p in trainer.get_optimizer_group(matrix)["params"])


def trainable(trainer: PeMoETrainer) -> bool:
    expected = sum(p.numel() for p in trainer.model.experts.parameters())
    return trainer.get_num_trainable_parameters() == expected


CHECKS = {
    "end": lambda run: end(run.trainer),
    "save_metrics": lambda run: save_metrics(run.trainer, run.directory),
    "save_state": lambda run: save_state(run.trainer, run.directory),
    "pop_callback": lambda run: callbacks(run.trainer),
    "remove_callback": lambda run: callbacks(run.trainer),
    "log_metrics": lambda run: log_metrics(run.trainer),
    "metrics_format": lambda run: PeMoETrainer.metrics_format({"eval_score": 0.123456})["eval_score"] == 0.1235,
    "create_optimizer_and_scheduler": lambda run: create_both(run.trainer),
    "get_optimizer_group": lambda run: optimizer_group(run.trainer),
    "get_learning_rates": lambda run: (
        run.trainer.get_learning_rates() == [group["lr"] for group in run.trainer.optimizer.param_groups]
    ),
    "get_num_trainable_parameters": lambda run: trainable(run.trainer),
    "get_optimizer_cls_and_kwargs": lambda run: (
        PeMoETrainer.get_optimizer_cls_and_kwargs(run.trainer.args)[1]["lr"] == 1e-2
    ),
    **{name: lambda run, name=name: getattr(run.trainer, name)() == 1 for name in ("get_sp_size", "get_cp_size")},
    "get_tp_size": lambda run: run.trainer.get_tp_size() == 1,
}


@pytest.mark.parametrize("name", CHECKS)
def test_method(run: SimpleNamespace, name: str) -> None:
    assert CHECKS[name](run)


def test_every_working_method_has_a_check() -> None:
    assert set(WORKING) == {*HOOKS, *CHECKS}


SCHEDULE_OPTIONS = {
    "cosine_with_min_lr": {"min_lr": 1e-3},
    "cosine_warmup_with_min_lr": {"min_lr_rate": 0.1},
    "warmup_stable_decay": {"num_decay_steps": 1},
    "greedy": {"min_lr": 1e-3, "max_lr": 1e-1},
}


@pytest.mark.parametrize("kind", [kind.value for kind in SchedulerType])
def test_every_schedule_trains(tmp_path, kind: str) -> None:
    assert {*SCHEDULERS, *METRIC_SCHEDULERS} == {kind.value for kind in SchedulerType}
    follows = kind in METRIC_SCHEDULERS
    options = {"lr_scheduler_type": kind, "lr_scheduler_kwargs": SCHEDULE_OPTIONS.get(kind), "max_steps": 1}
    table = {"eval_dataset": TEST} if follows else {}
    trainer = build_trainer(tmp_path, table=table, **options, **(EACH_STEP if follows else {}))
    trainer.train()
    assert trainer.state.global_step == 1 and all(0 <= rate <= 1e-1 for rate in trainer.get_learning_rates())
    if follows:
        assert trainer.lr_scheduler.mode == "max" and trainer.args.metric_for_best_model == "recall_at_1"


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"lr_scheduler_type": "reduce_lr_on_plateau"}, "reduce_lr_on_plateau requires an eval strategy"),
        (
            {"lr_scheduler_type": "reduce_lr_on_plateau", "lr_scheduler_kwargs": {"mode": "min"}, **EACH_STEP},
            "mode must be 'max' for recall_at_1",
        ),
        ({"lr_scheduler_type": "cosine_with_min_lr"}, "cosine_with_min_lr needs min_lr or min_lr_rate"),
        (
            {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": "1e-7"}},
            "min_lr is the text '1e-7'; YAML reads 1.0e-7 as a number",
        ),
        (
            {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": float("nan")}},
            "min_lr is nan",
        ),
        ({"lr_scheduler_type": "warmup_stable_decay"}, "warmup_stable_decay needs num_decay_steps"),
        (
            {"lr_scheduler_type": "warmup_stable_decay", "lr_scheduler_kwargs": {"num_decay_steps": 3}},
            "num_decay_steps: 0 of warmup and 3 of decay are more than the stage's 2 steps",
        ),
        ({"lr_scheduler_type": "greedy", **EACH_STEP}, "greedy needs min_lr"),
        ({"lr_scheduler_type": "constant", "lr_scheduler_kwargs": {"min_lr": 1e-7}}, "constant takes none"),
        ({"lr_scheduler_type": "constant", "warmup_steps": 1}, "warmup_steps: constant has no warmup"),
        ({"lr_scheduler_kwargs": {"cycles": 2}}, "lr_scheduler_kwargs: linear: .*cycles"),
        ({"warmup_steps": 3}, "warmup_steps: 3 are more than the stage's 2 steps"),
        ({"learning_rate": float("inf")}, "learning_rate: inf"),
        ({"learning_rate": float("nan")}, "learning_rate: nan"),
        ({"learning_rate": -1.0}, r"learning_rate: -1\.0"),
        ({"load_best_model_at_end": True}, "load_best_model_at_end: True needs figures; set eval_strategy"),
        ({"save_strategy": "best"}, "save_strategy: 'best' needs figures; set eval_strategy"),
    ],
)
def test_schedules_and_best_models_say_what_they_lack(tmp_path, options: dict, word: str) -> None:
    with pytest.raises(TrainingError, match=word) as error:
        build_arguments(tmp_path, **options)
    assert "\n" not in str(error.value)


def test_a_figure_that_never_comes_is_refused(tmp_path) -> None:
    for splits, name in ((TEST, "loss"), ({"a": TEST}, "recall_at_1")):
        with pytest.raises(TrainingError, match=f"metric_for_best_model: '{name}' is none of .*recall_at_1"):
            build_trainer(tmp_path, table={"eval_dataset": splits}, metric_for_best_model=name, **EACH_STEP)
    own = {"eval_dataset": TEST, "compute_metrics": lambda _: {"mine": 1}}
    build_trainer(tmp_path, table=own, metric_for_best_model="mine", **EACH_STEP)
    for asks in (EACH_STEP, {"eval_on_start": True}):
        with pytest.raises(TrainingError, match="nothing to evaluate on; give eval_dataset"):
            build_trainer(tmp_path, **asks)


def test_the_names_of_figures_are_those_of_evaluate(tmp_path) -> None:
    trainer = build_trainer(tmp_path)
    for rows in (TEST, {"a": TEST, "b": TEST.filter(lambda row: row["platform"] == 1)}):
        given = [name.removeprefix("eval_") for name in trainer.evaluate(rows) if name.startswith("eval_")]
        assert sorted(figure_names(rows)) == sorted(given)
    with pytest.raises(TrainingError, match="ignore_keys: figures are of embeddings"):
        trainer.evaluate(TEST, ignore_keys=["gate_logits"])
