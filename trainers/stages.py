"""The stages of a run, each in its own directory, each closed by `done.json`, each resumable."""

from __future__ import annotations

import copy
import json
import time
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm.auto import tqdm
from transformers import AutoTokenizer, PrinterCallback, TrainerCallback
from transformers.utils import logging

from pemoe.common.files import write_atomically, write_json
from pemoe.modeling_pemoe import PeMoEModel, PeMoEProcessor
from pemoe.modeling_pemoe.configuration_pemoe import UNIFIED_PLATFORM
from pemoe.retrieval.evaluation import run_image_trunk
from pemoe.trainers.arguments import STAGES, PeMoETrainingArguments
from pemoe.trainers.distributed import (
    join_processes,
    local_device,
    process_count,
    process_options,
    rank,
    wait_for_all,
)
from pemoe.trainers.errors import TrainingError
from pemoe.trainers.mine import mine_split
from pemoe.trainers.pairs import PairDataset
from pemoe.trainers.recipes import Recipe, StageRecipe, resolve_repo
from pemoe.trainers.trainer import PeMoETrainer, build_sampler

logger = logging.get_logger(__name__)

DONE = "done.json"
WEIGHTS = "trained.safetensors"
NEGATIVES = "negatives.npy"


class StepBar(TrainerCallback):
    """A progress bar of one stage on stderr, on the first process.

    Args:
        label: name of the stage.
    """

    def __init__(self, label: str) -> None:
        self.label = label
        self.bar = None

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        """Open the bar at the step training starts from."""
        if state.is_world_process_zero:
            self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc=self.label)

    def on_step_end(self, args, state, control, **kwargs) -> None:
        """One step further."""
        if self.bar is not None:
            self.bar.update()

    def on_train_end(self, args, state, control, **kwargs) -> None:
        """Close the bar."""
        if self.bar is not None:
            self.bar.close()


def build_model(recipe: Recipe) -> tuple[PeMoEModel, PeMoEProcessor]:
    """Model and processor a recipe starts from; fresh parts are drawn from the recipe's seed.

    Raises:
        TrainingError: backbones not found or not fitting.
    """
    spec = recipe.model
    text_repo, vision_repo = resolve_repo(spec.text_repo), resolve_repo(spec.vision_repo)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(recipe.seed)
            model = PeMoEModel.from_backbones(
                text_repo, vision_repo, spec.platforms, spec.text_revision, spec.vision_revision, **spec.options
            )
        tokenizer = AutoTokenizer.from_pretrained(text_repo, revision=spec.text_revision)
    except (OSError, ValueError, TypeError, StrictDataclassError) as error:
        raise TrainingError(f"model: {' '.join(str(error).split())}") from error
    if recipe.precision == "bfloat16":  # the experts stay fp32: what is trained must not be rounded first
        for trunk in (model.text_trunk, model.vision_trunk):
            trunk.to(torch.bfloat16)
    return model.to(local_device()), PeMoEProcessor.build(tokenizer, model.config)


