"""Guards: a LoRA platform trains alone, all else bit-equal; a run cut and resumed ends in the same adapter; what
is saved is its folder; evaluation searches with it; `compute_metrics` is given the ranked places and is logged."""

from __future__ import annotations

from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from tiny_data import build_processor, build_row, build_split
from tiny_models import build_tiny_model
from transformers import AutoModel

from pemoe.datasets_scripts.schema import features_of
from pemoe.modeling_pemoe import PeMoEModel
from pemoe.trainers import PeMoETrainer, PeMoETrainingArguments, TrainingError


def build_infrared(split: str = "train", platforms: tuple[str, ...] = ("infrared",)) -> datasets.Dataset:
    rows = [build_row(place, name, view, split) for place in range(6) for name in platforms for view in range(2)]
    return datasets.Dataset.from_list(rows, features=features_of(["infrared"]))


@pytest.fixture
def model(tmp_path: Path) -> PeMoEModel:
    build_tiny_model(tail_dropout=0.0).save_pretrained(tmp_path / "base")
    return load(tmp_path)


def load(tmp_path: Path) -> PeMoEModel:
    torch.manual_seed(0)  # draws the adapter's first matrices
    model = PeMoEModel.from_pretrained(tmp_path / "base")
    model.add_platform("infrared", "drone", lora_rank=4)
    return model


def build_trainer(model: PeMoEModel, tmp_path: Path, rows: datasets.Dataset, **options) -> PeMoETrainer:
    given = {name: options.pop(name) for name in ("eval_dataset", "compute_metrics") if name in options}
    options = {"max_steps": 4, "learning_rate": 1e-2, "save_strategy": "no", **options}
    arguments = PeMoETrainingArguments(
        output_dir=str(tmp_path / "run"),
        per_device_train_batch_size=4,
        use_cpu=True,
        disable_tqdm=True,
        **options,
    )
    return PeMoETrainer(model, arguments, train_dataset=rows, processing_class=build_processor(), **given)


def test_the_adapter_alone_moves_and_is_what_is_saved(tmp_path: Path, model: PeMoEModel) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trainer = build_trainer(model, tmp_path, build_infrared())
    trainer.train()
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    adapter = {name for name in before if name.startswith("experts.infrared.") and ".lora_" in name}
    assert moved == adapter | {"experts.infrared.logit_scale"}
    trainer.save_model(str(tmp_path / "out"))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "README.md",
        "processor_config.json",
        "modules.json",
        "sentence_pemoe_config.json",
        "config_sentence_transformers.json",
    }
    again = PeMoEModel.from_pretrained(tmp_path / "out").state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in model.state_dict().items())


def test_a_cut_run_resumes_to_the_same_adapter(tmp_path: Path, model: PeMoEModel) -> None:
    build_trainer(model, tmp_path, build_infrared(), save_strategy="steps", save_steps=2).train()
    whole = load_file(tmp_path / "run" / "checkpoint-4" / "adapter_model.safetensors")
    resumed = load(tmp_path)
    checkpoint = str(tmp_path / "run" / "checkpoint-2")
    build_trainer(resumed, tmp_path, build_infrared()).train(resume_from_checkpoint=checkpoint)
    resumed.save_platform("infrared", tmp_path / "resumed")
    found = load_file(tmp_path / "resumed" / "adapter_model.safetensors")
    assert found.keys() == whole.keys() and all(torch.equal(found[name], whole[name]) for name in whole)


def test_the_best_checkpoint_is_loaded_at_the_end(tmp_path: Path, model: PeMoEModel) -> None:
    falling = iter([3.0, 2.0])
    best = {"load_best_model_at_end": True, "metric_for_best_model": "made_up", "greater_is_better": True}
    every = {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2}
    figures = {"eval_dataset": build_infrared("test"), "compute_metrics": lambda _: {"made_up": next(falling)}}
    build_trainer(model, tmp_path, build_infrared(), **best, **every, **figures).train()
    first = PeMoEModel.from_pretrained(tmp_path / "run" / "checkpoint-2").state_dict()
    assert all(torch.equal(tensor, first[name]) for name, tensor in model.state_dict().items())


def test_evaluation_searches_with_the_platform_that_learns(tmp_path: Path, model: PeMoEModel) -> None:
    rows = build_infrared("test")
    trainer = build_trainer(model, tmp_path, build_infrared(), eval_dataset=rows)
    split = trainer._embed(rows)
    assert np.array_equal(split.gate_weights, np.tile([0, 0, 0, 1], (len(split.query), 1)))
    with torch.no_grad():
        inputs = build_processor()(text=split.texts, images=list(rows["image"]))
        output = model(**inputs, experts=["infrared"])
    expected = (output.text_embeds[:, 0] @ output.image_embeds[:, 0].T).numpy()
    assert np.abs(split.query @ split.gallery.T - expected).max() < 1e-5
    assert model.config.masked_platforms == ["infrared"]


