"""Guards a step in chunks: loss, gradient, dropout and random numbers are those of the batch in one piece; gradient
accumulation means the joined batch; what could not be exact is refused."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_data import build_processor, build_split
from tiny_models import build_tiny_model
from torch._dynamo.utils import counters

from pemoe.modeling_pemoe import PeMoEModel
from pemoe.retrieval.feature_cache import FeatureCache
from pemoe.trainers import PeMoETrainer, PeMoETrainingArguments, TrainingError, chunks
from pemoe.trainers.chunks import check_large_batches, split_batch
from pemoe.trainers.recipes import Recipe, build

CASES = [
    ("contrastive", {}),
    ("hard_negative", {"margin": 1.0}),
    ("gate", {"gate_loss": "platform"}),
    ("gate", {"gate_loss": "retrieval"}),
    ("gate", {"gate_loss": "both"}),
    ("unified", {}),
]


def build_trainer(model: PeMoEModel, tmp_path, stage: str = "contrastive", **options) -> PeMoETrainer:
    tables = {name: options.pop(name) for name in ("image_states", "rows") if name in options}
    rows = tables.pop("rows", None) or build_split()
    if stage == "hard_negative":  # rows of the first place have none
        table = (np.arange(len(rows)) + 4)[:, None] % len(rows)
        table[:4] = -1
        tables["hard_negatives"] = table
    arguments = PeMoETrainingArguments(
        str(tmp_path),
        stage=stage,
        use_cpu=True,
        save_strategy="no",
        disable_tqdm=True,
        **{
            "lr_scheduler_type": "constant",
            "max_steps": 3,
            "per_device_train_batch_size": 6,
            "learning_rate": 1e-3,
            "adam_epsilon": 1e-4,
            **options,
        },
    )
    return PeMoETrainer(model, arguments, rows, processing_class=build_processor(), **tables)


def gradient_of_a_step(trainer: PeMoETrainer, seed: int = 0) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of a step on the sampler's first batch, random numbers from `seed`."""
    batch = next(iter(trainer.get_train_dataloader()))
    torch.manual_seed(seed)
    trainer.current_gradient_accumulation_steps = 1  # as the loop sets it
    loss = trainer.training_step(trainer.model, batch)
    named = trainer.model.named_parameters()
    return loss.item(), {name: parameter.grad for name, parameter in named if parameter.grad is not None}


def assert_alike(found: tuple, expected: tuple, within: float = 1e-6) -> None:
    assert abs(found[0] - expected[0]) <= within and expected[0] != 0
    assert found[1].keys() == expected[1].keys() and expected[1]
    norm = torch.stack([tensor.detach().norm() for tensor in expected[1].values()]).norm()
    far = {name: float((found[1][name] - tensor).detach().norm() / norm) for name, tensor in expected[1].items()}
    assert max(far.values()) <= within, max(far, key=far.get)


@pytest.mark.parametrize(("stage", "options"), CASES)
@pytest.mark.parametrize("chunk_size", [1, 4])
def test_a_step_in_chunks_equals_one_piece(tmp_path, stage: str, options: dict, chunk_size: int) -> None:
    """A chunk size of 4 leaves a chunk of 2."""
    platforms = {"platforms": ["all"]} if stage == "unified" else {}
    whole, chunked = (
        gradient_of_a_step(
            build_trainer(build_tiny_model(tail_dropout=0.0, **platforms), tmp_path, stage, **options, **size)
        )
        for size in ({}, {"chunk_size": chunk_size})
    )
    assert_alike(chunked, whole)


