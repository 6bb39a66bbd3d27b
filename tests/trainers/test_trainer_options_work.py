"""Guards: every argument and field that docs/training.md calls working has its effect, each looked at by a check."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny_data import build_split
from training_table import build_arguments, build_trainer, names_with
from transformers import EarlyStoppingCallback, PrinterCallback, ProgressCallback, TrainerCallback
from transformers.trainer_jit_checkpoint import JITCheckpointCallback

from pemoe.modeling_pemoe.experts_pemoe import PlatformExpert
from pemoe.trainers import TrainingError, evaluating, saving

TEST = build_split(3, split="test")
MANY = {  # of one run of four steps
    "max_steps": 4,
    "lr_scheduler_type": "polynomial",
    "lr_scheduler_kwargs": {"power": 2.0},
    "warmup_steps": 2,
    "weight_decay": 0.3,
    "adam_beta1": 0.8,
    "adam_beta2": 0.9,
    "adam_epsilon": 1e-6,
    "max_grad_norm": 1e-3,
    "torch_empty_cache_steps": 2,
    "logging_strategy": "steps",
    "logging_steps": 3,
    "logging_first_step": True,
    "include_num_input_tokens_seen": "all",
    "eval_strategy": "steps",
    "eval_steps": 2,
    "eval_delay": 3,
    "eval_on_start": True,
    "per_device_eval_batch_size": 5,
    "save_strategy": "steps",
    "save_steps": 1,
    "save_total_limit": 2,
    "save_only_model": True,
    "skip_memory_metrics": False,
    "seed": 7,
}


class Watch(TrainerCallback):
    """Rates, gradients' norms at the optimizer's step, and the steps at which figures came."""

    def __init__(self) -> None:
        self.rates, self.norms, self.evaluated = [], [], []

    def on_pre_optimizer_step(self, args, state, control, model=None, optimizer=None, **kwargs) -> None:
        self.rates.append(optimizer.param_groups[0]["lr"])
        grads = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        self.norms.append(torch.stack([grad.norm() for grad in grads]).norm().item())

    def on_evaluate(self, args, state, control, **kwargs) -> None:
        self.evaluated.append(state.global_step)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """One training with many options at once, and what was seen of it."""
    directory, seen, emptied = tmp_path_factory.mktemp("many"), Watch(), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transformers.trainer.clear_device_cache", lambda *_, **__: emptied.append(1))
        sizes: set[int] = set()
        embed_split = evaluating.embed_split
        patch.setattr(evaluating, "embed_split", lambda m, p, r, b: (sizes.add(b), embed_split(m, p, r, b))[1])
        trainer = build_trainer(directory, table={"eval_dataset": TEST, "callbacks": [seen]}, **MANY)
        drawn = [batch["place_id"].tolist() for batch in trainer.get_train_dataloader()]
        metrics = trainer.train().metrics
    logged = trainer.state.log_history
    return SimpleNamespace(
        trainer=trainer, seen=seen, emptied=emptied, sizes=sizes, drawn=drawn, metrics=metrics, logged=logged,
        directory=directory, group=trainer.optimizer.param_groups[0],
    )  # fmt: skip


def rates_fall_by_squares(many: SimpleNamespace) -> bool:
    low, high = 1e-7, 1e-2
    expected = [0.0, high / 2, high, (high - low) * 0.25 + low]
    return many.seen.rates == pytest.approx(expected)


def logs_of(many: SimpleNamespace, figure: str) -> list[int]:
    return [entry["step"] for entry in many.logged if figure in entry]


SEEN_IN_ONE_RUN = {
    "output_dir": lambda run: run.directory.name.startswith("many") and any(run.directory.glob("checkpoint-*")),
    "per_device_train_batch_size": lambda run: {len(places) for places in run.drawn} == {4},
    "max_steps": lambda run: run.trainer.state.global_step == 4 == len(run.drawn),
    "learning_rate": lambda run: max(run.seen.rates) == pytest.approx(1e-2),
    "lr_scheduler_type": rates_fall_by_squares,
    "lr_scheduler_kwargs": rates_fall_by_squares,
    "warmup_steps": rates_fall_by_squares,
    "weight_decay": lambda run: {g["weight_decay"] for g in run.trainer.optimizer.param_groups} == {0.3, 0.0},
    "adam_beta1": lambda run: run.group["betas"][0] == 0.8,
    "adam_beta2": lambda run: run.group["betas"][1] == 0.9,
    "adam_epsilon": lambda run: run.group["eps"] == 1e-6,
    "max_grad_norm": lambda run: run.seen.norms == pytest.approx([1e-3] * 4, rel=1e-2),
    "torch_empty_cache_steps": lambda run: len(run.emptied) >= 2,
    "logging_strategy": lambda run: 3 in logs_of(run, "loss"),
    "logging_steps": lambda run: 3 in logs_of(run, "loss") and 2 not in logs_of(run, "loss"),
    "logging_first_step": lambda run: 1 in logs_of(run, "loss"),
    "include_num_input_tokens_seen": lambda run: run.trainer.state.num_input_tokens_seen > 4 * 4,
    "eval_strategy": lambda run: 4 in run.seen.evaluated,
    "eval_steps": lambda run: 3 not in run.seen.evaluated,
    "eval_delay": lambda run: 2 not in run.seen.evaluated,
    "eval_on_start": lambda run: run.seen.evaluated[0] == 0,
    "per_device_eval_batch_size": lambda run: run.sizes == {5},
    "save_strategy": lambda run: (run.directory / "checkpoint-4").is_dir(),
    "save_steps": lambda run: (run.directory / "checkpoint-3").is_dir(),
    "save_total_limit": lambda run: len(list(run.directory.glob("checkpoint-*"))) == 2,
    "save_only_model": lambda run: not any(run.directory.glob("checkpoint-*/optimizer.pt")),
    "skip_memory_metrics": lambda run: "train_mem_cpu_alloc_delta" in run.metrics,
}


@pytest.mark.parametrize("name", SEEN_IN_ONE_RUN)
def test_field_of_one_run(many: SimpleNamespace, name: str) -> None:
    assert SEEN_IN_ONE_RUN[name](many)


class Count(TrainerCallback):
    """A figure that a test gives at each step."""

    step = 0

    def on_step_end(self, args, state, control, **kwargs) -> None:
        self.step = state.global_step


@pytest.fixture(scope="module")
def best(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A run whose own figure is best, since lowest, at step 1; and a second run from its first checkpoint."""
    directory, count = tmp_path_factory.mktemp("best"), Count()
    options = {
        "max_steps": 3, "eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1,
        "load_best_model_at_end": True, "metric_for_best_model": "mine", "greater_is_better": False,
    }  # fmt: skip
    parts = {"eval_dataset": TEST, "compute_metrics": lambda _: {"mine": count.step}}
    trainer = build_trainer(directory, table={**parts, "callbacks": [count, EarlyStoppingCallback(9)]}, **options)
    trainer.train()
    stopping, places = EarlyStoppingCallback(1), []
    later = {**options, "ignore_data_skip": True, "restore_callback_states_from_checkpoint": True}
    again = build_trainer(directory, table={**parts, "callbacks": [count, stopping]}, **later)
    compute_loss = again.compute_loss
    again.compute_loss = lambda m, inputs, **k: (
        places.append(inputs["place_id"].tolist()),
        compute_loss(m, inputs, **k),
    )[1]
    first = next(iter(again.get_train_dataloader()))["place_id"].tolist()
    again.train(resume_from_checkpoint=str(directory / "checkpoint-1"))
    restored = next(c for c in again.callback_handler.callbacks if isinstance(c, EarlyStoppingCallback))
    return SimpleNamespace(trainer=trainer, again=again, stopping=restored, places=places, first=first)


