"""`PeMoETrainer`: one stage of PE-MoE training on `transformers.Trainer`."""

from __future__ import annotations

import os
from contextlib import suppress

import datasets
import numpy as np
import torch
import torch.nn.functional as F
from huggingface_hub import CommitInfo
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, HubStrategy
from transformers.utils import logging
from transformers.utils.hub import PushInProgress

from pemoe.datasets_scripts.schema import PLATFORMS
from pemoe.modeling_pemoe import InfoNCELoss, PeMoEModel, PeMoEOutput, PeMoEProcessor, TripletLoss
from pemoe.modeling_pemoe.modeling_pemoe import fuse_images, fuse_text
from pemoe.modeling_pemoe.repository_pemoe import hub_backbones, push_folder, write_model_card
from pemoe.retrieval.evaluation import evaluate_split
from pemoe.trainers.arguments import STAGES, PeMoETrainingArguments
from pemoe.trainers.data import PairCollator, PairDataset, model_inputs
from pemoe.trainers.distributed import gather_with_grad, gather_without_grad, rank, world_size
from pemoe.trainers.errors import TrainingError
from pemoe.trainers.samplers import PlatformBatchSampler

logger = logging.get_logger(__name__)


class PeMoETrainer(Trainer):
    """Trains one stage: every step holds one platform and moves that platform's expert alone.

    Stage "contrastive" minimises InfoNCE, "hard_negative" a triplet loss on mined negatives plus InfoNCE, "gate" the
    cross-entropy on the query's platform and/or InfoNCE through Eq. (1), experts frozen; its batches hold the data's
    own shares of platforms. The unified model (`platforms=["all"]`) trains on all platforms mixed, in stage "unified"
    by InfoNCE. Batches are joined over processes with gradient, so that N processes equal one.

    Args:
        model: a `PeMoEModel`; its trainable parameters are upcast to fp32.
        train_dataset, eval_dataset: splits with the columns of `schema.FEATURES`.
        processing_class: the model's `PeMoEProcessor`.
        hard_negatives: `(rows, k)` int64 from `mine_split`, required by stage "hard_negative".
        image_states: trunk states of the training rows, `(rows, N, W)`; None runs the trunk in every step.
        kwargs: passed to `transformers.Trainer`.

    Raises:
        TrainingError: a stage without what it needs, or platforms that data and model do not share.
    """

    loss_is_scaled_for_ga = False

    def __init__(
        self,
        model: PeMoEModel,
        args: PeMoETrainingArguments,
        train_dataset: datasets.Dataset | None = None,
        eval_dataset: datasets.Dataset | None = None,
        processing_class: PeMoEProcessor | None = None,
        hard_negatives: np.ndarray | None = None,
        image_states: Tensor | None = None,
        **kwargs: object,
    ) -> None:
        if processing_class is None:
            raise TrainingError("processing_class: give the model's PeMoEProcessor")
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
        prepare_for_stage(model, args.stage, args.gate_loss, pairs)
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
        eval_dataset: datasets.Dataset | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Recall of the whole split, queries against its mixed gallery: `{"eval_recall_at_1": ..., ...}`."""
        rows = eval_dataset if eval_dataset is not None else self.eval_dataset
        if rows is None:
            raise TrainingError("evaluate: give eval_dataset, here or to the trainer")
        batch_size = self.args.per_device_eval_batch_size
        results = evaluate_split(self.model, self.processing_class, rows, batch_size, n_resamples=0)
        platforms, _ = results.pop("per_platform"), results.pop("gate")
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in results.items()}
        for platform, figures in platforms.items():
            metrics.update({f"{metric_key_prefix}_{platform}_{name}": value for name, value in figures.items()})
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        """Write the experts, or the whole model where they could not be loaded again from what is written.

        Experts are enough where both backbones are on the Hub, and inside a run that is not pushed.
        """
        if not self.args.should_save:
            return
        directory = output_dir if output_dir is not None else self.args.output_dir
        os.makedirs(directory, exist_ok=True)
        model = self.accelerator.unwrap_model(self.model)
        stays_here = os.path.basename(directory).startswith(PREFIX_CHECKPOINT_DIR) and not self.args.push_to_hub
        experts_only = self.can_save_experts_only and (stays_here or len(hub_backbones(model.config)) == 2)
        model.save_pretrained(directory, experts_only=experts_only, state_dict=state_dict)
        self.processing_class.save_pretrained(directory)

    def create_model_card(
        self,
        language: str | None = None,
        license: str | None = None,
        tags: str | list[str] | None = None,
        model_name: str | None = None,
        metrics: dict | None = None,
        **others: object,
    ) -> None:
        """Write the model's card into `output_dir`; figures, of a `metrics.json`, and licence as in `push_to_hub`.

        Raises:
            TrainingError: an option of transformers' own draft that this card has no place for.
        """
        given = {"language": language, "model_name": model_name, **others}
        if refused := [name for name, value in given.items() if value is not None]:
            raise TrainingError(f"{refused[0]}: the card says it from the config and metrics; leave it out")
        if self.is_world_process_zero():
            repo_id, config = self.hub_model_id or self.args.hub_model_id, self.model.config
            options = {
                "metrics": metrics,
                "license_id": license,
                "tags": [tags] if isinstance(tags, str) else tags or (),
            }
            write_model_card(config, self.args.output_dir, repo_id=repo_id, **options)

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **card: object,
    ) -> CommitInfo | None:
        """Save model and processor into `output_dir` and push them with their card in one commit.

        The first arguments are those of `Trainer.push_to_hub`, `card` those of `create_model_card`; what else lies in
        `output_dir` stays here. Returns None on all processes but the first.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        token = token if token is not None else self.args.hub_token
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        self.create_model_card(**card)
        self._finish_current_push()
        return push_folder(
            self.args.output_dir,
            self.hub_model_id,
            token=token,
            private=private if private is not None else self.args.hub_private_repo,
            revision=revision if revision is not None else self.args.hub_revision,
            commit_message=commit_message,
            run_as_future=not blocking,
        )

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Push a checkpoint inside a run in the background, as a whole model with its card."""
        if self.args.hub_strategy != HubStrategy.EVERY_SAVE:
            super()._push_from_checkpoint(checkpoint_folder)
            return
        busy = self.push_in_progress is not None and not self.push_in_progress.is_done()
        if self.is_world_process_zero() and (self.args.hub_always_push or not busy):
            self.callback_handler.on_push_begin(self.args, self.state, self.control)
            repo_id, options = self.hub_model_id, {"private": self.args.hub_private_repo, "token": self.args.hub_token}
            write_model_card(self.model.config, checkpoint_folder, repo_id=repo_id, metrics=None)
            message = f"Training in progress, step {self.state.global_step}"
            options |= {"revision": self.args.hub_revision, "commit_message": message, "run_as_future": True}
            self.push_in_progress = PushInProgress([push_folder(checkpoint_folder, repo_id, **options)])

    def _save_rng_state(self, output_dir: str) -> None:
        """Write this process's random state; the file that closes a checkpoint waits for those of all processes."""
        super()._save_rng_state(output_dir)
        self.accelerator.wait_for_everyone()


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


def prepare_for_stage(model: PeMoEModel, stage: str, gate_loss: str, pairs: PairDataset | None) -> None:
    """Choose what a stage trains, in fp32: the experts, or the gate (with `logit_scale` when retrieval teaches it).

    A gate stage takes the masks of the platforms it sees away. Raises TrainingError when data and model share none.
    """
    platforms: list[str] = []
    if pairs is not None and not model.config.is_unified:
        platforms = [pairs.platform_names[number] for number in _trained_platforms(model, pairs)]
    upcast = [p for root in (model.experts, model.gate) for p in root.parameters() if p.dtype != torch.float32]
    if upcast:
        logger.warning(f"{len(upcast)} trainable tensors are upcast to fp32: AdamW loses small updates in bf16")
    model.experts.float()
    model.gate.float()
    model.logit_scale.data = model.logit_scale.data.float()
    model.freeze_trunks()
    trains_gate = STAGES[stage].trains == "gate"
    model.experts.requires_grad_(not trains_gate)
    model.gate.requires_grad_(trains_gate)
    model.logit_scale.requires_grad_(trains_gate and gate_loss != "platform")
    if trains_gate:
        model.config.masked_platforms = [name for name in model.config.masked_platforms if name not in platforms]
