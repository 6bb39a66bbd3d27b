"""Trained checkpoints, read for use: configuration, weights on this process's device, which weights they are."""

from __future__ import annotations

import os
import re
from pathlib import Path

import torch
from huggingface_hub import constants, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, StrictDataclassError
from transformers import AutoConfig
from transformers.utils import ADAPTER_CONFIG_NAME, CONFIG_NAME

from pemoe.common.addresses import without_user
from pemoe.common.errors import InputError
from pemoe.common.weights import hash_weights
from pemoe.modeling_pemoe import PeMoEConfig, PeMoEModel, PeMoEProcessor
from pemoe.modeling_pemoe.lora_pemoe import platform_facts, read_adapter_config, resolve_adapter


def read_config_of(checkpoint: str) -> PeMoEConfig:
    """The config of a checkpoint, a directory or Hub id, without its weights; of a LoRA platform's folder its base's
    with the platform, as the model has it that loads from there.

    Raises InputError when there is none, or it is another model's.
    """
    if not os.path.isdir(checkpoint) and not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", checkpoint):
        raise InputError(f"{checkpoint}: no such directory, and no id of a model on the Hub; check the spelling")
    try:
        base, adapter = resolve_adapter(checkpoint, {})
        facts = platform_facts(read_adapter_config(checkpoint, {})) if adapter else None
        config = AutoConfig.from_pretrained(base)
    except (ValueError, OSError, StrictDataclassError) as error:
        raise InputError(f"{checkpoint}: {_explain(checkpoint, error)}") from error
    if not isinstance(config, PeMoEConfig):
        raise InputError(f"{checkpoint}: holds a {config.model_type} model, not a PE-MoE one")
    if facts is not None and facts["platform"] not in config.platforms:
        config.platforms = [*config.platforms, facts["platform"]]
        config.masked_platforms = [*config.masked_platforms, facts["platform"]]
    return config


def load_checkpoint(checkpoint: str, device: torch.device | None = None) -> tuple[PeMoEModel, PeMoEProcessor]:
    """Model, in eval mode on this process's device or another, and processor; raises as `read_config_of`."""
    read_config_of(checkpoint)
    try:
        model = PeMoEModel.from_pretrained(checkpoint).eval().to(device or local_device())
        return model, PeMoEProcessor.from_pretrained(checkpoint)
    except (ValueError, OSError) as error:
        raise InputError(f"{checkpoint}: {error}") from error


def find_folder(checkpoint: str, commit: str | None = None) -> Path | None:
    """Where the files of a checkpoint that has been loaded lie: its directory, or its snapshot of a commit (None: of
    the main branch) in the Hub's cache; None where there is none. Nothing is fetched.
    """
    if os.path.isdir(checkpoint):
        return Path(checkpoint)
    for name in (CONFIG_NAME, ADAPTER_CONFIG_NAME):
        found = try_to_load_from_cache(checkpoint, name, revision=commit)
        if isinstance(found, str):
            return Path(found).parent
    return None


def describe_model(checkpoint: str | Path, config: PeMoEConfig | None = None) -> dict:
    """Which weights were measured, for `metrics.json`: `{"weights_sha256"}` of a directory, else `{"repo", "commit"}`.

    `config` is that of the loaded model, which knows the commit that was read from the Hub.
    """
    if Path(checkpoint).is_dir():
        return {"weights_sha256": hash_weights(Path(checkpoint))}
    return {"repo": str(checkpoint), "commit": getattr(config, "_commit_hash", None)}


def local_device() -> torch.device:
    """This process's GPU, or the CPU where there is none."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def device_name() -> str:
    """What the work runs on, for `metrics.json`: "cpu", or the name of the GPU."""
    device = local_device()
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


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