def test_compute_metrics_is_given_ranked_places_and_logged(tmp_path: Path) -> None:
    seen, rows = [], build_split(split="test")

    def share_of_first(found) -> dict[str, float]:
        seen.append(found)
        hits = found.predictions[:, :10] == found.label_ids[:, None]
        return {"my_recall_at_1": hits[:, 0].mean(), "my_recall_at_10": hits.any(axis=1).mean()}

    trainer = build_trainer(build_tiny_model(), tmp_path, build_split(), compute_metrics=share_of_first)
    metrics = trainer.evaluate(rows)
    n_queries = sum(len(texts) for texts in rows["captions"])
    assert seen[0].predictions.shape == (n_queries, 10) and seen[0].label_ids.shape == (n_queries,)
    assert seen[0].inputs.tolist() == rows["place_id"][:]
    assert metrics["eval_my_recall_at_1"] == metrics["eval_recall_at_1"]
    assert metrics["eval_my_recall_at_10"] == metrics["eval_recall_at_10"]
    assert trainer.state.log_history[-1]["eval_my_recall_at_10"] == metrics["eval_recall_at_10"]


@pytest.mark.parametrize(
    ("platforms", "options"),
    [(("drone", "infrared"), {}), (("drone",), {}), (("infrared",), {"stage": "gate"})],
)
def test_with_anything_else_it_is_refused(tmp_path: Path, model: PeMoEModel, platforms: tuple, options: dict) -> None:
    words = "'infrared' is a LoRA platform, which trains alone, .* or model.merge_platform.'infrared'. first"
    with pytest.raises(TrainingError, match=words) as error:
        build_trainer(model, tmp_path, build_infrared(platforms=platforms), **options)
    assert "\n" not in str(error.value) and model.config.masked_platforms == ["infrared"]


def test_without_a_base_to_name_it_is_refused_before_training(tmp_path: Path) -> None:
    model = build_tiny_model()
    model.add_platform("infrared", "drone", lora_rank=4)
    with pytest.raises(TrainingError, match="names its base"):
        build_trainer(model, tmp_path, build_infrared())


def test_a_platform_of_a_local_base_is_not_pushed(tmp_path: Path, model: PeMoEModel) -> None:
    with pytest.raises(TrainingError, match=r"'infrared' cannot be pushed, its base /.*/base is a directory: push"):
        build_trainer(model, tmp_path, build_infrared()).push_to_hub()


def test_an_adapter_of_stock_peft_keeps_what_it_trains(tmp_path: Path, model: PeMoEModel) -> None:
    pattern = r"experts\.(satellite|drone|ground)\.text_layers\.\d+\.attention\.self\.(query|value)"
    adapted = get_peft_model(PeMoEModel.from_pretrained(tmp_path / "base"), LoraConfig(r=4, target_modules=pattern))
    before = {name: tensor.clone() for name, tensor in adapted.state_dict().items()}
    options = {"save_strategy": "steps", "save_steps": 2}
    trainer = build_trainer(adapted, tmp_path, build_split(), **options)
    trainer.train()
    moved = {name for name, tensor in adapted.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved and all(".lora_" in name for name in moved)
    trainer.save_model(str(tmp_path / "out"))
    assert "model.safetensors" not in {path.name for path in (tmp_path / "out").iterdir()}
    loaded, rows = AutoModel.from_pretrained(tmp_path / "out"), build_split(split="test")
    alike = [build_trainer(one, tmp_path, build_split()).evaluate(rows) for one in (adapted, loaded)]
    assert alike[0] == alike[1]
    checkpoint = str(tmp_path / "run" / "checkpoint-2")
    resumed = get_peft_model(PeMoEModel.from_pretrained(tmp_path / "base"), LoraConfig(r=4, target_modules=pattern))
    build_trainer(resumed, tmp_path, build_split()).train(resume_from_checkpoint=checkpoint)
    assert all(torch.equal(tensor, adapted.state_dict()[name]) for name, tensor in resumed.state_dict().items())
    with pytest.raises(TrainingError, match="stage 'gate' trains the gate, not an adapter: merge the adapter first"):
        build_trainer(adapted, tmp_path, build_split(), stage="gate")


def test_merged_it_takes_part_in_the_gate_stage(tmp_path: Path, model: PeMoEModel) -> None:
    model.merge_platform("infrared")
    build_trainer(model, tmp_path, build_infrared(platforms=("drone", "infrared")), stage="gate").train()
    assert model.config.masked_platforms == []
    model.save_pretrained(tmp_path / "full")
    again = PeMoEModel.from_pretrained(tmp_path / "full")
    assert again.config.active_experts == [0, 1, 2, 3] and again.lora_platforms == []
