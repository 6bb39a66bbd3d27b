"""Guards: docs/training.md names every argument, field and method of the installed transformers; what it calls refused
is refused by name; what it calls transformers' own arrives and is read by none of our code."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path

import datasets
import pytest
import torch
from accelerate import ParallelismConfig
from tiny_data import build_processor, build_split
from training_table import build_arguments, build_trainer, names_with, read_table
from transformers import Trainer, TrainingArguments

import pemoe.trainers
from pemoe.trainers import PeMoETrainer, PeMoETrainingArguments, TrainingError
from pemoe.trainers.options import UNUSED_METHODS
from pemoe.trainers.recipes import Recipe, StageRecipe
from pemoe.trainers.recipes.fields import GateRecipe
from pemoe.trainers.stages import StageRunner

ARGUMENTS, FIELDS, METHODS = "Arguments of the Trainer", "Fields of TrainingArguments", "Methods"
REFUSED_FIELDS = {
    "num_train_epochs": 3.0,
    "optim_target_modules": ["blocks"],
    "average_tokens_across_devices": False,
    "bf16_full_eval": True,
    "fp16_full_eval": True,
    "use_liger_kernel": True,
    "liger_kernel_config": {"rope": True},
    "use_cache": True,
    "neftune_noise_alpha": 5.0,
    "auto_find_batch_size": True,
    "prediction_loss_only": True,
    "eval_do_concat_batches": False,
    "eval_use_gather_object": True,
    "eval_accumulation_steps": 2,
    "include_for_metrics": ["loss"],
    "batch_eval_metrics": True,
    "data_seed": 3,
    "parallelism_config": ParallelismConfig(),
    "dataloader_drop_last": True,
    "remove_unused_columns": True,
    "label_names": ["place_id"],
    "train_sampling_strategy": "group_by_length",
    "length_column_name": "words",
    "debug": "underflow_overflow",
}
OWN_FIELDS = {
    "tf32": False,
    "log_on_each_node": False,
    "logging_nan_inf_filter": True,
    "log_level": "error",
    "log_level_replica": "error",
    "run_name": "first",
    "project": "places",
    "trackio_space_id": "me/space",
    "trackio_bucket_id": "me/bucket",
    "trackio_static_space_id": "me/static",
    "save_on_each_node": True,
    "ddp_bucket_cap_mb": 7,
    "ddp_broadcast_buffers": False,
    "ddp_backend": None,  # needs several processes, see test_two_processes.py
    "ddp_timeout": 77,
    "fsdp": None,  # without several processes transformers refuses it
    "fsdp_config": None,
    "deepspeed": None,  # another package
    "do_train": True,
    "do_eval": True,
    "do_predict": True,
    "resume_from_checkpoint": "checkpoint-9",
    "local_rank": 0,
}


def missing_and_gone(table: set[str], installed: set[str]) -> str:
    return f"docs/training.md lacks {sorted(installed - table)}, and lists {sorted(table - installed)} in vain"


def test_the_page_lists_what_the_installed_transformers_has() -> None:
    fields = {field.name for field in dataclasses.fields(TrainingArguments) if field.init}
    methods = {name for name in vars(Trainer) if not name.startswith("_") and callable(getattr(Trainer, name))}
    parameters = {*inspect.signature(Trainer.__init__).parameters} - {"self"}
    for heading, installed in ((ARGUMENTS, parameters), (FIELDS, fields), (METHODS, methods)):
        table = set(read_table(heading))
        assert table == installed, missing_and_gone(table, installed)


def test_every_row_has_a_check() -> None:
    assert set(names_with(FIELDS, "refused")) == set(REFUSED_FIELDS)
    assert set(names_with(FIELDS, "transformers")) == set(OWN_FIELDS)
    assert not names_with(ARGUMENTS, "transformers") and not names_with(METHODS, "transformers")


@pytest.mark.parametrize("name", REFUSED_FIELDS)
def test_refused_field(tmp_path, name: str) -> None:
    with pytest.raises(TrainingError, match=rf"^{name}: ") as error:
        build_arguments(tmp_path, **{name: REFUSED_FIELDS[name]})
    assert "\n" not in str(error.value)


def test_fields_of_transformers_own_arrive_untouched(tmp_path) -> None:
    given = {name: value for name, value in OWN_FIELDS.items() if value is not None}
    arguments = build_trainer(tmp_path, **given).args
    assert {name: getattr(arguments, name) for name in given} == given
    sources = [path.read_text() for path in Path(pemoe.trainers.__file__).parent.glob("*.py")]
    read_by_us = {name for text in sources for name in re.findall(r"\bargs\.(\w+)", text)}
    assert "optim" in read_by_us and not read_by_us & set(OWN_FIELDS)


def test_a_field_set_later_is_refused_by_the_trainer(tmp_path) -> None:
    arguments = build_arguments(tmp_path)
    arguments.neftune_noise_alpha = 5.0
    with pytest.raises(TrainingError, match="neftune_noise_alpha"):
        PeMoETrainer(build_trainer(tmp_path).model, arguments, build_split(), processing_class=build_processor())


@pytest.mark.parametrize("name", names_with(ARGUMENTS, "refused"))
def test_refused_argument(tmp_path, name: str) -> None:
    with pytest.raises(TrainingError, match=rf"^{name}: "):
        build_trainer(tmp_path, table={name: lambda *_: None})


def test_refused_methods(tmp_path) -> None:
    trainer = build_trainer(tmp_path)
    assert {*UNUSED_METHODS, "predict"} == set(names_with(METHODS, "refused"))
    for name in names_with(METHODS, "refused"):
        with pytest.raises(TrainingError, match=rf"^{name}: "):
            getattr(trainer, name)(build_split())
    for name in UNUSED_METHODS:
        kind = type("Mine", (PeMoETrainer,), {name: lambda self, *_: None})
        with pytest.raises(TrainingError, match=rf"^{name}: Mine defines it"):
            build_trainer(tmp_path, kind)


@pytest.mark.parametrize(
    ("table", "word"),
    [
        ({"model": torch.nn.Linear(2, 2)}, "model: Linear is no PeMoEModel"),
        ({"train_dataset": build_split(2).to_iterable_dataset()}, "train_dataset: .* without streaming=True"),
        ({"eval_dataset": build_split(2).to_iterable_dataset()}, "eval_dataset: .* without streaming=True"),
        ({"train_dataset": datasets.DatasetDict(train=build_split(2))}, "train_dataset: it holds the splits train"),
        ({"train_dataset": [1, 2]}, r"train_dataset: a list has no columns; give a datasets\.Dataset"),
        ({"train_dataset": build_split(2).remove_columns("place_id")}, "train_dataset: it has no column 'place_id'"),
        (
            {"train_dataset": build_split(2).cast_column("platform", datasets.Value("string"))},
            "train_dataset: its column platform is no ClassLabel",
        ),
        (
            {"eval_dataset": {"a": build_split(2), "b": build_split(2).remove_columns("captions")}},
            r"eval_dataset\['b'\]: it has no column 'captions'",
        ),
        ({"train_dataset": build_split(1)}, "stage 'contrastive': satellite has 1 places in batches of 1"),
        ({"processing_class": None}, "processing_class: give the model's PeMoEProcessor"),
    ],
)
def test_parts_that_a_stage_cannot_take(tmp_path, table: dict, word: str) -> None:
    with pytest.raises(TrainingError, match=word) as error:
        build_trainer(tmp_path, table=table)
    assert "\n" not in str(error.value)


def test_plain_arguments_are_refused(tmp_path) -> None:
    for arguments in (None, TrainingArguments(output_dir=str(tmp_path), use_cpu=True)):
        with pytest.raises(TrainingError, match="args: give PeMoETrainingArguments"):
            PeMoETrainer(build_trainer(tmp_path).model, arguments, build_split(), processing_class=build_processor())


def test_rows_are_needed_to_train(tmp_path) -> None:
    with pytest.raises(TrainingError, match="train: give train_dataset"):
        build_trainer(tmp_path, table={"train_dataset": None}).train()


def test_one_place_is_enough_where_nothing_is_compared(tmp_path) -> None:
    one = {"train_dataset": build_split(1)}
    build_trainer(tmp_path, table=one, stage="gate")
    with pytest.raises(TrainingError, match="leaves no negatives"):
        build_trainer(tmp_path, table=one, stage="gate", gate_loss="both", per_device_train_batch_size=1)


def test_a_run_tells_of_a_stage_without_negatives_before_its_first_step(tmp_path) -> None:
    stages = {"contrastive": StageRecipe(steps=1), "gate": GateRecipe(steps=1, gate_loss="both")}
    recipe = Recipe(global_batch_size=2, **stages)
    with pytest.raises(TrainingError, match="stage 'contrastive': satellite has 1 places in batches of 1"):
        StageRunner(build_trainer(tmp_path).model, build_processor(), build_split(1), recipe, tmp_path)


def test_a_plain_trainer_trains_the_model(tmp_path) -> None:
    trainer = build_trainer(tmp_path)
    batch = next(iter(trainer.get_train_dataloader()))
    inputs = {name: tensor for name, tensor in batch.items() if name != "platform_id"}
    rows = [{name: tensor[row] for name, tensor in inputs.items()} for row in range(4)]
    arguments = TrainingArguments(
        output_dir=str(tmp_path), use_cpu=True, max_steps=2, remove_unused_columns=False, report_to="none",
        save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    before = [parameter.detach().clone() for parameter in trainer.model.experts.parameters()]
    Trainer(trainer.model, arguments, train_dataset=rows).train()
    pairs = zip(before, trainer.model.experts.parameters(), strict=True)
    assert any(not torch.equal(old, new) for old, new in pairs)


def test_defaults_pass_their_own_checks(tmp_path) -> None:
    arguments = PeMoETrainingArguments(output_dir=str(tmp_path), max_steps=1, use_cpu=True)
    assert arguments.num_train_epochs == 0 and arguments.metric_for_best_model is None
