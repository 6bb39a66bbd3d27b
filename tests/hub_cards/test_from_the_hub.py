"""Guards: who never cloned this repository gets what was published: in a clean process that cannot import the package,
with empty caches, model (full, experts only, LoRA), processor, pipeline, sentence-transformers, metric and data load
from the Hub and give the publisher's own numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hub_publisher import SENTENCES
from hub_stranger import run_as_stranger
from local_hub import LocalHub

pytestmark = pytest.mark.slow

USE = """
import json, sys
import evaluate, numpy as np, torch
from datasets import load_dataset
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoProcessor, pipeline

picture, sentences, folder = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
found = {}
for name, repo in {**{name: f"me/{name}" for name in ("full", "experts", "infrared")}, "folder": folder}.items():
    model = AutoModel.from_pretrained(repo, trust_remote_code=True).eval()
    processor = AutoProcessor.from_pretrained(repo, trust_remote_code=True)
    assert type(model).__module__.startswith("transformers_modules."), type(model).__module__
    assert type(processor).__module__.startswith("transformers_modules."), type(processor).__module__
    places = pipeline("geo-localization", model=repo, trust_remote_code=True)(sentences[0], gallery=[picture])
    transformer = SentenceTransformer(repo, trust_remote_code=True)
    found[name] = {
        "text": model.encode_text(sentences, processor),
        "image": model.encode_images([picture], processor),
        "score": [place["score"] for place in places],
        "experts": [len(place["gate_weights"]) for place in places],
        "sentence": transformer.encode(sentences),
        "picture": transformer.encode([picture]),
    }
with torch.no_grad():
    lone = model.get_text_features(**processor(text=sentences), experts=["infrared"]).text_embeds[:, 0].numpy()
tagged = AutoModel.from_pretrained("me/full", trust_remote_code=True, revision="v1").eval()
found["other"] = {"infrared": lone, "tagged": tagged.encode_text(sentences, processor)}
recall = evaluate.load("me/geo_recall")
ranked = {"predictions": [["a", "b"] * 5, ["b"] * 10], "references": ["a", "a"]}
found["other"]["recall"] = recall.compute(**ranked)["recall_at_1"]
rows = load_dataset("me/campus", "drone", split="test")
found["other"]["rows"] = [len(rows), *rows[0]["image"].size]
print(json.dumps({name: {key: np.asarray(v).tolist() for key, v in one.items()} for name, one in found.items()}))
"""


@pytest.fixture(scope="module")
def found(published: tuple[LocalHub, Path]) -> dict:
    hub, root = published
    return run_as_stranger(
        hub, root / "user", USE, str(root / "picture.png"), json.dumps(SENTENCES), str(root / "infrared")
    )


@pytest.fixture(scope="module")
def expected(published: tuple[LocalHub, Path]) -> dict:
    return json.loads((published[1] / "vectors.json").read_text())


@pytest.mark.parametrize(("name", "of"), [("full", ""), ("experts", ""), ("infrared", "lora "), ("folder", "lora ")])
def test_every_way_in_gives_the_publishers_numbers(found: dict, expected: dict, name: str, of: str) -> None:
    text, image, given = expected[f"{of}text"], expected[f"{of}image"], found[name]
    assert given["text"] == text and given["image"] == image
    for row, vector in [*zip(given["sentence"], text, strict=True), *zip(given["picture"], image, strict=True)]:
        assert row == pytest.approx(vector, abs=1e-6)
    score = sum(a * b for a, b in zip(text[0], image[0], strict=True))
    assert given["score"] == pytest.approx([score], abs=1e-5)
    assert given["experts"] == [4 if of else 3]  # the pipeline's model has the platform too


def test_a_platform_has_its_own_vectors_and_no_weight_yet(found: dict, expected: dict) -> None:
    assert found["other"]["infrared"] == expected["infrared"]
    size = len(expected["infrared"][0])
    for fused, plain in zip(expected["lora text"], expected["text"], strict=True):
        assert fused[-size:] == [0] * size and fused[:-size] == pytest.approx(plain, abs=1e-6)


def test_a_tag_a_metric_and_data_load(found: dict, expected: dict) -> None:
    other = found["other"]
    assert other["tagged"] == expected["text"]
    assert other["recall"] == 0.5
    rows, width, height = other["rows"]
    assert rows > 0 and min(width, height) > 16
