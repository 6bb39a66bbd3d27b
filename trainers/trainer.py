"""`PeMoETrainer`: one stage of PE-MoE training on `transformers.Trainer`."""

from __future__ import annotations

from contextlib import suppress
from typing import NoReturn

import datasets
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import EvalPrediction
from transformers.utils import logging

from pemoe.datasets_scripts.schema import PLATFORMS
from pemoe.modeling_pemoe import InfoNCELoss, PeMoEModel, PeMoEOutput, PeMoEProcessor, TripletLoss
from pemoe.modeling_pemoe.lora_pemoe import base_of
from pemoe.modeling_pemoe.modeling_pemoe import fuse_images, fuse_text
from pemoe.retrieval.embedding import EmbeddedSplit, embed_split
from pemoe.retrieval.evaluation import score_split
from pemoe.retrieval.metrics import CUTOFFS
from pemoe.retrieval.scoring import search
from pemoe.trainers.arguments import STAGES, PeMoETrainingArguments
from pemoe.trainers.data import PairCollator, PairDataset, model_inputs
from pemoe.trainers.distributed import gather_with_grad, gather_without_grad, rank, world_size
from pemoe.trainers.errors import TrainingError
from pemoe.trainers.samplers import PlatformBatchSampler
from pemoe.trainers.saving import SavingTrainer, has_adapter

logger = logging.get_logger(__name__)
EvalRows = datasets.Dataset | dict[str, datasets.Dataset]
UNUSED_OPTIONS = ("data_collator", "compute_loss_func", "preprocess_logits_for_metrics")


