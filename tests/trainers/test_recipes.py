"""Guards recipes: what a file says is what runs; a wrong key, type or file gets one line that names the place."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import get_scheduler

from pemoe.trainers import TrainingError
from pemoe.trainers.arguments import STAGES
from pemoe.trainers.batches.pairs import DataRecipe
from pemoe.trainers.recipes import Recipe, StageRecipe, build, data_recipe, load_recipe, read_config, resolve_repo
from pemoe.trainers.recipes.fields import SCHEDULERS
from pemoe.trainers.recipes.reading import PACKAGED

SMALL = {"contrastive": {"steps": 3}}


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("speed: 3", ["'speed'", "global_batch_size"]),
        ("contrastive: {steps: 3, learning_rat: 1}", ["contrastive", "'learning_rat'", "learning_rate"]),
        ("gate: {steps: 3, margin: 0.1}", ["gate", "'margin'", "gate_loss"]),
        ("3: 4", ["unknown key 3"]),
        ("contrastive: 100", ["contrastive", "100"]),
        ("contrastive:", ["contrastive", "None"]),
        ("contrastive: {steps: many}", ["contrastive", "steps", "int", "'many'"]),
        ("contrastive: {steps: 2.5}", ["steps", "int", "2.5"]),
        ("contrastive: {steps: true}", ["steps", "int", "True"]),
        ("contrastive: {learning_rate: fast}", ["learning_rate", "float", "'fast'"]),
        ("contrastive: {learning_rate: false}", ["learning_rate", "float", "False"]),
        ("contrastive: {learning_rate: }", ["learning_rate", "float", "None"]),
        ("mine: {positive_ratio: high}", ["mine", "positive_ratio", "'high'"]),
        ("cache_image_states: 1", ["cache_image_states", "bool", "1"]),
        ("seed: '0'", ["seed", "int", "'0'"]),
        ("model: {platforms: drone}", ["model", "platforms", "list", "'drone'"]),
        ("data: {options: [1]}", ["data", "options", "dict"]),
        ("data: {root: 5}", ["data", "root", "str"]),
        ("precision: 16", ["precision", "str", "16"]),
        ("- 1\n- 2", ["list"]),
        ("", ["NoneType"]),
        ("contrastive: {steps: 3", ["YAML", "line 1"]),
        ("a: b: c\nd", ["YAML", "line 1"]),
    ],
)
def test_wrong_recipes_name_the_place(tmp_path, text: str, words: list[str]) -> None:
    path = write(tmp_path, text)
    with pytest.raises(TrainingError) as error:
        load_recipe(path)
    message = str(error.value)
    assert "\n" not in message and str(path) in message
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ({**SMALL, "caption_column": "text"}, "caption_column"),
        ({**SMALL, "precision": "float16"}, "precision"),
        ({**SMALL, "gate": {"steps": 1, "gate_loss": "x"}}, "gate.gate_loss"),
        ({**SMALL, "global_batch_size": 1}, "global_batch_size"),
        ({}, "contrastive.steps"),
        ({"contrastive": {"steps": 0}}, "contrastive.steps"),
        ({"contrastive": {"steps": 1, "learning_rate": float("inf")}}, r"contrastive\.learning_rate: inf"),
        ({"contrastive": {"steps": 1, "learning_rate": float("nan")}}, r"contrastive\.learning_rate: nan"),
        ({"contrastive": {"steps": 1, "weight_decay": float("inf")}}, r"contrastive\.weight_decay: inf"),
        ({**SMALL, "unified": {"steps": -1}}, r"unified\.steps: -1"),
        ({**SMALL, "gate": {"lr_scheduler_type": "reduce_lr_on_plateau"}}, r"gate\.lr_scheduler_type"),
        (
            {**SMALL, "gate": {"steps": 1, "lr_scheduler_type": "cosine_with_min_lr"}},
            r"gate\.lr_scheduler_kwargs: cosine_with_min_lr needs min_lr or min_lr_rate",
        ),
        (
            {"contrastive": {"steps": 9, "lr_scheduler_type": "warmup_stable_decay"}},
            r"contrastive\.lr_scheduler_kwargs: warmup_stable_decay needs num_decay_steps",
        ),
        (
            {"contrastive": {"steps": 9, "lr_scheduler_kwargs": {"num_cycle": 2}}},
            r"contrastive\.lr_scheduler_kwargs: cosine: .*num_cycle",
        ),
        ({"contrastive": {"steps": 9, "warmup_steps": 10}}, r"contrastive\.warmup_steps: 10 are more than .* 9 steps"),
        ({**SMALL, "hard_negative": {"info_nce_weight": -1.0}}, r"hard_negative\.info_nce_weight: -1"),
        ({**SMALL, "model": {"options": {"embed_dim": 8}}}, r"model\.options: embed_dim follows from the backbones"),
        ({**SMALL, "mine": {"positive_ratio": -3.0}}, r"mine\.positive_ratio: -3"),
        ({**SMALL, "mine": {"positive_ratio": 1.5}}, r"mine\.positive_ratio: 1\.5"),
        ({**SMALL, "model": {"options": {"max_text_tokens": 1}}}, r"model\.options\.max_text_tokens: 1"),
        ({**SMALL, "data": {"refine": "llm"}}, r"data\.refine: 'llm'"),
        ({**SMALL, "data": {"sanitize": "drop"}}, r"data\.sanitize: 'drop'"),
    ],
)
def test_values_that_cannot_run_are_refused(content: dict, word: str) -> None:
    with pytest.raises(TrainingError, match=word) as error:
        build(Recipe, content, "test")
    assert "\n" not in str(error.value)


def test_missing_files_and_names(tmp_path) -> None:
    with pytest.raises(TrainingError, match="no such file") as error:
        load_recipe(tmp_path / "none.yaml")
    assert str(tmp_path / "none.yaml") in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(TrainingError, match="quikstart") as error:
        load_recipe("quikstart")
    assert "quickstart" in str(error.value) and "paper" in str(error.value) and "\n" not in str(error.value)


def test_values_arrive_as_written(tmp_path) -> None:
    text = """
