"""Guards what a model's repository holds beside weights: every kind of checkpoint has the files by which libraries
find its code, the card has no figure but those of the metrics and no path of this machine, and model and trainer push
the same files in one commit."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from local_hub import LocalHub
from tiny_backbones import write_open_clip_backbone, write_text_backbone
from tiny_data import build_processor, build_split
from tiny_models import build_tiny_model

from pemoe.hub_cards import plan_model
from pemoe.modeling_pemoe import PeMoEConfig, PeMoEModel
from pemoe.modeling_pemoe.card_pemoe import SHIPPED_TRUNKS, render_model_card
from pemoe.modeling_pemoe.repository_pemoe import CUSTOM_PIPELINES, REPOSITORY_FILES
from pemoe.retrieval.evaluation import evaluate_split
from pemoe.trainers.batches.pairs import DataRecipe
from pemoe.trainers.checkpoint_io import describe_data
from pemoe.trainers.experiments.fresh_process import run_without_package
from pemoe.trainers.recipes import load_recipe
from pemoe.trainers.starting import build_model

SUPPORT = str(Path(__file__).parents[1] / "support")
LEFT_OPEN = re.compile(r"Model ID|More Information|TODO|FIXME|\bNone\b|\bnan\b|[{}]|lorem|<[a-z_ ]+>", re.IGNORECASE)


@pytest.fixture(scope="module")
def metrics() -> dict:
    """What `pemoe train` would write of a small model, on data in a directory of this machine."""
    model, rows = build_tiny_model(), build_split(split="test")
    results = evaluate_split(model, build_processor(), rows)
    data = describe_data(DataRecipe(source="folder", root="/home/anna/photos of kiel"), "test", rows)
    steps = {"stage": "contrastive", "steps": 7, "pairs_seen": 28, "train_loss": 1.2345}
    stages = {"contrastive": steps, "mine": {"stage": "mine", "k": 3, "found": 5}}
    metrics = {"command": "pemoe train --data /home/anna/photos", "seed": 11, "data": data}
    return json.loads(json.dumps({**metrics, "results": {"stages": stages, "test": results}}))


def section(card: str, title: str) -> str:
    return card.partition(f"## {title}\n")[2].partition("\n## ")[0]


def numbers_of(value: object) -> set[str]:
    """Every number of a JSON value as the card may write it."""
    if isinstance(value, dict):
        return set().union(*map(numbers_of, value.values())) if value else set()
    if isinstance(value, list):
        return set().union(*map(numbers_of, value)) if value else set()
    if isinstance(value, int | float):
        return {f"{100 * value:.1f}", f"{value:.3f}", f"{value:.4f}", str(value)}
    return set()


def test_card_shows_the_metrics_and_no_other_figure(metrics: dict) -> None:
    config = PeMoEConfig.preset("paper")
    card = render_model_card(config, repo_id="me/pemoe", metrics=metrics, license_id="mit", tags=["kiel"])
    parsed = ModelCard(card).data
    assert (parsed.license, parsed.library_name, parsed.base_model) == (
        "mit",
        "transformers",
        [config.text_repo, config.vision_repo],
    )
    assert {"pe-moe", "geo-localization", "custom_code", "sentence-transformers", "kiel"} <= set(parsed.tags)
    results = metrics["results"]["test"]
    blocks = {"all": results, **results["per_platform"]}
    shown = {(one.dataset_config, one.metric_type): one for one in parsed.eval_results}
    assert len(shown) == 4 * len(blocks) == 16
    for (name, figure), one in shown.items():
        assert one.metric_value == blocks[name][figure]
        assert one.metric_args == {"interval_95": blocks[name]["intervals"][figure]}
        assert (one.dataset_name, one.dataset_split) == ("photos of kiel", "test")
    for title in ("Results", "What the gate does", "How it was trained"):
        tables = "\n".join(line for line in section(card, title).splitlines() if line.startswith("|"))
        written = set(re.findall(r"(?<![\w@])\d+(?:\.\d+)?", tables))
        assert written and written <= numbers_of(metrics), title
    assert all(name in section(card, "Results") for name in (*blocks, metrics["data"]["fingerprint"][:12]))
    assert "anna" not in card and "/home" not in card
    assert not LEFT_OPEN.search(re.sub(r"```bibtex.*?```", "", card, flags=re.DOTALL))


def test_card_of_an_unmeasured_model_says_so() -> None:
    config = PeMoEConfig.preset("campus", text_repo="/home/anna/text", vision_repo="../vision")
    for metrics in (None, {"results": {"stages": {}, "test": None}}):
        card = render_model_card(config, repo_id=None, metrics=metrics)
        assert section(card, "Results").strip() == "Nothing was measured."
        assert "not measured" in section(card, "What the gate does")
        assert not LEFT_OPEN.search(re.sub(r"```bibtex.*?```", "", card, flags=re.DOTALL))
        assert "anna" not in card and "../vision" not in card
        assert ModelCard(card).data.eval_results is None and ModelCard(card).data.base_model is None


def test_card_fits_every_kind_of_model() -> None:
    def render(**options: object) -> str:
        return render_model_card(PeMoEConfig.preset("tiny", **options), repo_id="me/pemoe", metrics=None)

    assert "one expert" in section(render(platforms=["all"]), "What the gate does")
    assert "averaged" in section(render(gate="uniform"), "What the gate does")
    masked = render(platforms=["drone", "infrared"], masked_platforms=["infrared"])
    assert "infrared: weight 0" in masked
    assert "`drone` has the whole weight" in section(masked, "What the gate does") and "not measured" not in masked
    external = render(backbone_weights="external", text_repo="some/encoder", vision_repo="QuanSun/EVA-CLIP")
    assert "experts and gate" in external
    assert "which the text encoder reads" in render(image_path="visualized_bge") and "text encoder reads" not in masked
    licences = section(external, "Licences")
    assert "some/encoder) | not known here" in licences and "QuanSun/EVA-CLIP) | MIT" in licences
    assert "EVA-CLIP" in section(external, "How to cite it") and "BGE" not in section(external, "How to cite it")


@pytest.mark.parametrize(
    ("repo", "is_eva"),
    [
        ("QuanSun/EVA-CLIP", True),
        ("timm/eva02_large_patch14_clip_336.merged2b_s6b_b61k", True),
        ("timm/eva_giant_patch14_clip_224.laion400m", True),
        ("me/retrieval-encoder", False),
        ("me/evaluated_vit", False),
        ("medieval/vit", False),
    ],
)
def test_a_paper_is_cited_by_whole_words(repo: str, is_eva: bool) -> None:
    card = render_model_card(PeMoEConfig.preset("tiny", vision_repo=repo), repo_id="me/pemoe", metrics=None)
    assert ("arXiv 2303.15389" in section(card, "How to cite it")) == is_eva


def test_licence_of_the_shipped_backbones_is_known() -> None:
    model, _ = build_model(load_recipe("quickstart"))
    assert model.config.trunk_sha256["float32"] in SHIPPED_TRUNKS
    assert "shipped with the package" in render_model_card(model.config, repo_id="me/pemoe", metrics=None)


MISSING = [
    (lambda m: m.pop("results"), "figure n_queries"),
    (lambda m: m.pop("data"), "data.source"),
    (lambda m: m["data"].pop("fingerprint"), "data.fingerprint"),
    (lambda m: m["results"]["test"].pop("score"), "figure score"),
    (lambda m: m["results"]["test"].pop("gate"), "gate"),
    (lambda m: m["results"]["test"].pop("per_platform"), "per_platform"),
    (lambda m: m["results"]["test"]["intervals"].pop("recall_at_5"), "intervals.recall_at_5"),
    (lambda m: m["results"]["test"].update(ceiling_recall_at_10=float("nan")), "ceiling_recall_at_10"),
    (lambda m: m["results"]["test"]["per_platform"]["drone"].pop("chance_recall_at_1"), "per_platform.drone.chance"),
    (lambda m: m["results"]["test"]["gate"]["weights"]["ground"].pop("drone"), "gate.weights.ground.drone"),
    (lambda m: m["results"]["stages"]["contrastive"].pop("train_loss"), "stages.contrastive.train_loss"),
    (lambda m: m.update(results={"rows": [], "examples": []}), "figure n_queries"),
    (lambda m: m["results"].update(test=[0]), "figure n_queries"),
    (lambda m: m["results"]["test"]["per_platform"].update(drone=1), "per_platform.drone.n_queries"),
]


@pytest.mark.parametrize(("spoil", "named"), MISSING, ids=[str(number) for number in range(len(MISSING))])
def test_a_missing_figure_is_named(metrics: dict, spoil: Callable[[dict], object], named: str) -> None:
    spoiled = copy.deepcopy(metrics)
    spoil(spoiled)
    with pytest.raises(ValueError, match=re.escape(named)) as error:
        render_model_card(PeMoEConfig.preset("tiny"), repo_id="me/pemoe", metrics=spoiled)
    assert "\n" not in str(error.value)


def build_backbone_model(folder: Path) -> PeMoEModel:
    text, vision = write_text_backbone(folder / "text"), write_open_clip_backbone(folder / "vision")
    return PeMoEModel.from_backbones(str(text), str(vision), image_size=56, gate_hidden_dim=8)


def assert_repository(folder: Path) -> None:
    """The files of the other libraries are there, and name code that is there too."""
    for name, content in REPOSITORY_FILES.items():
        assert json.loads((folder / name).read_text()) == content
    config = json.loads((folder / "config.json").read_text())
    assert config["custom_pipelines"] == CUSTOM_PIPELINES
    named = [CUSTOM_PIPELINES["geo-localization"]["impl"], REPOSITORY_FILES["modules.json"][0]["type"]]
    for name in [*named, *config["auto_map"].values()]:
        module, _, class_name = name.partition(".")
        assert f"class {class_name}" in (folder / f"{module}.py").read_text()


AGAIN = """
from transformers import AutoModel
for folder in sys.argv[1:]:
    model = AutoModel.from_pretrained(folder, trust_remote_code=True)
    model.save_pretrained(folder + "-again")
    assert not {"sentence_transformers", "peft", "evaluate"} & set(sys.modules)
