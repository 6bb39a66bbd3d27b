"""Near places, for batches that hold what is hard to tell apart (Sample4Geo, Deuser et al. 2023)."""

from __future__ import annotations

import io
import shutil
from collections.abc import Sequence
from pathlib import Path

import datasets
import numpy as np
import torch
from torch import Tensor
from transformers import TrainerCallback

from pemoe.common.files import write_atomically
from pemoe.modeling_pemoe import PeMoEModel, PeMoEProcessor
from pemoe.retrieval.embedding import embed_rows
from pemoe.retrieval.scoring import search
from pemoe.trainers.arguments import PeMoETrainingArguments, check_read_ahead
from pemoe.trainers.batches.pairs import PICTURES, PairCollator, PairDataset
from pemoe.trainers.batches.samplers import Visit
from pemoe.trainers.errors import TrainingError
from pemoe.trainers.mining.hard_negatives import unit_vectors
from pemoe.trainers.mining.options import read_coordinates_deg
from pemoe.trainers.mining.vectors import VectorFile
from pemoe.trainers.parallel.distributed import rank, wait_for_all, world_size

WIDTH = 32  # near places that are known of each
_BLOCK_ROWS = 1024
_CHUNK = 256  # places whose distances to all others are held at once


class NeighbourTables(TrainerCallback):
    """The near places of a stage, in files, so that a resumed run draws the batches of one that was not cut.

    Table v holds for every group of the sampler and every place its nearest places in that group. Table 0 is made
    before the first step; with `neighbour_refresh_steps` R, table v is made by the weights after step v R, and serves
    the passes over a platform that begin at step (v + 1) R or later: batches that are read ahead do not depend on it.

    Args:
        model, processor: in training; only "embedding" uses them.
        rows, pairs: the training split, and the same as it is embedded, without augmentation.
        groups: names of the sampler's groups, platform numbers or one name for all rows.
        args: `neighbours`, "metres" or "embedding", `neighbour_refresh_steps`, and the folder.

    Raises:
        TrainingError: "metres" where no row has coordinates, or more read ahead than R steps.
    """

    def __init__(
        self,
        model: PeMoEModel,
        processor: PeMoEProcessor,
        rows: datasets.Dataset,
        pairs: PairDataset,
        groups: Sequence[int | str],
        args: PeMoETrainingArguments,
    ) -> None:
        self.model, self.pairs, self.collate, self.args = model, pairs, PairCollator(processor), args
        self.folder, self.refresh_steps = Path(args.output_dir) / "neighbours", args.neighbour_refresh_steps
        everything = np.arange(len(pairs))
        chosen = [everything[pairs.platform_id == g] if isinstance(g, int) else everything for g in groups]
        names = [pairs.platform_names[g] if isinstance(g, int) else model.config.platforms[0] for g in groups]
        self.groups = list(zip(names, chosen, strict=True))
        self.coordinates_deg = (
            read_coordinates_deg(rows, "neighbours: metres") if args.neighbours == "metres" else None
        )
        check_read_ahead("", self.refresh_steps, args.dataloader_num_workers, args.dataloader_prefetch_factor)

    def at(self, step: int) -> np.ndarray:
        """The table of passes that begin at `step`: `(groups, places, WIDTH)` place numbers, nearest first, -1 none.

        Raises TrainingError where its file is gone.
        """
        path = self._path(max(step // self.refresh_steps - 1, 0) if self.refresh_steps else 0)
        if not path.is_file():
            raise TrainingError(f"{path}: is not there, and the batches of step {step} depend on it; train anew")
        return np.load(path)

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        """Make table 0 of a run that begins; one that goes on has it."""
        if state.global_step == 0:
            if rank() == 0:
                shutil.rmtree(self.folder, ignore_errors=True)
            self._make(0)

    def on_step_end(self, args, state, control, **kwargs) -> None:
        """Make the next table where a step ends an interval."""
        if self.refresh_steps and state.global_step % self.refresh_steps == 0 and state.global_step < state.max_steps:
            self._make(state.global_step // self.refresh_steps)

    def _path(self, version: int) -> Path:
        return self.folder / f"{version:06d}.npy"

    def _make(self, version: int) -> None:
        """Write a table on the first process, from what all embedded."""
        if self.args.neighbours == "embedding":
            self._embed()
        if rank() == 0:
            table = np.stack([self._near(*group) for group in self.groups])
            content = io.BytesIO()
            np.save(content, table)
            write_atomically(self._path(version), lambda path: path.write_bytes(content.getvalue()))
            shutil.rmtree(self.folder / "vectors", ignore_errors=True)
        wait_for_all()

    def _near(self, expert: str, chosen: np.ndarray) -> np.ndarray:
        """One group's `(places, WIDTH)` of the table."""
        places, code = np.unique(self.pairs.place_id[chosen], return_inverse=True)
        if self.coordinates_deg is not None:
            there = self.coordinates_deg[chosen]
            points = unit_vectors("coordinates", there, len(chosen), torch.device("cpu")).numpy()
            near = nearest_points(_means(points, code, len(places)), WIDTH)
        else:
            vectors = _means(self._file(expert, len(chosen)).read(), code, len(places))
            near = nearest_vectors(vectors.astype(np.float32), WIDTH)
        table = np.full((int(self.pairs.place_id.max()) + 1, WIDTH), -1, dtype=np.int64)
        table[places] = np.where(near >= 0, places[near], -1)
        return table

    def _file(self, expert: str, n_rows: int) -> VectorFile:
        path = self.folder / "vectors" / f"{expert}.npy"
        return VectorFile(path, n_rows, self.model.config.embed_dim, _BLOCK_ROWS)

    def _embed(self) -> None:
        """The pictures of every group as vectors on disk, each process its share of the blocks."""
        files = [(expert, chosen, self._file(expert, len(chosen))) for expert, chosen in self.groups]
        if rank() == 0:
            shutil.rmtree(self.folder / "vectors", ignore_errors=True)
            for _, _, vectors in files:
                vectors.create()
        wait_for_all()
        blocks = [(*file, number) for file in files for number in range(file[2].n_blocks)]
        for expert, chosen, vectors, number in blocks[rank() :: world_size()]:
            (block,) = embed_rows(self.model, chosen[vectors.span(number)], lambda n, e=expert: (self._run(e, n),))
            vectors.write(number, block.float().numpy())
        wait_for_all()

    def _run(self, expert: str, numbers: np.ndarray) -> Tensor:
        """Unit vectors of the pictures of these rows, `(n, D)`."""
        batch = self.collate([self.pairs[Visit(int(row), 0)] for row in numbers])
        images = {name: batch[name].to(self.model.device) for name in PICTURES if name in batch}
        return self.model(**images, experts=[expert]).image_embeds[:, 0]


def _means(vectors: np.ndarray, code: np.ndarray, n_places: int) -> np.ndarray:
    """Unit means of the vectors of each place, `(n_places, D)` float64; NaN where a place has none that are known."""
    known = ~np.isnan(vectors).any(axis=1)
    sums = np.zeros((n_places, vectors.shape[1]))
    np.add.at(sums, code[known], vectors[known])
    with np.errstate(invalid="ignore"):
        return sums / np.linalg.norm(sums, axis=1, keepdims=True)


def nearest_vectors(vectors: np.ndarray, n: int) -> np.ndarray:
    """For each of P unit vectors the `n` others of highest cosine, `(P, n)`; -1 where there are fewer.

    Example:
        >>> nearest_vectors(np.array([[1.0, 0.0], [0.0, 1.0], [0.8, 0.6]], dtype=np.float32), 2).tolist()
        [[2, 1], [2, 0], [0, 1]]
    """
    indices = search(vectors, vectors, k=min(n + 1, len(vectors)))[1]
    is_itself = indices == np.arange(len(vectors))[:, None]
    order = np.argsort(is_itself, axis=1, kind="stable")  # itself to the end
    near = np.take_along_axis(np.where(is_itself, -1, indices), order, axis=1)[:, :n]
    return np.pad(near, ((0, 0), (0, n - near.shape[1])), constant_values=-1)


def nearest_points(points: np.ndarray, n: int) -> np.ndarray:
    """For each of P points of the unit sphere `(P, 3)` float64 the `n` nearest others, `(P, n)`; -1 for none.

    A point that is NaN has no neighbours and is none. Equal distances go to the lower number.

    Example:
        >>> nearest_points(np.array([[1.0, 0, 0], [0, 1.0, 0], [np.nan] * 3]), 2).tolist()
        [[1, -1], [0, -1], [-1, -1]]
    """
    near, every = np.full((len(points), n), -1, dtype=np.int64), torch.from_numpy(points)
    for start in range(0, len(points), _CHUNK):
        some = every[start : start + _CHUNK]
        apart = torch.cdist(some, every, compute_mode="donot_use_mm_for_euclid_dist").nan_to_num(nan=torch.inf)
        apart[torch.arange(len(some)), torch.arange(start, start + len(some))] = torch.inf
        distance, order = (part[:, :n] for part in apart.sort(dim=1, stable=True))
        near[start : start + len(some), : order.shape[1]] = order.masked_fill(distance.isinf(), -1).numpy()
    return near
