"""Guards the batches: one platform a step on all ranks, unique places, even use of images, purity in the step."""

from __future__ import annotations

import time
from collections import Counter

import numpy as np
import pytest
from torch.utils.data import DataLoader, Dataset

from pemoe.trainers.batches.samplers import PlatformBatchSampler

IMAGES = {0: (1, 1), 1: (2, 5), 2: (1, 4)}  # least and most images of a place, by platform


def rows(n_places: int = 23, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Platforms and places of a shuffled data set with uneven numbers of images."""
    rng = np.random.default_rng(seed)
    table = [
        (p, q)
        for p, (low, high) in IMAGES.items()
        for q in range(n_places)
        for _ in range(rng.integers(low, high + 1))
    ]
    platforms, places = rng.permutation(np.array(table)).T
    return platforms, places * 10


def build(rank: int = 0, world_size: int = 1, **options) -> PlatformBatchSampler:
    platforms, places = options.pop("rows", rows())
    settings = {"platforms": [1, 0, 2], "batch_size": 4, "num_steps": 300, "seed": 5} | options
    return PlatformBatchSampler(platforms, places, rank=rank, world_size=world_size, **settings)


def places_of(batch, places):
    return [places[visit.row] for visit in batch]


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_agree_on_the_platform_and_joined_places_are_unique(world_size):
    platforms, places = rows()
    samplers = [build(rank, world_size) for rank in range(world_size)]
    for step, batches in enumerate(zip(*samplers, strict=True)):
        joined = [visit for batch in batches for visit in batch]
        assert {platforms[visit.row] for visit in joined} == {[1, 0, 2][step % 3]}
        assert [len(batch) for batch in batches] == [4] * world_size
        assert len(set(places_of(joined, places))) == 4 * world_size  # slices are disjoint, too
        assert len({visit.visit for visit in joined}) == 1


def test_a_joined_batch_beyond_the_places_is_unique_within_each_rank():
    platforms, places = rows()
    samplers = [build(rank, 4, batch_size=7) for rank in range(4)]  # 28 > 23
    assert not samplers[0].plan()[1]["unique_across_ranks"]
    differ = 0
    for batches in zip(*samplers, strict=True):
        assert len({platforms[visit.row] for batch in batches for visit in batch}) == 1
        assert all(len(set(places_of(batch, places))) == 7 for batch in batches)
        differ += places_of(batches[0], places) != places_of(batches[1], places)
    assert differ > 290


def test_fewer_places_than_the_batch_uses_the_place_count():
    sampler = build(batch_size=50, world_size=2)
    _, places = rows()
    assert {name: plan["batch_size"] for name, plan in sampler.plan().items()} == {1: 23, 0: 23, 2: 23}
    assert all(sorted(places_of(batch, places)) == sorted(set(places)) for batch in sampler)


@pytest.mark.parametrize("world_size, batch_size", [(1, 4), (2, 4), (1, 23), (1, 40), (3, 9), (2, 20)])
@pytest.mark.parametrize("mixed", [False, True])
def test_images_of_a_place_are_used_equally_often(world_size, batch_size, mixed):
    """After whole passes: images of one place within one use of each other; places left out equally often."""
    platforms, places = rows()
    n_groups, passes = (1, 37) if mixed else (3, 37)
    per_pass = build(0, world_size, batch_size=batch_size, mixed=mixed).plan()["mixed" if mixed else 1][
        "batches_per_pass"
    ]
    options = {"batch_size": batch_size, "mixed": mixed, "num_steps": passes * per_pass * n_groups}
    used = Counter(
        visit.row for rank in range(world_size) for batch in build(rank, world_size, **options) for visit in batch
    )
    group = np.zeros_like(platforms) if mixed else platforms
    per_place = {}
    for key in set(zip(group, places, strict=True)):
        counts = [used[row] for row in np.flatnonzero((group == key[0]) & (places == key[1]))]
        assert max(counts) - min(counts) <= 1
        per_place.setdefault(key[0], []).append(sum(counts))
    for totals in per_place.values():
        assert min(totals) > 0
        streams = world_size if batch_size * world_size > len(totals) and batch_size < len(totals) * world_size else 1
        assert max(totals) - min(totals) <= streams


def test_every_image_is_covered():
    platforms, _ = rows()
    seen = {visit.row for batch in build() for visit in batch}
    assert seen == set(range(len(platforms)))


def test_the_places_left_out_change_every_pass():
    _, places = rows()
    sampler = build(platforms=[1], num_steps=50)  # 5 batches of 4 in a pass, 3 of 23 places left out
    by_pass = [set() for _ in range(10)]
    for batch in sampler:
        by_pass[batch[0].visit] |= set(places_of(batch, places))
    left_out = [frozenset(set(places) - seen) for seen in by_pass]
    assert {len(left) for left in left_out} == {3} and len(set(left_out)) == 10
    assert not left_out[0] & left_out[1]


def test_orders_differ_between_passes_platforms_seeds_and_epochs():
    _, places = rows()

    def order(platform=1, start=0, epoch=0, seed=5):
        sampler = build(platforms=[platform], seed=seed, num_steps=10, batch_size=23)
        sampler.set_epoch(epoch)
        return tuple(places_of(sampler.batch_at(start), places))

    orders = [order(), order(start=1), order(platform=2), order(seed=6), order(epoch=1), order(epoch=2)]
    assert len(set(orders)) == len(orders)


def test_mixed_draws_all_platforms_in_one_batch():
    platforms, places = rows()
    sampler = build(mixed=True, batch_size=12, num_steps=40)
    seen = [{platforms[visit.row] for visit in batch} for batch in sampler]
    assert any(found == {0, 1, 2} for found in seen)
    assert all(len(set(places_of(batch, places))) == 12 for batch in sampler)
    assert list(sampler.plan()) == ["mixed"] and sampler.plan()["mixed"]["steps"] == 40
    only = build(mixed=True, platforms=[0, 2], num_steps=40)
    assert {platforms[visit.row] for batch in only for visit in batch} == {0, 2}


def test_batches_are_a_pure_function_of_seed_epoch_and_step():
    sampler, other = build(), build()
    batches = list(sampler)
    assert [other.batch_at(step) for step in reversed(range(300))] == batches[::-1]
    assert list(sampler) == batches == list(other)
    other.set_epoch(1)
    assert list(other) != batches
    other.set_epoch(0)
    assert list(other) == batches and len(other) == 300


def test_passes_continue_across_epochs():
    """An epoch that ends inside a pass does not start the pass again: epochs of 7 steps equal one of 70."""
    whole = list(build(platforms=[1], num_steps=70))
    parts, sampler = [], build(platforms=[1], num_steps=7)
    for epoch in range(10):
        sampler.set_epoch(epoch)
        parts += list(sampler)
    assert parts == whole


class Rows(Dataset):
    def __getitem__(self, visit):
        return visit

    def __len__(self):
        return 1000


def test_works_as_the_batch_sampler_of_a_data_loader():
    loader = DataLoader(Rows(), batch_sampler=build(num_steps=9), collate_fn=list)
    assert list(loader) == list(build(num_steps=9)) and len(loader) == 9


def test_plan_counts_steps():
    plan = build(world_size=2, num_steps=100).plan()
    assert [entry["steps"] for entry in plan.values()] == [34, 33, 33] and list(plan) == [1, 0, 2]
    platforms, _ = rows()
    assert [entry["images"] for entry in plan.values()] == [(platforms == p).sum() for p in (1, 0, 2)]
    expected = {
        "batch_size": 4,
        "joined_batch_size": 8,
        "batches_per_pass": 2,
        "places": 23,
        "unique_across_ranks": True,
    }
    assert expected.items() <= plan[0].items()


def test_fifty_thousand_rows_are_light():
    rng = np.random.default_rng(0)
    data = rng.integers(3, size=50_000), rng.integers(9_000, size=50_000)
    started = time.perf_counter()
    sampler = build(rows=data, batch_size=128, num_steps=200, world_size=2)
    assert sum(len(batch) for batch in sampler) == 200 * 128
    assert time.perf_counter() - started < 5


@pytest.mark.parametrize(
    "options, message",
    [
        ({"platforms": []}, "at least one"),
        ({"platforms": [1, 1]}, "once"),
        ({"platforms": [1, 9]}, r"\[9\] have no rows"),
        ({"batch_size": 0}, "batch_size 0"),
        ({"num_steps": 0}, "num_steps 0"),
        ({"rank": 2, "world_size": 2}, "rank 2 of 2"),
        ({"rows": (np.zeros(3, int), np.zeros(4, int))}, "one of each"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_bad_steps_and_epochs():
    sampler = build(num_steps=5)
    for call in (lambda: sampler.batch_at(5), lambda: sampler.batch_at(-1), lambda: sampler.set_epoch(-1)):
        with pytest.raises(ValueError, match="must"):
            call()
