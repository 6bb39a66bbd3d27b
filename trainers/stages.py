"""The stages of a run, each in its own directory, each closed by `done.json`, each resumable."""

from __future__ import annotations

import copy
import json
import time
import zipfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import datasets
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PrinterCallback, TrainerCallback
from transformers.trainer_utils import TrainOutput

from pemoe.common.files import write_atomically, write_json
from pemoe.datasets_scripts.augment.pictures import SatelliteAugmentation
from pemoe.modeling_pemoe import PeMoEModel, PeMoEProcessor
from pemoe.modeling_pemoe.configuration_pemoe import UNIFIED_PLATFORM
from pemoe.retrieval.checkpoints import local_device
from pemoe.retrieval.feature_cache import FeatureCache, ImageStates, View
from pemoe.trainers.arguments import STAGES, PeMoETrainingArguments
from pemoe.trainers.batches.pairs import PairDataset
from pemoe.trainers.batches.validation import as_queries
from pemoe.trainers.errors import TrainingError
from pemoe.trainers.mining import NEGATIVES, load_negatives, mine_split, read_coordinates_deg
from pemoe.trainers.monitoring import check_reporters, last_evaluation, mean_loss
from pemoe.trainers.options import check_places
from pemoe.trainers.parallel.distributed import (
    join_processes,
    process_count,
    process_options,
    rank,
    wait_for_all,
    world_size,
)
from pemoe.trainers.parallel.sharding import splitter, trains_one_by_one
from pemoe.trainers.recipes import Recipe, StageRecipe
from pemoe.trainers.starting import start_on_base
from pemoe.trainers.trainer import PeMoETrainer, build_sampler, has_negatives, prepare_for_stage

DONE = "done.json"
LOG = "log.json"
WEIGHTS = "trained.safetensors"


class _StepBar(TrainerCallback):
    """A progress bar of one stage on stderr, on the first process, with the last figures that were logged."""

    FIGURES: ClassVar = {  # name in the log -> on the bar
        "loss": "loss",
        "batch_recall_at_1": "batch R@1",
        "images_per_second": "images/s",
        "eval_recall_at_1": "validation R@1",
    }

    def __init__(self, label: str) -> None:
        self.label, self.figures, self.bar = label, {}, None

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        off, start = not state.is_world_process_zero, state.global_step
        self.bar = tqdm(total=state.max_steps, initial=start, desc=self.label, disable=off)

    def on_step_end(self, args, state, control, **kwargs) -> None:
        self.bar.update()

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        self.figures |= {self.FIGURES[name]: f"{value:.3g}" for name, value in logs.items() if name in self.FIGURES}
        self.bar.set_postfix(self.figures)

    def close(self) -> None:
        """End the bar's line, also where training failed."""
        if self.bar is not None:
            self.bar.close()


