"""Invariant: a cached state has the bits that the trunk gives for the same pictures; whenever its writer was killed,
what a cache names is whole; and states of another trunk, size or preprocessing are never taken."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import re
import resource
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_data import build_processor, build_split
from tiny_models import build_tiny_model

from pemoe.datasets_scripts.augment.pictures import AugmentationPlan, Geometry, SatelliteAugmentation
from pemoe.retrieval import feature_cache, state_files
from pemoe.retrieval.feature_cache import FeatureCache, ImageStates
from pemoe.retrieval.state_files import CallWriter, FeatureCacheError, Records, find_calls

ROWS = build_split(places=3)  # 12 pictures: calls of 5, 5 and 2
PLAN = AugmentationPlan(Geometry(flip_horizontal=True), brightness=1.1)
RECORDS = Records((4, 3), "float32")
CALLS_WRITTEN = 300


def build_cache(directory: Path, **options: object) -> FeatureCache:
    return FeatureCache(directory, build_tiny_model(), build_processor(), ROWS, **{"batch_size": 5, **options})


def count_calls(cache: FeatureCache, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Pictures of each call of the trunk from now on."""
    calls: list[int] = []
    run = cache.model.encode_image_trunk
    monkeypatch.setattr(cache.model, "encode_image_trunk", lambda x: calls.append(len(x)) or run(x), raising=False)
    return calls


@torch.no_grad()
def trunk_states(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """States of all rows, the trunk called as the cache calls it."""
    model, processor = build_tiny_model(), build_processor()
    pixels = processor(images=ROWS["image"][:])["pixel_values"]
    return torch.cat([model.encode_image_trunk(part) for part in pixels.split(5)]).to(dtype)


@pytest.mark.parametrize(("dtype", "torch_dtype"), [(None, torch.float32), ("bfloat16", torch.bfloat16)])
def test_states_have_the_bits_of_the_trunk(tmp_path: Path, dtype: str | None, torch_dtype: torch.dtype) -> None:
    states = build_cache(tmp_path, dtype=dtype).states()
    expected = trunk_states(torch_dtype)
    assert len(states) == len(ROWS) and states[0].dtype == torch_dtype
    assert torch.equal(states[list(range(12))], expected)
    assert torch.equal(states[[7, 3]], expected[[7, 3]]) and torch.equal(states[np.int64(4)], expected[4])
    assert expected.std(dim=0).max() > 1e-3  # the pictures differ


def test_augmented_views_are_states_of_the_augmented_pictures(tmp_path: Path) -> None:
    cache = build_cache(tmp_path, batch_size=1)
    states = cache.states([[(2, None)], [(2, PLAN)]])
    picture = SatelliteAugmentation.apply(ROWS[2]["image"], PLAN)
    with torch.no_grad():
        expected = cache.model.encode_image_trunk(build_processor()(images=[picture])["pixel_values"])[0]
    assert torch.equal(states.view(2, PLAN), expected) and not torch.equal(states[2], expected)
    with pytest.raises(FeatureCacheError, match="row 3 is wanted in a view that was not asked for"):
        states.view(3, PLAN)


def test_states_are_computed_once_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = build_cache(tmp_path)
    calls = count_calls(first, monkeypatch)
    expected = first.states()[list(range(12))]
    assert calls == [5, 5, 2]
    again = build_cache(tmp_path, num_workers=2)
    calls = count_calls(again, monkeypatch)
    states = again.states()
    assert calls == [] and torch.equal(states[list(range(12))], expected)
    more = again.states([[(row, None) for row in range(12)], [(1, PLAN)]])  # by workers
    assert calls == [1] and torch.equal(more[3], expected[3])
    copy = pickle.loads(pickle.dumps(states))
    assert copy._files == {} and torch.equal(copy[11], expected[11])


def torn_files(folder: Path, n_bytes: int) -> list[tuple[str, int]]:
    """Lengths at which a kill, or a crash of the machine, can leave each of the two files."""
    states, calls = ((folder / name).stat().st_size for name in ("000.states", "000.calls"))
    entry = calls // 3
    cuts = [("000.states", at) for at in (0, 1, n_bytes, 5 * n_bytes - 1, 5 * n_bytes, 5 * n_bytes + 7, states - 1)]
    return cuts + [("000.calls", at) for at in (0, 1, entry - 1, entry, entry + 1, calls - 4, calls - 1)]


def test_torn_files_are_completed_in_the_same_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = build_cache(tmp_path / "whole")
    cache.states()
    expected, calls = trunk_states(), count_calls(cache, monkeypatch)
    cuts = torn_files(cache.folder, cache.records.n_bytes)
    for number, (name, length) in enumerate(cuts):
        cache.folder = tmp_path / str(number)
        shutil.copytree(tmp_path / "whole" / cache.kind[:16], cache.folder)
        os.truncate(cache.folder / name, length)
        calls.clear()
        assert torch.equal(cache.states()[list(range(12))], expected), (name, length)
        assert 0 < len(calls) <= 3
        calls.clear()
        assert cache.states() and calls == []
    flipped = cache.folder / "000.calls"
    flipped.write_bytes(flipped.read_bytes()[:50] + b"\xff" + flipped.read_bytes()[51:])  # the second entry
    assert torch.equal(cache.states()[list(range(12))], expected) and calls == [5, 2]


def write_calls(folder: Path) -> None:
    with CallWriter(folder, RECORDS) as writer:
        for number in range(CALLS_WRITTEN):
            writer.append(number.to_bytes(32, "big"), torch.full((3, 4, 3), float(number)))


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def test_what_a_killed_writer_named_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_files, "_RECORDS_AT_ONCE", 6)
    held = 0
    for delay_s in (0, 0.001, 0, 0.002, 0, 0.003):
        process = multiprocessing.get_context("fork").Process(target=write_calls, args=(tmp_path,))
        before = size_of(tmp_path / "000.calls")
        process.start()
        while process.is_alive() and size_of(tmp_path / "000.calls") == before:
            pass
        time.sleep(delay_s)
        process.kill()
        process.join()
        found = find_calls(tmp_path, RECORDS)
        for key, (path, first) in found.items():
            states = ImageStates(1, RECORDS, {(0, None): (path, first), (1, None): (path, first + 2)})
            assert (states[[0, 1]] == int.from_bytes(key, "big")).all()
        assert len(found) >= held
        held = len(found)
    assert 0 < held < CALLS_WRITTEN  # they were killed at work
    write_calls(tmp_path)
    assert len(find_calls(tmp_path, RECORDS)) == CALLS_WRITTEN
    assert {path.name for path in tmp_path.iterdir()} == {"000.states", "000.calls", "000.lock"}


