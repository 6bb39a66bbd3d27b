"""Trained checkpoints: read for use, with the data that their run was trained on."""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict
from pathlib import Path

import datasets
from huggingface_hub import constants
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, StrictDataclassError
from transformers import AutoConfig

from pemoe.common.addresses import without_user
from pemoe.common.fingerprints import hash_lines
from pemoe.hub_cards.checkpoint import hash_weights
from pemoe.modeling_pemoe import PeMoEConfig, PeMoEModel, PeMoEProcessor
from pemoe.modeling_pemoe.lora_pemoe import platform_facts, read_adapter_config, resolve_adapter
from pemoe.trainers.batches.pairs import DataRecipe
from pemoe.trainers.errors import TrainingError
from pemoe.trainers.parallel.distributed import local_device
from pemoe.trainers.recipes import Recipe, build, data_recipe


def read_config_of(checkpoint: str) -> PeMoEConfig:
    """The config of a checkpoint, a directory or Hub id, without its weights; of a LoRA platform's folder its base's
    with the platform, as the model has it that loads from there.

    Raises TrainingError when there is none, or it is another model's.
    """
    if not os.path.isdir(checkpoint) and not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", checkpoint):
        raise TrainingError(f"{checkpoint}: no such directory, and no id of a model on the Hub; check the spelling")
    try:
        base, adapter = resolve_adapter(checkpoint, {})
        facts = platform_facts(read_adapter_config(checkpoint, {})) if adapter else None
        config = AutoConfig.from_pretrained(base)
    except (ValueError, OSError, StrictDataclassError) as error:
        raise TrainingError(f"{checkpoint}: {_explain(checkpoint, error)}") from error
    if not isinstance(config, PeMoEConfig):
        raise TrainingError(f"{checkpoint}: holds a {config.model_type} model, not a PE-MoE one")
    if facts is not None and facts["platform"] not in config.platforms:
        config.platforms = [*config.platforms, facts["platform"]]
        config.masked_platforms = [*config.masked_platforms, facts["platform"]]
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
    """Where the rows come from: what the user names, else what the run beside the checkpoint was trained on.

    Raises TrainingError: no such run, or one that does not say it, or whose data directory is not there.
    """
    if data is not None:
        return data_recipe(data)
    run = Path(checkpoint).parent / "recipe.json"
    if not run.is_file():
        read_config_of(checkpoint)
        what = "no recipe.json beside it says what it was trained on"
        raise TrainingError(f"{checkpoint}: {what}; name the data with --data (--data campus is the rendered campus)")
    try:
        recipe = build(DataRecipe, json.loads(run.read_text(encoding="utf-8"))["data"], str(run))
    except (ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"{run} does not say what the model was trained on; give --data") from error
    if recipe.root is not None and not Path(recipe.root).is_dir():
        raise TrainingError(f"{run}: trained on {recipe.root}, which is no directory here; name the data with --data")
    return recipe


def recipe_record(recipe: Recipe) -> dict:
    """A recipe as `recipe.json` holds it: directories by their whole paths, for commands run from elsewhere."""
    content = asdict(recipe)
    content["data"]["root"] = _whole_path(recipe.data.root)
    content["model"]["checkpoint"] = _whole_path(recipe.model.checkpoint)
    return content


def describe_data(data: DataRecipe, split: str, rows: datasets.Dataset) -> dict:
    """What figures were measured on, for `metrics.json`: `{"source", "root", "fingerprint", "split", "rows"}`.

    The fingerprint is of places, platforms and captions in their order, so it is the same on every machine; `root` is
    the id of a data set on the Hub, the whole path of a directory, or None for the campus.
    """
    columns = rows.select_columns(["image_id", "place_id", "platform", "captions"])
    fingerprint = hash_lines(json.dumps(list(row.values())) for row in columns)
    root = _whole_path(data.root)
    return {"source": data.source, "root": root, "fingerprint": fingerprint, "split": split, "rows": len(rows)}


def describe_model(checkpoint: str | Path, config: PeMoEConfig | None = None) -> dict:
    """Which weights were measured, for `metrics.json`: `{"weights_sha256"}` of a directory, else `{"repo", "commit"}`.

    `config` is that of the loaded model, which knows the commit that was read from the Hub.
    """
    if Path(checkpoint).is_dir():
        return {"weights_sha256": hash_weights(Path(checkpoint))}
    return {"repo": str(checkpoint), "commit": getattr(config, "_commit_hash", None)}


def _explain(checkpoint: str, error: Exception) -> str:
    """What an error says; where the Hub shows no such repository to this user, so in a sentence that names the Hub."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, HfHubHTTPError):
        cause = cause.__cause__
    status = getattr(getattr(cause, "response", None), "status_code", None)
    if os.path.isdir(checkpoint) or isinstance(cause, EntryNotFoundError) or status not in (401, 403, 404):
        return str(error)
    where = without_user(constants.ENDPOINT)
    return f"no directory, and no model that {where} shows to you ({status}); check name, `hf auth login`, HF_ENDPOINT"


def _whole_path(root: str | None) -> str | None:
    return os.path.abspath(root) if root is not None and Path(root).is_dir() else root