class StageRunner:
    """Runs the stages of a recipe on a model, each in `directory/NAME`, mining in `directory/mine`.

    Args:
        model, processor: from `starting.build_model`; the model is trained in place.
        rows, recipe, directory: the training split, the run and its directory.
        resume: skip finished stages (their weights are read) and go on inside the first unfinished one.
        features: cache of the trunk states of `rows`, shared between runs; None opens the recipe's, where it has one.
        validation: rows of other places, from `hold_out_places`, that every stage evaluates on.
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
        features: FeatureCache | None = None,
        validation: datasets.Dataset | None = None,
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
        check_reporters(recipe.report_to)
        self.validation = None if validation is None else as_queries(validation, recipe.caption_column)
        self.pairs = self._pairs(None)
        for line in self.plan():
            if has_negatives(line["stage"], recipe.gate.gate_loss, recipe.hard_negative.info_nce_weight):
                check_places(line["stage"], line["platform"], line)
        self._features, self.hard_negatives = features, hard_negatives
        if recipe.mine.min_distance_m is not None and recipe.hard_negative.steps:
            read_coordinates_deg(rows, "mine.min_distance_m")  # refused now, not when the first stages are trained
        for name, spec in recipe.stages.items():
            if spec.neighbours == "metres":
                read_coordinates_deg(rows, f"{name}.neighbours: metres")
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
            for name, group in self._plan_of(stage, spec).items():
                platform = name if isinstance(name, str) else self.pairs.platform_names[name]
                lines.append({"stage": stage, "platform": platform, **group})
        return lines

    def _plan_of(self, stage: str, spec: StageRecipe) -> dict[int | str, dict]:
        """What `PlatformBatchSampler.plan` says of a stage."""
        drawn = stage, self.batch_size, spec.steps, self.recipe.seed
        return build_sampler(self.model, self.pairs, *drawn, platforms=self._platforms(stage)).plan()

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

    def _read(self, model: PeMoEModel, name: str, directory: Path) -> None:
        """What a finished stage has trained, into the model."""
        chosen = self.recipe.gate.gate_loss, self.pairs, self._platforms(name)
        prepare_for_stage(model, name, *chosen)  # fp32 before weights are read
        model.load_state_dict(load_file(directory / WEIGHTS), strict=False)
        model.config.use_cache = False  # as the Trainer leaves it, so that the same configuration is saved

    def _train_one_by_one(self, name: str, spec: StageRecipe, directory: Path) -> dict:
        """A stage of experts, platform after platform, each in its own directory as a stage of its own.

        Each platform draws the pairs that it draws where platforms alternate, and its learning rate runs through the
        same schedule in its own steps.
        """
        phases, plan = {}, self._plan_of(name, spec)
        for number, group in plan.items():
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
        records = list(phases.values())
        record = {
            "stage": STAGES[name].loss,
            "steps": spec.steps,
            "pairs_seen": sum(phase["pairs_seen"] for phase in records),
            "train_loss": sum(phase["train_loss"] * phase["steps"] for phase in records) / spec.steps,
            "plan": {str(number): group for number, group in plan.items()},
            "seconds": round(sum(phase["seconds"] for phase in records), 2),
            **({"validation": records[-1]["validation"]} if self.validation is not None else {}),
        }
        self._close(directory, self.model.adapter_state_dict() or self.model.state_dict(), record)
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
        result = self._run_trainer(trainer, checkpoint)
        trained.eval()
        history, plan = trainer.state.log_history, trainer.build_sampler().plan()
        record = {
            "stage": STAGES[name].loss,
            "steps": spec.steps,
            "pairs_seen": sum(group["joined_batch_size"] * group["steps"] for group in plan.values()),
            "train_loss": mean_loss(history, result.training_loss) if checkpoint else result.training_loss,
            "plan": {str(platform): group for platform, group in plan.items()},
            "seconds": round(time.monotonic() - started_s, 2),
            **({} if self.validation is None else {"validation": last_evaluation(history)}),
            **({"merged": self.merged} if self.merged else {}),
        }
        if rank() == 0:
            write_json(directory / LOG, history)
        self._close(directory, trained.adapter_state_dict() or trainer.whole_state(), record)
        if trained is not model:
            self._read(model.to(local_device()), name, directory)
            model.eval()
        return record

    def _close(self, directory: Path, state: dict[str, Tensor], record: dict) -> None:
        """Write what a stage has trained, from the first process's `state`, and last its record."""
        wait_for_all()  # all have seen that the stage was not finished
        if rank() == 0:
            trained = {weight: tensor.contiguous() for weight, tensor in state.items() if "_trunk." not in weight}
            write_atomically(directory / WEIGHTS, lambda path: save_file(trained, path))
            write_json(directory / DONE, record)
        wait_for_all()

    @cached_property
    def features(self) -> FeatureCache | None:
        """The cache that was given, or the recipe's, opened when it is first wanted: it makes its folder."""
        if self._features is not None or not self.recipe.cache_image_states:
            return self._features
        run = self.recipe, self.directory, self.model, self.processor, self.rows
        return open_cache(*run, self.show_progress)

    @property
    def image_states(self) -> ImageStates | None:
        """Trunk states of every picture as it is, None without a cache; all processes ask for them together."""
        return self._states(self.pairs.plain_views())

    def _states(self, views: list[list[View]]) -> ImageStates | None:
        """Trunk states of these views, None without a cache; what is missing is computed, each process its share."""
        if self.features is None:
            return None
        apply = SatelliteAugmentation.apply if self.pairs.augmentation is None else self.pairs.augmentation.apply
        return self.features.states(views, apply, (rank(), world_size()), wait_for_all)

    def _pairs(self, hard_negatives: np.ndarray | None) -> PairDataset:
        """The pairs that a stage trains on, without their states."""
        recipe = self.recipe
        options = {"augment": recipe.augment, "augmented_views": recipe.augmented_views}
        return PairDataset(self.rows, recipe.caption_column, recipe.seed, hard_negatives, **options)

    def mine(self) -> dict:
        """Hard negatives of every row, found by all processes, each its share; a finished mining is read back."""
        directory, options = self.directory / "mine", asdict(self.recipe.mine)
        if not (self.resume and (directory / DONE).is_file()):
            started_s = time.monotonic()
            drawn = {"caption_column": self.recipe.caption_column, "seed": self.recipe.seed, **options}
            place = {"directory": directory, "resume": self.resume, "show_progress": self.show_progress}
            tables = {"image_states": self.image_states}
            negatives = mine_split(self.model, self.processor, self.rows, **drawn, **tables, **place)
            if rank() == 0:
                record = {"stage": "mine", "k": options["k"], "found": int((negatives >= 0).sum())}
                write_json(directory / DONE, {**record, "seconds": round(time.monotonic() - started_s, 2)})
            wait_for_all()
        self.hard_negatives = load_negatives(directory / NEGATIVES, len(self.rows), options["k"])
        if not (self.hard_negatives >= 0).any():
            what = f"no wrong place was found for any picture ({directory / NEGATIVES})"
            raise TrainingError(f"mine: {what}; loosen its filters, or leave hard_negative out")
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
            caption_column=self.recipe.caption_column,
            augment=self.recipe.augment,
            loss=self.recipe.loss,
            same_place=self.recipe.same_place,
            hardness=self.recipe.hardness,
            label_smoothing_factor=self.recipe.label_smoothing,
            loss_direction=self.recipe.loss_direction,
            temperature=self.recipe.temperature,
            augmented_views=self.recipe.augmented_views,
            platforms=platforms or self._platforms(name),
            max_steps=steps,
            per_device_train_batch_size=self.batch_size,
            chunk_size=self.recipe.chunk_size,
            activation_checkpointing=self.recipe.activation_checkpointing,
            seed=self.recipe.seed,
            bf16=self.recipe.precision == "bfloat16",
            save_strategy="steps" if save_steps else "no",
            save_steps=save_steps or 500,
            save_total_limit=1,
            dataloader_num_workers=self.recipe.num_workers,
            disable_tqdm=True,
            **self._logging(steps),
            **process_options(),
            **options,
        )
        negatives = self.hard_negatives if STAGES[name].needs_negatives else None
        states = None if self.features is None else self._states(self._pairs(negatives).views())
        tables = {"hard_negatives": self.hard_negatives, "image_states": states}
        trainer = PeMoETrainer(model, arguments, self.rows, self.validation, self.processor, **tables)
        trainer.remove_callback(PrinterCallback)  # prints to stdout
        return trainer

    def _logging(self, steps: int) -> dict[str, object]:
        """Trainer arguments of what a stage of so many steps logs, and when it evaluates."""
        log_steps, eval_steps = self.recipe.logging_steps, self.recipe.validation.eval_steps
        return {
            "logging_strategy": "steps" if log_steps else "no",
            "logging_steps": log_steps or 500,
            "report_to": self.recipe.report_to,
            "eval_strategy": "no" if self.validation is None else "steps",
            "eval_steps": eval_steps or steps,
        }

    def _run_trainer(self, trainer: PeMoETrainer, checkpoint: str | None) -> TrainOutput:
        """Train, under a progress bar where asked for."""
        if not self.show_progress:
            return trainer.train(resume_from_checkpoint=checkpoint)
        with closing(_StepBar(Path(trainer.args.output_dir).relative_to(self.directory).as_posix())) as bar:
            trainer.add_callback(bar)
            return trainer.train(resume_from_checkpoint=checkpoint)