class StageRunner:
    """Runs the stages of a recipe on a model, in `directory/{unified,contrastive,mine,hard_negative,gate}`.

    Args:
        model, processor: from `build_model`; the model is trained in place.
        rows: the training split.
        recipe: the run.
        directory: of the run.
        resume: skip finished stages (their weights are read) and go on inside the first unfinished one.
        show_progress: draw progress bars.
        image_states: trunk states of `rows`, shared between runs; None computes them when the recipe caches them.
    """

    def __init__(
        self,
        model: PeMoEModel,
        processor: PeMoEProcessor,
        rows: datasets.Dataset,
        recipe: Recipe,
        directory: Path,
        resume: bool = False,
        show_progress: bool = False,
        image_states: Tensor | None = None,
    ) -> None:
        join_processes()
        self.model, self.processor, self.rows, self.recipe = model, processor, rows, recipe
        self.directory, self.resume, self.show_progress = directory, resume, show_progress
        if image_states is None and recipe.cache_image_states:
            image_states = run_image_trunk(model, processor, rows, show_progress=show_progress)
        self.image_states = image_states
        self.hard_negatives: np.ndarray | None = None

    def run(self) -> dict[str, dict]:
        """All stages in order; returns what each one's `done.json` says."""
        records = {}
        if self.recipe.unified_steps:
            records["unified"] = self.unified()
        records["contrastive"] = self.train("contrastive", self.recipe.contrastive)
        if self.recipe.hard_negative.steps:
            records["mine"] = self.mine()
            records["hard_negative"] = self.train("hard_negative", self.recipe.hard_negative)
        if self.recipe.gate.steps:
            records["gate"] = self.train("gate", self.recipe.gate)
        return records

    def plan(self) -> list[dict]:
        """Batch and steps per stage and platform, before anything runs."""
        pairs = PairDataset(self.rows, self.recipe.caption_column, self.recipe.seed)
        batch_size = batch_per_process(self.recipe.global_batch_size)
        lines = []
        planned = {"unified": self.recipe.unified_steps}
        planned |= {stage: getattr(self.recipe, stage).steps for stage in STAGES}
        for stage, steps in planned.items():
            if not steps:
                continue
            groups = build_sampler(self.model, pairs, stage, batch_size, steps, self.recipe.seed).plan()
            for name, group in groups.items():
                platform = name if isinstance(name, str) else pairs.platform_names[name]
                lines.append({"stage": stage, "platform": platform, **group})
        return lines

    def unified(self) -> dict:
        """Train one expert for all platforms, then start every platform's expert from it."""
        single = as_unified(self.model)
        stage = replace(self.recipe.contrastive, steps=self.recipe.unified_steps)
        runner = StageRunner(
            single,
            self.processor,
            self.rows,
            self.recipe,
            self.directory,
            self.resume,
            self.show_progress,
            self.image_states,
        )
        record = runner.train("contrastive", stage, folder="unified")
        for expert in self.model.experts.values():
            expert.load_state_dict(single.experts[UNIFIED_PLATFORM].state_dict())
        return record

    def train(self, stage: str, spec: StageRecipe, folder: str | None = None) -> dict:
        """One training stage; a finished one is read back instead when resuming."""
        directory = self.directory / (folder or stage)
        started_s = time.monotonic()
        trainer = self._trainer(stage, spec, directory)  # readies the model too: fp32 before weights are read
        if self.resume and (directory / DONE).is_file():
            self.model.load_state_dict(load_file(directory / WEIGHTS), strict=False)
            return json.loads((directory / DONE).read_text())
        checkpoint = last_complete_checkpoint(directory) if self.resume else None
        result = trainer.train(resume_from_checkpoint=checkpoint)
        self.model.eval()
        record = {
            "stage": stage,
            "steps": spec.steps,
            "pairs_seen": _pairs_of(trainer),
            "train_loss": result.training_loss,
            "plan": {str(name): plan for name, plan in trainer.build_sampler().plan().items()},
            "seconds": round(time.monotonic() - started_s, 2),
        }
        if rank() == 0:
            weights = self.model.state_dict().items()
            trained = {name: tensor.contiguous() for name, tensor in weights if "_trunk." not in name}
            directory.mkdir(parents=True, exist_ok=True)
            write_atomically(directory / WEIGHTS, lambda path: save_file(trained, path))
            write_json(directory / DONE, record)
        wait_for_all()
        return record

    def mine(self) -> dict:
        """Hard negatives of every row, found by the first process and read by the others."""
        directory = self.directory / "mine"
        if not (self.resume and (directory / DONE).is_file()) and rank() == 0:
            started_s = time.monotonic()
            spec = self.recipe.mine
            negatives = mine_split(
                self.model,
                self.processor,
                self.rows,
                spec.k,
                self.recipe.caption_column,
                self.recipe.seed,
                positive_ratio=spec.positive_ratio,
                image_states=self.image_states,
            )
            save_negatives(directory, negatives)
            record = {"stage": "mine", "k": spec.k, "found": int((negatives >= 0).sum())}
            write_json(directory / DONE, {**record, "seconds": round(time.monotonic() - started_s, 2)})
        wait_for_all()
        self.hard_negatives = np.load(directory / NEGATIVES)
        return json.loads((directory / DONE).read_text())

    def _trainer(self, stage: str, spec: StageRecipe, directory: Path) -> PeMoETrainer:
        own = ("margin", "info_nce_weight", "gate_loss")
        options = {name: getattr(spec, name) for name in own if hasattr(spec, name)}
        arguments = PeMoETrainingArguments(
            output_dir=str(directory),
            stage=stage,
            caption_column=self.recipe.caption_column,
            augment=self.recipe.augment,
            max_steps=spec.steps,
            learning_rate=spec.learning_rate,
            weight_decay=spec.weight_decay,
            warmup_steps=spec.warmup_steps,
            lr_scheduler_type=spec.lr_scheduler_type,
            per_device_train_batch_size=batch_per_process(self.recipe.global_batch_size),
            seed=self.recipe.seed,
            bf16=self.recipe.precision == "bfloat16",
            save_strategy="steps" if spec.save_steps else "no",
            save_steps=spec.save_steps or 500,
            save_total_limit=1,
            dataloader_num_workers=self.recipe.num_workers,
            disable_tqdm=True,
            **process_options(),
            **options,
        )
        trainer = PeMoETrainer(
            self.model,
            arguments,
            train_dataset=self.rows,
            processing_class=self.processor,
            hard_negatives=self.hard_negatives if stage == "hard_negative" else None,
            image_states=self.image_states,
        )
        trainer.remove_callback(PrinterCallback)  # prints to stdout
        if self.show_progress:
            trainer.add_callback(StepBar(directory.name))
        return trainer


def as_unified(model: PeMoEModel) -> PeMoEModel:
    """A model with one expert for all platforms, on the same trunks, its expert a copy of the first one's."""
    config = copy.deepcopy(model.config)
    config.platforms, config.masked_platforms = [UNIFIED_PLATFORM], []
    single = PeMoEModel(config)
    single.load_state_dict({name: t for name, t in model.state_dict().items() if "_trunk." in name}, strict=False)
    for trunk in (single.text_trunk, single.vision_trunk):
        trunk.to(model.dtype_of_trunk)
    single.experts[UNIFIED_PLATFORM].load_state_dict(next(iter(model.experts.values())).state_dict())
    return single.to(model.device).eval()


def batch_per_process(global_batch_size: int) -> int:
    """This process's share of a batch.

    Raises:
        TrainingError: the processes cannot share it evenly.
    """
    if global_batch_size % process_count():
        raise TrainingError(f"global_batch_size: {global_batch_size} cannot be shared by {process_count()} processes")
    return global_batch_size // process_count()


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


def _pairs_of(trainer: PeMoETrainer) -> int:
    plans = trainer.build_sampler().plan().values()
    return sum(plan["joined_batch_size"] * plan["steps"] for plan in plans)


def save_negatives(directory: Path, negatives: np.ndarray) -> None:
    """Write `negatives.npy`, whole or not at all."""

    def save(path: Path) -> None:
        with path.open("wb") as file:
            np.save(file, negatives)

    directory.mkdir(parents=True, exist_ok=True)
    write_atomically(directory / NEGATIVES, save)
