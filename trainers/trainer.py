"""`PeMoETrainer`: one stage of PE-MoE training on `transformers.Trainer`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

import datasets
import numpy as np
import torch
from accelerate.utils import TorchDynamoPlugin
from torch import Tensor
from torch.utils.data import DataLoader
from transformers.utils import logging

from pemoe.datasets_scripts.schema import PLATFORMS
from pemoe.modeling_pemoe import PeMoEModel, PeMoEProcessor
from pemoe.modeling_pemoe.lora_pemoe import base_of
from pemoe.retrieval.feature_cache import ImageStates, check_trunk_is_frozen
from pemoe.trainers.arguments import STAGES, PeMoETrainingArguments
from pemoe.trainers.batches.pairs import NUMBERS, PICTURES, PairCollator, PairDataset
from pemoe.trainers.batches.samplers import PlatformBatchSampler
from pemoe.trainers.chunks import check_compile, check_large_batches, loss_in_chunks, refuse_scaling
from pemoe.trainers.errors import TrainingError
from pemoe.trainers.evaluating import EvalRows, EvaluatingTrainer, check_eval_rows, check_metric
from pemoe.trainers.mining.neighbours import NeighbourTables
from pemoe.trainers.monitoring import MonitoredTrainer, StepMonitor
from pemoe.trainers.options import (
    UNUSED_ARGUMENTS,
    check_arguments,
    check_hooks,
    check_model,
    check_optimizer,
    check_places,
    check_rows,
    refused_in_one_line,
)
from pemoe.trainers.parallel.distributed import rank, world_size
from pemoe.trainers.parallel.sharding import ShardingTrainer
from pemoe.trainers.saving import SavingTrainer, has_adapter
from pemoe.trainers.steps import StageLoss, StepRecord, fix_temperature

logger = logging.get_logger(__name__)
_LOSS_METHODS = ("compute_loss", "training_step")  # in which a subclass may change the loss


class PeMoETrainer(MonitoredTrainer, SavingTrainer, EvaluatingTrainer, ShardingTrainer):
    """Trains one stage: every step holds one platform and moves that platform's expert alone.

    Stage "contrastive" minimises InfoNCE, "hard_negative" a triplet loss on mined negatives plus InfoNCE, "gate" the
    cross-entropy on the query's platform and/or InfoNCE through Eq. (1), experts frozen; its batches hold the data's
    own shares of platforms. The unified model (`platforms=["all"]`) trains on all platforms mixed, in stage "unified"
    by InfoNCE. Batches are joined over processes with gradient, so that N processes equal one.

    LoRA platforms (`add_platform(..., lora_rank=8)`, `adapt_platform`) are trained on rows of theirs alone: each step
    moves one adapter, and what is saved is the folder of `save_platform`, or of several a folder each. `evaluate`
    searches rows of one of them with its expert alone. A model with an adapter of peft itself (`get_peft_model`) keeps
    what peft chose to train, and the adapter alone is saved.

    Args:
        model: a `PeMoEModel`; its trainable parameters are upcast to fp32.
        train_dataset, eval_dataset: splits with the columns of `schema.FEATURES`, not streamed; `eval_dataset` also
            several by name, a dict or `DatasetDict`.
        processing_class: the model's `PeMoEProcessor`.
        hard_negatives: `(rows, k)` int64 from `mine_split`, required by stage "hard_negative".
        image_states: trunk states of the training rows, `(rows, N, W)` or of a `FeatureCache`; None runs the image
            trunk in every step.
        kwargs: passed to `transformers.Trainer`. `compute_metrics` is called by `evaluate` with an `EvalPrediction`:
            `predictions` are the place ids of each query's first 10 pictures, best first, `(n_queries, 10)` strings
            (fewer columns where the gallery is smaller), `label_ids` the true ones, `(n_queries,)`, and `inputs`
            those of the whole gallery. The dict that it returns is logged with the other figures, under `eval_`.

    Raises:
        TrainingError: a stage without what it needs, platforms that data and model do not share, batches without a
            negative, or an option or method of `transformers.Trainer` that this one has no use for (docs/training.md).
    """

    loss_is_scaled_for_ga = False
    last_step: StepRecord | None = None
    neighbours: NeighbourTables | None = None  # of a stage whose batches hold near places

    def __init__(
        self,
        model: PeMoEModel | None = None,
        args: PeMoETrainingArguments | None = None,
        train_dataset: datasets.Dataset | None = None,
        eval_dataset: EvalRows | None = None,
        processing_class: PeMoEProcessor | None = None,
        hard_negatives: np.ndarray | None = None,
        image_states: Tensor | ImageStates | None = None,
        **kwargs: object,
    ) -> None:
        self._check_start(model, args, train_dataset, eval_dataset, processing_class, kwargs)
        stage = STAGES[args.stage]
        if stage.needs_negatives and hard_negatives is None:
            raise TrainingError(f"hard_negatives: stage {args.stage!r} needs them; see mine_split")
        if stage.trains == "unified" and not model.config.is_unified:
            raise TrainingError(f"stage {args.stage!r} trains one expert: give model.share_trunks(['all'])")
        pairs = None
        if train_dataset is not None:
            negatives = hard_negatives if stage.needs_negatives else None
            drawn = args.caption_column, args.seed, negatives, image_states, args.augment, args.augmented_views
            pairs = PairDataset(train_dataset, *drawn)
        platform_names = list(PLATFORMS) if pairs is None else pairs.platform_names
        self.lora_platforms = prepare_for_stage(model, args.stage, args.gate_loss, pairs, args.platforms)
        fix_temperature(model, args)
        if image_states is not None:
            check_trunk_is_frozen(model)
        self.stage_loss = StageLoss(args, model, platform_names)
        data = {"train_dataset": pairs, "eval_dataset": eval_dataset, "data_collator": PairCollator(processing_class)}
        with refused_in_one_line():
            super().__init__(model=model, args=args, processing_class=processing_class, **data, **kwargs)
        self._check_built()
        if pairs is not None and args.neighbours != "none":
            self.neighbours = self._find_neighbours(train_dataset, image_states)
            self.add_callback(self.neighbours)
        self.monitor = StepMonitor(self, platform_names, mixed=model.config.is_unified or stage.mixed)
        self.add_callback(self.monitor)
        self.model_accepts_loss_kwargs = False
        check_large_batches(args, self.is_deepspeed_enabled, self.is_fsdp_enabled)
        if args.torch_compile:
            check_compile(args, model)
            for expert in model.experts.values():
                expert.compile_layers(backend=args.torch_compile_backend, mode=args.torch_compile_mode)
        self.can_save_experts_only = False
        with suppress(ValueError):  # raised where a checkpoint of the experts alone could not be loaded again
            model.check_trunks_are_external()
            self.can_save_experts_only = True

    def _check_start(
        self,
        model: object,
        args: object,
        train_dataset: object,
        eval_dataset: object,
        processing_class: object,
        others: dict[str, object],
    ) -> None:
        """Refuse, before the model is touched, what this trainer cannot take, or would ignore."""
        check_hooks(type(self))
        if unused := [name for name in UNUSED_ARGUMENTS if others.pop(name, None) is not None]:
            raise TrainingError(f"{unused[0]}: {UNUSED_ARGUMENTS[unused[0]]}")
        if not isinstance(args, PeMoETrainingArguments):
            raise TrainingError("args: give PeMoETrainingArguments, which take what TrainingArguments take")
        check_arguments(args)
        check_model(model)
        if processing_class is None:
            raise TrainingError("processing_class: give the model's PeMoEProcessor")
        if train_dataset is not None:
            check_rows(train_dataset, args.caption_column, "train_dataset")
        if eval_dataset is not None:
            check_eval_rows(eval_dataset)
        if args.eval_strategy != "no" or args.eval_on_start:
            check_metric(args.metric_for_best_model, eval_dataset, others.get("compute_metrics"))

    def _check_built(self) -> None:
        """Refuse what only the built trainer shows: the machine's processes, the batches, the optimizer."""
        args = self.args
        if args.n_gpu > 1:
            what = f"one process sees {args.n_gpu} GPUs, whose batches it would not join"
            raise TrainingError(f"{what}; start with torchrun or accelerate launch, or set CUDA_VISIBLE_DEVICES=0")
        if self.optimizer is None and self.optimizer_cls_and_kwargs is None:
            check_optimizer(lambda: self.get_optimizer_cls_and_kwargs(args, self.model))
        if self.train_dataset is None:
            return
        plan = self.build_sampler().plan()
        if has_negatives(args.stage, args.gate_loss, args.info_nce_weight):
            names = self.train_dataset.platform_names
            for number, group in plan.items():
                check_places(args.stage, number if isinstance(number, str) else names[number], group)
        if STAGES[args.stage].trains == "experts" and len(plan) > 1:  # every step uses another expert
            if args.ddp_find_unused_parameters is False:
                raise TrainingError("ddp_find_unused_parameters: idle experts get no gradient; set it to True")
            if args.ddp_static_graph:
                raise TrainingError("ddp_static_graph: every step trains another expert; leave it out")

    def _build_accelerator_args(self, **kwargs: object) -> dict[str, object]:
        """As the Trainer's, but with `torch_compile` the model as a whole is left alone: the experts' layers are."""
        options = super()._build_accelerator_args(**kwargs)
        return {**options, "dynamo_plugin": TorchDynamoPlugin(backend="no")} if self.args.torch_compile else options

    def _find_neighbours(self, rows: datasets.Dataset, image_states: Tensor | None) -> NeighbourTables:
        """The near places of this stage's batches, by its pictures as they are."""
        args = self.args
        if args.neighbours == "embedding" and (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            what = "'embedding' needs whole experts on every process, FSDP and DeepSpeed split them"
            raise TrainingError(f"neighbours: {what}; use 'metres', or start without")
        states = image_states if args.augment == "none" else None  # with augmentation, states are of changed pictures
        pairs = PairDataset(rows, args.caption_column, args.seed, image_states=states)
        return NeighbourTables(self.model, self.processing_class, rows, pairs, list(self.build_sampler().plan()), args)

    def build_sampler(self) -> PlatformBatchSampler:
        """The batches of this stage, for this process."""
        args, batch_size = self.args, self.args.per_device_train_batch_size
        batches = self.model, self.train_dataset, args.stage, batch_size, args.max_steps, args.seed
        tables = None if self.neighbours is None else self.neighbours.at
        return build_sampler(*batches, tables, args.platforms)

    def get_train_dataloader(self) -> DataLoader:
        """Batches of this process's sampler; not handed to accelerate, which would cut them a second time."""
        if self.train_dataset is None:
            raise TrainingError("train: give train_dataset to the trainer")
        return DataLoader(
            self.train_dataset,
            batch_sampler=self.build_sampler(),
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory and torch.cuda.is_available(),
            persistent_workers=self.args.dataloader_persistent_workers,
            prefetch_factor=self.args.dataloader_prefetch_factor,
            multiprocessing_context=self.args.dataloader_multiprocessing_context,
            in_order=self.args.dataloader_in_order,
        )

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: int | None = None,
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """Loss of one batch in this stage; the embeddings of all processes take part.

        With `chunk_size` set and gradients enabled, the gradients of all chunks but the last are added to the
        parameters here; see `loss_in_chunks`: a subclass may add to the loss then, not scale it. What the step found
        stays in `last_step`.
        """
        if self.args.in_chunks and torch.is_grad_enabled():
            size, accelerator = self.args.chunk_size, self.accelerator
            joined, parts = loss_in_chunks(self.stage_loss, model, inputs, size, accelerator)
            if any(getattr(type(self), name) is not getattr(PeMoETrainer, name) for name in _LOSS_METHODS):
                refuse_scaling(parts["loss"], accelerator)  # waits for the device
        else:
            joined = self.stage_loss.join(self.stage_loss.embed(model, inputs), inputs)
            parts = self.stage_loss.score(joined)
        self.last_step = {
            "parts": {name: part.detach() for name, part in parts.items()},
            "embeds": {name: part.detach().clone() for name, part in joined.items()},  # the gate's temperature moves
            "batch": {name: inputs[name] for name in NUMBERS if name in inputs},
        }
        return (parts["loss"], joined) if return_outputs else parts["loss"]

    def _prepare_inputs(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """A batch on its device, but for pictures that will be embedded in chunks: those are moved chunk by chunk."""
        stays = {name: inputs[name] for name in PICTURES if name in inputs and self.args.in_chunks}
        moves = {name: tensor for name, tensor in inputs.items() if name not in stays}
        return {**super()._prepare_inputs(moves), **stays}

    def get_decay_parameter_names(self, model: torch.nn.Module) -> list[str]:
        """Weight decay for matrices only: no norm, bias or temperature."""
        return [name for name in super().get_decay_parameter_names(model) if not name.endswith("logit_scale")]


def has_negatives(stage: str, gate_loss: str, info_nce_weight: float) -> bool:
    """Whether a stage's loss compares the pairs of a batch, so that one place alone would teach nothing."""
    if STAGES[stage].loss == "gate":
        return gate_loss != "platform"
    return STAGES[stage].loss == "contrastive" or info_nce_weight > 0


def build_sampler(
    model: PeMoEModel,
    pairs: PairDataset,
    stage: str,
    batch_size: int,
    num_steps: int,
    seed: int,
    neighbours: Callable[[int], np.ndarray] | None = None,
    platforms: list[str] | None = None,
) -> PlatformBatchSampler:
    """The batches of a stage for this process: one platform a step, or mixed as stage or model asks.

    `platforms`, where given, are the only ones drawn.
    """
    unified = model.config.is_unified or STAGES[stage].trains == "unified"
    return PlatformBatchSampler(
        pairs.platform_id,
        pairs.place_id,
        sorted(set(pairs.platform_id.tolist())) if unified else trained_platforms(model, pairs, platforms),
        batch_size=batch_size,
        num_steps=num_steps,
        seed=seed,
        rank=rank(),
        world_size=world_size(),
        mixed=unified or STAGES[stage].mixed,
        neighbours=neighbours,
    )


def trained_platforms(model: PeMoEModel, pairs: PairDataset, chosen: Sequence[str] | None = None) -> list[int]:
    """Platforms (numbers of the data's classes) of both data and model, in the model's order, of those `chosen`.

    Raises TrainingError: there are none, or a chosen one is not among them.
    """
    names, in_data = pairs.platform_names, set(pairs.platform_id.tolist())
    shared = [names.index(name) for name in model.config.platforms if name in names and names.index(name) in in_data]
    for name in chosen or ():
        if name not in [names[number] for number in shared]:
            where = "training rows" if name in model.config.platforms else "model"
            raise TrainingError(f"platforms: no {name!r} in the {where}; leave it out")
    if chosen is not None:
        shared = [number for number in shared if names[number] in chosen]
    if not shared:
        raise TrainingError(
            f"platforms: the model has {list(model.config.platforms)}, the data {[names[k] for k in sorted(in_data)]}"
        )
    return shared


def prepare_for_stage(
    model: PeMoEModel, stage: str, gate_loss: str, pairs: PairDataset | None, asked: list[str] | None = None
) -> list[str]:
    """Choose what a stage trains, in fp32: the experts, or the gate (with `logit_scale` when retrieval teaches it).

    A gate stage takes the masks of the platforms it sees away. Where the model has LoRA platforms, no other expert is
    trained; the names of those that are come back. An adapter of peft's own keeps what it trains.

    Raises TrainingError when data and model share no platform or not all that are `asked` for, when a LoRA platform
    would be trained together with anything else, or when a gate stage is given a model with an adapter.
    """
    platforms: list[str] = []
    if pairs is not None and not model.config.is_unified:
        platforms = [pairs.platform_names[number] for number in trained_platforms(model, pairs, asked)]
    trains_gate = STAGES[stage].trains == "gate"
    if has_adapter(model):
        if trains_gate:
            raise TrainingError(f"stage {stage!r} trains the gate, not an adapter: merge the adapter first")
        return []
    lora_platforms = [] if pairs is None else _lora_platforms(model, platforms, trains_gate)
    upcast = [p for root in (model.experts, model.gate) for p in root.parameters() if p.dtype != torch.float32]
    if upcast:
        logger.warning(f"{len(upcast)} trainable tensors are upcast to fp32: AdamW loses small updates in bf16")
    model.experts.float()
    model.gate.float()
    model.logit_scale.data = model.logit_scale.data.float()
    model.freeze_trunks()
    chosen = lora_platforms or asked or list(model.experts)
    model.train_experts([] if trains_gate else chosen)
    model.gate.requires_grad_(trains_gate)
    model.logit_scale.requires_grad_(trains_gate and gate_loss != "platform")
    if trains_gate:
        model.config.masked_platforms = [name for name in model.config.masked_platforms if name not in platforms]
    return lora_platforms


def _lora_platforms(model: PeMoEModel, platforms: list[str], trains_gate: bool) -> list[str]:
    """The LoRA platforms that the rows train, none in a model without; TrainingError: they would not be alone."""
    lora = model.lora_platforms
    if not lora:
        return []
    if trains_gate or not set(platforms) <= set(lora):
        kin = "alone, or with others of its kind"
        what = f"{lora[-1]!r} is a LoRA platform, which trains {kin}, on rows of theirs and before the gate"
        raise TrainingError(f"{what}: give such rows, or model.merge_platform({lora[-1]!r}) first")
    try:
        base_of(model)
    except ValueError as error:
        raise TrainingError(str(error)) from error
    return platforms