def open_cache(
    recipe: Recipe,
    directory: Path,
    model: PeMoEModel,
    processor: PeMoEProcessor,
    rows: datasets.Dataset,
    show_progress: bool = False,
) -> FeatureCache:
    """The feature cache that a recipe asks for, of these rows, in a run's directory unless it names another."""
    options = asdict(recipe.feature_cache)
    named = options.pop("directory")
    where = directory / "feature_cache" if named is None else named
    shown = show_progress and rank() == 0
    return FeatureCache(where, model, processor, rows, **options, num_workers=recipe.num_workers, show_progress=shown)


def last_complete_checkpoint(directory: Path) -> str | None:
    """The newest whole `checkpoint-N`: a kill, or a machine that went down, may have cut the newest one short."""
    checkpoints = sorted(directory.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    return next((str(checkpoint) for checkpoint in reversed(checkpoints) if _is_whole(checkpoint)), None)


def _is_whole(checkpoint: Path) -> bool:
    """Whether the last-written file is there, and no file of tensors ends early."""
    try:
        json.loads((checkpoint / "trainer_state.json").read_text())
        for weights in checkpoint.rglob("*.safetensors"):
            with safe_open(weights, "pt"):
                pass
    except (OSError, ValueError, SafetensorError):
        return False
    return all(map(zipfile.is_zipfile, [*checkpoint.rglob("*.pt"), *checkpoint.rglob("*.pth")]))
