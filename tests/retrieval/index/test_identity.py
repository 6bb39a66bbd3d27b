"""Invariant: vectors of two models never meet: an identity follows the weights and all else that decides vectors, not
the names of files, and a digest that is remembered is never a stale one."""

from __future__ import annotations

import dataclasses
import os
import shutil
import time
from pathlib import Path

import pytest
import torch
from tiny_gallery import save_tiny_checkpoint
from tiny_models import build_tiny_model

from pemoe.modeling_pemoe import PeMoEModel
from pemoe.retrieval import weight_digests
from pemoe.retrieval.checkpoints import load_checkpoint
from pemoe.retrieval.index.errors import GalleryError
from pemoe.retrieval.index.identity import ModelIdentity
from pemoe.retrieval.weight_digests import weights_digest


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny_checkpoint(tmp_path_factory.mktemp("model"))


def identify(checkpoint: str | Path, model: PeMoEModel | None = None) -> ModelIdentity:
    return ModelIdentity.of(str(checkpoint), model or build_tiny_model())


def test_a_moved_model_is_the_same_another_is_not(checkpoint: str, tmp_path: Path) -> None:
    mine = identify(checkpoint)
    assert ModelIdentity.from_json(mine.as_json()) == mine and mine.dimension == len(mine.platforms) * mine.embed_dim
    shutil.copytree(checkpoint, tmp_path / "moved")
    mine.check_same(identify(tmp_path / "moved"), "the index")
    model = build_tiny_model()
    with torch.no_grad():
        next(model.experts.parameters()).add_(1)
    model.save_pretrained(tmp_path / "moved")
    with pytest.raises(GalleryError, match=r"the index belongs to the model .*: use that one, or build") as error:
        mine.check_same(identify(tmp_path / "moved"), "the index")
    assert "\n" not in str(error.value)


def test_all_that_decides_vectors_counts_and_names_do_not(checkpoint: str) -> None:
    mine = identify(checkpoint)
    mine.check_same(dataclasses.replace(mine, repo="me/pemoe", revision="c" * 40), "the index")
    for name, value in {
        "platforms": (*mine.platforms, "infrared"),
        "embed_dim": 7,
        "gate": "uniform",
        "image_size_px": 1,
        "processor_sha256": "f" * 64,
    }.items():
        with pytest.raises(GalleryError, match=r"infrared|" + name):
            mine.check_same(dataclasses.replace(mine, **{name: value}), "the index")


def test_pixels_made_otherwise_are_another_model(checkpoint: str, tmp_path: Path) -> None:
    shutil.copytree(checkpoint, tmp_path / "other")
    path = tmp_path / "other" / "processor_config.json"
    path.write_text(path.read_text().replace('"rescale_factor": 0.0', '"rescale_factor": 0.1'))
    with pytest.raises(GalleryError, match="processor_sha256"):
        identify(checkpoint).check_same(identify(tmp_path / "other"), "the index")


def test_a_platform_added_later_is_named(checkpoint: str, tmp_path: Path) -> None:
    mine, model = identify(checkpoint), build_tiny_model()
    model.add_platform("infrared", init_from="drone")
    model.save_pretrained(tmp_path / "more")
    with pytest.raises(GalleryError, match=r"satellite, drone, ground, .* for satellite, drone, ground, infrared"):
        mine.check_same(identify(tmp_path / "more", model), "the index")


def test_a_lora_platform_has_an_identity_that_follows_adapter_and_base(checkpoint: str, tmp_path: Path) -> None:
    model, _ = load_checkpoint(checkpoint)  # which knows its base
    model.add_platform("infrared", init_from="drone", lora_rank=2)
    model.save_platform("infrared", tmp_path / "lora", base=checkpoint)
    one = identify(tmp_path / "lora", load_checkpoint(str(tmp_path / "lora"))[0])
    assert one.platforms[-1] == "infrared" and one.weights_sha256 != identify(checkpoint).weights_sha256
    assert one.processor_sha256 == identify(checkpoint).processor_sha256
    with torch.no_grad():
        for name, parameter in model.experts["infrared"].named_parameters():
            if "lora_B" in name:
                parameter.add_(1)
    model.save_platform("infrared", tmp_path / "lora", base=checkpoint)
    with pytest.raises(GalleryError, match="belongs to the model"):
        one.check_same(identify(tmp_path / "lora", model), "the index")


def test_a_remembered_digest_is_never_a_stale_one(checkpoint: str, tmp_path: Path, monkeypatch) -> None:
    folder = Path(shutil.copytree(checkpoint, tmp_path / "model"))
    weights = folder / "model.safetensors"
    hashed: list[Path] = []

    def hash_weights(root: Path) -> str:
        hashed.append(root)
        return original(root)

    original = weight_digests.hash_weights
    monkeypatch.setattr(weight_digests, "hash_weights", hash_weights)
    monkeypatch.setattr(weight_digests.constants, "HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(weight_digests, "REMEMBERED_BYTES", 0)
    first = weights_digest(folder)
    assert weights_digest(folder) == first and len(hashed) == 2  # written just now: not remembered
    monkeypatch.setattr(weight_digests, "SETTLED_NS", 0)
    time.sleep(0.01)
    assert weights_digest(folder) == weights_digest(folder) == first and len(hashed) == 3
    before = weights.stat()
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))  # same size, same time of change
    assert weights_digest(folder) != first
    (tmp_path / "home" / "pemoe" / next(iter(os.listdir(tmp_path / "home" / "pemoe")))).write_text("[")
    assert weights_digest(folder) == original(folder)
