"""`PeMoETrainer`: one stage of PE-MoE training on `transformers.Trainer`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import datasets
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers.utils import logging

from pemoe.datasets_scripts.schema import PLATFORMS
from pemoe.modeling_pemoe import PeMoEModel, PeMoEProcessor
from pemoe.modeling_pemoe.lora_pemoe import base_of
from pemoe.trainers.arguments import STAGES, PeMoETrainingArguments
from pemoe.trainers.data import PairCollator, PairDataset
from pemoe.trainers.distributed import rank, world_size
from pemoe.trainers.errors import TrainingError
from pemoe.trainers.evaluating import EvalRows, EvaluatingTrainer
from pemoe.trainers.mining.neighbours import NeighbourTables
from pemoe.trainers.samplers import PlatformBatchSampler
from pemoe.trainers.saving import SavingTrainer, has_adapter
from pemoe.trainers.steps import StageLoss

logger = logging.get_logger(__name__)
UNUSED_OPTIONS = ("data_collator", "compute_loss_func", "preprocess_logits_for_metrics")


class PeMoETrainer(SavingTrainer, EvaluatingTrainer):
    """Trains one stage: every step holds one platform and moves that platform's expert alone.

    Stage "contrastive" minimises InfoNCE, "hard_negative" a triplet loss on mined negatives plus InfoNCE, "gate" the
    cross-entropy on the query's platform and/or InfoNCE through Eq. (1), experts frozen; its batches hold the data's
    own shares of platforms. The unified model (`platforms=["all"]`) trains on all platforms mixed, in stage "unified"
    by InfoNCE. Batches are joined over processes with gradient, so that N processes equal one.

    A LoRA platform (`add_platform(..., lora_rank=8)`) is trained alone, on rows of that platform: its adapter learns,
    `evaluate` searches with its expert alone, and what is saved is the folder of `save_platform`. A model with an
    adapter of peft itself (`get_peft_model`) keeps what peft chose to train, and the adapter alone is saved.

    Args:
        model: a `PeMoEModel`; its trainable parameters are upcast to fp32.
        train_dataset, eval_dataset: splits with the columns of `schema.FEATURES`; `eval_dataset` also several by name.
        processing_class: the model's `PeMoEProcessor`.
        hard_negatives: `(rows, k)` int64 from `mine_split`, required by stage "hard_negative".
        image_states: trunk states of the training rows, `(rows, N, W)`; None runs the trunk in every step.
        kwargs: passed to `transformers.Trainer`. `compute_metrics` is called by `evaluate` with an `EvalPrediction`:
            `predictions` are the place ids of each query's first 10 pictures, best first, `(n_queries, 10)` strings
            (fewer columns where the gallery is smaller), `label_ids` the true ones, `(n_queries,)`, and `inputs`
            those of the whole gallery. The dict that it returns is logged with the other figures, under `eval_`.

    Raises:
        TrainingError: a stage without what it needs, platforms that data and model do not share, or an option of
            `transformers.Trainer` that this one has no use for.
    """

    loss_is_scaled_for_ga = False
    neighbours: NeighbourTables | None = None  # of a stage whose batches hold near places

    def __init__(
        self,
        model: PeMoEModel,
        args: PeMoETrainingArguments,
        train_dataset: datasets.Dataset | None = None,
        eval_dataset: EvalRows | None = None,
        processing_class: PeMoEProcessor | None = None,
        hard_negatives: np.ndarray | None = None,
        image_states: Tensor | None = None,
        **kwargs: object,
    ) -> None:
        if processing_class is None:
            raise TrainingError("processing_class: give the model's PeMoEProcessor")
        if unused := [name for name in UNUSED_OPTIONS if kwargs.pop(name, None) is not None]:
            raise TrainingError(f"{unused[0]}: batches and loss are this trainer's own; leave it out")
        stage = STAGES[args.stage]
        if stage.needs_negatives and hard_negatives is None:
            raise TrainingError(f"hard_negatives: stage {args.stage!r} needs them; see mine_split")
        if stage.trains == "unified" and not model.config.is_unified:
            raise TrainingError(f"stage {args.stage!r} trains one expert: give model.share_trunks(['all'])")
        pairs = None
        if train_dataset is not None:
            negatives = hard_negatives if stage.needs_negatives else None
            pairs = PairDataset(train_dataset, args.caption_column, args.seed, negatives, image_states, args.augment)
        platform_names = list(PLATFORMS) if pairs is None else pairs.platform_names
        self.lora_platform = prepare_for_stage(model, args.stage, args.gate_loss, pairs)
        self.stage_loss = StageLoss(args, model, platform_names)
        data = {"train_dataset": pairs, "eval_dataset": eval_dataset, "data_collator": PairCollator(processing_class)}
        super().__init__(model=model, args=args, processing_class=processing_class, **data, **kwargs)
        if pairs is not None and args.neighbours != "none":
            self.neighbours = self._find_neighbours(train_dataset, image_states)
            self.add_callback(self.neighbours)
        self.model_accepts_loss_kwargs = False
        self.can_save_experts_only = False
        with suppress(ValueError):  # raised where a checkpoint of the experts alone could not be loaded again
            model.check_trunks_are_external()
            self.can_save_experts_only = True

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
        return build_sampler(*batches, None if self.neighbours is None else self.neighbours.at)

    def get_train_dataloader(self) -> DataLoader:
        """Batches of this process's sampler; not handed to accelerate, which would cut them a second time."""
        return DataLoader(
            self.train_dataset,
            batch_sampler=self.build_sampler(),
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory and torch.cuda.is_available(),
        )

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: int | None = None,
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """Loss of one batch in this stage; the embeddings of all processes take part."""
        embeds = self.stage_loss.embed(model, inputs)
        parts = self.stage_loss(embeds, inputs)
        return (parts["loss"], embeds) if return_outputs else parts["loss"]

    def get_decay_parameter_names(self, model: torch.nn.Module) -> list[str]:
        """Weight decay for matrices only: no norm, bias or temperature."""
        return [name for name in super().get_decay_parameter_names(model) if not name.endswith("logit_scale")]


