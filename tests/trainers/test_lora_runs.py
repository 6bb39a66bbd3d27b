"""Guards runs of LoRA experts: from a checkpoint a new platform and one that is there are taught, from backbones after
the unified stage; the rest stays bit-equal; merged model, adapters and base that the run leaves agree; a stage's
weights hold the adapters alone; what contradicts itself is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import pytest
import torch
from safetensors.torch import load_file
from tiny_data import build_processor, build_row
from tiny_models import build_tiny_inputs, build_tiny_model

from pemoe.datasets_scripts.schema import features_of
from pemoe.modeling_pemoe import PeMoEModel
from pemoe.trainers import TrainingError
from pemoe.trainers.recipes import Recipe, build, load_recipe, read_config
from pemoe.trainers.stages import StageRunner
from pemoe.trainers.starting import build_model, check_gate_rows, name_platforms

STAGE = {"steps": 4, "learning_rate": 1e-2}
TINY = {"text_repo": "tiny:text", "vision_repo": "tiny:vision", "platforms": ["satellite", "drone"]}
TINY["options"] = {"image_size": 56, "vision_expert_layers": 1, "text_expert_layers": 1, "gate_hidden_dim": 8}


def build_rows(*platforms: str) -> datasets.Dataset:
    rows = [build_row(place, name, view, "train") for place in range(6) for name in platforms for view in range(2)]
    return datasets.Dataset.from_list(rows, features=features_of(["infrared"]))


def build_recipe(model: dict, **changes: object) -> Recipe:
    stages = {"contrastive": STAGE, "hard_negative": STAGE, "mine": {"k": 2}}
    return build(Recipe, {"global_batch_size": 4, "model": model, **stages, **changes}, "test")


def run(recipe: Recipe, rows: datasets.Dataset, directory: Path, resume: bool = False) -> PeMoEModel:
    torch.manual_seed(int(resume))  # what a run draws must not depend on this
    recipe = name_platforms(recipe, rows)
    model, processor = build_model(recipe)
    runner = StageRunner(model, processor, rows, recipe, directory, resume)
    runner.run()
    runner.merge_adapters()
    return model


def embed(model: PeMoEModel, expert: str) -> torch.Tensor:
    with torch.no_grad():
        output = model.eval()(**build_tiny_inputs(), experts=[expert])
    return torch.cat([output.text_embeds, output.image_embeds])


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("base") / "model"
    build_tiny_model(tail_dropout=0.0).save_pretrained(directory)
    build_processor().save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def taught(base: Path) -> tuple[Path, PeMoEModel]:
    """A new platform and one that is there, on rows that hold a third."""
    model = {"checkpoint": str(base), "expert_type": "lora", "platforms": ["drone", "infrared"], "init_from": "drone"}
    directory = base.parent / "taught"
    rows = build_rows("satellite", "drone", "infrared")
    return directory, run(build_recipe({**model, "lora_rank": 2}), rows, directory)


def test_what_it_leaves_agrees(base: Path, taught: tuple[Path, PeMoEModel]) -> None:
    directory, merged = taught
    assert merged.lora_platforms == [] and sorted(p.name for p in (directory / "adapters").iterdir()) == [
        "drone",
        "infrared",
    ]
    start = PeMoEModel.from_pretrained(base)
    for name in ("drone", "infrared"):
        adapter = PeMoEModel.from_pretrained(directory / "adapters" / name)
        assert (embed(adapter, name) - embed(merged, name)).abs().max() <= 1e-6
        assert (embed(adapter, name) - embed(start, "drone")).abs().max() > 1e-3
    before, after = start.state_dict(), merged.state_dict()
    others = [name for name in before if not name.startswith(("experts.drone.", "gate."))]
    assert all(torch.equal(before[name], after[name]) for name in others)
    assert merged.config.masked_platforms == ["infrared"]


def test_a_stage_stores_the_adapters_alone(taught: tuple[Path, PeMoEModel]) -> None:
    for stage in ("contrastive", "hard_negative"):
        names = set(load_file(taught[0] / stage / "trained.safetensors"))
        assert {name.split(".")[1] for name in names} == {"drone", "infrared"}
        assert all(".lora_" in name or name.endswith(".logit_scale") for name in names)
        record = json.loads((taught[0] / stage / "done.json").read_text())
        assert len(record["plan"]) == 2 and "merged" not in record


@pytest.mark.slow
def test_from_backbones_they_start_on_the_unified_expert(tmp_path: Path) -> None:
    recipe = build_recipe({**TINY, "expert_type": "lora"}, unified=STAGE, gate=STAGE)
    rows = build_rows("satellite", "drone")
    model = run(recipe, rows, tmp_path)
    first, second = PeMoEModel.from_pretrained(tmp_path / "base").experts.values()
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name])
    for name in ("satellite", "drone"):
        folder = tmp_path / "adapters" / name
        assert json.loads((folder / "adapter_config.json").read_text())["auto_mapping"]["init_from"] == name
        assert (embed(PeMoEModel.from_pretrained(folder), name) - embed(model, name)).abs().max() <= 1e-6
    assert json.loads((tmp_path / "gate" / "done.json").read_text())["merged"] == ["satellite", "drone"]
    again = run(recipe, rows, tmp_path, resume=True)  # all is done: the weights are read
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_whole_experts_go_on_from_a_checkpoint(base: Path, tmp_path: Path) -> None:
    model = {"checkpoint": str(base), "platforms": ["infrared"], "init_from": "ground"}
    trained = run(build_recipe(model), build_rows("drone", "infrared"), tmp_path).state_dict()
    before = PeMoEModel.from_pretrained(base).state_dict()
    assert all(torch.equal(before[name], trained[name]) for name in before if not name.startswith("gate."))
    projection = "visual_projection.weight"
    assert not torch.equal(trained[f"experts.infrared.{projection}"], before[f"experts.ground.{projection}"])


def test_an_adapter_goes_on_where_it_ended(taught: tuple[Path, PeMoEModel], tmp_path: Path) -> None:
    folder = taught[0] / "adapters" / "drone"
    model = {"checkpoint": str(folder), "expert_type": "lora", "platforms": None, "lora_rank": 2}
    further = run(build_recipe(model), build_rows("drone"), tmp_path)
    assert not torch.equal(embed(further, "drone"), embed(taught[1], "drone"))
    assert torch.equal(embed(further, "ground"), embed(taught[1], "ground"))
    with pytest.raises(TrainingError, match="the adapter of 'drone' has rank 2; set it to that"):
        build_model(name_platforms(build_recipe({**model, "lora_rank": 4}), build_rows("drone")))


def test_in_bf16_adapters_and_experts_stay_fp32(base: Path) -> None:
    model = {"checkpoint": str(base), "expert_type": "lora", "platforms": ["drone"]}
    built, _ = build_model(build_recipe(model, precision="bfloat16"))
    assert {tensor.dtype for tensor in built.experts.state_dict().values()} == {torch.float32}
    assert built.dtype_of_trunk == torch.bfloat16 and built.lora_platforms == ["drone"]


@pytest.mark.parametrize(
    ("model", "changes", "words"),
    [
        ({"checkpoint": "me/a", "text_repo": "tiny:text"}, {}, "model.text_repo: model.checkpoint brings its own"),
        ({"checkpoint": "me/a", "options": {"gate": "uniform"}}, {}, "model.options: model.checkpoint brings its own"),
        (
            {"checkpoint": "me/a"},
            {"unified": STAGE},
            "unified.steps: would write over the experts of model.checkpoint",
        ),
        ({"expert_type": "ia3"}, {}, "model.expert_type: 'ia3' is unknown, use one of full, lora"),
        ({"expert_type": "lora", "lora_rank": 0}, {}, "model.lora_rank: 0 is out of range"),
        ({"lora_rank": 4}, {}, "model.lora_rank: is of adapters; set expert_type to lora"),
        ({"expert_type": "lora"}, {}, "add a unified stage, or name model.checkpoint"),
        ({"init_from": "drone"}, {}, "model.init_from: is for a run that starts from a trained model"),
        ({"platforms": None}, {}, "model.platforms: null: is for a run that starts from a trained model"),
    ],
)
def test_what_contradicts_itself_is_refused(model: dict, changes: dict, words: str) -> None:
    with pytest.raises(TrainingError, match=words) as error:
        build_recipe(model, **changes).check_start()
    assert "\n" not in str(error.value)


def test_what_does_not_fit_the_checkpoint_is_refused(base: Path) -> None:
    rows, lora = build_rows("infrared"), {"checkpoint": str(base), "expert_type": "lora", "platforms": None}
    with pytest.raises(
        TrainingError, match=r"has no platform 'infrared'; name the one that it starts from, one of \["
    ):
        build_model(name_platforms(build_recipe(lora), rows))
    with pytest.raises(TrainingError, match="init_from: 'sky' is not among the platforms"):
        build_model(name_platforms(build_recipe({**lora, "init_from": "sky"}), rows))
    with pytest.raises(
        TrainingError, match=r"no training row is of 'ground', they are of \['infrared'\]; leave it out"
    ):
        name_platforms(build_recipe({**lora, "platforms": ["infrared", "ground"]}), rows)
    with pytest.raises(TrainingError, match="nowhere: no such directory, and no id"):
        build_model(build_recipe({**lora, "checkpoint": "./nowhere", "platforms": ["drone"]}))
    recipe = name_platforms(build_recipe({**lora, "init_from": "drone"}, gate=STAGE), rows)
    with pytest.raises(TrainingError, match="hold no 'satellite', which the gate would forget; add such rows"):
        check_gate_rows(build_model(recipe)[0], recipe, rows)


def test_the_packaged_recipe_takes_its_model_from_the_command_line(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    recipe = read_config("adapter", str(photos), None, "me/pemoe", "infrared")
    assert (recipe.model.checkpoint, recipe.model.text_repo, recipe.model.platforms) == ("me/pemoe", None, None)
    assert recipe.data.options == {"platform": "infrared"}
    with pytest.raises(TrainingError, match="is for a run that starts from a trained model"):
        read_config("adapter", str(photos))
    with pytest.raises(TrainingError, match=r"--platform: rows of source 'campus' say which they are of"):
        read_config("quickstart", "campus", platform="infrared")
    assert read_config("paper", str(photos), checkpoint="me/pemoe").model.options == {}
    assert load_recipe("paper").model.text_repo == "BAAI/bge-m3"
