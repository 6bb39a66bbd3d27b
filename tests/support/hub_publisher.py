"""Publishes what a stranger then loads, on the Hub of the environment: backbones, one model in full, experts only and
with a LoRA platform, data and a metric; what the models give is written into `vectors.json` under a directory."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from huggingface_hub import HfApi
from tiny_backbones import write_open_clip_backbone, write_text_backbone
from tiny_data import build_processor, build_split

from pemoe.datasets_scripts.builds.dataset import build_dataset
from pemoe.datasets_scripts.builds.plan import BuildPlan
from pemoe.datasets_scripts.campus.reader import CampusReader
from pemoe.hub_cards import plan_dataset, plan_metric, plan_model, push
from pemoe.modeling_pemoe import PeMoEModel, PeMoEProcessor

SENTENCES = ["red roof seen from drone", "blue wall"]
CARD = {"unmeasured": True, "license_id": "apache-2.0"}


def publish_backbones(root: Path) -> None:
    """The tiny encoders, as `me/text` and `me/vision`."""
    api = HfApi()
    for name, write in (("text", write_text_backbone), ("vision", write_open_clip_backbone)):
        api.create_repo(f"me/{name}")
        api.upload_folder(repo_id=f"me/{name}", folder_path=write(root / name))


def publish_models(root: Path) -> PeMoEProcessor:
    """One model as `me/full` and `me/experts`, tagged v1, and in shards as `me/sharded`."""
    torch.manual_seed(0)
    options = {"image_size": 56, "gate_hidden_dim": 8, "max_text_tokens": 64}
    model = PeMoEModel.from_backbones("me/text", "me/vision", **options)
    processor = PeMoEProcessor.build(build_processor().tokenizer, model.config)
    for name, experts_only in (("full", False), ("experts", True)):
        model.save_pretrained(root / name, experts_only=experts_only)
        processor.save_pretrained(root / name)
        push(plan_model(root / name, f"me/{name}", **CARD), tag="v1")
    push(plan_model(root / "full", "me/sharded", max_shard_size="300KB", **CARD))
    return processor


def publish_platform(root: Path) -> PeMoEModel:
    """A LoRA platform of `me/full`, as if trained, as `me/infrared`; the model with it."""
    model = PeMoEModel.from_pretrained("me/full").eval()
    model.add_platform("infrared", init_from="drone", lora_rank=2)
    with torch.no_grad():
        for parameter in model.experts["infrared"].parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn(parameter.shape)
    model.save_platform("infrared", root / "infrared")
    push(plan_model(root / "infrared", "me/infrared", **CARD))
    return model


def main(root: Path) -> None:
    publish_backbones(root)
    processor = publish_models(root)
    model = publish_platform(root)
    picture = build_split(2)["image"][0]
    picture.save(root / "picture.png")
    plain = PeMoEModel.from_pretrained(root / "full").eval()
    with torch.no_grad():
        lone = model.get_text_features(**processor(text=SENTENCES), experts=["infrared"]).text_embeds[:, 0]
    vectors = {
        "text": plain.encode_text(SENTENCES, processor),
        "image": plain.encode_images([picture], processor),
        "lora text": model.encode_text(SENTENCES, processor),
        "lora image": model.encode_images([picture], processor),
        "infrared": lone.numpy(),
    }
    (root / "vectors.json").write_text(json.dumps({name: value.tolist() for name, value in vectors.items()}))
    build_dataset(CampusReader(train_places=2, test_places=2), root / "data", BuildPlan(), version="0")
    push(plan_dataset(root / "data", "me/campus"))
    push(plan_metric("geo_recall", "me/geo_recall"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
