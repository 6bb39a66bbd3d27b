"""Trained checkpoints: read for use, with the data that their run was trained on."""

from __future__ import annotations

import json
from pathlib import Path

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig

from pemoe.modeling_pemoe import PeMoEConfig, PeMoEModel, PeMoEProcessor
from pemoe.trainers.distributed import local_device
from pemoe.trainers.errors import TrainingError
from pemoe.trainers.recipes import DataRecipe, build, data_recipe, load_recipe


def read_config_of(checkpoint: str) -> PeMoEConfig:
    """The config of a checkpoint, a directory or Hub id, without its weights.

    Raises TrainingError when there is none, or it is another model's.
    """
    try:
        config = AutoConfig.from_pretrained(checkpoint)
    except (ValueError, OSError, StrictDataclassError) as error:
        raise TrainingError(f"{checkpoint}: {error}") from error
    if not isinstance(config, PeMoEConfig):
        raise TrainingError(f"{checkpoint}: holds a {config.model_type} model, not a PE-MoE one")
    return config


def load_checkpoint(checkpoint: str) -> tuple[PeMoEModel, PeMoEProcessor]:
    """Model, in eval mode on this process's device, and processor; raises as `read_config_of`."""
    read_config_of(checkpoint)
    try:
        model = PeMoEModel.from_pretrained(checkpoint).eval().to(local_device())
        return model, PeMoEProcessor.from_pretrained(checkpoint)
    except (ValueError, OSError) as error:
        raise TrainingError(f"{checkpoint}: {error}") from error


def data_of(checkpoint: str, data: str | None = None) -> DataRecipe:
    """Where the rows come from: what the user names, else what the run beside the checkpoint used, else the campus."""
    run = Path(checkpoint).parent / "recipe.json"
    if data is not None:
        return data_recipe(data)
    if run.is_file():
        try:
            return build(DataRecipe, json.loads(run.read_text(encoding="utf-8"))["data"], str(run))
        except (ValueError, KeyError, TypeError) as error:
            raise TrainingError(f"{run} does not say what the model was trained on; give --data") from error
    return load_recipe("quickstart").data