seed: 7
data: {source: geotext1652, root: /data, options: {max_places: 5}}
model: {text_revision: null, platforms: [drone], options: {tail_dropout: 0.2}}
contrastive: {steps: 3, learning_rate: 1e-3, weight_decay: 0, warmup_steps: 2, save_steps: 4}
mine: {k: 4, positive_ratio: 9e-1}
hard_negative: {steps: 5, margin: .5, info_nce_weight: 2}
gate: {steps: 6, gate_loss: both, lr_scheduler_type: constant}
"""
    recipe = load_recipe(write(tmp_path, text))
    rates = (recipe.contrastive.learning_rate, recipe.contrastive.weight_decay, recipe.hard_negative.info_nce_weight)
    assert rates == (0.001, 0.0, 2.0) and all(type(rate) is float for rate in rates)
    assert recipe.mine.positive_ratio == 0.9 and recipe.hard_negative.margin == 0.5
    assert (recipe.data.source, recipe.data.root, recipe.data.options) == ("geotext1652", "/data", {"max_places": 5})
    assert (recipe.model.text_revision, recipe.model.platforms) == (None, ["drone"])
    assert recipe.contrastive == StageRecipe(3, 0.001, 0.0, 2, "cosine", 4)
    assert (recipe.gate.gate_loss, recipe.gate.lr_scheduler_type, recipe.seed) == ("both", "constant", 7)
    assert recipe.caption_column == "refined_captions" and recipe.precision == "float32"  # left at the default


@pytest.mark.parametrize("text", ["1e-3", "2E-5", "1.e-4", "0.001", "1", ".5"])
def test_floats_in_every_spelling(tmp_path, text: str) -> None:
    recipe = load_recipe(write(tmp_path, f"contrastive: {{steps: 1, learning_rate: {text}}}"))
    assert recipe.contrastive.learning_rate == float(text)


def test_packaged_recipes_parse() -> None:
    names = {path.name.removesuffix(".yaml") for path in PACKAGED.iterdir() if path.name.endswith(".yaml")}
    assert {"quickstart", "paper"} <= names
    recipes = {name: load_recipe(name) for name in names}
    assert all(recipe.pairs_seen > 0 for recipe in recipes.values())
    paper = recipes["paper"]
    assert (paper.global_batch_size, paper.contrastive.learning_rate, paper.contrastive.weight_decay) == (
        128,
        2e-5,
        1e-4,
    )


def test_pairs_seen_counts_every_stage() -> None:
    steps = {"contrastive": {"steps": 7}, "hard_negative": {"steps": 11}, "gate": {"steps": 13}}
    assert build(Recipe, {"global_batch_size": 6, "unified": {"steps": 5}, **steps}, "test").pairs_seen == 6 * (
        5 + 7 + 11 + 13
    )
    assert build(Recipe, {"global_batch_size": 6, **SMALL}, "test").pairs_seen == 18


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_scheduler_can_be_built(scheduler: str) -> None:
    minimum = {"min_lr": 1.0e-7}
    needed = {"cosine_with_min_lr": minimum, "cosine_warmup_with_min_lr": minimum}
    options = {**needed, "warmup_stable_decay": {"num_decay_steps": 1}}.get(scheduler, {})
    stage = {"steps": 3, "lr_scheduler_type": scheduler, "lr_scheduler_kwargs": options}
    assert build(Recipe, {"contrastive": stage}, "test").contrastive.lr_scheduler_kwargs == options
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])
    get_scheduler(scheduler, optimizer, 1, 3, options)


def test_stages_are_those_with_steps_in_their_order() -> None:
    content = {"gate": {"steps": 2}, "contrastive": {"steps": 3}, "unified": {"steps": 4}}
    stages = build(Recipe, content, "test").stages
    assert {name: stage.steps for name, stage in stages.items()} == {"unified": 4, "contrastive": 3, "gate": 2}
    assert list(STAGES) == ["unified", "contrastive", "hard_negative", "gate"]


def test_the_earlier_field_of_the_unified_stage_is_read(tmp_path) -> None:
    settings = "learning_rate: 1e-3, warmup_steps: 2"
    old = load_recipe(write(tmp_path, f"unified_steps: 35\ncontrastive: {{steps: 3, {settings}}}"))
    new = load_recipe(write(tmp_path, f"unified: {{steps: 35, {settings}}}\ncontrastive: {{steps: 3, {settings}}}"))
    assert old == new and old.unified.steps == 35 and old.unified.learning_rate == 1e-3
    with pytest.raises(TrainingError, match="unified: steps must be int, got 'many'"):
        load_recipe(write(tmp_path, "unified_steps: many\ncontrastive: {steps: 3}"))


def test_the_campus_by_name_is_the_campus_without_a_name(tmp_path) -> None:
    assert read_config("quickstart", "campus", seed=3) == read_config("quickstart", seed=3)
    assert read_config("campus", "campus") == read_config("campus")
    assert read_config("paper", "campus").data == load_recipe("quickstart").data == data_recipe("campus")
    assert read_config("quickstart", str(tmp_path)).data == DataRecipe(source="folder", root=str(tmp_path))


def test_shipped_backbones_have_short_names() -> None:
    assert resolve_repo("BAAI/bge-m3") == "BAAI/bge-m3"
    assert Path(resolve_repo("tiny:text")).parts[-2:] == ("tiny_backbones", "text")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("unified_steps: 5\nunified: {steps: 2}\ncontrastive: {steps: 3}\n", "unified_steps"),
        ("gate: {steps: 2}\nmodel: {platforms: [all]}\ncontrastive: {steps: 3}\n", "gate.steps"),
        ("gate: {steps: 2}\nmodel: {options: {gate: uniform}}\ncontrastive: {steps: 3}\n", "gate.steps"),
        ("seed: 4294967296\ncontrastive: {steps: 3}\n", "seed"),
    ],
)
def test_what_would_fail_after_the_first_stages_is_refused_at_once(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(TrainingError, match=named):
        load_recipe(path)
