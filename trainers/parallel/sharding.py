"""Training where `accelerate launch` splits a model over its processes: FSDP2 and DeepSpeed ZeRO.

Idle experts must not move. Under FSDP2 the frozen encoders are split, most of the model; what is trained stays
whole on every process, as it is under DDP, so that an idle expert has no gradient and no optimizer step. ZeRO gives it
a gradient of zeros, on which AdamW's decay and momentum move it: there one expert is trained at a time.
"""

from __future__ import annotations

import os

import torch.distributed as dist
from torch import Tensor, nn
from transformers import Trainer

from pemoe.trainers.errors import TrainingError

SPLITTERS = {"FSDP": "ACCELERATE_USE_FSDP", "DeepSpeed": "ACCELERATE_USE_DEEPSPEED"}  # what `accelerate launch` sets
ENTRANCES = ("encode_text_trunk", "encode_image_trunk", "get_text_features", "get_image_features")  # beside forward


def splitter() -> str | None:
    """Which of `SPLITTERS` this process was launched with, or None."""
    return next((name for name, flag in SPLITTERS.items() if os.environ.get(flag, "").lower() == "true"), None)


def trains_one_by_one(platform_order: str) -> bool:
    """Whether a stage of experts trains them one after the other, as a recipe asks and the launch allows.

    Raises TrainingError: experts in turn, by name, where DeepSpeed would move the idle ones.
    """
    if splitter() == "DeepSpeed" and platform_order == "alternate":
        raise TrainingError("platform_order: DeepSpeed would move idle experts; use one_by_one, or auto")
    return platform_order == "one_by_one" or (platform_order == "auto" and splitter() == "DeepSpeed")


class ShardingTrainer(Trainer):
    """`transformers.Trainer` that trains a PE-MoE model exactly, also where the model is split over processes.

    Raises TrainingError when it is built: a splitter that was asked for and is not at work, FSDP of another version
    than 2, or several experts to train under DeepSpeed.
    """

    def __init__(self, *arguments: object, **options: object) -> None:
        super().__init__(*arguments, **options)
        asked = splitter()
        if asked and not (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            raise TrainingError(
                f"{asked}: accelerate splits no model between CPU processes; launch this with torchrun"
            )
        if self.is_deepspeed_enabled:
            self._check_one_expert()
        if self.is_fsdp_enabled:
            self._keep_trained_whole()

    def _check_one_expert(self) -> None:
        """DeepSpeed moves every expert that could train in every step."""
        experts = self.model.experts.items()
        trained = [name for name, expert in experts if any(weight.requires_grad for weight in expert.parameters())]
        if len(trained) > 1:
            advice = f"train one at a time, platforms=[{trained[0]!r}] first"
            raise TrainingError(f"platforms: DeepSpeed would move the idle ones of the experts {trained}; {advice}")

    def _keep_trained_whole(self) -> None:
        """Split the trunks alone; a temperature, 0-d, could not be split in any case."""
        plugin = self.accelerator.state.fsdp_plugin
        if plugin.fsdp_version != 2:
            raise TrainingError("FSDP: version 2 trains this model; set fsdp_version: 2 in accelerate's config")
        plugin.ignored_modules = [self.model.experts, self.model.gate, nn.ParameterList([self.model.logit_scale])]
        plugin.mixed_precision_policy = None  # the trunk has its own dtype, autocast does the rest, as under DDP

    def _prepare_for_training(self, *arguments: object, **options: object) -> tuple:
        """Let a split model gather its weights also where `evaluate` enters it, and keep the name of its class."""
        prepared = super()._prepare_for_training(*arguments, **options)
        if self.is_fsdp_enabled:
            from torch.distributed.fsdp import register_fsdp_forward_method

            for name in ENTRANCES:
                register_fsdp_forward_method(self.model, name)
            kind = type(self.model)  # made by torch, for this model: what saves the model's code looks here for it
            kind.__module__, kind.__name__ = kind.__mro__[2].__module__, kind.__mro__[2].__name__
        return prepared

    def training_step(self, *arguments: object, **options: object) -> Tensor:
        """One step; under FSDP2 what is trained is outside of it, so its gradient is averaged here, as DDP does."""
        loss = super().training_step(*arguments, **options)
        if self.is_fsdp_enabled:
            for weight in self.model.parameters():
                if weight.requires_grad and weight.grad is not None:
                    weight.grad.div_(dist.get_world_size())
                    dist.all_reduce(weight.grad)
        return loss

    def whole_state(self) -> dict[str, Tensor]:
        """The model's state, whole in all that is trained; to be called on every process, and used on the first."""
        if self.is_deepspeed_enabled:
            return self.accelerator.get_state_dict(self.model_wrapped) or {}
        return self.model.state_dict()
