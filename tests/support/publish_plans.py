"""One small plan of every kind that can be published, and what they are made of."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from tiny_data import build_processor
from tiny_models import build_tiny_model

from pemoe.hub_cards import PushPlan, plan_dataset, plan_model
from pemoe.hub_cards.plan_bundle import plan_bundle

README = b"---\nsdk: static\ntitle: a Space\n---\n\n# A Space\n"


def write_model(directory: Path) -> Path:
    """A full checkpoint of the tiny model with its processor, as a run leaves it."""
    build_tiny_model().save_pretrained(directory)
    build_processor().save_pretrained(directory)
    return directory


def write_adapter(directory: Path, platform: str = "infrared", base: str = "me/pemoe") -> Path:
    """The folder of a LoRA platform."""
    facts = {"platform": platform, "init_from": "drone", "init_sha256": {}}
    config = {"peft_type": "LORA", "r": 2, "base_model_name_or_path": base, "auto_mapping": facts}
    directory.mkdir(parents=True)
    (directory / "adapter_config.json").write_text(json.dumps(config))
    name = f"base_model.model.experts.{platform}.visual_projection.lora_A.weight"
    save_file({name: torch.ones(2, 64)}, directory / "adapter_model.safetensors", metadata={"format": "pt"})
    return directory


def plan_of(kind: str, folder: Path, built_dir: Path, repo_id: str = "me/thing") -> PushPlan:
    """A plan of this kind, its files written into an empty folder."""

    def model() -> PushPlan:
        return plan_model(write_model(folder / "model"), repo_id, unmeasured=True, max_shard_size="400KB")

    def adapters() -> PushPlan:
        for platform in ("infrared", "night"):
            write_adapter(folder / "adapters" / platform, platform)
        return plan_model(folder / "adapters", repo_id, unmeasured=True)

    def bundle() -> PushPlan:
        files = {"README.md": README, "app.py": b"print('hello')\n", "requirements.txt": b"numpy\n"}
        return plan_bundle(files, repo_id, "app.py")

    kinds: dict[str, Callable[[], PushPlan]] = {
        "model": model,
        "adapters": adapters,
        "space": bundle,
        "dataset": lambda: plan_dataset(built_dir, repo_id),
    }
    return kinds[kind]()
