"""What a Trainer writes: checkpoints inside a run, the model at its end, its card, and pushes to the Hub."""

from __future__ import annotations

import os
from collections.abc import Sequence
from types import SimpleNamespace
from typing import NamedTuple

import torch
from huggingface_hub import CommitInfo
from torch import Tensor
from transformers import Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, HubStrategy
from transformers.utils.hub import PushInProgress

from pemoe.modeling_pemoe.card_pemoe import hub_backbones
from pemoe.modeling_pemoe.lora_pemoe import base_of, load_adapter_file, write_platforms_card
from pemoe.modeling_pemoe.repository_pemoe import push_folder, write_model_card
from pemoe.trainers.errors import TrainingError


class SavingTrainer(Trainer):
    """`transformers.Trainer` that saves and pushes a PE-MoE model as `pemoe publish model` sends it.

    A subclass sets `lora_platforms`, the LoRA platforms in training, and `can_save_experts_only`, whether the experts
    alone can be loaded again on this machine.
    """

    lora_platforms: Sequence[str] = ()
    can_save_experts_only: bool = False

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        """Write what was trained: a LoRA platform's folder, peft's adapter, the experts, or the whole model.

        Several LoRA platforms lie in a folder each, below one README. Experts are enough where both backbones are on
        the Hub, and inside a run that is not pushed.
        """
        if not self.args.should_save:
            return
        directory = output_dir if output_dir is not None else self.args.output_dir
        os.makedirs(directory, exist_ok=True)
        model = self.accelerator.unwrap_model(self.model)
        if self.lora_platforms:  # the processor is the base's
            folders = self._platform_folders(directory)
            for name, folder in folders.items():
                model.save_platform(name, folder, repo_id=self.hub_model_id)
            if len(folders) > 1:
                write_platforms_card(model, list(folders), directory, repo_id=self.hub_model_id)
            return
        if has_adapter(model):
            model.save_pretrained(directory)
            return
        stays_here = os.path.basename(directory).startswith(PREFIX_CHECKPOINT_DIR) and not self.args.push_to_hub
        experts_only = self.can_save_experts_only and (stays_here or len(hub_backbones(model.config)) == 2)
        model.save_pretrained(directory, experts_only=experts_only, state_dict=state_dict)
        self.processing_class.save_pretrained(directory)

    def _save_rng_state(self, output_dir: str) -> None:
        """Write this process's random state; the file that closes a checkpoint waits for those of all processes."""
        super()._save_rng_state(output_dir)
        self.accelerator.wait_for_everyone()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        """Read a checkpoint of this run: a LoRA platform's into its adapter, all others as the Trainer does."""
        if not self.lora_platforms:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        for name, folder in self._platform_folders(resume_from_checkpoint).items():
            load_adapter_file(self.model.experts[name], name, folder)

    def _issue_warnings_after_load(self, load_result: NamedTuple) -> None:
        """Say what a checkpoint lacks; frozen trunks that it leaves out on purpose are those in memory."""
        trained = {name for name, parameter in self.model.named_parameters() if parameter.requires_grad}
        trunks = {name for name in self.model.state_dict() if "_trunk." in name} - trained
        missing = set(load_result.missing_keys)
        told = [key for key in load_result.missing_keys if not (trunks <= missing and key in trunks)]
        super()._issue_warnings_after_load(
            SimpleNamespace(missing_keys=told, unexpected_keys=load_result.unexpected_keys)
        )

    def _load_best_model(self) -> None:
        """Go back to the best checkpoint, as `_load_from_checkpoint` reads it."""
        if self.lora_platforms:
            self._load_from_checkpoint(self.state.best_model_checkpoint)
        else:
            super()._load_best_model()

    def _platform_folders(self, directory: str) -> dict[str, str]:
        """Where each LoRA platform in training is written: the directory itself, or a folder of its name in it."""
        if len(self.lora_platforms) == 1:
            return {self.lora_platforms[0]: directory}
        return {name: os.path.join(directory, name) for name in self.lora_platforms}

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Create the repository on the Hub; TrainingError for a LoRA platform whose base others could not load."""
        if self.lora_platforms and os.path.isdir(base := base_of(self.model)):
            what = f"platform {self.lora_platforms[0]!r} cannot be pushed, its base {base} is a directory"
            raise TrainingError(f"{what}: push the base, and load it by its Hub id")
        super().init_hf_repo(token, private)

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

        A LoRA platform's folder has its own card, which takes none of these.

        Raises:
            TrainingError: an option of transformers' own draft that this card has no place for.
        """
        given = {"language": language, "model_name": model_name, **others}
        if self.lora_platforms:
            given |= {"license": license, "tags": tags, "metrics": metrics}
        if refused := [name for name, value in given.items() if value is not None]:
            raise TrainingError(
                f"{refused[0]}: this card has no place for it; leave it out, or use pemoe publish model"
            )
        if self.is_world_process_zero() and not self.lora_platforms:
            repo_id, config = self.hub_model_id or self.args.hub_model_id, self.model.config
            labels = [tags] if isinstance(tags, str) else tags or ()
            options = {"metrics": metrics, "license_id": license, "tags": labels}
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
        `output_dir` stays here, as does a `metrics.json` of another run. Returns None on all processes but the first.
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
            ignore_patterns=["metrics.json"] if card.get("metrics") is None else [],
            folders=self.lora_platforms if len(self.lora_platforms) > 1 else (),
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
            if not self.lora_platforms:
                write_model_card(self.model.config, checkpoint_folder, repo_id=repo_id, metrics=None)
            message = f"Training in progress, step {self.state.global_step}"
            options |= {"revision": self.args.hub_revision, "ignore_patterns": ["metrics.json"]}
            options |= {"commit_message": message, "run_as_future": True}
            options["folders"] = self.lora_platforms if len(self.lora_platforms) > 1 else ()
            self.push_in_progress = PushInProgress([push_folder(checkpoint_folder, repo_id, **options)])


def has_adapter(model: torch.nn.Module) -> bool:
    """Whether peft has put an adapter into the model as a whole (a LoRA platform is in its expert alone)."""
    return bool(getattr(model, "peft_config", None))
