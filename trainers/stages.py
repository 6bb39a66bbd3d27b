"""The stages of a run, each in its own directory, each closed by `done.json`, each resumable."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import datasets
import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm.auto import tqdm
from transformers import AutoTokenizer, PrinterCallback, TrainerCallback

from pemoe.common.errors import one_line
from pemoe.common.files import write_atomically, write_json
from pemoe.modeling_pemoe import PeMoEModel, PeMoEProcessor
from pemoe.modeling_pemoe.configuration_pemoe import UNIFIED_PLATFORM
from pemoe.retrieval.embedding import run_image_trunk
from pemoe.trainers.arguments import STAGES, PeMoETrainingArguments
from pemoe.trainers.data import PairDataset
from pemoe.trainers.distributed import join_processes, local_device, process_count, process_options, rank, wait_for_all
from pemoe.trainers.errors import TrainingError
from pemoe.trainers.mining import NEGATIVES, mine_split, save_negatives
from pemoe.trainers.recipes import Recipe, StageRecipe, resolve_repo
from pemoe.trainers.sharding import splitter, trains_one_by_one
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


def build_model(recipe: Recipe) -> tuple[PeMoEModel, PeMoEProcessor]:
    """Model and processor a recipe starts from; fresh parts are drawn from the recipe's seed.

    Raises TrainingError when backbones are not found or do not fit.
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
        raise TrainingError(f"model: {one_line(error)}") from error
    if recipe.precision == "bfloat16":  # the experts stay fp32: what is trained must not be rounded first
        model.text_trunk.to(torch.bfloat16)
        model.vision_trunk.to(torch.bfloat16)
    return model.to(local_device()), PeMoEProcessor.build(tokenizer, model.config)


