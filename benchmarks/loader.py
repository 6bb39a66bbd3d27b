"""How fast pictures come out of the loader, against reading them by hand, and against what a step eats.

    python benchmarks/loader.py --output runs/bench_loader

`pemoe` is the Trainer's own way, `PairDataset` and `PairCollator` in a `DataLoader` of two workers, from the JPEG
bytes in a row to a batch of 384 px; `by_hand` is a torch data set of the same files with torchvision's resize and
normalisation, also with two workers. The floor is decoding alone, without resizing or batches, on as many cores.
`step` is one mid-size training step on the same machine: `loader_over_step` says how many times faster the loader is
than the step that it feeds; below 1 the step waits.
"""

from __future__ import annotations

import io
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from multiprocessing import Pool
from pathlib import Path

import datasets
import numpy as np
import torch
from PIL import Image
from timing import build_config, build_inputs, compare, run_benchmark, time_interleaved
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2
from training_step import EXPERT, build_step
from transformers import AutoTokenizer

from pemoe.datasets_scripts import FEATURES
from pemoe.modeling_pemoe import PeMoEConfig, PeMoEModel, PeMoEProcessor
from pemoe.trainers.batches.pairs import PairCollator, PairDataset
from pemoe.trainers.batches.samplers import Visit
from pemoe.trainers.recipes import resolve_repo

WORKERS = 2
SIDE_PX = 512  # of GeoText-1652's pictures
SIZES = {True: (8, 4, 56), False: (256, 32, 384)}  # smoke: pictures, batch, image size


def write_pictures(folder: Path, count: int, seed: int) -> list[Path]:
    """JPEG files of smooth random pictures, which compress about as photographs do."""
    rng, paths = np.random.default_rng(seed), []
    for number in range(count):
        coarse = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        paths.append(folder / f"{number}.jpg")
        Image.fromarray(coarse).resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC).save(paths[-1], quality=90)
    return paths


def build_rows(paths: list[Path]) -> datasets.Dataset:
    """The pictures as rows of the schema, bytes inside."""
    blank = dict.fromkeys(FEATURES)
    rows = [
        {
            **blank,
            "image": {"bytes": path.read_bytes(), "path": None},
            "image_id": path.stem,
            "place_id": path.stem,
            "platform": "drone",
            "captions": ["a hall beside a car park"],
            "refined_captions": ["a hall beside a car park"],
            "regions": [],
            "source": "benchmark",
            "split": "train",
        }
        for path in paths
    ]
    return datasets.Dataset.from_list(rows, features=FEATURES)


class FilesByHand(Dataset):
    """What a user would write: open, resize, normalise."""

    def __init__(self, paths: list[Path], side_px: int) -> None:
        self.paths = paths
        steps = [
            v2.PILToTensor(),
            v2.Resize((side_px, side_px), antialias=True),
            v2.ToDtype(torch.float32, scale=True),
        ]
        self.transform = v2.Compose([*steps, v2.Normalize([0.48, 0.46, 0.41], [0.27, 0.26, 0.28])])

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> torch.Tensor:
        return self.transform(Image.open(self.paths[number]).convert("RGB"))


def decode(content: bytes) -> int:
    """One picture's bytes as pixels; its width."""
    return np.asarray(Image.open(io.BytesIO(content))).shape[1]


def drain(loader: DataLoader) -> None:
    """All batches of a loader, workers started and stopped."""
    for _ in loader:
        pass


def seconds_of_step(config: PeMoEConfig, pairs: int, seed: int, rounds: int) -> float:
    """Median time of a training step of one expert."""
    torch.manual_seed(seed)
    model = PeMoEModel(config).train()
    inputs = build_inputs(config, pairs, pairs, 8, seed)
    step = build_step(model, lambda: model(**inputs, experts=[EXPERT], return_loss=True).loss)
    times = [_timed(step) for _ in range(rounds + 1)]
    return statistics.median(times[1:])


def measure(smoke: bool, rounds: int, seed: int) -> dict:
    """Pictures per second of both loaders in turns, of decoding alone, and of the step."""
    count, batch, side_px = SIZES[smoke]
    config = build_config(smoke, image_size=side_px)
    processor = PeMoEProcessor.build(AutoTokenizer.from_pretrained(resolve_repo("tiny:text")), config)
    with tempfile.TemporaryDirectory() as name, Pool(WORKERS) as pool:
        paths = write_pictures(Path(name), count, seed)
        pairs = PairDataset(build_rows(paths), "captions", seed)
        visits = [[Visit(row, 0) for row in range(start, start + batch)] for start in range(0, count, batch)]
        collate = PairCollator(processor)
        contents = [path.read_bytes() for path in paths]
        own = partial(DataLoader, pairs, batch_sampler=visits, collate_fn=collate, num_workers=WORKERS)
        by_hand = partial(DataLoader, FilesByHand(paths, side_px), batch_size=batch, num_workers=WORKERS)
        calls: dict[str, Callable[[], object]] = {
            "pemoe": lambda: drain(own()),
            "by_hand": lambda: drain(by_hand()),
            "decode": lambda: pool.map(decode, contents, chunksize=4),
        }
        seconds = time_interleaved(calls, rounds)
    found = compare(seconds, {"pemoe/by_hand": 1.0, "pemoe/decode": 1.0})
    per_s = {name: round(count / median_s, 1) for name, median_s in found["median_s"].items()}
    pairs_of_step = 2 if smoke else 4
    step_per_s = pairs_of_step / seconds_of_step(config, pairs_of_step, seed, rounds)
    return {
        "pictures": {"count": count, "jpeg_px": SIDE_PX, "image_size_px": side_px, "workers": WORKERS},
        "pictures_per_s": {**per_s, "step": round(step_per_s, 1)},
        "loader": {"loader_over_step": round(per_s["pemoe"] / step_per_s, 2), **found},
    }


def _timed(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


if __name__ == "__main__":
    run_benchmark("loader", "Pictures from the loader, against reading by hand and what a step needs.", measure)
