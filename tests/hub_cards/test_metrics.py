"""Guards: the `evaluate` modules give the figures of `evaluate_retrieval` on the same search, by path and from a Hub,
there without the package and without torch; what they cannot know or take is refused in one line."""

from __future__ import annotations

import ast
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import evaluate
import numpy as np
import pytest
import torch
from doc_blocks import ROOT
from local_hub import LocalHub
from local_hub_routes import Repo

from pemoe.common.errors import InputError
from pemoe.hub_cards.metrics_bundle import METRICS, bundle_metric
from pemoe.retrieval import evaluate_retrieval, search
from pemoe.trainers.experiments.fresh_process import PRELUDE

NAMES = ("challenge_score", "geo_recall")
FIGURES = ("recall_at_1", "recall_at_5", "recall_at_10", "score")
LOAD = """
import json, sys, evaluate
data = json.loads(sys.argv[1])
found = {}
for path in sys.argv[2:]:
    metric = evaluate.load(path)
    found |= metric.compute(**data)
    metric.add_batch(predictions=data["predictions"][:7], references=data["references"][:7])
    for ranked, true in zip(data["predictions"][7:], data["references"][7:]):
        metric.add(prediction=ranked, reference=true)
    again = metric.compute(gallery_place_id=data["gallery_place_id"])
    assert all(found[name] == figure for name, figure in again.items()), again
assert found == evaluate.combine(sys.argv[2:]).compute(**data)
print(json.dumps([found, "pemoe" in sys.modules]))
"""


def searched(n_gallery: int = 40, seed: int = 0) -> tuple[dict, dict]:
    """What a user passes on after a search, and our own figures; some queries' places are not in the gallery."""
    rng = np.random.default_rng(seed)
    query, gallery = (rng.normal(size=(rows, 6)).astype(np.float32) for rows in (30, n_gallery))
    query_place, gallery_place = (
        np.array([f"{n:04d}" for n in rng.integers(0, 12, size=rows)]) for rows in (30, n_gallery)
    )
    query_place[:3] = "9999"  # nowhere
    indices = search(query, gallery, k=min(10, n_gallery))[1]
    ranked = {"predictions": gallery_place[indices], "references": query_place, "gallery_place_id": gallery_place}
    figures = evaluate_retrieval(query, gallery, query_place, gallery_place)
    return ranked, {name: figures[name] for name in FIGURES}


def as_lists(ranked: dict) -> str:
    return json.dumps({name: ids.tolist() for name, ids in ranked.items()})


