"""Reading pretrained backbones from the Hub or a directory, and naming their weights as PE-MoE does."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import re
from typing import NamedTuple

import torch
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, AutoModel, PreTrainedConfig
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file

from .vision_pemoe import build_vision_encoder, import_timm, set_image_size

OPEN_CLIP_CONFIG = "open_clip_config.json"
OPEN_CLIP_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
TIMM_CONFIG = "config.json"
TIMM_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
TRUNK_ROOTS = ("text_trunk.", "vision_trunk.")
_LAYER = re.compile(r"(?:encoder\.layer|blocks)\.(\d+)\.(.+)")  # BERT's and timm's names: number, rest
_COMMIT = re.compile(r".*/snapshots/([0-9a-f]{40})/")  # in the Hub's cache, whatever folder that lies in


class Backbone(NamedTuple):
    """A pretrained encoder as read: its configuration, its fp32 weights, the commit it came from (None: directory)."""

    config: PreTrainedConfig | dict
    state_dict: dict[str, Tensor]
    revision: str | None


def read_text_backbone(repo: str, revision: str | None = None, **hub: object) -> Backbone:
    """Read a transformers text encoder (BERT, RoBERTa or XLM-R family), without its pooler.

    `hub` may hold `token`, `cache_dir`, `local_files_only` and `force_download`; OSError where nothing is found.
    """
    config = AutoConfig.from_pretrained(repo, revision=revision, **hub)
    commit = find_commit(repo, _find_file(repo, ("config.json",), revision, hub))
    options = {"add_pooling_layer": False, "dtype": torch.float32, **hub}
    model = AutoModel.from_pretrained(repo, revision=commit or revision, **options)
    config._name_or_path = ""  # a path of this machine would travel in every checkpoint
    return Backbone(config, model.state_dict(), commit)


def read_vision_backbone(repo: str, image_size: int, revision: str | None = None, **hub: object) -> Backbone:
    """Read an open_clip or timm repository, position embeddings resampled (fp32) to `image_size` px.

    `config` is PE-MoE's `vision_config`: `{"architecture", "model_args"}`. A `.bin` file is read with
    `weights_only=True`, at the commit that the configuration file came from. `hub` as in `read_text_backbone`.

    Raises:
        OSError: nothing found; ValueError: neither open_clip's nor timm's, or its image tower is no timm model.
    """
    path = _find_file(repo, (OPEN_CLIP_CONFIG, TIMM_CONFIG), revision, hub)
    is_open_clip = os.path.basename(path) == OPEN_CLIP_CONFIG
    reader, weight_names = (_read_open_clip, OPEN_CLIP_WEIGHTS) if is_open_clip else (_read_timm, TIMM_WEIGHTS)
    commit = find_commit(repo, path)
    with open(path, encoding="utf-8") as file:
        description = json.load(file)
    weights = _find_file(repo, weight_names, commit or revision, hub)
    vision_config, encoder_weights = reader(repo, description, weights)
    encoder = build_vision_encoder(vision_config, _native_size(vision_config))
    missing, _ = encoder.load_state_dict(encoder_weights, strict=False)
    if missing:
        raise ValueError(f"{repo}: the image tower lacks {len(missing)} weights, first {missing[0]}")
    set_image_size(encoder, image_size)
    return Backbone(vision_config, dict(encoder.state_dict()), commit)


def split_weights(
    text: Backbone, vision: Backbone, text_expert_layers: int, vision_expert_layers: int
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights of both trunks, and of one expert started as a copy of the last layers, under PE-MoE's names.

    The expert's have no prefix and lack its projection and temperature, which no backbone holds.
    """
    trunks, expert = {}, {}
    parts = [
        (text.state_dict, text_expert_layers, "text_trunk.", "text_layers."),
        (vision.state_dict, vision_expert_layers, "vision_trunk.", "vision_blocks."),
    ]
    for weights, expert_layers, trunk_root, expert_root in parts:
        layers = {name: _LAYER.fullmatch(name) for name in weights}
        first = 1 + max(int(layer[1]) for layer in layers.values() if layer) - expert_layers
        for name, layer in layers.items():
            if layer and int(layer[1]) >= first:
                expert[f"{expert_root}{int(layer[1]) - first}.{layer[2]}"] = weights[name]
            elif name.startswith(("norm.", "fc_norm.")):
                expert[f"vision_norm.{name.partition('.')[2]}"] = weights[name]
            else:
                trunks[trunk_root + name] = weights[name]
    return trunks, expert