def loads_the_best(best: SimpleNamespace) -> bool:
    return Path(best.trainer.state.best_model_checkpoint).name == "checkpoint-1"


SEEN_OF_THE_BEST = {
    "load_best_model_at_end": loads_the_best,
    "metric_for_best_model": lambda run: run.trainer.state.best_metric == 1,
    "greater_is_better": loads_the_best,
    "compute_metrics": lambda run: run.trainer.state.best_metric == 1,
    "ignore_data_skip": lambda run: run.places[0] == run.first,
    "restore_callback_states_from_checkpoint": lambda run: run.stopping.early_stopping_patience == 9,
}


@pytest.mark.parametrize("name", SEEN_OF_THE_BEST)
def test_field_of_the_best(best: SimpleNamespace, name: str) -> None:
    assert SEEN_OF_THE_BEST[name](best)


def optim(folder: Path) -> None:
    names = {
        "sgd": "SGD",
        "adafactor": "Adafactor",
        "adagrad": "Adagrad",
        "rmsprop": "RMSprop",
        "adamw_torch": "AdamW",
    }
    for name, kind in names.items():
        trainer = build_trainer(folder, optim=name)
        assert type(trainer.create_optimizer()).__name__ == kind
    for name, word in (("adamw_8bit", "bitsandbytes"), ("lomo", "steps inside"), ("schedule_free_adamw", "weights")):
        with pytest.raises(TrainingError, match=f"optim: .*{word}"):
            build_trainer(folder, optim=name)
    with pytest.raises(TrainingError, match="optim: Invalid beta parameter"):
        build_trainer(folder, adam_beta1=2.0)


