"""Which of `transformers`' options a PE-MoE training takes; what it would ignore is refused by name at the start."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NoReturn

import datasets
import torch
from accelerate.utils import DataLoaderConfiguration
from torch import nn
from transformers import SchedulerType, TrainingArguments, get_scheduler
from transformers.trainer_pt_utils import AcceleratorConfig

from pemoe.common.errors import InputError, one_line
from pemoe.trainers.errors import TrainingError

_EVAL_LOOP = "evaluate ranks whole splits and has no loop over batches with logits and labels"
_TOKENS = "the loss is a mean over pairs, on all processes, not over tokens"
_SAMPLING = "a batch holds other places each, full and drawn by `seed`, however long its texts are"
_LIGER = "the text encoder's frozen layers are no language model's"
UNUSED_FIELDS = {  # of TrainingArguments, refused unless they keep their default: why, or what to use
    "num_train_epochs": "a stage is as long as `max_steps` says",
    "average_tokens_across_devices": _TOKENS,
    "auto_find_batch_size": "another batch size is another contrastive loss; choose per_device_train_batch_size",
    "bf16_full_eval": f"{_EVAL_LOOP}; use bf16",
    "fp16_full_eval": f"{_EVAL_LOOP}; use bf16",
    "use_liger_kernel": _LIGER,
    "liger_kernel_config": _LIGER,
    "use_cache": "there is no decoder with keys and values to keep",
    "neftune_noise_alpha": "the word embeddings are frozen, as the whole trunk is",
    "prediction_loss_only": _EVAL_LOOP,
    "eval_do_concat_batches": _EVAL_LOOP,
    "eval_use_gather_object": _EVAL_LOOP,
    "eval_accumulation_steps": _EVAL_LOOP,
    "include_for_metrics": "compute_metrics gets ranked places, true places and those of the gallery, always",
    "batch_eval_metrics": _EVAL_LOOP,
    "data_seed": "batches are drawn by `seed`",
    "dataloader_drop_last": "batches are always full; which places are left out goes round",
    "remove_unused_columns": "the batches are made of the columns of `schema.FEATURES`, and others are left alone",
    "label_names": "the labels are the places",
    "train_sampling_strategy": _SAMPLING,
    "length_column_name": _SAMPLING,
    "parallelism_config": "the loss joins the batches of all processes, each with a whole model",
}
UNUSED_ARGUMENTS = {  # of Trainer, refused unless None
    "data_collator": "batches and loss are this trainer's own; leave it out",
    "compute_loss_func": "batches and loss are this trainer's own; leave it out, or override compute_loss",
    "preprocess_logits_for_metrics": "batches and loss are this trainer's own; leave it out",
    "model_init": "a stage goes on from the experts that there are; give `model`",
}
UNUSED_METHODS = {  # of Trainer, refused when called, and where a subclass defines them
    "get_eval_dataloader": f"{_EVAL_LOOP}; use evaluate(rows)",
    "get_test_dataloader": f"{_EVAL_LOOP}; use evaluate(rows)",
    "evaluation_loop": f"{_EVAL_LOOP}; use evaluate(rows)",
    "prediction_step": f"{_EVAL_LOOP}; use evaluate(rows)",
    "hyperparameter_search": "it needs model_init, which is refused; build one trainer per trial",
    "call_model_init": UNUSED_ARGUMENTS["model_init"],
}
METRIC_SCHEDULERS = (SchedulerType.REDUCE_ON_PLATEAU.value, SchedulerType.GREEDY.value)  # they follow a figure
SCHEDULERS = tuple(kind.value for kind in SchedulerType if kind.value not in METRIC_SCHEDULERS)
_NEEDED_KEYS = {  # of lr_scheduler_kwargs; one of each group
    "cosine_with_min_lr": (("min_lr", "min_lr_rate"),),
    "cosine_warmup_with_min_lr": (("min_lr", "min_lr_rate"),),
    "warmup_stable_decay": (("num_decay_steps",),),
    "greedy": (("min_lr",), ("max_lr",)),  # its own defaults, 1e-3 and 1.0, would throw the experts away
}
_WITHOUT_OPTIONS = ("constant", "constant_with_warmup")
_WITHOUT_WARMUP = ("constant", *METRIC_SCHEDULERS)
_OPTIMIZERS_WITHOUT_OPTIONS = ("adamw_torch", "adamw_torch_fused", "adafactor", "adagrad", "rmsprop")
_NUMBER = re.compile(r"[-+]?[0-9.]+(e[-+]?[0-9]+)?")
_COLUMNS = ("image", "image_id", "place_id", "platform")


@contextmanager
def refused_in_one_line() -> Iterator[None]:
    """Turn what `transformers` refuses inside the block into a TrainingError of one line."""
    try:
        yield
    except InputError:
        raise
    except (ValueError, ImportError, RuntimeError, NotImplementedError) as error:
        raise TrainingError(one_line(error)) from error


def refused_method(name: str) -> Callable[..., NoReturn]:
    """A method that raises TrainingError: for a name of `UNUSED_METHODS`."""

    def method(self: object, *arguments: object, **options: object) -> NoReturn:
        raise TrainingError(f"{name}: {UNUSED_METHODS[name]}")

    method.__name__ = name
    method.__doc__ = f"Refused: {UNUSED_METHODS[name]}."
    return method


REFUSED_METHODS = {name: refused_method(name) for name in UNUSED_METHODS}


def check_hooks(trainer_class: type) -> None:
    """Raise TrainingError where a subclass defines a method that would never be called."""
    for name, refused in REFUSED_METHODS.items():
        if getattr(trainer_class, name) is not refused:
            raise TrainingError(f"{name}: {trainer_class.__name__} defines it, but {UNUSED_METHODS[name]}")


def check_arguments(args: TrainingArguments) -> None:
    """Refuse what a stage would ignore, or could not do, of complete `PeMoETrainingArguments`.

    Raises:
        TrainingError: names the field, and says what to do.
    """
    defaults = {field.name: _default(field) for field in dataclasses.fields(args)}
    for name, reason in UNUSED_FIELDS.items():
        if getattr(args, name) != defaults[name]:
            raise TrainingError(f"{name}: {reason}; leave it out")
    _check_accelerator(args.accelerator_config)
    _check_workers(args)
    _check_optimizer_name(args)
    if args.debug:
        raise TrainingError("debug: transformers' check of numbers breaks at boolean masks; leave it out")
    if args.fp16 and (args.use_cpu or not torch.cuda.is_available()):
        raise TrainingError("fp16: without a GPU nothing is halved; use bf16")
    for name, chosen in (("load_best_model_at_end", True), ("save_strategy", "best")):
        if getattr(args, name) == chosen and args.eval_strategy == "no":
            raise TrainingError(f"{name}: {chosen!r} needs figures; set eval_strategy")
    kind, options = args.lr_scheduler_type.value, args.lr_scheduler_kwargs or {}
    if kind in METRIC_SCHEDULERS:
        mode = "max" if args.greater_is_better else "min"
        if options.get("mode") != mode:
            raise TrainingError(f"lr_scheduler_kwargs: mode must be {mode!r} for {args.metric_for_best_model}")
    check_schedule(kind, options, args.warmup_steps, args.max_steps, args.learning_rate)


def _default(field: dataclasses.Field) -> object:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _check_accelerator(config: AcceleratorConfig) -> None:
    """Batches go to the processes by the sampler, not by accelerate."""
    drawn = {field.name for field in dataclasses.fields(DataLoaderConfiguration)}
    for name, value in AcceleratorConfig().to_dict().items():
        if name in drawn and getattr(config, name) != value:
            raise TrainingError(f"accelerator_config: {name}: batches are this trainer's own; leave it out")


def _check_workers(args: TrainingArguments) -> None:
    for name in ("dataloader_persistent_workers", "dataloader_multiprocessing_context"):
        if getattr(args, name) and not args.dataloader_num_workers:
            raise TrainingError(f"{name}: there are no workers; set dataloader_num_workers to 1 or more")


def _check_optimizer_name(args: TrainingArguments) -> None:
    optim = args.optim.value
    if "lomo" in optim or optim.endswith("_layerwise"):
        raise TrainingError(f"optim: {optim} steps inside the backward pass, before the gradient is whole")
    if optim.startswith("schedule_free"):
        raise TrainingError(f"optim: {optim} keeps other weights for evaluating than for training; use adamw_torch")
    if args.optim_args and optim in _OPTIMIZERS_WITHOUT_OPTIONS:
        raise TrainingError(f"optim_args: {optim} takes none; leave it out")
    if args.optim_target_modules is not None and not optim.startswith(("galore", "apollo")):
        raise TrainingError(f"optim_target_modules: {optim} takes none; leave it out")


def check_optimizer(build: Callable[[], tuple[type, dict]]) -> None:
    """Build the optimizer of the arguments on one number: a package that lacks, or a bad value, is told at once.

    Raises:
        TrainingError: what the optimizer says, in one line.
    """
    try:
        optimizer, options = build()
        if not {"params", "model", "optimizer_dict"} & options.keys():  # GaLore's and APOLLO's own groups
            optimizer([nn.Parameter(torch.zeros(1, 1))], **options)
    except (ValueError, TypeError, ImportError) as error:
        raise TrainingError(f"optim: {one_line(error)}") from error


def check_schedule(
    kind: str, options: Mapping, warmup_steps: float, num_steps: int, learning_rate: float, where: str = ""
) -> None:
    """Refuse a learning-rate schedule that lacks a key, ignores one, or gives no finite rate; `where` is a prefix.

    Raises:
        TrainingError: names the field and the key.

    Example:
        >>> check_schedule("cosine_with_min_lr", {"min_lr": 1e-7}, warmup_steps=2, num_steps=9, learning_rate=1e-5)
    """
    field = f"{where}lr_scheduler_kwargs"
    _check_keys(field, kind, options)
    if kind in _WITHOUT_WARMUP and warmup_steps:
        raise TrainingError(f"{where}warmup_steps: {kind} has no warmup; set it to 0, or use constant_with_warmup")
    warmup = int(warmup_steps) if warmup_steps >= 1 else math.ceil(num_steps * warmup_steps)
    if warmup > num_steps:
        raise TrainingError(f"{where}warmup_steps: {warmup} are more than the stage's {num_steps} steps")
    if kind == "warmup_stable_decay" and warmup + options["num_decay_steps"] > num_steps:
        parts = f"{warmup} of warmup and {options['num_decay_steps']} of decay"
        raise TrainingError(f"{field}: num_decay_steps: {parts} are more than the stage's {num_steps} steps")
    try:
        rates = _rates(kind, options, warmup, num_steps, learning_rate)
    except (TypeError, ValueError, ArithmeticError, KeyError) as error:
        raise TrainingError(f"{field}: {kind}: {one_line(error)}") from error
    if bad := [rate for rate in rates if isinstance(rate, complex) or not (math.isfinite(rate) and rate >= 0)]:
        raise TrainingError(f"{field}: {kind} gives a learning rate of {bad[0]}; use other numbers")


def _check_keys(field: str, kind: str, options: Mapping) -> None:
    """Keys and values of `lr_scheduler_kwargs`, before the schedule is built."""
    for keys in _NEEDED_KEYS.get(kind, ()):
        if not any(key in options for key in keys):
            raise TrainingError(f"{field}: {kind} needs {' or '.join(keys)}")
    if kind in _WITHOUT_OPTIONS and options:
        raise TrainingError(f"{field}: {kind} takes none; leave out {next(iter(options))}")
    for key, value in options.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise TrainingError(f"{field}: {key} is {value}, use a finite number")
        if isinstance(value, str) and _NUMBER.fullmatch(value):
            raise TrainingError(f"{field}: {key} is the text {value!r}; YAML reads 1.0e-7 as a number, 1e-7 as text")


def _rates(kind: str, options: Mapping, warmup: int, num_steps: int, learning_rate: float) -> list[float]:
    """Rates at the first, the middle and the last step; of a schedule that follows a figure, the first."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=learning_rate)
    scheduler = get_scheduler(kind, optimizer, warmup, num_steps, dict(options))
    factors = getattr(scheduler, "lr_lambdas", None)
    if factors is None:
        return [group["lr"] for group in optimizer.param_groups]
    return [learning_rate * factors[0](step) for step in (0, num_steps // 2, num_steps - 1)]


def check_model(model: object) -> None:
    """Raise TrainingError unless it is a `PeMoEModel`, bare or with an adapter of peft."""
    if getattr(getattr(model, "config", None), "model_type", None) != "pemoe" or not hasattr(model, "experts"):
        raise TrainingError(f"model: {type(model).__name__} is no PeMoEModel; see PeMoEModel.from_backbones")


def check_rows(rows: object, captions: str, name: str) -> None:
    """Raise TrainingError unless `rows` is one split in memory or on disk, with what a training or evaluation reads.

    Args:
        rows, captions, name: the split, the column of its captions, and what the user calls it.
    """
    advice = None
    if isinstance(rows, dict):
        advice = f"it holds the splits {', '.join(map(str, rows))}; give one of them"
    elif isinstance(rows, datasets.IterableDataset):
        advice = "places are drawn over the whole split; load it without streaming=True"
    elif not isinstance(rows, datasets.Dataset):
        advice = f"a {type(rows).__name__} has no columns; give a datasets.Dataset with those of schema.FEATURES"
    elif missing := [column for column in (*_COLUMNS, captions) if column not in rows.column_names]:
        advice = f"it has no column {missing[0]!r}; give the columns of schema.FEATURES"
    elif not isinstance(rows.features["platform"], datasets.ClassLabel):
        advice = "its column platform is no ClassLabel; use rows.cast_column('platform', schema.FEATURES['platform'])"
    if advice is not None:
        raise TrainingError(f"{name}: {advice}")


def check_places(stage: str, platform: str, group: Mapping) -> None:
    """Raise TrainingError where a platform's joined batches hold one place; `group` is its part of a sampler's plan.

    Example:
        >>> check_places("contrastive", "drone", {"places": 2, "joined_batch_size": 2})
    """
    if min(group["places"], group["joined_batch_size"]) < 2:
        found = f"{platform} has {group['places']} places in batches of {group['joined_batch_size']}"
        raise TrainingError(f"stage {stage!r}: {found}, which leaves no negatives; give 2 places and a batch of 2")