def hash_trunks(state_dict: dict[str, Tensor], dtype: torch.dtype, roots: tuple[str, ...] = TRUNK_ROOTS) -> str:
    """SHA-256 over names and values, as they are in `dtype`, of the entries below `roots`; `("",)` for all."""
    digest = hashlib.sha256()
    for name in sorted(name for name in state_dict if name.startswith(roots)):
        digest.update(name.encode())
        values = state_dict[name].detach().to("cpu", dtype).contiguous()
        digest.update(values.flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def has_file(repo: str | os.PathLike, name: str, hub: dict) -> bool:
    """Whether a repository of the Hub or a directory holds a file."""
    return cached_file(str(repo), name, _raise_exceptions_for_missing_entries=False, **hub) is not None


def check_has_safetensors(repo: str | os.PathLike, hub: dict) -> None:
    """Refuse (OSError, one line) a checkpoint without safetensors."""
    if not any(has_file(repo, name, hub) for name in (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME)):
        what = f"holds no {SAFE_WEIGHTS_NAME}, and pickled weights are never read"
        raise OSError(f"{repo}: {what}; save the model as safetensors")


def read_safetensors(path: str, repo: str | os.PathLike) -> dict[str, Tensor]:
    """The tensors of a file of `repo`; OSError, one line, where it is cut short."""
    try:
        return load_file(path)
    except SafetensorError as error:
        raise unreadable(repo, os.path.basename(path), error) from error


def unreadable(repo: str | os.PathLike, name: str, error: SafetensorError) -> OSError:
    """What to raise for weights that are cut short or otherwise spoilt."""
    return OSError(f"{repo}: {name} cannot be read ({error}); save or download it again")


def _read_open_clip(repo: str, description: dict, weights: str) -> tuple[dict, dict[str, Tensor]]:
    vision = description.get("model_cfg", description).get("vision_cfg", {})
    if "timm_model_name" not in vision:
        raise ValueError(f"{repo}: its open_clip image tower is not a timm model, which PE-MoE splits")
    try:
        open_clip = importlib.import_module("open_clip")
    except ImportError as error:
        raise ImportError("this repository holds open_clip weights: run `pip install open_clip_torch`") from error
    tower = open_clip.factory.load_state_dict(weights, device="cpu", weights_only=True)
    root = "visual.trunk."
    named = {name.removeprefix(root): tensor.float() for name, tensor in tower.items() if name.startswith(root)}
    model_args = {"img_size": vision["image_size"]} if "image_size" in vision else {}
    if vision.get("timm_pool"):
        model_args["global_pool"] = vision["timm_pool"]
    config = {"architecture": vision["timm_model_name"], "model_args": model_args}
    return {**config, **_normalisation(description.get("preprocess_cfg", {}))}, named


def _read_timm(repo: str, description: dict, weights: str) -> tuple[dict, dict[str, Tensor]]:
    if "architecture" not in description:
        raise ValueError(f"{repo}: neither an {OPEN_CLIP_CONFIG} nor a timm config.json with an architecture")
    is_safe = weights.endswith(".safetensors")
    loaded = read_safetensors(weights, repo) if is_safe else torch.load(weights, map_location="cpu", weights_only=True)
    config = {"architecture": description["architecture"], "model_args": dict(description.get("model_args") or {})}
    config |= _normalisation(description.get("pretrained_cfg", description))
    return config, {name: tensor.float() for name, tensor in loaded.items()}


def _normalisation(description: dict) -> dict[str, list[float]]:
    """Mean and standard deviation a backbone wants its pixels normalised with, where its repository states them."""
    return {f"image_{name}": [float(v) for v in description[name]] for name in ("mean", "std") if name in description}


def _native_size(vision_config: dict) -> int:
    """Side in px that the weights were made for: the timm model's own, unless the arguments name one."""
    size = vision_config["model_args"].get("img_size")
    if size is None:
        size = import_timm().get_pretrained_cfg(vision_config["architecture"]).input_size[-1]
    return size if isinstance(size, int) else size[-1]


def _find_file(repo: str, names: tuple[str, ...], revision: str | None, hub: dict) -> str:
    """Local path of the first of these files that the directory or Hub repository holds."""
    for name in names:
        if os.path.isdir(repo):
            if os.path.isfile(os.path.join(repo, name)):
                return os.path.join(repo, name)
            continue
        try:
            return hf_hub_download(repo, name, revision=revision, **hub)
        except LocalEntryNotFoundError as error:  # not reached: says nothing about what the repository holds
            cached = try_to_load_from_cache(repo, name, cache_dir=hub.get("cache_dir"), revision=revision)
            if cached is None or isinstance(cached, str):  # else an earlier download noted that there is no such file
                raise OSError(f"{repo}: cannot be reached, and {name} is not in the cache") from error
        except EntryNotFoundError:
            continue
    raise OSError(f"{repo}: found none of {', '.join(names)}; name a directory or a Hub repository that holds one")


def find_commit(repo: str, path: str) -> str | None:
    """The commit in a Hub cache path `…/snapshots/<commit>/…`; None for a directory of the user's."""
    found = None if os.path.isdir(repo) else _COMMIT.match(os.path.normpath(path).replace(os.sep, "/"))
    return found and found[1]