"""


def test_every_checkpoint_names_and_holds_the_code_of_other_libraries(tmp_path: Path) -> None:
    model = build_backbone_model(tmp_path)
    kinds = {"whole": {}, "experts": {"experts_only": True}, "sharded": {"max_shard_size": "200KB"}}
    for kind, options in kinds.items():
        model.save_pretrained(tmp_path / kind, **options)
    run_without_package(AGAIN, *(str(tmp_path / kind) for kind in kinds))
    for kind in kinds:
        assert_repository(tmp_path / kind)
        assert_repository(tmp_path / f"{kind}-again")


PUSH = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from datasets import Dataset
from tiny_data import build_processor, build_row, build_split
from pemoe.datasets_scripts.schema import features_of
from pemoe.modeling_pemoe import PeMoEModel
from pemoe.trainers import PeMoETrainer, PeMoETrainingArguments
source, folder, metrics = Path(sys.argv[2]), Path(sys.argv[3]), json.loads(Path(sys.argv[4]).read_text())
model, processor = PeMoEModel.from_pretrained(source), build_processor()
card = {"metrics": metrics, "tags": ["kiel"]}
model.push_to_hub("me/bare", revision="trial", commit_message="A trial")
model.save_pretrained(folder / "saved", push_to_hub=True, repo_id="me/saved")
options = {"max_steps": 1, "use_cpu": True, "disable_tqdm": True, "hub_model_id": "me/two"}
arguments = PeMoETrainingArguments(str(folder / "one"), **options)
trainer = PeMoETrainer(model, arguments, build_split(), processing_class=processor)
trainer.train()
(folder / "one" / "notes.txt").write_text("mine")
trainer.push_to_hub(license="mit", **card)
trainer.hub_model_id = "me/later"
(folder / "one" / "metrics.json").write_text(json.dumps(metrics))
trainer.push_to_hub()
model.push_to_hub("one", processor=processor, license_id="mit", private=True, **card)
model.push_to_hub("me/plain", processor=processor, license_id="mit", metrics=metrics)
based = PeMoEModel.from_pretrained("me/one")
based.add_platform("infrared", "drone", lora_rank=2)
rows = [build_row(place, "infrared", 0, "train") for place in range(4)]
rows = Dataset.from_list(rows, features=features_of(["infrared"]))
arguments = PeMoETrainingArguments(str(folder / "platform"), **options | {"hub_model_id": "me/platform"})
PeMoETrainer(based, arguments, rows, processing_class=processor).push_to_hub()
refused = []
spoiled = {**metrics, "results": {}}
for attempt in (
    lambda: model.push_to_hub("me/never", metrics=spoiled),
    lambda: model.push_to_hub("me/never", experts_only=True),
    lambda: model.push_to_hub("me/never", use_temp_dir=True),
    lambda: trainer.create_model_card(dataset="kiel"),
):
    try:
        attempt()
    except ValueError as error:
        refused.append(str(error))
print(json.dumps(refused))
"""


