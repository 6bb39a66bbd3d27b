"""Guards the options of the losses on their way from a recipe into a step: what is named is what is computed, a fixed
temperature stays, defaults are as without them, and the recipe of the public code trains."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from tiny_data import build_processor, build_split
from tiny_models import build_tiny_model

from pemoe.modeling_pemoe import PeMoEModel
from pemoe.modeling_pemoe.losses_pemoe import LOSSES
from pemoe.trainers import PeMoETrainer, PeMoETrainingArguments, TrainingError
from pemoe.trainers.recipes import Recipe, build, load_recipe
from pemoe.trainers.stages import StageRunner
from pemoe.trainers.starting import build_model

VARIANTS = {
    "plain": ({}, {}),
    "sup_con": ({"loss": "sup_con"}, {}),
    "hard_weighted": ({"loss": "hard_weighted", "hardness": 0.5}, {"hardness": 0.5}),
    "smoothed": ({"label_smoothing_factor": 0.1}, {"label_smoothing": 0.1}),
    "one_way": ({"loss_direction": "t2i"}, {"direction": "t2i"}),
    "places_as_negatives": ({"same_place": "negative"}, {"same_place": "negative"}),
}


def build_trainer(model: PeMoEModel, folder: Path, stage: str = "contrastive", **options: object) -> PeMoETrainer:
    arguments = PeMoETrainingArguments(
        output_dir=str(folder / stage),
        stage=stage,
        max_steps=3,
        per_device_train_batch_size=4,
        use_cpu=True,
        save_strategy="no",
        disable_tqdm=True,
        **{"learning_rate": 1e-2, "lr_scheduler_type": "constant", **options},
    )
    return PeMoETrainer(model, arguments, train_dataset=build_split(), processing_class=build_processor())


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_named_loss_is_computed(variant: str, tmp_path: Path) -> None:
    given, options = VARIANTS[variant]
    model = build_tiny_model()
    trainer = build_trainer(model, tmp_path, **given)
    batch = next(iter(trainer.get_train_dataloader()))
    batch["place_id"] = torch.tensor([0, 1, 0, 2])
    with torch.no_grad():
        loss, embeds = trainer.compute_loss(model, dict(batch), return_outputs=True)
    expected = LOSSES[given.get("loss", "info_nce")](**options)
    pair = embeds["query"], embeds["gallery"]
    assert torch.equal(loss, expected(*pair, batch["place_id"], embeds["logit_scale"])["loss"])


def test_the_gates_cross_entropy_is_smoothed_over_the_experts_that_it_weighs(tmp_path: Path) -> None:
    model = build_tiny_model()
    trainer = build_trainer(model, tmp_path, "gate", label_smoothing_factor=0.2)
    model.config.masked_platforms = ["ground"]
    batch = next(iter(trainer.get_train_dataloader()))
    batch["platform_id"] = torch.tensor([0, 1, 1, 0])
    with torch.no_grad():
        loss, embeds = trainer.compute_loss(model, dict(batch), return_outputs=True)
    kept = embeds["gate_logits"][:, :2]
    torch.testing.assert_close(loss, F.cross_entropy(kept, batch["platform_id"], label_smoothing=0.2))


@pytest.mark.parametrize("stage", ["contrastive", "gate"])
def test_a_fixed_temperature_stays(stage: str, tmp_path: Path) -> None:
    model = build_tiny_model()
    before = {name: owner.logit_scale.item() for name, owner in (("", model), *model.experts.items())}
    build_trainer(model, tmp_path, stage, temperature=0.1, gate_loss="retrieval").train()
    after = {name: owner.logit_scale.item() for name, owner in (("", model), *model.experts.items())}
    for name in after:
        is_of_stage = (stage == "gate") == (name == "")
        assert after[name] == pytest.approx(math.log(10) if is_of_stage else before[name])
    again = build_trainer(model, tmp_path, stage, gate_loss="retrieval")  # without one, the next stage learns it
    again.train()
    moved = model.logit_scale if stage == "gate" else model.experts["drone"].logit_scale
    assert moved.item() != pytest.approx(math.log(10))


def test_a_lora_platforms_temperature_alone_is_fixed(tmp_path: Path) -> None:
    model = build_tiny_model()
    model.save_pretrained(tmp_path / "base")
    model = PeMoEModel.from_pretrained(tmp_path / "base")
    drone = model.experts["drone"].logit_scale.item()
    model.add_platform("infrared", "drone", lora_rank=2)
    rows = build_split()
    names = rows.features["platform"].names
    rows = rows.filter(lambda row: row["platform"] == names.index("drone"))
    classes = rows.features.copy()
    classes["platform"].names[names.index("drone")] = "infrared"
    rows = rows.cast(classes)
    arguments = PeMoETrainingArguments(
        str(tmp_path / "run"), max_steps=1, temperature=0.2, use_cpu=True, per_device_train_batch_size=4
    )
    PeMoETrainer(model, arguments, train_dataset=rows, processing_class=build_processor())
    assert model.experts["drone"].logit_scale.item() == drone
    assert model.experts["infrared"].logit_scale.item() == pytest.approx(math.log(5))


def test_beside_an_adapter_of_peft_a_temperature_is_refused(tmp_path: Path) -> None:
    model = get_peft_model(build_tiny_model(), LoraConfig(r=2, target_modules=["query"]))
    with pytest.raises(TrainingError, match=r"^temperature: "):
        build_trainer(model, tmp_path, temperature=0.1)


@pytest.mark.parametrize(
    ("field", "value", "word"),
    [
        ("loss", "triplet", "loss: 'triplet' is unknown, use one of info_nce, sup_con, hard_weighted"),
        ("loss", "hard_weighted", "hardness"),
        ("hardness", 0.5, "hard_weighted"),
        ("same_place", "keep", "same_place"),
        ("loss_direction", "i2t", "direction"),
        ("label_smoothing", 1.0, "label_smoothing"),
        ("temperature", 0.001, "temperature: 0.001"),
        ("temperature", 0.0, "temperature: 0.0"),
        ("temperature", math.inf, "temperature: inf"),
    ],
)
def test_wrong_options_are_refused_in_recipes_and_arguments(field: str, value: object, word: str) -> None:
    with pytest.raises(TrainingError, match=word) as error:
        build(Recipe, {"contrastive": {"steps": 1}, field: value}, "test")
    assert "\n" not in str(error.value)
    argument = {"label_smoothing": "label_smoothing_factor"}.get(field, field)
    with pytest.raises(TrainingError, match=word):
        PeMoETrainingArguments("run", max_steps=1, **{argument: value})


def test_the_recipe_of_the_public_code_says_what_it_says() -> None:
    recipe = load_recipe("public_code")
    found = recipe.global_batch_size, recipe.temperature, recipe.loss_direction, recipe.same_place, recipe.augment
    assert found == (4400, 0.1, "t2i", "negative", "crop")
    stage = recipe.contrastive
    assert (stage.learning_rate, stage.weight_decay, stage.warmup_steps) == (2e-5, 0.05, 100)
    assert list(recipe.stages) == ["contrastive"] and recipe.model.platforms == ["all"]
    assert recipe.model.options["vision_expert_layers"] == 16 and recipe.model.options["image_size"] == 224


def test_the_recipe_of_the_public_code_trains(tmp_path: Path) -> None:
    """With small encoders and batches in place of its own; everything else as it stands."""
    recipe = load_recipe("public_code")
    options = {**recipe.model.options, "image_size": 112, "vision_expert_layers": 4}  # of 6 blocks, as 16 of 24
    small = {"text_repo": "tiny:text", "vision_repo": "tiny:vision", "options": options}
    stage = dataclasses.replace(recipe.contrastive, steps=4, warmup_steps=1, learning_rate=1e-3, save_steps=0)
    changes = {"global_batch_size": 4, "num_workers": 0, "contrastive": stage}
    recipe = dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, **small), **changes)
    model, processor = build_model(recipe)
    before = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    records = StageRunner(model, processor, build_split(), recipe, tmp_path).run()
    moved = {name for name, tensor in model.named_parameters() if not torch.equal(tensor, before[name])}
    assert records["contrastive"]["steps"] == 4 and math.isfinite(records["contrastive"]["train_loss"])
    tails = ("text_layers", "vision_blocks", "vision_norm", "visual_projection")
    assert {name.split(".")[2] for name in moved if name.startswith("experts.all.")} == {*tails, "logit_scale"}
    assert all(name.startswith("experts.all.") for name in moved)
    assert model.experts["all"].logit_scale.item() == pytest.approx(math.log(10))
