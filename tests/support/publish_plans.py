"""One small plan of every kind that can be published, and what they are made of."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from tiny_data import build_processor
from tiny_models import build_tiny_model

from pemoe.hub_cards import PushPlan, plan_dataset, plan_metric, plan_model, plan_space

CUTOFFS = (1, 5, 10)


def write_metrics(path: Path, **changes: object) -> dict:
    """A `metrics.json` as `pemoe evaluate` writes it, its figures exact in binary; `changes` to the figures."""
    recall = {"recall_at_1": 0.5, "recall_at_5": 0.75, "recall_at_10": 0.875, "score": 0.6875}
    bounds = {f"{kind}_recall_at_{k}": share for kind, share in (("chance", 0.125), ("ceiling", 1.0)) for k in CUTOFFS}
    figures = {"n_queries": 10, **recall, **bounds, "intervals": {name: [0.25, 0.9375] for name in recall}}
    weights = {name: {"satellite": 0.25, "drone": 0.5, "ground": 0.25} for name in ("satellite", "drone", "ground")}
    results = {**figures, "gate": {"weights": weights, "names_platform": 0.75}}
    results["per_platform"] = dict.fromkeys(weights, figures)
    data = {"source": "folder", "root": "/home/anna/photos", "fingerprint": "f" * 16, "split": "test", "rows": 40}
    machine = {"version": "0.1.0", "commit": None, "seed": None, "device": "cpu", "wall_s": 1.0, "peak_rss_mb": 100.0}
    content = {"command": f"pemoe evaluate {path}", **machine, "data": data, "results": {**results, **changes}}
    path.write_text(json.dumps(content))
    return content


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
        write_metrics(folder / "metrics.json")
        return plan_model(write_model(folder / "model"), repo_id, max_shard_size="400KB")

    def adapters() -> PushPlan:
        for platform in ("infrared", "night"):
            write_adapter(folder / "adapters" / f"{platform}-v1.0", platform)
        return plan_model(folder / "adapters", repo_id, unmeasured=True)

    kinds: dict[str, Callable[[], PushPlan]] = {
        "model": model,
        "adapters": adapters,
        "space": lambda: plan_space(repo_id, "me/pemoe", "me/campus"),
        "metric": lambda: plan_metric("geo_recall", f"{repo_id.partition('/')[0]}/geo_recall"),
        "dataset": lambda: plan_dataset(built_dir, repo_id),
    }
    return kinds[kind]()