def build_sampler(
    model: PeMoEModel,
    pairs: PairDataset,
    stage: str,
    batch_size: int,
    num_steps: int,
    seed: int,
    neighbours: Callable[[int], np.ndarray] | None = None,
) -> PlatformBatchSampler:
    """The batches of a stage for this process: one platform a step, or mixed as stage or model asks."""
    unified = model.config.is_unified or STAGES[stage].trains == "unified"
    return PlatformBatchSampler(
        pairs.platform_id,
        pairs.place_id,
        sorted(set(pairs.platform_id.tolist())) if unified else _trained_platforms(model, pairs),
        batch_size=batch_size,
        num_steps=num_steps,
        seed=seed,
        rank=rank(),
        world_size=world_size(),
        mixed=unified or STAGES[stage].mixed,
        neighbours=neighbours,
    )


def _trained_platforms(model: PeMoEModel, pairs: PairDataset) -> list[int]:
    """Platforms (numbers of the data's classes) of both data and model, in the model's order; TrainingError: none."""
    names, in_data = pairs.platform_names, set(pairs.platform_id.tolist())
    shared = [names.index(name) for name in model.config.platforms if name in names and names.index(name) in in_data]
    if not shared:
        raise TrainingError(
            f"platforms: the model has {list(model.config.platforms)}, the data {[names[k] for k in sorted(in_data)]}"
        )
    return shared


def prepare_for_stage(model: PeMoEModel, stage: str, gate_loss: str, pairs: PairDataset | None) -> str | None:
    """Choose what a stage trains, in fp32: the experts, or the gate (with `logit_scale` when retrieval teaches it).

    A gate stage takes the masks of the platforms it sees away. Where the model has LoRA platforms, one of them is
    trained alone; its name is returned. An adapter of peft's own keeps what it trains.

    Raises TrainingError when data and model share no platform, when a LoRA platform would be trained together with
    anything else, or when a gate stage is given a model with an adapter.
    """
    platforms: list[str] = []
    if pairs is not None and not model.config.is_unified:
        platforms = [pairs.platform_names[number] for number in _trained_platforms(model, pairs)]
    trains_gate = STAGES[stage].trains == "gate"
    if has_adapter(model):
        if trains_gate:
            raise TrainingError(f"stage {stage!r} trains the gate, not an adapter: merge the adapter first")
        return None
    lora_platform = None if pairs is None else _lora_platform(model, platforms, trains_gate)
    upcast = [p for root in (model.experts, model.gate) for p in root.parameters() if p.dtype != torch.float32]
    if upcast:
        logger.warning(f"{len(upcast)} trainable tensors are upcast to fp32: AdamW loses small updates in bf16")
    model.experts.float()
    model.gate.float()
    model.logit_scale.data = model.logit_scale.data.float()
    model.freeze_trunks()
    chosen = list(model.experts) if lora_platform is None else [lora_platform]
    model.train_experts([] if trains_gate else chosen)
    model.gate.requires_grad_(trains_gate)
    model.logit_scale.requires_grad_(trains_gate and gate_loss != "platform")
    if trains_gate:
        model.config.masked_platforms = [name for name in model.config.masked_platforms if name not in platforms]
    return lora_platform


def _lora_platform(model: PeMoEModel, platforms: list[str], trains_gate: bool) -> str | None:
    """The LoRA platform that the rows train, or None in a model without; TrainingError: it would not be alone."""
    lora = model.lora_platforms
    if not lora:
        return None
    if trains_gate or len(platforms) != 1 or platforms[0] not in lora:
        what = f"{lora[-1]!r} is a LoRA platform, which trains alone, on rows of its own and before the gate"
        raise TrainingError(f"{what}: give such rows, or model.merge_platform({lora[-1]!r}) first")
    try:
        base_of(model)
    except ValueError as error:
        raise TrainingError(str(error)) from error
    return platforms[0]