@pytest.fixture
def metric(tmp_path: Path) -> Callable[[str], evaluate.Metric]:
    def build(name: str = "geo_recall") -> evaluate.Metric:
        spec = importlib.util.spec_from_file_location(name, METRICS / name / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        one = {"geo_recall": "GeoRecall", "challenge_score": "ChallengeScore"}[name]
        return getattr(module, one)(cache_dir=str(tmp_path))

    return build


KINDS = {
    "arrays of strings": lambda places: places,
    "lists of strings": lambda places: places.tolist(),
    "arrays of integers": lambda places: np.array([int(place) for place in places.flat]).reshape(places.shape),
    "tensors": lambda places: torch.from_numpy(KINDS["arrays of integers"](places)),
}


@pytest.mark.parametrize("n_gallery", [40, 7])
@pytest.mark.parametrize("kind", KINDS)
def test_figures_are_those_of_evaluate_retrieval(metric: Callable, kind: str, n_gallery: int) -> None:
    ranked, figures = searched(n_gallery)
    inputs = {name: KINDS[kind](places) for name, places in ranked.items()}
    assert {**metric().compute(**inputs), **metric("challenge_score").compute(**inputs)} == figures


def test_without_the_gallery_every_query_counts(metric: Callable) -> None:
    ranked, figures = searched()
    ranked.pop("gallery_place_id")
    found = metric().compute(**ranked)
    assert found == pytest.approx({name: figures[name] * 27 / 30 for name in FIGURES[:3]})


def test_a_place_that_the_whole_gallery_holds_no_image_of_is_no_hit(metric: Callable) -> None:
    found = metric().compute(predictions=[["a", "a"]], references=["b"], gallery_place_id=["a", "b"])
    assert found == {"recall_at_1": 0, "recall_at_5": 0, "recall_at_10": 0}


TEN = ["a"] * 10


@pytest.mark.parametrize(
    ("inputs", "part"),
    [
        (
            {"predictions": [["a", "b"]], "references": ["a"]},
            r"predictions\[0\] ranks 2 places: recall at 10 needs 10",
        ),
        ({"predictions": ["a"], "references": ["a"]}, r"predictions\[0\] is 'a': give a list"),
        ({"predictions": [0], "references": [0]}, r"predictions\[0\] is 0: give a list"),
        ({"predictions": [TEN, TEN], "references": "aa"}, "references is 'aa': give a list"),
        ({"predictions": [TEN]}, "references is None"),
        ({"predictions": [TEN], "references": ["a", "b"]}, "of 1 queries, references of 2"),
        ({"predictions": [[*TEN, 7]], "references": ["a"]}, "types int, str"),
        ({"predictions": [TEN], "references": [7]}, "types int, str"),
        ({"predictions": [[0.5] * 10], "references": [7]}, "types float, int"),
        ({"predictions": [TEN], "references": [None]}, "types NoneType, str"),
        ({"predictions": [TEN], "references": ["a"], "gallery_place_id": [7]}, "types int, str"),
        ({"predictions": [TEN], "references": ["a"], "gallery_place_id": ["b"]}, "ranks 'a', which is not in"),
        ({"predictions": [TEN], "references": ["b"], "gallery_place_id": ["a"]}, "no query has a true match"),
    ],
)
def test_what_it_cannot_take_is_refused_in_one_line(metric: Callable, inputs: dict, part: str) -> None:
    with pytest.raises(ValueError, match=part) as refused:
        metric().compute(**inputs)
    assert "\n" not in str(refused.value)


def run(code: str, env: dict[str, str], *arguments: str) -> list:
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, env=env, cwd=env["HF_HOME"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_modules_load_by_path_and_from_a_hub_without_the_package(tmp_path: Path) -> None:
    ranked, figures = searched()
    home = tmp_path / "home"
    home.mkdir()
    with LocalHub(tmp_path / "hub") as hub:
        for name in NAMES:
            repo = hub.repos["space", f"me/{name}"] = Repo("space", f"me/{name}", private=True)
            files = bundle_metric(name, f"me/{name}")
            repo.commit("main", {path: hub.store(content, lfs=False) for path, content in files.items()})
        env = {**hub.env(home), "HF_UPDATE_DOWNLOAD_COUNTS": "0"}
        by_path = run(LOAD, env, as_lists(ranked), *(str(METRICS / name) for name in NAMES))
        from_hub = run(PRELUDE + LOAD, env, as_lists(ranked), *(f"me/{name}" for name in NAMES))
    assert by_path == [figures, True]
    assert from_hub == [figures, False]


@pytest.mark.parametrize("name", NAMES)
def test_a_bundle_is_whole_and_asks_for_no_torch(name: str) -> None:
    files = bundle_metric(name, f"me/{name}")
    needed = {line.partition(">")[0].partition("<")[0] for line in files["requirements.txt"].decode().splitlines()}
    assert needed == {"datasets", "evaluate", "numpy"}
    for path in (f"{name}.py", "geo_metrics.py"):
        nodes = ast.parse(files[path]).body
        modules = {one.name for node in nodes if isinstance(node, ast.Import) for one in node.names}
        modules |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}
        assert modules - set(sys.stdlib_module_names) - {"collections.abc"} <= needed
    card = files["README.md"].decode()
    assert card.startswith(f"---\ntitle: {name}\nsdk: static\n")
    assert f'evaluate.load("me/{name}")' in card
    assert str(ROOT) not in "".join(content.decode() for content in files.values())


def test_a_bundle_of_another_name_is_refused() -> None:
    with pytest.raises(InputError, match="use one of challenge_score, geo_recall"):
        bundle_metric("recall")
    with pytest.raises(InputError, match="OWNER/geo_recall"):
        bundle_metric("geo_recall", "me/recall")
