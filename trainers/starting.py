"""What a run starts from: fresh experts on backbones or a trained checkpoint, whole or as LoRA adapters."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import datasets
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoTokenizer

from pemoe.common.errors import one_line
from pemoe.modeling_pemoe import PeMoEModel, PeMoEProcessor
from pemoe.retrieval.checkpoints import local_device, read_config_of
from pemoe.trainers.errors import TrainingError
from pemoe.trainers.parallel.distributed import rank, wait_for_all
from pemoe.trainers.recipes import ModelRecipe, Recipe, resolve_repo


def build_model(recipe: Recipe) -> tuple[PeMoEModel, PeMoEProcessor]:
    """Model and processor a recipe starts from; fresh parts are drawn from the recipe's seed.

    Of a checkpoint, new platforms are added, and with `expert_type: lora` the recipe's platforms are LoRA platforms.
    Without one, LoRA platforms come after the unified stage, see `start_on_base`.

    Raises TrainingError when backbones or checkpoint are not found or do not fit.
    """
    recipe.check_start()
    try:
        with torch.random.fork_rng():
            torch.manual_seed(recipe.seed)
            start = _from_backbones if recipe.model.checkpoint is None else _from_checkpoint
            model, processor = start(recipe.model)
    except (OSError, ValueError, TypeError, ImportError, StrictDataclassError) as error:
        raise TrainingError(f"model: {one_line(error)}") from error
    if recipe.precision == "bfloat16":  # the experts stay fp32: what is trained must not be rounded first
        model.text_trunk.to(torch.bfloat16)
        model.vision_trunk.to(torch.bfloat16)
    return model.to(local_device()), processor


def _from_backbones(spec: ModelRecipe) -> tuple[PeMoEModel, PeMoEProcessor]:
    text_repo, vision_repo = resolve_repo(spec.text_repo), resolve_repo(spec.vision_repo)
    model = PeMoEModel.from_backbones(
        text_repo, vision_repo, spec.platforms, spec.text_revision, spec.vision_revision, **spec.options
    )
    tokenizer = AutoTokenizer.from_pretrained(text_repo, revision=spec.text_revision)
    return model, PeMoEProcessor.build(tokenizer, model.config)


def _from_checkpoint(spec: ModelRecipe) -> tuple[PeMoEModel, PeMoEProcessor]:
    read_config_of(spec.checkpoint)  # says more of what is no checkpoint
    model = PeMoEModel.from_pretrained(spec.checkpoint, dtype=torch.float32).eval()
    if spec.expert_type == "full":
        for name in model.lora_platforms:
            model.merge_platform(name)
    rank_of_new = spec.lora_rank if spec.expert_type == "lora" else None
    for name in spec.platforms or ():
        if name not in model.experts and spec.init_from is None:
            what = f"model.init_from: {spec.checkpoint} has no platform {name!r}"
            raise TrainingError(f"{what}; name the one that it starts from, one of {list(model.experts)}")
        if name not in model.experts:
            model.add_platform(name, spec.init_from, lora_rank=rank_of_new)
    if spec.expert_type == "lora":
        _adapt(model, spec)
    return model, PeMoEProcessor.from_pretrained(spec.checkpoint)


def _adapt(model: PeMoEModel, spec: ModelRecipe) -> None:
    """Make the recipe's platforms LoRA platforms; one that is goes on as it is."""
    for name in spec.platforms:
        if name not in model.lora_platforms:
            model.adapt_platform(name, spec.lora_rank)
        elif (found := model.experts[name].peft_config[name].r) != spec.lora_rank:
            raise TrainingError(f"model.lora_rank: the adapter of {name!r} has rank {found}; set it to that")


def start_on_base(
    model: PeMoEModel, processor: PeMoEProcessor, recipe: Recipe, base: Path, keep: bool = False
) -> None:
    """Save a model whose experts have been taught together as the base of adapters, and start an adapter on each.

    `keep` leaves a base that is there, of the run that is resumed, as it is.
    """
    if rank() == 0 and not (keep and base.is_dir()):
        save_whole(model, processor, base)
    wait_for_all()
    model.name_or_path = model.config.name_or_path = os.path.abspath(base)
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        _adapt(model, recipe.model)


def save_whole(model: PeMoEModel, processor: PeMoEProcessor, directory: Path) -> None:
    """Save model and processor into a folder that a kill leaves whole or absent; one that is there is replaced."""
    unfinished = directory.with_name(f".{directory.name}.tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    model.save_pretrained(unfinished)
    processor.save_pretrained(unfinished)
    shutil.rmtree(directory, ignore_errors=True)
    os.replace(unfinished, directory)


def name_platforms(recipe: Recipe, rows: datasets.Dataset) -> Recipe:
    """The recipe with `model.platforms` named: where it is null, those of the training rows.

    Raises TrainingError when a checkpoint's platform is named that no training row is of.
    """
    if recipe.model.checkpoint is None:
        return recipe
    found = _platforms_of(rows)
    if lacking := [name for name in recipe.model.platforms or () if name not in found]:
        raise TrainingError(
            f"model.platforms: no training row is of {lacking[0]!r}, they are of {found}; leave it out"
        )
    named = recipe.model.platforms if recipe.model.platforms is not None else found
    return replace(recipe, model=replace(recipe.model, platforms=named))


def _platforms_of(rows: datasets.Dataset) -> list[str]:
    names = rows.features["platform"].names
    return [names[number] for number in sorted(set(rows["platform"][:]) - {None})]


def check_gate_rows(model: PeMoEModel, recipe: Recipe, rows: datasets.Dataset) -> None:
    """Refuse (TrainingError) to teach a checkpoint's gate on rows that lack a platform it knows."""
    if recipe.model.checkpoint is None or not recipe.gate.steps:
        return
    present = _platforms_of(rows)
    known = [name for name in model.config.platforms if name not in model.config.masked_platforms]
    if lacking := [name for name in known if name not in present]:
        what = f"the training rows hold no {lacking[0]!r}, which the gate would forget"
        raise TrainingError(f"gate.steps: {what}; add such rows, or set it to 0")
