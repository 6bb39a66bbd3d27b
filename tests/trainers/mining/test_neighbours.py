"""Guards near-neighbour batches: near places come together, each place as often as before, every process and every
resumed run draws the same, and a stage that cannot have them refuses them by name."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_data import build_processor, build_split
from tiny_models import build_tiny_model

from pemoe.trainers import PeMoETrainer, PeMoETrainingArguments, TrainingError
from pemoe.trainers.batches.samplers import PlatformBatchSampler
from pemoe.trainers.mining.neighbours import nearest_points, nearest_vectors
from pemoe.trainers.parallel.distributed import process_options
from pemoe.trainers.recipes import Recipe, build

PLACES = 24


def line_of_places(step: int = 0) -> np.ndarray:
    """Places 0 to 23 on a line, in a table for one group: nearest first, 1 on each side before 2 on each side."""
    offsets = np.array([1, -1, 2, -2, 3, -3])
    near = np.arange(PLACES)[:, None] + offsets
    return np.where((near >= 0) & (near < PLACES), near, -1)[None]


def sampler(rank: int = 0, world_size: int = 1, steps: int = 40, neighbours=line_of_places) -> PlatformBatchSampler:
    place = np.repeat(np.arange(PLACES), 2)
    shared = {"seed": 3, "rank": rank, "world_size": world_size, "neighbours": neighbours}
    return PlatformBatchSampler(np.zeros(len(place), int), place, [0], 8 // world_size, steps, **shared)


def places_of(batch) -> list[int]:
    return [visit.row // 2 for visit in batch]


def span(batches) -> float:
    """Mean distance of the nearest other place in the batch."""
    nearest = [min(abs(a - b) for b in places if b != a) for places in map(places_of, batches) for a in places]
    return float(np.mean(nearest))


def test_near_places_come_together_and_each_comes_once_a_pass() -> None:
    near, random = list(sampler()), list(sampler(neighbours=None))
    assert span(near) < 0.75 * span(random)
    for start in range(0, 39, 3):  # 24 places: a pass is 3 batches of 8
        places = [place for batch in near[start : start + 3] for place in places_of(batch)]
        assert sorted(places) == list(range(PLACES))
    assert {visit.row for batch in near[:6] for visit in batch} == set(range(2 * PLACES))


def test_the_processes_share_the_batch_and_a_later_start_draws_the_same() -> None:
    whole = list(sampler())
    ranks = [list(sampler(rank, 2)) for rank in (0, 1)]
    assert [first + second for first, second in zip(*ranks, strict=True)] == whole
    assert sampler().batch_at(17) == whole[17]


def test_a_pass_keeps_the_table_it_began_with() -> None:
    asked: list[int] = []

    def table(step: int) -> np.ndarray:
        asked.append(step)
        return line_of_places()

    batches = sampler(steps=9, neighbours=table)
    list(batches)
    batches.set_epoch(1)
    list(batches)
    assert asked == [0, 3, 6, 9, 12, 15]


def test_nearest_equals_a_loop() -> None:
    rng = np.random.default_rng(0)
    points = rng.standard_normal((300, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    points[7] = np.nan
    found = nearest_points(points, 5)
    for number in (0, 6, 255, 256, 299):
        distance = np.linalg.norm(points - points[number], axis=1)
        order = [other for other in np.argsort(distance, kind="stable") if other not in (7, number)]
        assert found[number].tolist() == order[:5]
    assert (found[7] == -1).all() and not (found == 7).any()
    vectors = np.nan_to_num(points).astype(np.float32)
    by_cosine = nearest_vectors(vectors, 5)
    keep = [number for number in range(300) if number != 7]
    assert np.array_equal(by_cosine[keep], nearest_points(vectors.astype(np.float64), 5)[keep])


def coordinates(rows):
    east = [float(int(name)) / 1000 for name in rows["place_id"]]
    rows = rows.remove_columns(["latitude_deg", "longitude_deg"])
    return rows.add_column("latitude_deg", [0.0] * len(rows)).add_column("longitude_deg", east)


def build_trainer(folder, rows, neighbours: str, refresh: int, stage: str = "contrastive", **options) -> PeMoETrainer:
    model = build_tiny_model(**({"platforms": ["all"]} if stage == "unified" else {}))
    arguments = PeMoETrainingArguments(
        output_dir=str(folder),
        stage=stage,
        max_steps=14,
        learning_rate=1e-2,
        per_device_train_batch_size=4,
        neighbours=neighbours,
        neighbour_refresh_steps=refresh,
        save_strategy="steps",
        save_steps=5,
        disable_tqdm=True,
        report_to="none",
        **process_options(),
        **options,
    )
    return PeMoETrainer(model, arguments, train_dataset=rows, processing_class=build_processor())


def test_metres_bring_neighbouring_places_together(tmp_path) -> None:
    rows = coordinates(build_split(places=10, drone_views=1))
    trainer = build_trainer(tmp_path, rows, "metres", 0)
    trainer.train()
    table = np.load(tmp_path / "neighbours" / "000000.npy")
    assert table.shape[:2] == (3, 10) and table[1, 4, :4].tolist() in (
        [3, 5, 2, 6],
        [5, 3, 6, 2],
        [3, 5, 6, 2],
        [5, 3, 2, 6],
    )
    assert {path.name for path in (tmp_path / "neighbours").iterdir()} == {"000000.npy"}
    batches = [[int(rows[visit.row]["place_id"]) for visit in batch] for batch in trainer.build_sampler()]
    assert all(min(abs(a - b) for b in batch if b != a) <= 3 for batch in batches[:3] for a in batch[:1])


def test_a_killed_run_goes_on_with_the_tables_of_the_first_and_ends_in_its_bytes(tmp_path) -> None:
    rows = build_split(places=10, drone_views=1)
    build_trainer(tmp_path / "whole", rows, "embedding", 3).train()
    tables = sorted(path.name for path in (tmp_path / "whole" / "neighbours").iterdir())
    assert tables == [f"{version:06d}.npy" for version in range(5)]
    loaded = [np.load(tmp_path / "whole" / "neighbours" / name) for name in tables]
    assert any(not np.array_equal(loaded[0], later) for later in loaded[1:])  # the weights moved
    killed = build_trainer(tmp_path / "cut", rows, "embedding", 3)
    step, steps = killed.training_step, []

    def die_in_step_8(*arguments):
        steps.append(1)
        if len(steps) == 8:
            raise KeyboardInterrupt
        return step(*arguments)

    killed.training_step = die_in_step_8
    with pytest.raises(KeyboardInterrupt):
        killed.train()
    again = build_trainer(tmp_path / "cut", rows, "embedding", 3)
    again.train(resume_from_checkpoint=True)
    ours, theirs = (load_file(tmp_path / run / "checkpoint-14" / "model.safetensors") for run in ("cut", "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    for name in tables:
        files = [(tmp_path / run / "neighbours" / name).read_bytes() for run in ("cut", "whole")]
        assert files[0] == files[1]


def test_the_unified_model_has_one_table(tmp_path) -> None:
    build_trainer(tmp_path, build_split(places=10, drone_views=1), "embedding", 0, stage="unified").train()
    assert np.load(tmp_path / "neighbours" / "000000.npy").shape[0] == 1


def test_what_cannot_be_had_is_refused_by_name(tmp_path) -> None:
    rows = build_split(places=4)
    with pytest.raises(TrainingError, match="neighbours: metres: no row has latitude_deg"):
        build_trainer(tmp_path, rows, "metres", 0)
    with pytest.raises(TrainingError, match="neighbour_refresh_steps: only neighbours 'embedding'"):
        build_trainer(tmp_path, rows, "metres", 5)
    with pytest.raises(TrainingError, match="neighbour_refresh_steps: 3 is less than the 5 batches"):
        build_trainer(tmp_path, rows, "embedding", 3, dataloader_num_workers=2)
    with pytest.raises(TrainingError, match="neighbours: the gate's"):
        build_trainer(tmp_path, rows, "embedding", 0, stage="gate")
    recipe = {"contrastive": {"steps": 1}}
    for part, word in {
        "gate": r"gate\.neighbours: the gate's",
        "contrastive": r"contrastive\.neighbours: 'near' is unknown",
    }.items():
        values = {**recipe.get(part, {}), "neighbours": "near" if part == "contrastive" else "embedding"}
        with pytest.raises(TrainingError, match=word):
            build(Recipe, {**recipe, part: values}, "test")
    late = {"steps": 4, "neighbours": "embedding", "neighbour_refresh_steps": 2}
    with pytest.raises(TrainingError, match=r"hard_negative\.neighbour_refresh_steps: 2 is less than the 5 batches"):
        build(Recipe, {**recipe, "num_workers": 2, "hard_negative": late}, "test")
