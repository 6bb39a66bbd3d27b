"""Guards: what sentence-transformers gives for a checkpoint, full or experts-only, is what the model itself gives; its
search and evaluator see Eq. (1) as an inner product; what it saves and pushes loads again; what it cannot do for this
model is refused in one line. It runs where the package cannot be imported; docs/ecosystem.md runs as it stands."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from doc_blocks import read_blocks
from local_hub import LocalHub
from local_hub_routes import Repo
from PIL import Image
from tiny_backbones import write_open_clip_backbone, write_text_backbone
from tiny_data import build_processor
from tiny_models import build_tiny_model

from pemoe.modeling_pemoe import PeMoEModel
from pemoe.retrieval import evaluate_retrieval
from pemoe.trainers.experiments.fresh_process import PRELUDE, run_without_package

TEXTS = [
    "red roof",
    "green wall seen from drone",
    "blue door",
    "white wall door roof seen from satellite",
    "teal roof seen from ground door",
    "pink wall",
]
PLACES = ["a", "b", "c", "a", "b", "c"]  # of the texts and of the pictures

STRANGER = """
import json, sys
from pathlib import Path
import numpy as np
import datasets
from PIL import Image
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.util import dot_score, semantic_search
from transformers import AutoModel, AutoProcessor

folder, kinds, texts, places = Path(sys.argv[1]), *map(json.loads, sys.argv[2:])
paths = sorted(str(path) for path in (folder / "pictures").iterdir())
found = {"kinds": {}}

def load(path, **options):
    return SentenceTransformer(str(path), trust_remote_code=True, device="cpu", **options)

def distance(one, other):
    assert one.shape == other.shape, (one.shape, other.shape)
    return float(np.abs(one - other).max())

for kind in kinds:
    st = load(folder / kind)
    model = AutoModel.from_pretrained(folder / kind, trust_remote_code=True)
    processor = AutoProcessor.from_pretrained(folder / kind, trust_remote_code=True)
    pictures = [Image.open(path) for path in paths]
    query, gallery = model.encode_text(texts, processor), model.encode_images(pictures, processor)
    np.savez(folder / f"{kind}.npz", query=query, gallery=gallery)
    text_forms = {"texts": texts, "dicts": [{"text": text} for text in texts]}
    picture_forms = {"pictures": pictures, "arrays": [np.asarray(picture) for picture in pictures], "paths": paths}
    picture_forms["picture dicts"] = [{"image": picture} for picture in pictures]
    found["kinds"][kind] = {
        "code": type(st[0]).__module__.partition(".")[0],
        "distances": {
            **{name: distance(st.encode(inputs), query) for name, inputs in text_forms.items()},
            **{name: distance(st.encode(inputs), gallery) for name, inputs in picture_forms.items()},
            "batches of two": distance(st.encode(texts, batch_size=2), query),
            "query": distance(st.encode_query(texts), query),
            "document": distance(st.encode_document(pictures), gallery),
            "one text": distance(st.encode(texts[0]), query[0]),
            "similarity": distance(st.similarity(query, gallery).numpy(), query @ gallery.T),
        },
        "size": st.get_embedding_dimension(),
        "similarity_fn_name": st.similarity_fn_name,
    }

st = load(folder / "full")
corpus = {f"i{k}": picture for k, picture in enumerate(pictures)}
relevant = {f"q{k}": {f"i{n}" for n, other in enumerate(places) if other == place} for k, place in enumerate(places)}
evaluator = InformationRetrievalEvaluator(dict(zip(relevant, texts)), corpus, relevant, accuracy_at_k=[1, 5])
found["evaluator"] = evaluator(st)
hits = semantic_search(st.encode(texts), st.encode(pictures), top_k=6, score_function=dot_score)
found["hits"] = [[hit["corpus_id"] for hit in row] for row in hits]
cosine = semantic_search(st.encode(texts, normalize_embeddings=True), st.encode(pictures), top_k=6)
found["cosine_hits"] = [[hit["corpus_id"] for hit in row] for row in cosine]
found["gate"] = float(st.encode(texts[:1], output_value=None)[0]["gate_weights"].sum())
short = {"text": {"max_length": 4}}
st.max_seq_length, found["max_seq_length"] = 4, st.max_seq_length
found["cut"] = distance(st.encode(texts), load(folder / "full").encode(texts, processing_kwargs=short))
st.prompts["query"] = "red "
st.save_pretrained(str(folder / "again"))
again = load(folder / "again")
model = AutoModel.from_pretrained(folder / "again", trust_remote_code=True)
processor = AutoProcessor.from_pretrained(folder / "again", trust_remote_code=True)
found["again"] = [
    again.max_seq_length,
    again.similarity_fn_name,
    again.prompts["query"],
    distance(again.encode(texts), st.encode(texts)),
    distance(model.encode_text(texts, processor), st.encode(texts)),
    distance(again.encode(pictures), st.encode(pictures)),
]