def optim_args(folder: Path) -> None:
    trainer = build_trainer(folder, optim="sgd", optim_args="momentum=0.25")
    assert trainer.create_optimizer().param_groups[0]["momentum"] == 0.25
    with pytest.raises(TrainingError, match="optim_args: adamw_torch takes none"):
        build_arguments(folder, optim="adamw_torch", optim_args="momentum=0.25")


def gradient_accumulation_steps(folder: Path) -> None:
    trainer = build_trainer(folder, per_device_train_batch_size=2, gradient_accumulation_steps=2)
    assert len(next(iter(trainer.get_train_dataloader()))["place_id"]) == 4 and trainer.args.in_chunks


def label_smoothing_factor(folder: Path) -> None:
    losses = []
    for factor in (0.0, 0.5):
        trainer = build_trainer(folder, label_smoothing_factor=factor)
        losses.append(trainer.compute_loss(trainer.model, next(iter(trainer.get_train_dataloader()))).item())
    assert losses[0] != losses[1]
    for wrong in (1.0, -0.1, float("nan")):
        with pytest.raises(TrainingError, match="label_smoothing"):
            build_arguments(folder, label_smoothing_factor=wrong)


def bf16(folder: Path) -> None:
    with build_trainer(folder, bf16=True).accelerator.autocast():
        assert torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16


def fp16(folder: Path) -> None:
    with pytest.raises(TrainingError, match="fp16: without a GPU"):
        build_arguments(folder, fp16=True)


def activation_checkpointing(folder: Path, prefix: str = "activation") -> None:
    options = {f"{prefix}_checkpointing": True, f"{prefix}_checkpointing_kwargs": {"use_reentrant": False}}
    given: list[dict] = []
    trainer = build_trainer(folder, max_steps=1, **options)
    enable = trainer.model.activation_checkpointing_enable
    trainer.model.activation_checkpointing_enable = lambda **chosen: (given.append(chosen), enable(**chosen))
    trainer.train()
    assert all(expert.gradient_checkpointing for expert in trainer.model.experts.values())
    assert given[0]["activation_checkpointing_kwargs"] == {"use_reentrant": False}


def disable_tqdm(folder: Path) -> None:
    for off, kind in ((True, PrinterCallback), (False, ProgressCallback)):
        callbacks = build_trainer(folder, disable_tqdm=off).callback_handler.callbacks
        assert any(isinstance(callback, kind) for callback in callbacks)


def report_to(folder: Path) -> None:
    with pytest.raises(TrainingError, match="bogus"):
        build_trainer(folder, report_to="bogus")
    quiet = build_trainer(folder, report_to="none").callback_handler.callbacks
    assert not any("integrations" in type(callback).__module__ for callback in quiet)


def enable_jit_checkpoint(folder: Path) -> None:
    callbacks = build_trainer(folder, enable_jit_checkpoint=True).callback_handler.callbacks
    assert any(isinstance(callback, JITCheckpointCallback) for callback in callbacks)