def test_model_and_trainer_push_the_same_files_in_one_commit(tmp_path: Path, metrics: dict) -> None:
    build_backbone_model(tmp_path).save_pretrained(tmp_path / "source", experts_only=True)
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    with LocalHub(tmp_path / "hub") as hub:
        command = [sys.executable, "-c", PUSH, SUPPORT, "source", "out", "metrics.json"]
        environment = hub.env(tmp_path / "home") | {"HF_HUB_OFFLINE": "0", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        assert hub.token not in done.stdout + done.stderr
        repos = {name: repo for (_, name), repo in hub.repos.items()}
        assert set(repos) == {f"me/{name}" for name in ("one", "two", "bare", "saved", "plain", "platform", "later")}
        assert [len(repos[name].commits) for name in ("me/one", "me/two", "me/saved")] == [
            2,
            2,
            2,
        ]  # the first is empty
        one, two = repos["me/one"].files(), repos["me/two"].files()
        assert repos["me/one"].private
        trial = repos["me/bare"].files("trial")
        saved, later = repos["me/saved"].files(), repos["me/later"].files()
        plain, platform = repos["me/plain"].files(), repos["me/platform"].files()
    assert set(one) - {".gitattributes"} == set(two) - {".gitattributes"} >= {"metrics.json", "tokenizer.json"}
    for name in set(one) - {"README.md"}:
        assert one[name] == two[name], name
    card, other = one["README.md"].decode(), two["README.md"].decode()
    as_two = card.replace("me/one", "me/two").replace("name: one\n", "name: two\n").replace("\n# one\n", "\n# two\n")
    assert as_two == other
    assert f"{100 * metrics['results']['test']['recall_at_1']:.1f}" in section(card, "Results")
    for files in (one, trial, saved, later):
        text = files["README.md"].decode()
        assert "Model ID" not in text and "pe-moe" in ModelCard(text).data.tags
        config = json.loads(files["config.json"])
        assert (config["backbone_weights"], config["text_repo"], config["vision_repo"]) == ("included", None, None)
    for name in set(one) - {"model.safetensors"}:
        assert b"/home/anna" not in one[name] and str(tmp_path).encode() not in one[name], name
    for other in (trial, later):  # a run's own record that lies in its folder is not the card's, and stays there
        assert "Nothing was measured." in other["README.md"].decode() and "metrics.json" not in other
    assert json.loads((tmp_path / "out" / "one" / "metrics.json").read_text()) == metrics
    refused = json.loads(done.stdout.splitlines()[-1])
    assert [one.partition(":")[0] for one in refused] == ["metrics", "experts_only", "push_to_hub", "dataset"]
    assert os.path.isfile(tmp_path / "out" / "one" / "notes.txt") and "notes.txt" not in two
    figures = {"metrics": tmp_path / "metrics.json", "license_id": "mit"}
    assert planned(tmp_path / "out" / "one", "me/plain", **figures) == without_git(plain)
    files = planned(tmp_path / "out" / "platform", "me/platform", unmeasured=True)
    assert {"adapter_model.safetensors", "modules.json", "processor_config.json"} <= set(files)
    assert files == without_git(platform)


def planned(directory: Path, repo_id: str, **options: object) -> dict[str, bytes]:
    """What `pemoe publish model` would send."""
    contents = {file.path: file.content for file in plan_model(directory, repo_id, **options).files}
    return {path: one if isinstance(one, bytes) else one.read_bytes() for path, one in contents.items()}


def without_git(files: dict[str, bytes]) -> dict[str, bytes]:
    return {path: content for path, content in files.items() if path != ".gitattributes"}