@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_a_loss_in_chunks_may_be_added_to_but_not_scaled(tmp_path, monkeypatch, factor: float) -> None:
    """Scaled, only the last chunk would follow; a term beside it has its own gradient."""

    def compute_loss(self: PeMoETrainer, model: PeMoEModel, *inputs: object, **options: object) -> torch.Tensor:
        scale = model.experts["satellite"].logit_scale
        return factor * base.compute_loss(self, model, *inputs, **options) + scale**2

    base = PeMoETrainer
    kind = type("OwnLoss", (base,), {"compute_loss": compute_loss})
    monkeypatch.setitem(globals(), "PeMoETrainer", kind)
    whole, chunked = (build_trainer(build_tiny_model(tail_dropout=0.0), tmp_path, chunk_size=n) for n in (None, 4))
    expected = gradient_of_a_step(whole)
    if factor == 1:
        assert_alike(gradient_of_a_step(chunked), expected)
    else:
        with pytest.raises(TrainingError, match="the loss was scaled by an overridden method"):
            gradient_of_a_step(chunked)


def test_dropout_is_the_same_again(tmp_path) -> None:
    """Against the same chunks embedded once, with gradient, from the same random state; which ends the same too."""
    trainer = build_trainer(build_tiny_model(tail_dropout=0.4), tmp_path, chunk_size=4)
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.model.train()
    torch.manual_seed(3)
    pieces = [trainer.stage_loss.embed(trainer.model, chunk) for chunk in split_batch(batch, 4)]
    embeds = {name: torch.cat([piece[name] for piece in pieces]) for name in ("query", "gallery")}
    loss = trainer.stage_loss({**embeds, "logit_scale": pieces[0]["logit_scale"]}, batch)["loss"]
    loss.backward()
    end = torch.get_rng_state()
    expected = loss.item(), {n: p.grad for n, p in trainer.model.named_parameters() if p.grad is not None}
    trainer.model.zero_grad()
    assert_alike(gradient_of_a_step(trainer, seed=3), expected)
    assert torch.equal(torch.get_rng_state(), end)
    assert trainer.compute_loss(trainer.model, batch).item() != expected[0]  # other random numbers, another loss


def test_negatives_stay_with_their_pairs() -> None:
    batch = {"place_id": torch.arange(5), "pixel_values": torch.arange(10)}
    pixels = [chunk["pixel_values"].tolist() for chunk in split_batch(batch, 2)]
    assert pixels == [[0, 1, 5, 6], [2, 3, 7, 8], [4, 9]]


def test_cached_trunk_states_in_chunks(tmp_path) -> None:
    model = build_tiny_model(tail_dropout=0.0)
    states = FeatureCache(tmp_path / "cache", model, build_processor(), build_split()).states()
    found = gradient_of_a_step(build_trainer(model, tmp_path, image_states=states, chunk_size=4))
    assert_alike(found, gradient_of_a_step(build_trainer(build_tiny_model(tail_dropout=0.0), tmp_path)), 1e-5)


@pytest.mark.parametrize("kind", ["platform", "trunks"])
def test_adapters_in_chunks(tmp_path, kind: str) -> None:
    """A LoRA platform, and a peft adapter that reaches into the trunks, which then run again with gradient."""
    found = []
    for size in ({"chunk_size": 4}, {}):
        model, rows = build_tiny_model(tail_dropout=0.0), build_split(drone_views=1)
        if kind == "platform":
            model.name_or_path = str(tmp_path)
            torch.manual_seed(0)
            model.add_platform("infrared", "drone", lora_rank=2)
            features = rows.features.copy()
            features["platform"] = type(features["platform"])(names=["infrared"])
            rows = rows.select(range(1, len(rows), 3)).map(lambda row: {"platform": 0}).cast(features)
        else:
            torch.manual_seed(0)
            for module in model.text_trunk.modules():  # it trains, so that its dropout would be drawn
                module.p = 0.0
            model = get_peft_model(
                model, LoraConfig(target_modules=["query", "q_proj", "value"], init_lora_weights=False)
            )
        found.append(gradient_of_a_step(build_trainer(model, tmp_path, rows=rows, **size)))
    assert_alike(*found)
    assert any("lora_" in name for name in found[0][1])
    assert any("_trunk." in name for name in found[0][1]) == (kind == "trunks")