def full_determinism(folder: Path) -> None:
    seeds: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transformers.trainer.enable_full_determinism", seeds.append)
        build_trainer(folder, full_determinism=True, seed=5)
    assert seeds == [5]


def seed(folder: Path) -> None:
    drawn = [[v.row for b in build_trainer(folder, seed=s).build_sampler() for v in b] for s in (1, 2, 1)]
    assert drawn[0] == drawn[2] != drawn[1]


def use_cpu(folder: Path) -> None:
    assert build_trainer(folder, use_cpu=True).args.device.type == "cpu"


def accelerator_config(folder: Path) -> None:
    with pytest.raises(TrainingError, match="accelerator_config: split_batches"):
        build_arguments(folder, accelerator_config={"split_batches": True})
    options = {"gradient_accumulation_kwargs": {"sync_each_batch": True}}
    trainer = build_trainer(folder, accelerator_config=options)
    assert trainer.accelerator.gradient_state.plugin_kwargs["sync_each_batch"]


def dataloader(folder: Path) -> None:
    options = {"num_workers": 1, "persistent_workers": True, "prefetch_factor": 3, "in_order": False}
    given = {f"dataloader_{name}": value for name, value in options.items()}
    loader = build_trainer(folder, dataloader_multiprocessing_context="fork", **given).get_train_dataloader()
    assert {name: getattr(loader, name) for name in options} == options
    assert loader.multiprocessing_context.get_start_method() == "fork"
    for name in ("dataloader_persistent_workers", "dataloader_multiprocessing_context"):
        with pytest.raises(TrainingError, match=f"{name}: there are no workers"):
            build_arguments(folder, **{name: "fork" if name.endswith("context") else True})


def dataloader_pin_memory(folder: Path) -> None:
    trainer = build_trainer(folder)
    for pin in (False, True):
        trainer.args.dataloader_pin_memory = pin
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("torch.cuda.is_available", lambda: True)
            assert trainer.get_train_dataloader().pin_memory is pin
        assert trainer.get_train_dataloader().pin_memory is False


def ddp(folder: Path) -> None:
    for name, value in (("ddp_find_unused_parameters", False), ("ddp_static_graph", True)):
        with pytest.raises(TrainingError, match=f"{name}: .* expert"):
            build_trainer(folder, **{name: value})
        one = build_split().filter(lambda row: row["platform"] == 1)
        handler = build_trainer(folder, table={"train_dataset": one}, **{name: value}).accelerator.ddp_handler
        assert getattr(handler, name.removeprefix("ddp_")) is value