class StageRunner:
    """Runs the stages of a recipe on a model, each in `directory/NAME`, mining in `directory/mine`.

    Args:
        model, processor: from `build_model`; the model is trained in place.
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
        self.one_by_one = trains_one_by_one(recipe.platform_order)
        self.pairs = PairDataset(rows, recipe.caption_column, recipe.seed)
        self.plan()  # refuses data that does not fit, before anything is computed
        if image_states is None and recipe.cache_image_states:
            image_states = run_image_trunk(model, processor, rows, show_progress=show_progress)
        self.image_states, self.hard_negatives = image_states, hard_negatives

    def run(self, names: Sequence[str] = tuple(STAGES)) -> dict[str, dict]:
        """The recipe's stages of these names, in order; returns what each one's `done.json` says."""
        records = {}
        for name, spec in self.recipe.stages.items():
            if name in names:
                if STAGES[name].needs_negatives and self.hard_negatives is None:
                    records["mine"] = self.mine()
                records[name] = self.train(name, spec)
        return records

    def plan(self) -> list[dict]:
        """Batch and steps per stage and platform, before anything runs."""
        lines = []
        for stage, spec in self.recipe.stages.items():
            sampler = build_sampler(self.model, self.pairs, stage, self.batch_size, spec.steps, self.recipe.seed)
            for name, group in sampler.plan().items():
                platform = name if isinstance(name, str) else self.pairs.platform_names[name]
                lines.append({"stage": stage, "platform": platform, **group})
        return lines

    def train(self, name: str, spec: StageRecipe) -> dict:
        """One training stage; a finished one is read back instead when resuming."""
        directory, unified = self.directory / name, STAGES[name].trains == "unified"
        model = self.model.share_trunks([UNIFIED_PLATFORM]) if unified else self.model
        if self.resume and (directory / DONE).is_file():
            self._read(model, name, directory)
            record = json.loads((directory / DONE).read_text())
        elif self.one_by_one and STAGES[name].trains == "experts":
            record = self._train_one_by_one(name, spec, directory)
        else:
            record = self._train(model, name, spec, directory)
        if unified:
            for expert in self.model.experts.values():
                expert.load_state_dict(model.experts[UNIFIED_PLATFORM].state_dict())
        return record

    def _read(self, model: PeMoEModel, name: str, directory: Path) -> None:
        """What a finished stage has trained, into the model."""
        prepare_for_stage(model, name, self.recipe.gate.gate_loss, self.pairs)  # fp32 before weights are read
        model.load_state_dict(load_file(directory / WEIGHTS), strict=False)

    def _train_one_by_one(self, name: str, spec: StageRecipe, directory: Path) -> dict:
        """A stage of experts, platform after platform, each in its own directory as a stage of its own.

        Each platform draws the pairs that it draws where platforms alternate, and its learning rate runs through the
        same schedule in its own steps.
        """
        phases = {}
        sampler = build_sampler(self.model, self.pairs, name, self.batch_size, spec.steps, self.recipe.seed)
        for number, group in sampler.plan().items():
            platform, steps = self.pairs.platform_names[number], group["steps"]
            if steps == 0:  # fewer steps than platforms
                continue
            within = directory / platform
            if self.resume and (within / DONE).is_file():
                self._read(self.model, name, within)
                phases[platform] = json.loads((within / DONE).read_text())
            else:
                own = replace(spec, steps=steps, warmup_steps=round(spec.warmup_steps * steps / spec.steps))
                phases[platform] = self._train(self.model, name, own, within, [platform])
        records = phases.values()
        record = {
            "stage": STAGES[name].loss,
            "steps": spec.steps,
            "pairs_seen": sum(phase["pairs_seen"] for phase in records),
            "train_loss": sum(phase["train_loss"] * phase["steps"] for phase in records) / spec.steps,
            "plan": {str(number): group for number, group in sampler.plan().items()},
            "seconds": round(sum(phase["seconds"] for phase in records), 2),
        }
        self._close(directory, self.model.state_dict(), record)
        return record

    def _train(
        self,
        model: PeMoEModel,
        name: str,
        spec: StageRecipe,
        directory: Path,
        platforms: list[str] | None = None,
    ) -> dict:
        """Train a stage, from its last checkpoint when resuming, and write its weights and record.

        A model that is split over processes cannot be made whole again: there a copy is trained, and read back.
        """
        started_s = time.monotonic()
        trained = copy.deepcopy(model) if splitter() else model
        trainer = self._trainer(trained, name, spec, directory, platforms)
        if trained is not model:
            model.to("cpu")
        checkpoint = last_complete_checkpoint(directory) if self.resume else None
        result = trainer.train(resume_from_checkpoint=checkpoint)
        trained.eval()
        plan = trainer.build_sampler().plan()
        record = {
            "stage": STAGES[name].loss,
            "steps": spec.steps,
            "pairs_seen": sum(group["joined_batch_size"] * group["steps"] for group in plan.values()),
            "train_loss": result.training_loss,
            "plan": {str(platform): group for platform, group in plan.items()},
            "seconds": round(time.monotonic() - started_s, 2),
        }
        self._close(directory, trainer.whole_state(), record)
        if trained is not model:
            self._read(model.to(local_device()), name, directory)
            model.eval()
        return record

    def _close(self, directory: Path, state: dict[str, Tensor], record: dict) -> None:
        """Write what a stage has trained, from the first process's `state`, and last its record."""
        if rank() == 0:
            trained = {weight: tensor.contiguous() for weight, tensor in state.items() if "_trunk." not in weight}
            write_atomically(directory / WEIGHTS, lambda path: save_file(trained, path))
            write_json(directory / DONE, record)
        wait_for_all()

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

    def _trainer(
        self,
        model: PeMoEModel,
        name: str,
        spec: StageRecipe,
        directory: Path,
        platforms: list[str] | None = None,
    ) -> PeMoETrainer:
        options = asdict(spec)
        steps, save_steps = options.pop("steps"), options.pop("save_steps")
        arguments = PeMoETrainingArguments(
            output_dir=str(directory),
            stage=name,
            platforms=platforms,
            caption_column=self.recipe.caption_column,
            augment=self.recipe.augment,
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
            trainer.add_callback(_StepBar("/".join([name, *(platforms or [])])))
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