@pytest.mark.parametrize("chunk_size", [None, 4])
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointed_tails_have_every_gradient(
    tmp_path, chunk_size: int | None, use_reentrant: bool, recwarn
) -> None:
    sizes = {"tail_dropout": 0.3, "text_expert_layers": 2, "vision_expert_layers": 2}
    found = []
    for on in (True, False):
        options = {"activation_checkpointing": on, "activation_checkpointing_kwargs": {"use_reentrant": use_reentrant}}
        trainer = build_trainer(build_tiny_model(**sizes), tmp_path, chunk_size=chunk_size, **options)
        calls = count_checkpoints(trainer)
        found.append(gradient_of_a_step(trainer))
        assert len(calls) == (4 if on else 0) * (1 if chunk_size is None else 2)  # 2 text, 2 image layers; 2 chunks
    assert_alike(*found)
    assert not [warning for warning in recwarn if "requires_grad" in str(warning.message)]


def note(calls: list, run: Callable, *args: object) -> object:
    calls.extend([args] * torch.is_grad_enabled())
    return run(*args)


def count_checkpoints(trainer: PeMoETrainer) -> list:
    """Start checkpointing as `train` does, and note its calls with gradient in the layers of the experts."""
    calls = []
    if trainer.args.activation_checkpointing:
        options = trainer.args.activation_checkpointing_kwargs
        trainer.model.activation_checkpointing_enable(activation_checkpointing_kwargs=options)
        for module in trainer.model.experts.modules():
            if hasattr(module, "_gradient_checkpointing_func"):
                inner = module._gradient_checkpointing_func
                module._gradient_checkpointing_func = partial(note, calls, inner)
    return calls


@pytest.mark.parametrize("chunk_size", [None, 4])
def test_compiled_tails(tmp_path, chunk_size: int | None) -> None:
    """Traced, with a backend that needs no compiler: the same gradients, under the same names, also in checkpoints."""
    plain = gradient_of_a_step(build_trainer(build_tiny_model(tail_dropout=0.0), tmp_path))
    model = build_tiny_model(tail_dropout=0.0)
    names, traced = list(model.state_dict()), counters["frames"]["ok"]
    trainer = build_trainer(model, tmp_path, torch_compile=True, torch_compile_backend="eager", chunk_size=chunk_size)
    assert_alike(gradient_of_a_step(trainer), plain)
    assert counters["frames"]["ok"] > traced
    assert trainer.accelerator.prepare_model(model) is model and list(model.state_dict()) == names


def test_autocast_in_chunks(tmp_path) -> None:
    found = []
    for size in ({"chunk_size": 4}, {}):
        model = build_tiny_model(tail_dropout=0.0)
        before = {name: tensor.clone() for name, tensor in model.named_parameters()}
        trainer = build_trainer(model, tmp_path, bf16=True, **size)
        trainer.train()
        moved = {name: tensor.detach() - before[name] for name, tensor in model.named_parameters()}
        moved = {name: tensor for name, tensor in moved.items() if tensor.any()}
        found.append((trainer.state.log_history[-1]["train_loss"], moved))
    assert_alike(*found, within=0.05)


def test_accumulated_steps_are_one_large_batch(tmp_path) -> None:
    """Four times one pair is one batch of four, in the weights after three steps of AdamW; so is the schedule."""
    trained, options = [], {"lr_scheduler_type": "linear", "warmup_steps": 1, "logging_strategy": "steps"}
    for size in ((1, 4), (4, 1)):
        model = build_tiny_model(tail_dropout=0.0)
        names = ("per_device_train_batch_size", "gradient_accumulation_steps")
        trainer = build_trainer(model, tmp_path, logging_steps=1, **options, **dict(zip(names, size, strict=True)))
        trainer.train()
        rates = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
        trained.append((trainer.state.log_history[-1]["train_loss"], dict(model.state_dict()), rates))
    assert_alike(*(run[:2] for run in trained), within=1e-5)
    assert trained[0][2] == trained[1][2] and len(trained[0][2]) == 3


