"""Reading pretrained backbones from the Hub or a directory, and naming their weights as PE-MoE does."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
from typing import NamedTuple

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, AutoModel, PreTrainedConfig

from .vision_pemoe import build_vision_encoder

OPEN_CLIP_CONFIG = "open_clip_config.json"
OPEN_CLIP_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
TIMM_CONFIG = "config.json"
TIMM_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
HASHED_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
TRUNK_ROOTS = ("text_trunk.", "vision_trunk.")


class Backbone(NamedTuple):
    """A pretrained encoder as read: its configuration, its fp32 weights, the commit it came from (None: directory)."""

    config: PreTrainedConfig | dict
    state_dict: dict[str, Tensor]
    revision: str | None


def read_text_backbone(repo: str, revision: str | None = None, token: str | None = None) -> Backbone:
    """Read a transformers text encoder (BERT, RoBERTa or XLM-R family), without its pooler.

    Raises:
        OSError: no such repository, directory or weight file.
    """
    config = AutoConfig.from_pretrained(repo, revision=revision, token=token)
    commit = _commit_in_path(_find_file(repo, ("config.json",), revision, token))
    model = AutoModel.from_pretrained(
        repo, revision=commit or revision, token=token, add_pooling_layer=False, dtype=torch.float32
    )
    config._name_or_path = ""  # a path of this machine would travel in every checkpoint
    return Backbone(config, model.state_dict(), commit)


def read_vision_backbone(
    repo: str, image_size: int, revision: str | None = None, token: str | None = None
) -> Backbone:
    """Read an open_clip or timm repository, position embeddings resampled (fp32) to `image_size` px.

    `config` is PE-MoE's `vision_config`: `{"architecture", "model_args"}`. A `.bin` file is read with
    `weights_only=True`, at the commit that the configuration file came from.

    Raises:
        OSError: no such repository, directory or weight file.
        ValueError: the repository is neither open_clip's nor timm's, or its image tower is no timm model.
    """
    path = _find_file(repo, (OPEN_CLIP_CONFIG, TIMM_CONFIG), revision, token)
    is_open_clip = os.path.basename(path) == OPEN_CLIP_CONFIG
    reader, weight_names = (_read_open_clip, OPEN_CLIP_WEIGHTS) if is_open_clip else (_read_timm, TIMM_WEIGHTS)
    commit = _commit_in_path(path)
    with open(path, encoding="utf-8") as file:
        description = json.load(file)
    weights = _find_file(repo, weight_names, commit or revision, token)
    vision_config, encoder_weights = reader(repo, description, weights)
    encoder = build_vision_encoder(vision_config, _native_size(vision_config))
    missing, _ = encoder.load_state_dict(encoder_weights, strict=False)
    if missing:
        raise ValueError(f"{repo}: the image tower lacks {len(missing)} weights, first {missing[0]}")
    encoder.set_input_size(img_size=image_size)
    return Backbone(vision_config, dict(encoder.state_dict()), commit)


def trunk_state_dict(text: Backbone, vision: Backbone, text_trunk_layers: int, vision_trunk_blocks: int) -> dict:
    """Weights of both trunks under PE-MoE's names."""
    named = {}
    for name, tensor in text.state_dict.items():
        layer = _layer_index(name, "encoder.layer.")
        if layer is None or layer < text_trunk_layers:
            named[f"text_trunk.{name}"] = tensor
    for name, tensor in vision.state_dict.items():
        block = _layer_index(name, "blocks.")
        if name.startswith(("norm.", "fc_norm.", "head.")) or (block is not None and block >= vision_trunk_blocks):
            continue
        named[f"vision_trunk.{name}"] = tensor
    return named