st = load(folder / "full")
refused = {
    "empty": lambda: st.encode(["red roof", " "]),
    "mixed": lambda: st.encode(["red roof", pictures[0]]),
    "mixed path": lambda: st.encode(["red roof", Path(paths[0])]),
    "missing": lambda: st.encode([str(folder / "no such.jpg"), "red roof"]),
    "pair": lambda: st.encode([("red roof", "blue door")]),
    "prompt": lambda: st.encode(pictures, prompt="find "),
    "task": lambda: st.encode(texts, task="clustering"),
    "option": lambda: st.encode(texts, processing_kwargs={"audio": {}}),
    "tokens": lambda: setattr(st, "max_seq_length", 100000),
    "pickle": lambda: st.save_pretrained(str(folder / "pickled"), safe_serialization=False),
    "backend": lambda: load(folder / "full", backend="onnx"),
    "truncate_dim": lambda: load(folder / "full", truncate_dim=8),
}
found["refused"] = {}
for name, call in refused.items():
    try:
        call()
    except ValueError as error:
        found["refused"][name] = str(error)
found["max_seq_length after"] = st.max_seq_length

rows = datasets.Dataset.from_dict({"anchor": texts[:3], "positive": paths[:3]})
rows = rows.cast_column("positive", datasets.Image())
before = {name: tensor.clone() for name, tensor in st[0].model.state_dict().items()}
arguments = SentenceTransformerTrainingArguments(
    str(folder / "trained"), max_steps=1, per_device_train_batch_size=3, learning_rate=1e-3, report_to="none",
    save_strategy="no", use_cpu=True, disable_tqdm=True,
)
loss = MultipleNegativesRankingLoss(st, similarity_fct=dot_score)
SentenceTransformerTrainer(st, arguments, train_dataset=rows, loss=loss).train()
after = st[0].model.state_dict()
found["moved"] = sorted({name.split(".")[0] for name in after if not torch.equal(after[name], before[name])})
(folder / "found.json").write_text(json.dumps(found))
"""

HUB_USER = """
import json, sys
import numpy as np
from sentence_transformers import SentenceTransformer
texts = json.loads(sys.argv[1])
st = SentenceTransformer("me/tiny", trust_remote_code=True, device="cpu", revision="v1")
st.push_to_hub("me/again", private=True)
again = SentenceTransformer("me/again", trust_remote_code=True, device="cpu")
found = [one.encode(texts) for one in (st, again)]
np.save(sys.argv[2], found)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two checkpoints, six pictures, and what a stranger's process made of them."""
    folder = tmp_path_factory.mktemp("sentence")
    processor = build_processor()
    build_tiny_model().save_pretrained(folder / "full")
    torch.manual_seed(0)
    text = write_text_backbone(folder / "backbones" / "text")
    vision = write_open_clip_backbone(folder / "backbones" / "vision")
    model = PeMoEModel.from_backbones(str(text), str(vision), image_size=56, gate_hidden_dim=8)
    model.save_pretrained(folder / "experts", experts_only=True)
    (folder / "pictures").mkdir()
    for number in range(len(PLACES)):
        pixels = np.random.default_rng(number).integers(0, 255, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "pictures" / f"{number}.png")
    for kind in ("full", "experts"):
        processor.save_pretrained(folder / kind)
    run_without_package(STRANGER, str(folder), *map(json.dumps, (["full", "experts"], TEXTS, PLACES)))
    return folder


@pytest.fixture(scope="module")
def found(folder: Path) -> dict:
    return json.loads((folder / "found.json").read_text())


@pytest.mark.parametrize("kind", ["full", "experts"])
def test_vectors_are_those_of_the_model(found: dict, kind: str) -> None:
    told = found["kinds"][kind]
    assert told["code"] == "transformers_modules"
    assert {name: distance for name, distance in told["distances"].items() if not distance <= 1e-6} == {}
    assert (told["size"], told["similarity_fn_name"]) == (96, "dot")
    assert abs(found["gate"] - 1) < 1e-6


