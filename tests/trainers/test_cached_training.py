"""Invariant: training on cached trunk states ends in the bytes of training without a cache, the trunk being called on
the same pictures, also on augmented views; a cache holds exactly the views that training shows."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_data import build_processor, build_split
from tiny_models import build_tiny_model

from pemoe.datasets_scripts.schema import PLATFORMS
from pemoe.modeling_pemoe import PeMoEModel
from pemoe.retrieval.feature_cache import FeatureCache, FeatureCacheError
from pemoe.trainers import PeMoETrainer, PeMoETrainingArguments, TrainingError
from pemoe.trainers.batches.pairs import PairDataset
from pemoe.trainers.batches.samplers import Visit
from pemoe.trainers.recipes import Recipe, build
from pemoe.trainers.stages import StageRunner

TEXTS = ["A pond on the left side.", "A round pond."]
ROWS = build_split(places=4)
ROWS = ROWS.remove_columns("refined_captions").add_column("refined_captions", [TEXTS] * len(ROWS))
PLATFORM = np.asarray(ROWS["platform"][:])
SATELLITE = PLATFORMS.index("satellite")
NEGATIVES = np.stack([np.roll(np.flatnonzero(PLATFORM[row] == PLATFORM), -1)[:2] for row in range(len(ROWS))])
NEGATIVES[::5, 1] = -1
NEGATIVES[0] = -1  # a satellite row without a negative
AUGMENTED = [("none", 0), ("sanitized", 2), ("transform", 3)]


def train(directory: Path, stage: str, augment: str, views: int, cached: bool) -> dict[str, torch.Tensor]:
    """Weights of the experts after some steps, the trunk called on one picture at a time, cached or in every step."""
    model = build_tiny_model(tail_dropout=0.1)
    negatives = NEGATIVES if stage == "hard_negative" else None
    states = None
    if cached:
        pairs = PairDataset(ROWS, "refined_captions", 0, negatives, None, augment, views)
        apply = {} if pairs.augmentation is None else {"apply": pairs.augmentation.apply}
        states = FeatureCache(directory / "cache", model, build_processor(), ROWS, batch_size=1)
        states = states.states(pairs.views(), **apply)
        model.vision_trunk.forward = None  # not called any more
    else:
        run = model.encode_image_trunk
        model.encode_image_trunk = lambda pixels: torch.cat([run(one[None]) for one in pixels])
    arguments = PeMoETrainingArguments(
        str(directory / "run"),
        stage=stage,
        seed=0,
        max_steps=9,
        per_device_train_batch_size=3,
        learning_rate=1e-3,
        augment=augment,
        augmented_views=views,
        use_cpu=True,
        save_strategy="no",
        disable_tqdm=True,
    )
    tables = {"hard_negatives": negatives, "image_states": states}
    PeMoETrainer(model, arguments, ROWS, processing_class=build_processor(), **tables).train()
    return {name: tensor for name, tensor in model.state_dict().items() if "_trunk." not in name}


SLOW = pytest.mark.slow  # the same two seconds again


@pytest.mark.parametrize(
    ("stage", "augment", "views"),
    [
        ("contrastive", "none", 0),
        ("hard_negative", "none", 0),
        ("hard_negative", "sanitized", 2),
        pytest.param("contrastive", "sanitized", 2, marks=SLOW),
        pytest.param("contrastive", "transform", 3, marks=SLOW),
        pytest.param("hard_negative", "transform", 3, marks=SLOW),
    ],
)
def test_a_cached_step_is_an_uncached_step(tmp_path: Path, stage: str, augment: str, views: int) -> None:
    with_cache, without = (train(tmp_path, stage, augment, views, cached) for cached in (True, False))
    start = build_tiny_model(tail_dropout=0.1).state_dict()
    assert all(torch.equal(with_cache[name], without[name]) for name in without)
    assert any(not torch.equal(without[name], start[name]) for name in without)


def shown_views(pairs: PairDataset, draws: int) -> Iterator[tuple]:
    """The views that many visits ask for."""
    asked: list[tuple] = []
    pairs._image = lambda row, plan: asked.append((row, plan))
    for draw in range(draws):
        for row in range(len(pairs)):
            pairs[Visit(row, draw)]
    return iter(asked)


@pytest.mark.parametrize("negatives", [None, NEGATIVES])
@pytest.mark.parametrize(("augment", "views"), AUGMENTED)
def test_the_views_are_those_that_training_shows(augment: str, views: int, negatives: np.ndarray | None) -> None:
    pairs = PairDataset(ROWS, "refined_captions", 0, negatives, None, augment, views)
    groups = pairs.views()
    listed = [view for group in groups for view in group]
    assert len(listed) == len(set(listed))
    assert set(listed) == set(shown_views(pairs, draws=60))
    of_one = [view for view in groups[-1 if negatives is None else 1] if view[0] == 4] if views else []
    assert len(of_one) == (2 * views if augment == "sanitized" else len(of_one))  # turned, and light alone


def test_visits_take_turns_on_the_views() -> None:
    pairs = PairDataset(ROWS, "refined_captions", 0, augment="sanitized", augmented_views=2)
    free = PairDataset(ROWS, "refined_captions", 0, augment="sanitized")
    drawn = [[p.augmentation.draw("A pond.", draw, 0)[1] for draw in range(6)] for p in (pairs, free)]
    assert drawn[0] == drawn[1][:2] * 3 and len(set(drawn[1])) == 6
    texts = {pairs[Visit(0, draw)]["text"] for draw in range(0, 40, 2)}
    assert texts == set(TEXTS)  # captions go on being drawn visit by visit


STAGE = {"steps": 3, "learning_rate": 1e-3}
CACHED = {"cache_image_states": True, "feature_cache": {"batch_size": 5}, "augment": "sanitized", "augmented_views": 2}


def run_recipe(directory: Path, resume: bool = False, **changes: object) -> dict[str, torch.Tensor]:
    stages = {"contrastive": STAGE, "hard_negative": STAGE, "mine": {"k": 2}}
    recipe = build(Recipe, {"global_batch_size": 3, **stages, **CACHED, **changes}, "test")
    runner = StageRunner(build_tiny_model(), build_processor(), ROWS, recipe, directory, resume)
    runner.run()
    return load_file(directory / "hard_negative" / "trained.safetensors")


def test_a_recipe_fills_what_its_stages_show(tmp_path: Path) -> None:
    """Also the views of mined negatives, known only after the first stage; and a run goes on with what is there."""
    cache = {"directory": str(tmp_path / "shared"), "batch_size": 5}
    first = run_recipe(tmp_path / "run", feature_cache=cache)
    assert not (tmp_path / "run" / "feature_cache").exists()
    (states,) = (tmp_path / "shared").glob("*/000.states")
    os.truncate(states, states.stat().st_size // 3)
    (tmp_path / "run" / "hard_negative" / "done.json").unlink()
    again = run_recipe(tmp_path / "run", resume=True, feature_cache=cache)
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_faults(tmp_path: Path) -> None:
    recipe = build(Recipe, {"contrastive": STAGE, **CACHED}, "test")
    faults = [
        ({"augmented_views": 0}, "set augmented_views to 1 or more, or cache_image_states to false"),
        ({"augment": "none"}, "augmented_views: 2, but augment is none"),
        ({"cache_image_states": False}, "cache_image_states is false; set it to true"),
        ({"feature_cache": replace(recipe.feature_cache, dtype="int8")}, "feature_cache.dtype: 'int8'"),
        ({"feature_cache": replace(recipe.feature_cache, max_gb=-1.0)}, "feature_cache.max_gb: -1"),
        ({"feature_cache": replace(recipe.feature_cache, batch_size=0)}, "feature_cache.batch_size: 0"),
    ]
    for change, words in faults:
        with pytest.raises(TrainingError, match=words):
            replace(recipe, **change)
    with pytest.raises(TrainingError, match="augmented_views: 2, but augment is none"):
        PeMoETrainingArguments(str(tmp_path), max_steps=1, augmented_views=2, use_cpu=True)
    with pytest.raises(TrainingError, match="give states of a FeatureCache"):
        PairDataset(ROWS, "captions", 0, None, torch.zeros(len(ROWS), 2, 2), "sanitized", 2)


def test_a_trunk_that_trains_gets_no_cached_states(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    model: PeMoEModel = get_peft_model(build_tiny_model(), LoraConfig(target_modules=r"vision_trunk.*\.proj"))
    arguments = PeMoETrainingArguments(str(tmp_path), max_steps=1, per_device_train_batch_size=3, use_cpu=True)
    states = {"image_states": torch.zeros(len(ROWS), 17, 64)}
    with pytest.raises(FeatureCacheError, match="the image trunk carries an adapter"):
        PeMoETrainer(model, arguments, ROWS, processing_class=build_processor(), **states)
