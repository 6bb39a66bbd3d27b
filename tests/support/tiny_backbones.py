"""Writes small backbones to disk as their own libraries save them: transformers, timm and open_clip directories."""

from __future__ import annotations

import json
from pathlib import Path

import open_clip
import timm
import torch
from safetensors.torch import save_file
from transformers import AutoModel, XLMRobertaConfig

TIMM_NAME = "eva02_tiny_patch14_224"  # rope, fused qkv, a native size of 224 px


def write_text_backbone(directory: Path, with_bin: bool = False) -> Path:
    """An XLM-R directory of hidden size 32; `with_bin` stores `pytorch_model.bin` alone."""
    torch.manual_seed(3)
    config = XLMRobertaConfig(
        vocab_size=200,
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=130,
        type_vocab_size=1,
    )
    model = AutoModel.from_config(config)
    model.save_pretrained(directory)
    if with_bin:
        (directory / "model.safetensors").unlink()
        torch.save(model.state_dict(), directory / "pytorch_model.bin")
    return directory


def write_timm_backbone(directory: Path) -> Path:
    """A timm directory: config.json with architecture and model_args, model.safetensors with a head."""
    torch.manual_seed(4)
    model_args = {"depth": 5, "embed_dim": 64, "num_heads": 2, "global_pool": "token"}
    model = timm.create_model(TIMM_NAME, pretrained=False, num_classes=7, **model_args)
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps({"architecture": TIMM_NAME, "model_args": model_args}))
    save_file(model.state_dict(), directory / "model.safetensors")
    return directory


def write_open_clip_backbone(directory: Path, with_bin: bool = False) -> Path:
    """An open_clip directory with a timm image tower, as the Hub's EVA-CLIP repositories are laid out."""
    torch.manual_seed(5)
    model_cfg = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 224, "timm_model_name": TIMM_NAME, "timm_pool": "token", "timm_proj": None},
        "text_cfg": {"context_length": 8, "vocab_size": 50, "width": 16, "heads": 2, "layers": 1},
    }
    model = open_clip.model.CustomTextCLIP(**model_cfg)
    directory.mkdir(parents=True)
    description = {"model_cfg": {**model_cfg, "custom_text": True}, "preprocess_cfg": {}}
    (directory / "open_clip_config.json").write_text(json.dumps(description))
    if with_bin:
        torch.save(model.state_dict(), directory / "open_clip_pytorch_model.bin")
    else:
        save_file(model.state_dict(), directory / "open_clip_model.safetensors")
    return directory