def expert_state_dict(text: Backbone, vision: Backbone, text_trunk_layers: int, vision_trunk_blocks: int) -> dict:
    """Weights of one expert started as a copy of the backbones' last layers (projection and temperature excluded)."""
    named = {}
    for name, tensor in text.state_dict.items():
        layer = _layer_index(name, "encoder.layer.")
        if layer is not None and layer >= text_trunk_layers:
            rest = name.removeprefix(f"encoder.layer.{layer}.")
            named[f"text_layers.{layer - text_trunk_layers}.{rest}"] = tensor
    for name, tensor in vision.state_dict.items():
        block = _layer_index(name, "blocks.")
        if block is not None and block >= vision_trunk_blocks:
            rest = name.removeprefix(f"blocks.{block}.")
            named[f"vision_blocks.{block - vision_trunk_blocks}.{rest}"] = tensor
        elif name.startswith(("norm.", "fc_norm.")):
            named[f"vision_norm.{name.partition('.')[2]}"] = tensor
    return named


def hash_trunks(state_dict: dict[str, Tensor], dtype: torch.dtype) -> str:
    """SHA-256 over the trunks' names and values, as they are in `dtype`; other entries are left out."""
    digest = hashlib.sha256()
    for name in sorted(name for name in state_dict if name.startswith(TRUNK_ROOTS)):
        digest.update(name.encode())
        values = state_dict[name].detach().to("cpu", dtype).contiguous()
        digest.update(values.flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _read_open_clip(repo: str, description: dict, weights: str) -> tuple[dict, dict[str, Tensor]]:
    vision = description.get("model_cfg", description).get("vision_cfg", {})
    if "timm_model_name" not in vision:
        raise ValueError(f"{repo}: its open_clip image tower is not a timm model, which PE-MoE splits")
    open_clip = _import_open_clip()
    tower = open_clip.factory.load_state_dict(weights, device="cpu", weights_only=True)
    root = "visual.trunk."
    named = {name.removeprefix(root): tensor.float() for name, tensor in tower.items() if name.startswith(root)}
    model_args = {"img_size": vision["image_size"]} if "image_size" in vision else {}
    if vision.get("timm_pool"):
        model_args["global_pool"] = vision["timm_pool"]
    return {"architecture": vision["timm_model_name"], "model_args": model_args}, named


def _read_timm(repo: str, description: dict, weights: str) -> tuple[dict, dict[str, Tensor]]:
    if "architecture" not in description:
        raise ValueError(f"{repo}: neither an {OPEN_CLIP_CONFIG} nor a timm config.json with an architecture")
    if weights.endswith(".safetensors"):
        loaded = load_file(weights)
    else:
        loaded = torch.load(weights, map_location="cpu", weights_only=True)
    model_args = dict(description.get("model_args") or {})
    return {"architecture": description["architecture"], "model_args": model_args}, {
        name: tensor.float() for name, tensor in loaded.items()
    }


def _native_size(vision_config: dict) -> int:
    """Side in px that the weights were made for: the timm model's own, unless the arguments name one."""
    size = vision_config["model_args"].get("img_size")
    if size is None:
        timm = importlib.import_module("timm")
        size = timm.get_pretrained_cfg(vision_config["architecture"]).input_size[-1]
    return size if isinstance(size, int) else size[-1]


def _layer_index(name: str, root: str) -> int | None:
    return int(name.removeprefix(root).partition(".")[0]) if name.startswith(root) else None


def _find_file(repo: str, names: tuple[str, ...], revision: str | None, token: str | None) -> str:
    """Local path of the first of these files that the directory or Hub repository holds."""
    for name in names:
        if os.path.isdir(repo):
            if os.path.isfile(os.path.join(repo, name)):
                return os.path.join(repo, name)
            continue
        try:
            return hf_hub_download(repo, name, revision=revision, token=token)
        except EntryNotFoundError:
            continue
    raise OSError(f"{repo}: found none of {', '.join(names)} (a directory, or a Hub repository that can be reached?)")


def _commit_in_path(path: str) -> str | None:
    """The commit in a Hub cache path `…/snapshots/<commit>/…`; None for a plain directory."""
    parts = os.path.normpath(path).split(os.sep)
    return parts[parts.index("snapshots") + 1] if "snapshots" in parts else None


def _import_open_clip():
    try:
        return importlib.import_module("open_clip")
    except ImportError as error:
        raise ImportError("this repository holds open_clip weights: run `pip install open_clip_torch`") from error