def test_processes_share_the_work_and_get_the_states_of_one(tmp_path: Path) -> None:
    barrier, states = threading.Barrier(2, timeout=60), {}
    caches = [build_cache(tmp_path) for _ in range(2)]

    def fill(rank: int) -> None:
        states[rank] = caches[rank].states(share=(rank, 2), wait=barrier.wait)

    threads = [threading.Thread(target=fill, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(states[rank][list(range(12))], trunk_states()) for rank in range(2))
    assert sum(path.stat().st_size for path in tmp_path.glob("*/*.states")) == 12 * caches[0].records.n_bytes


def test_states_of_another_kind_are_not_taken(tmp_path: Path) -> None:
    def kind(model=None, processor=None, **options: object) -> str:
        given = model or build_tiny_model(), processor or build_processor()
        return FeatureCache(tmp_path, *given, ROWS, **options).kind

    changed, mean = build_tiny_model(), build_processor()
    next(changed.vision_trunk.parameters()).data.flatten()[0] += 1e-3
    mean.image_processor.image_mean = [0.5, 0.5, 0.5]
    kinds = [kind(), kind(changed), kind(processor=mean), kind(dtype="bfloat16"), kind(build_tiny_model().bfloat16())]
    kinds.append(kind(build_tiny_model(image_size=84), build_processor(84)))
    assert len(set(kinds)) == len(kinds) and kind(batch_size=3) == kinds[0]


def test_another_call_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build_cache(tmp_path).states()
    cache = build_cache(tmp_path, batch_size=4)
    calls = count_calls(cache, monkeypatch)
    cache.states()
    assert calls == [4, 4, 4]


def test_room_is_looked_at_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = build_cache(tmp_path, max_gb=1e-5)
    calls = count_calls(cache, monkeypatch)
    with pytest.raises(FeatureCacheError, match=r"12 pictures need .* max_gb is 1e-05; use dtype bfloat16") as refused:
        cache.states()
    assert "\n" not in str(refused.value) and calls == []
    free = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(feature_cache.shutil, "disk_usage", lambda _: free)
    with pytest.raises(FeatureCacheError, match="the disk has 1e-06 GB left"):
        build_cache(tmp_path).states()
    assert calls == []


def test_a_full_disk_leaves_a_whole_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_files, "_RECORDS_AT_ONCE", 5)
    cache = build_cache(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (7 * cache.records.n_bytes, hard))  # a file stops in the second call
    try:
        with pytest.raises(FeatureCacheError, match="the disk is full; make room and go on with --resume"):
            cache.states()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (cache.folder / "000.states").stat().st_size == 5 * cache.records.n_bytes
    calls = count_calls(cache, monkeypatch)
    assert torch.equal(cache.states()[list(range(12))], trunk_states()) and calls == [5, 2]


def test_a_trunk_that_changes_is_refused(tmp_path: Path) -> None:
    trained = build_tiny_model()
    trained.vision_trunk.requires_grad_(True)
    adapted = get_peft_model(
        build_tiny_model(), LoraConfig(target_modules=r"vision_trunk.*\.proj", inference_mode=True)
    )
    for model, words in ((trained, r"trains \("), (adapted, "carries an adapter")):
        with pytest.raises(FeatureCacheError, match=words):
            FeatureCache(tmp_path / "none", model, build_processor(), ROWS)
    assert not (tmp_path / "none").exists()


def test_other_faults(tmp_path: Path) -> None:
    with pytest.raises(FeatureCacheError, match="dtype: 'int8' is unknown"):
        build_cache(tmp_path, dtype="int8")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FeatureCacheError, match="cannot be written"):
        build_cache(tmp_path / "file")


def test_memory_does_not_hold_the_states(tmp_path: Path) -> None:
    """The memory of the process, without the pages of files that the system may drop at any time."""

    def anonymous_mb() -> float:
        return int(re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1e3

    if not Path("/proc/self/status").is_file():
        pytest.skip("needs Linux's /proc")
    records, block = Records((256, 1024), "float32"), torch.ones(8, 256, 1024)
    before_mb = anonymous_mb()
    with CallWriter(tmp_path, records) as writer:
        for number in range(16):  # 134 MB
            writer.append(number.to_bytes(32, "big"), block)
    located = {(row, None): (tmp_path / "000.states", row) for row in range(128)}
    states = ImageStates(128, records, located)
    assert sum(float(states[row].mean()) for row in range(128)) == 128
    assert anonymous_mb() - before_mb < 40