class PeMoETrainer(SavingTrainer):
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
        self.loss, self.platform_names = stage.loss, list(PLATFORMS) if pairs is None else pairs.platform_names
        self.lora_platform = prepare_for_stage(model, args.stage, args.gate_loss, pairs)
        self.info_nce = InfoNCELoss(same_place=args.same_place)
        self.triplet = TripletLoss(margin=args.margin)
        data = {"train_dataset": pairs, "eval_dataset": eval_dataset, "data_collator": PairCollator(processing_class)}
        super().__init__(model=model, args=args, processing_class=processing_class, **data, **kwargs)
        self.model_accepts_loss_kwargs = False
        self.can_save_experts_only = False
        with suppress(ValueError):  # raised where a checkpoint of the experts alone could not be loaded again
            model.check_trunks_are_external()
            self.can_save_experts_only = True

    def build_sampler(self) -> PlatformBatchSampler:
        """The batches of this stage, for this process."""
        args, batch_size = self.args, self.args.per_device_train_batch_size
        return build_sampler(self.model, self.train_dataset, args.stage, batch_size, args.max_steps, args.seed)

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
    ) -> Tensor | tuple[Tensor, PeMoEOutput]:
        """Loss of one batch in this stage; the embeddings of all processes take part."""
        place_id = gather_without_grad(inputs["place_id"])
        if self.loss == "gate":
            loss, output = self._gate_loss(model, model_inputs(inputs), inputs["platform_id"], place_id)
        else:
            output = model(**model_inputs(inputs), experts=[self._expert_of(inputs["platform_id"])])
            loss = self._expert_loss(output, place_id, inputs.get("has_negative"))
        return (loss, output) if return_outputs else loss

    def _expert_of(self, platform_id: Tensor) -> str:
        """Name of the expert a batch belongs to; a mixed batch belongs to the unified model's only one."""
        names = list(self.model.config.platforms)
        return names[0] if self.model.config.is_unified else self.platform_names[int(platform_id[0])]

    def _expert_loss(self, output: PeMoEOutput, place_id: Tensor, has_negative: Tensor | None) -> Tensor:
        text, images = output.text_embeds[:, 0], output.image_embeds[:, 0]  # (B, D), (B or 2B, D)
        positives, negatives = images[: len(text)], images[len(text) :]
        joined = gather_with_grad(text), gather_with_grad(positives)  # (W * B, D) each
        loss = self.info_nce(*joined, place_id, output.logit_scale[0])["loss"]
        if self.loss == "contrastive":
            return loss
        joined = *joined, gather_with_grad(negatives)
        has_negative = gather_without_grad(has_negative)  # as many on one process as on the joined batch
        if has_negative.any():
            triplets = [vectors[has_negative] for vectors in joined]  # (n, D) each
            return self.triplet(*triplets)["loss"] + self.args.info_nce_weight * loss
        return self.args.info_nce_weight * loss

    def _gate_loss(
        self, model: torch.nn.Module, inputs: dict[str, Tensor], platform_id: Tensor, place_id: Tensor
    ) -> tuple[Tensor, PeMoEOutput]:
        needs_images = self.args.gate_loss != "platform"
        if not needs_images:
            inputs = {name: t for name, t in inputs.items() if name in ("input_ids", "attention_mask")}
        output = model(**inputs)
        losses = []
        if self.args.gate_loss != "retrieval":
            names = list(self.model.config.platforms)
            expert_of_platform = torch.tensor([names.index(p) if p in names else -1 for p in self.platform_names])
            target = expert_of_platform.to(platform_id.device)[platform_id]  # (B,)
            losses.append(F.cross_entropy(output.gate_logits, target, ignore_index=-1))
        if needs_images:
            joined = gather_with_grad(fuse_text(output)), gather_with_grad(fuse_images(output))
            losses.append(self.info_nce(*joined, place_id, self.model.logit_scale)["loss"])
        return torch.stack(losses).sum(), output

    def get_decay_parameter_names(self, model: torch.nn.Module) -> list[str]:
        """Weight decay for matrices only: no norm, bias or temperature."""
        return [name for name in super().get_decay_parameter_names(model) if not name.endswith("logit_scale")]

    def evaluate(
        self,
        eval_dataset: EvalRows | str | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Recall of the whole split, queries against its mixed gallery: `{"eval_recall_at_1": ..., ...}`.

        Of several splits, `{name: rows}`, each is a gallery of its own: `{"eval_<name>_recall_at_1": ..., ...}`. A
        string is a name of the trainer's `eval_dataset`.

        Raises:
            TrainingError: no rows, rows without captions, or a `compute_metrics` that returns no dict or another value
                under a name that is taken.
        """
        rows = self._eval_rows(eval_dataset)
        if isinstance(rows, dict):
            metrics: dict[str, float] = {}
            for name, one in rows.items():
                _merge_figures(metrics, self.evaluate(one, ignore_keys, f"{metric_key_prefix}_{name}"), "eval_dataset")
            return metrics
        metrics = self._measure(rows, metric_key_prefix)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def predict(self, test_dataset: EvalRows, *arguments: object, **options: object) -> NoReturn:
        """Refused: a retrieval model has no labels to predict."""
        advice = "figures are of evaluate(rows), vectors of model.encode_text and model.encode_images"
        raise TrainingError(f"predict: a retrieval model predicts no labels; {advice}")

    def _eval_rows(self, given: EvalRows | str | None) -> EvalRows:
        """The rows asked for, by value or by name."""
        rows = given if given is not None else self.eval_dataset
        if isinstance(rows, str):
            names = list(self.eval_dataset) if isinstance(self.eval_dataset, dict) else []
            if rows not in names:
                raise TrainingError(f"evaluate: {rows!r} is no name of eval_dataset; its names are {names}")
            rows = self.eval_dataset[rows]
        if rows is None or rows == {}:
            raise TrainingError("evaluate: give eval_dataset, here or to the trainer")
        return rows

    def _measure(self, rows: datasets.Dataset, prefix: str) -> dict[str, float]:
        """The figures of one split, those of `compute_metrics` among them."""
        if not any(rows["captions"]):
            raise TrainingError(f"evaluate: the rows of {prefix!r} have no captions, so there are no queries to rank")
        split = self._embed(rows)
        results = score_split(split, n_resamples=0)
        platforms, _ = results.pop("per_platform"), results.pop("gate")
        metrics = {f"{prefix}_{name}": value for name, value in results.items()}
        for platform, figures in platforms.items():
            metrics.update({f"{prefix}_{platform}_{name}": value for name, value in figures.items()})
        if self.compute_metrics is not None:
            own = self.compute_metrics(rank_places(split))
            if not isinstance(own, dict):
                raise TrainingError(f"compute_metrics: it returned a {type(own).__name__}; return {{name: figure}}")
            own = {f"{prefix}_{str(name).removeprefix(f'{prefix}_')}": value for name, value in own.items()}
            _merge_figures(metrics, own, "compute_metrics")
        return metrics

    def _embed(self, rows: datasets.Dataset) -> EmbeddedSplit:
        """A split as vectors; of a LoRA platform in training those of its expert alone, which the gate leaves out."""
        config, masked = self.model.config, self.model.config.masked_platforms
        if self.lora_platform is not None:
            config.masked_platforms = [name for name in config.platforms if name != self.lora_platform]
        try:
            return embed_split(self.model, self.processing_class, rows, self.args.per_device_eval_batch_size)
        finally:
            config.masked_platforms = masked


def _merge_figures(metrics: dict[str, float], further: dict[str, float], source: str) -> None:
    """Add figures to those there are; TrainingError names one that would hide another value."""
    if twice := [name for name in sorted(metrics.keys() & further.keys()) if metrics[name] != further[name]]:
        raise TrainingError(f"{source}: {twice[0]} is already another figure of evaluate; use another name")
    metrics.update(further)


def build_sampler(
    model: PeMoEModel, pairs: PairDataset, stage: str, batch_size: int, num_steps: int, seed: int
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


def rank_places(split: EmbeddedSplit) -> EvalPrediction:
    """Place ids: of each query's first 10 pictures, best first, `(Q, 10)`; the true ones, `(Q,)`; the gallery's."""
    k = min(max(CUTOFFS), len(split.gallery))
    _, pictures = search(split.query, split.gallery, k)
    ranked = split.place_id[np.asarray(pictures)]
    return EvalPrediction(predictions=ranked, label_ids=split.query_place_id, inputs=split.place_id)


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