class Hub:
    """What would go to the Hub."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.created, self.pushed = [], []
        patch.setattr("transformers.trainer.hf_api", lambda: self)
        patch.setattr(saving, "push_folder", lambda *a, **k: self.pushed.append((a, k)))
        patch.setattr(saving, "PushInProgress", lambda jobs: self)

    def create_repo(self, name: str, **options: object) -> SimpleNamespace:
        self.created.append((name, options))
        return SimpleNamespace(repo_id=f"me/{name}")

    def is_done(self) -> bool:
        return False

    def wait_until_done(self) -> None: ...


def hub(folder: Path) -> None:
    names = {"hub_model_id": "tiny", "hub_token": "hf_x", "hub_private_repo": True, "hub_revision": "side"}
    steps = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1, "hub_strategy": "every_save"}
    for always in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            kept = Hub(patch)
            build_trainer(folder, push_to_hub=True, hub_always_push=always, **names, **steps).train()
        assert len(kept.pushed) == (2 if always else 1)  # the first push never ends
    (name, options), (target, pushed) = kept.created[0], kept.pushed[0]
    assert name == "tiny" and options["token"] == "hf_x" and options["private"] is True
    assert target[1] == "me/tiny" and "checkpoint-1" in str(target[0])
    assert (pushed["token"], pushed["private"], pushed["revision"]) == ("hf_x", True, "side")
    with pytest.raises(TrainingError, match="hub_strategy: 'checkpoint'"):
        build_arguments(folder, hub_strategy="checkpoint")


def torch_compile(folder: Path) -> None:
    trainer = build_trainer(folder, torch_compile=True, torch_compile_backend="eager")
    layers = [block for expert in trainer.model.experts.values() for block in expert.vision_blocks]
    assert all(layer._compiled_call_impl is not None for layer in layers)
    given: list[dict] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PlatformExpert, "compile_layers", lambda self, **options: given.append(options))
        build_trainer(folder, torch_compile_mode="reduce-overhead")
    assert given == [{"backend": "inductor", "mode": "reduce-overhead"}] * len(trainer.model.experts)
    with pytest.raises((RuntimeError, TrainingError), match=r"(?i)bogus"):
        build_trainer(folder, max_steps=1, torch_compile=True, torch_compile_backend="bogus").train()


def optimizers(folder: Path) -> None:
    model = build_trainer(folder).model
    mine = torch.optim.SGD(model.experts.parameters(), lr=0.5)
    trainer = build_trainer(folder, table={"model": model, "optimizers": (mine, None)}, max_steps=1)
    trainer.train()
    assert trainer.optimizer.optimizer is mine


def optimizer_cls_and_kwargs(folder: Path) -> None:
    trainer = build_trainer(folder, table={"optimizer_cls_and_kwargs": (torch.optim.SGD, {"lr": 0.125})})
    assert trainer.create_optimizer().param_groups[0]["lr"] == 0.125


def parts(folder: Path) -> None:
    count = Count()
    trainer = build_trainer(folder, table={"callbacks": [count], "eval_dataset": {"a": TEST}}, max_steps=1)
    trainer.train()
    assert count.step == 1 and trainer.args.max_steps == 1 and "experts" in dict(trainer.model.named_children())
    assert "eval_a_recall_at_1" in trainer.evaluate() and len(trainer.train_dataset) == len(build_split())
    trainer.save_model()
    assert (folder / "tokenizer.json").is_file()  # of processing_class


CHECKS = {
    **dict.fromkeys(("model", "args", "train_dataset", "eval_dataset", "processing_class", "callbacks"), parts),
    "optimizers": optimizers,
    "optimizer_cls_and_kwargs": optimizer_cls_and_kwargs,
    "optim": optim,
    "optim_args": optim_args,
    "gradient_accumulation_steps": gradient_accumulation_steps,
    "label_smoothing_factor": label_smoothing_factor,
    "bf16": bf16,
    "fp16": fp16,
    **dict.fromkeys(("activation_checkpointing", "activation_checkpointing_kwargs"), activation_checkpointing),
    **dict.fromkeys(
        ("gradient_checkpointing", "gradient_checkpointing_kwargs"),
        lambda folder: activation_checkpointing(folder, "gradient"),
    ),
    **dict.fromkeys(("torch_compile", "torch_compile_backend", "torch_compile_mode"), torch_compile),
    "disable_tqdm": disable_tqdm,
    "report_to": report_to,
    "enable_jit_checkpoint": enable_jit_checkpoint,
    "full_determinism": full_determinism,
    "seed": seed,
    "use_cpu": use_cpu,
    "accelerator_config": accelerator_config,
    **dict.fromkeys(
        [f"dataloader_{n}" for n in ("num_workers", "persistent_workers", "prefetch_factor", "in_order")], dataloader
    ),
    "dataloader_multiprocessing_context": dataloader,
    "dataloader_pin_memory": dataloader_pin_memory,
    **dict.fromkeys(("ddp_find_unused_parameters", "ddp_static_graph"), ddp),
    **dict.fromkeys([f"hub_{n}" for n in ("token", "private_repo", "model_id", "strategy", "always_push")], hub),
    **dict.fromkeys(("push_to_hub", "hub_revision"), hub),
}


def test_every_working_row_has_a_check() -> None:
    rows = {*names_with("Fields of TrainingArguments", "works"), *names_with("Arguments of the Trainer", "works")}
    assert rows == {*CHECKS, *SEEN_IN_ONE_RUN, *SEEN_OF_THE_BEST}


@pytest.mark.parametrize("check", list(dict.fromkeys(CHECKS.values())), ids=lambda check: check.__name__)
def test_check(tmp_path, check) -> None:
    check(tmp_path)