def test_search_and_evaluator_agree_with_ours(folder: Path, found: dict) -> None:
    vectors = np.load(folder / "full.npz")
    figures = evaluate_retrieval(vectors["query"], vectors["gallery"], PLACES, PLACES)
    assert found["evaluator"]["dot_accuracy@1"] == pytest.approx(figures["recall_at_1"])
    assert found["evaluator"]["dot_accuracy@5"] == pytest.approx(figures["recall_at_5"])
    assert not [name for name in found["evaluator"] if "cosine" in name]
    order = np.argsort(-vectors["query"] @ vectors["gallery"].T, axis=1)
    assert found["hits"] == order.tolist()
    assert found["cosine_hits"] == order.tolist()  # one query's order does not depend on its length


def test_what_it_saves_loads_again_by_both_libraries(folder: Path, found: dict) -> None:
    tokens, similarity, prompt, *distances = found["again"]
    assert (found["max_seq_length"], tokens, similarity, prompt) == (64, 4, "dot", "red ")
    assert found["cut"] <= 1e-6
    assert max(distances) <= 1e-6
    first, second = (json.loads((folder / kind / "config.json").read_text()) for kind in ("full", "again"))
    assert second["max_text_tokens"] == 4
    assert {name for name in first if first[name] != second[name]} <= {"max_text_tokens", "text_config"}
    assert (folder / "again" / "sentence_pemoe.py").is_file()


def test_what_it_cannot_do_is_refused_in_one_line(folder: Path, found: dict) -> None:
    expected = {
        "empty": "one of the texts is empty",
        "mixed": "mixes multiple modalities",
        "mixed path": "image and text in one call",
        "missing": "image and text in one call",
        "pair": "is a pair",
        "prompt": "these are pictures",
        "task": "'clustering' is unknown",
        "option": "'audio' unknown",
        "tokens": "exceeds the text encoder's",
        "pickle": "safetensors only",
        "backend": "use 'torch'",
        "truncate_dim": "cut experts off",
    }
    assert set(found["refused"]) == set(expected)
    for name, part in expected.items():
        assert part in found["refused"][name]
        assert "\n" not in found["refused"][name]
    assert found["max_seq_length after"] == 64
    assert not list((folder / "pickled").glob("*.bin"))


def test_its_trainer_moves_experts_and_gate_and_leaves_the_trunks(found: dict) -> None:
    assert found["moved"] == ["experts", "gate"]


def test_the_file_needs_sentence_transformers_only_when_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = [name for name in sys.modules if name.startswith("sentence_transformers.")]
    for name in ("sentence_transformers", *loaded):
        monkeypatch.setitem(sys.modules, name, None)
    spec = importlib.util.spec_from_file_location("alone", folder / "full" / "sentence_pemoe.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with pytest.raises(ImportError, match="pip install 'sentence-transformers>=6'"):
        module.PeMoESentenceModule(None, None)


def run(code: str, cwd: Path, env: dict[str, str], *arguments: str) -> None:
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_repository_of_the_hub_is_read_at_its_revision_and_pushed_again(folder: Path, tmp_path: Path) -> None:
    with LocalHub(tmp_path / "hub") as hub:
        repo = hub.repos["model", "me/tiny"] = Repo("model", "me/tiny", private=True)
        paths = [path for path in (folder / "full").iterdir() if path.is_file()]
        files = {path.name: hub.store(path.read_bytes(), lfs=path.suffix == ".safetensors") for path in paths}
        repo.tags["v1"] = repo.commit("main", files)
        repo.commit("main", {"README.md": hub.store(b"", lfs=False)})  # the head holds no model
        run(PRELUDE + HUB_USER, tmp_path, hub.env(tmp_path / "home"), json.dumps(TEXTS), str(tmp_path / "found.npy"))
        pushed = set(hub.repos["model", "me/again"].files())
        assert hub.repos["model", "me/again"].private
    assert {"sentence_pemoe.py", "modules.json", "model.safetensors", "processor_config.json", "config.json"} <= pushed
    query = np.load(folder / "full.npz")["query"]
    assert np.abs(np.load(tmp_path / "found.npy") - query).max() <= 1e-6


@pytest.mark.slow
def test_the_page_runs_as_it_stands(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "full", tmp_path / "checkpoint")
    (tmp_path / "photos").mkdir()
    for number in range(12):
        shutil.copy(folder / "pictures" / f"{number % len(PLACES)}.png", tmp_path / "photos" / f"{number}.png")
    checked = """
assert scores.shape == (1, 12) and len(hits) == 3
assert set(metrics) == {"recall_at_1", "recall_at_5", "recall_at_10"} and metrics["recall_at_10"] == 1
"""
    env = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
    run("\n".join([*read_blocks("docs/ecosystem.md", "python"), checked]), tmp_path, env)