def test_accumulation_becomes_chunks_once() -> None:
    arguments = PeMoETrainingArguments(
        "out", max_steps=1, use_cpu=True, per_device_train_batch_size=8, gradient_accumulation_steps=4
    )
    again = PeMoETrainingArguments(**{k: v for k, v in arguments.to_dict().items() if k in given_fields(arguments)})
    for args in (arguments, again):
        assert (args.per_device_train_batch_size, args.chunk_size, args.gradient_accumulation_steps) == (32, 8, 1)
        assert args.in_chunks and args.train_batch_size == 32
    chosen = PeMoETrainingArguments(
        "out", max_steps=1, use_cpu=True, per_device_train_batch_size=8, gradient_accumulation_steps=4, chunk_size=3
    )
    assert (chosen.per_device_train_batch_size, chosen.chunk_size) == (32, 3)


def given_fields(arguments: PeMoETrainingArguments) -> set[str]:
    return {name for name, field in arguments.__dataclass_fields__.items() if field.init}


@pytest.mark.parametrize(("is_deepspeed", "is_fsdp"), [(True, False), (False, True)])
def test_where_chunks_would_not_be_exact(tmp_path, is_deepspeed: bool, is_fsdp: bool) -> None:
    options = {"max_steps": 1, "per_device_train_batch_size": 6, "chunk_size": 2, "use_cpu": True}
    word = "chunk_size: 2 of 6 pairs .* cannot be exact, .*; use activation_checkpointing"
    with pytest.raises(TrainingError, match=word):
        check_large_batches(PeMoETrainingArguments(tmp_path, **options), is_deepspeed, is_fsdp)


@pytest.mark.parametrize("kind", ["late", "launch", "reentrant"])
def test_what_would_not_be_the_batch_is_refused(tmp_path, monkeypatch, kind: str) -> None:
    options, word = {}, "gradient_accumulation_steps: set to 2 too late"
    if kind == "reentrant":
        monkeypatch.setattr(chunks, "world_size", lambda: 2)
        options = {"activation_checkpointing": True, "activation_checkpointing_kwargs": {"use_reentrant": True}}
        word = "use_reentrant=True hides the idle experts from DDP; use .*False"
    elif kind == "late":
        options["accelerator_config"] = {"gradient_accumulation_kwargs": {"num_steps": 2}}
    else:
        monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "2")
    with pytest.raises(TrainingError, match=word):
        build_trainer(build_tiny_model(), tmp_path, **options)


def test_what_a_step_leaves_to_be_logged(tmp_path) -> None:
    for size in ({}, {"chunk_size": 4}):
        trainer = build_trainer(build_tiny_model(), tmp_path, "hard_negative", **size)
        loss, _ = gradient_of_a_step(trainer)
        step = trainer.last_step
        assert step["parts"]["loss"].item() == loss and set(step["parts"]) == {"loss", "info_nce", "triplet"}
        assert {"query", "gallery", "negative", "logit_scale", "place_id", "platform_id"} <= set(step["embeds"])
        assert step["embeds"]["query"].shape[0] == len(step["batch"]["place_id"]) == 6
        assert not any(tensor.requires_grad for part in step.values() for tensor in part.values())


def test_recipe_fields() -> None:
    recipe = {"contrastive": {"steps": 1}}
    assert build(Recipe, {**recipe, "chunk_size": 2}, "test").chunk_size == 2
    with pytest.raises(TrainingError, match="chunk_size: 0"):
        build(Recipe, {**recipe, "chunk_size": 0}, "test")


def test_compiled_layers_are_not_run_again_with_another_dropout(tmp_path) -> None:
    options = {"torch_compile": True, "torch_compile_backend": "eager", "activation_checkpointing": True}
    with pytest.raises(TrainingError, match="torch_compile: with activation_checkpointing"):
        build_trainer(build_tiny_model(tail_dropout=0.1), tmp_path, **options)
    build_trainer(build_tiny_model(tail_dropout=0.0), tmp_path, **options)
