"""The stages of a run, each in its own directory, each closed by `done.json`, each resumable."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import datasets
import numpy as np
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PrinterCallback, TrainerCallback

from pemoe.common.files import write_atomically, write_json
from pemoe.modeling_pemoe import PeMoEModel, PeMoEProcessor
from pemoe.modeling_pemoe.configuration_pemoe import UNIFIED_PLATFORM
from pemoe.retrieval.embedding import run_image_trunk
from pemoe.trainers.arguments import STAGES, PeMoETrainingArguments
from pemoe.trainers.data import PairDataset
from pemoe.trainers.distributed import join_processes, process_count, process_options, rank, wait_for_all
from pemoe.trainers.errors import TrainingError
from pemoe.trainers.mining import NEGATIVES, mine_split, save_negatives
from pemoe.trainers.recipes import Recipe, StageRecipe
from pemoe.trainers.starting import start_on_base
from pemoe.trainers.trainer import PeMoETrainer, build_sampler, prepare_for_stage

DONE = "done.json"
WEIGHTS = "trained.safetensors"


class _StepBar(TrainerCallback):
    """A progress bar of one stage on stderr, on the first process."""

    def __init__(self, label: str) -> None:
        self.label = label

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        off, start = not state.is_world_process_zero, state.global_step
        self.bar = tqdm(total=state.max_steps, initial=start, desc=self.label, disable=off)

    def on_step_end(self, args, state, control, **kwargs) -> None:
        self.bar.update()

    def on_train_end(self, args, state, control, **kwargs) -> None:
        self.bar.close()


class StageRunner:
    """Runs the stages of a recipe on a model, each in `directory/NAME`, mining in `directory/mine`.

    Args:
        model, processor: from `starting.build_model`; the model is trained in place.
        rows, recipe, directory: the training split, the run and its directory.
        resume: skip finished stages (their weights are read) and go on inside the first unfinished one.
        image_states: trunk states of `rows`, shared between runs; None computes them when the recipe caches them.
        hard_negatives: `(rows, k)` of an earlier run; None mines them before the first stage that needs them.
    """

    def __init__(  # noqa: PLR0913 -- the run (5), how to go about it (2), what to share with others (2)
        self,
        model: PeMoEModel,
        processor: PeMoEProcessor,
        rows: datasets.Dataset,
        recipe: Recipe,
        directory: Path,
        resume: bool = False,
        show_progress: bool = False,
        image_states: Tensor | None = None,
        hard_negatives: np.ndarray | None = None,
    ) -> None:
        join_processes()
        self.model, self.processor, self.rows, self.recipe = model, processor, rows, recipe
        self.directory, self.resume, self.show_progress = directory, resume, show_progress
        self.batch_size, left_over = divmod(recipe.global_batch_size, process_count())
        if left_over:
            batch = f"global_batch_size: {recipe.global_batch_size}"
            raise TrainingError(f"{batch} cannot be shared by {process_count()} processes")
        self.pairs = PairDataset(rows, recipe.caption_column, recipe.seed)
        if image_states is None and recipe.cache_image_states:
            image_states = run_image_trunk(model, processor, rows, show_progress=show_progress)
        self.image_states, self.hard_negatives = image_states, hard_negatives
        self.merged: list[str] = []  # LoRA platforms that are ordinary experts by now

    def run(self, names: Sequence[str] = tuple(STAGES)) -> dict[str, dict]:
        """The recipe's stages of these names, in order; returns what each one's `done.json` says."""
        records = {}
        for name, spec in self.recipe.stages.items():
            if name in names:
                if STAGES[name].needs_negatives and self.hard_negatives is None:
                    records["mine"] = self.mine()
                if STAGES[name].trains == "gate":
                    self.merge_adapters()
                records[name] = self.train(name, spec)
        return records

    def plan(self) -> list[dict]:
        """Batch and steps per stage and platform, before anything runs."""
        lines = []
        for stage, spec in self.recipe.stages.items():
            drawn = stage, self.batch_size, spec.steps, self.recipe.seed
            sampler = build_sampler(self.model, self.pairs, *drawn, platforms=self._platforms(stage))
            for name, group in sampler.plan().items():
                platform = name if isinstance(name, str) else self.pairs.platform_names[name]
                lines.append({"stage": stage, "platform": platform, **group})
        return lines

    def train(self, name: str, spec: StageRecipe) -> dict:
        """One training stage; a finished one is read back instead when resuming."""
        directory, unified = self.directory / name, STAGES[name].trains == "unified"
        model = self.model.share_trunks([UNIFIED_PLATFORM]) if unified else self.model
        if self.resume and (directory / DONE).is_file():
            chosen = self.recipe.gate.gate_loss, self.pairs, self._platforms(name)
            prepare_for_stage(model, name, *chosen)  # fp32 before weights are read
            model.load_state_dict(load_file(directory / WEIGHTS), strict=False)
            record = json.loads((directory / DONE).read_text())
        else:
            record = self._train(model, name, spec, directory)
        if unified:
            for expert in self.model.experts.values():
                expert.load_state_dict(model.experts[UNIFIED_PLATFORM].state_dict())
            if self.recipe.model.expert_type == "lora":
                start_on_base(self.model, self.processor, self.recipe, self.directory / "base", keep=self.resume)
        return record

    def _platforms(self, stage: str) -> list[str] | None:
        """The platforms a stage trains where the run starts from a checkpoint, which may have more; else None."""
        spec = self.recipe.model
        return spec.platforms if spec.checkpoint is not None and STAGES[stage].trains == "experts" else None

    def merge_adapters(self) -> None:
        """Write each LoRA platform's folder, `directory/adapters/NAME`, and make it an ordinary expert."""
        for name in self.model.lora_platforms:
            if rank() == 0:
                self.model.save_platform(name, self.directory / "adapters" / name)
            self.model.merge_platform(name)
            self.merged.append(name)
        wait_for_all()

    def _train(self, model: PeMoEModel, name: str, spec: StageRecipe, directory: Path) -> dict:
        """Train a stage, from its last checkpoint when resuming, and write its weights and record."""
        started_s = time.monotonic()
        trainer = self._trainer(model, name, spec, directory)
        checkpoint = last_complete_checkpoint(directory) if self.resume else None
        result = trainer.train(resume_from_checkpoint=checkpoint)
        model.eval()
        plan = trainer.build_sampler().plan()
        record = {
            "stage": STAGES[name].loss,
            "steps": spec.steps,
            "pairs_seen": sum(group["joined_batch_size"] * group["steps"] for group in plan.values()),
            "train_loss": result.training_loss,
            "plan": {str(platform): group for platform, group in plan.items()},
            "seconds": round(time.monotonic() - started_s, 2),
            **({"merged": self.merged} if self.merged else {}),
        }
        if rank() == 0:
            weights = (model.adapter_state_dict() or model.state_dict()).items()
            trained = {weight: tensor.contiguous() for weight, tensor in weights if "_trunk." not in weight}
            write_atomically(directory / WEIGHTS, lambda path: save_file(trained, path))
            write_json(directory / DONE, record)
        wait_for_all()
        return record

    def mine(self) -> dict:
        """Hard negatives of every row, found by the first process and read by the others."""
        directory = self.directory / "mine"
        if not (self.resume and (directory / DONE).is_file()) and rank() == 0:
            started_s = time.monotonic()
            recipe = self.recipe
            options = {"positive_ratio": recipe.mine.positive_ratio, "image_states": self.image_states}
            drawn = recipe.mine.k, recipe.caption_column, recipe.seed
            negatives = mine_split(self.model, self.processor, self.rows, *drawn, **options)
            save_negatives(directory, negatives)
            record = {"stage": "mine", "k": recipe.mine.k, "found": int((negatives >= 0).sum())}
            write_json(directory / DONE, {**record, "seconds": round(time.monotonic() - started_s, 2)})
        wait_for_all()
        self.hard_negatives = np.load(directory / NEGATIVES)
        return json.loads((directory / DONE).read_text())

    def _trainer(self, model: PeMoEModel, name: str, spec: StageRecipe, directory: Path) -> PeMoETrainer:
        options = asdict(spec)
        steps, save_steps = options.pop("steps"), options.pop("save_steps")
        arguments = PeMoETrainingArguments(
            output_dir=str(directory),
            stage=name,
            caption_column=self.recipe.caption_column,
            augment=self.recipe.augment,
            platforms=self._platforms(name),
            max_steps=steps,
            per_device_train_batch_size=self.batch_size,
            seed=self.recipe.seed,
            bf16=self.recipe.precision == "bfloat16",
            save_strategy="steps" if save_steps else "no",
            save_steps=save_steps or 500,
            save_total_limit=1,
            dataloader_num_workers=self.recipe.num_workers,
            disable_tqdm=True,
            **process_options(),
            **options,
        )
        tables = {"hard_negatives": self.hard_negatives, "image_states": self.image_states}
        trainer = PeMoETrainer(model, arguments, self.rows, processing_class=self.processor, **tables)
        trainer.remove_callback(PrinterCallback)  # prints to stdout
        if self.show_progress:
            trainer.add_callback(_StepBar(name))
        return trainer


def last_complete_checkpoint(directory: Path) -> str | None:
    """The newest `checkpoint-N` whose last-written file is whole; a kill may have cut the newest one short."""
    checkpoints = sorted(directory.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    for checkpoint in reversed(checkpoints):
        try:
            json.loads((checkpoint / "trainer_state.json").read_text())
        except (OSError, json.JSONDecodeError):
            continue
        return str(checkpoint)
    return None
