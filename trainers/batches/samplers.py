"""Batches of one platform at a time, unique in place, the same on every run and cut for each process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler

MIXED = "mixed"  # name of the one group in which all platforms are drawn together


class Visit(NamedTuple):
    """One row of one batch: `row` of the data set, and `visit`, the pass over its platform (draws the caption)."""

    row: int
    visit: int


@dataclass(frozen=True)
class _Group:
    """Rows that are drawn together, by place.

    rows: row numbers sorted by place, shape (n,); starts: where each place begins in `rows`, shape (P + 1,);
    place_ids: number of each place in the data set, shape (P,);
    key: of the group's random streams; n_streams: 1 if the ranks share one permutation of the places, else one a rank.
    """

    rows: np.ndarray
    starts: np.ndarray
    place_ids: np.ndarray
    key: int
    batch_size: int  # per rank
    joined_size: int  # taken from one permutation at a step
    n_streams: int

    @property
    def n_places(self) -> int:
        return len(self.starts) - 1

    @property
    def batches_per_pass(self) -> int:
        return self.n_places // self.joined_size


class PlatformBatchSampler(Sampler[list[Visit]]):
    """Batch sampler for experts: step s holds rows of platform `platforms[s % len(platforms)]` only, on every rank.

    Places are unique in the joined batch (`batch_size * world_size`) while it is no larger than the platform's number
    of places; above that they are unique within a rank, each rank drawing its own permutation. A platform with fewer
    places than `batch_size` uses batches of its place count.

    A pass over a platform visits its places in a fresh permutation, in full batches. The P mod (batch) places that do
    not fill one are left out; which ones moves round-robin from pass to pass, so that every place is left out equally
    often. Each visit of a place takes its next image in a shuffled order, so that after whole passes the images of a
    place have been used equally often, give or take one. Passes go on across epochs: an epoch may end inside one.

    With `neighbours`, the places of a pass are the same, in an order that brings near ones into one batch: the next
    place of the permutation is a seed, and those of its near places that the pass has not yet visited come with it,
    up to half a joined batch together. At the end of a pass few near ones are left, and its batches are near random.

    `batch_at` is a pure function of (seed, epoch, step) and the tables of neighbours: no random state is kept, so to
    resume is to start later.

    Args:
        platform_ids, place_ids: platform and place of each row of the data set, integers from one table over it.
        platforms: platforms to train, in round-robin order.
        batch_size, num_steps: rows per rank and step, and steps in an epoch.
        seed: of all shuffles, >= 0.
        rank, world_size: this process, and the number of processes.
        mixed: draw the rows of all `platforms` together as one group, places unique as above (the unified model).
        neighbours: the step at which a pass begins, counted over epochs -> near places `(groups, places, n)`, by the
            numbers of `place_ids`, nearest first, -1 for none; None for random batches.

    Raises:
        ValueError: columns of different length, a platform without rows, repeated platforms, numbers out of range.

    Example:
        >>> sampler = PlatformBatchSampler([0, 0, 1, 1], [5, 6, 5, 6], [0, 1], batch_size=2, num_steps=3, seed=0)
        >>> [sorted(visit.row for visit in batch) for batch in sampler]
        [[0, 1], [2, 3], [0, 1]]
    """

    def __init__(  # noqa: PLR0913 -- what to draw (5), how often, and for whom (3)
        self,
        platform_ids: Sequence[int],
        place_ids: Sequence[int],
        platforms: Sequence[int],
        batch_size: int,
        num_steps: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        mixed: bool = False,
        neighbours: Callable[[int], np.ndarray] | None = None,
    ):
        if not (batch_size >= 1 and num_steps >= 1 and seed >= 0 and 0 <= rank < world_size):
            numbers = f"batch_size {batch_size}, num_steps {num_steps}, seed {seed}, rank {rank} of {world_size}"
            raise ValueError(f"{numbers}: sizes must be at least 1, seed and rank at least 0, rank below world_size")
        self.platforms, self.batch_size, self.num_steps = list(platforms), batch_size, num_steps
        self.seed, self.rank, self.world_size, self.epoch = seed, rank, world_size, 0
        self._neighbours, self._passes = neighbours, {}  # of each group and stream, the pass that was ordered last
        self._groups = self._build_groups(np.asarray(platform_ids), np.asarray(place_ids), mixed)

    def _build_groups(self, platform_ids: np.ndarray, place_ids: np.ndarray, mixed: bool) -> dict[int | str, _Group]:
        """One group for each platform in order, or one for all of them."""
        if platform_ids.ndim != 1 or platform_ids.shape != place_ids.shape:
            shapes = f"platform_ids is {platform_ids.shape}, place_ids {place_ids.shape}"
            raise ValueError(f"{shapes}: one of each for a row")
        if not self.platforms or len(set(self.platforms)) < len(self.platforms):
            raise ValueError(f"platforms is {self.platforms}: name each platform to train once, at least one")
        missing = sorted(set(self.platforms) - set(platform_ids.tolist()))
        if missing:
            raise ValueError(f"platforms {missing} have no rows in the data set: leave them out or add data")
        if mixed:
            rows = np.flatnonzero(np.isin(platform_ids, self.platforms))
            return {MIXED: self._group(rows, place_ids[rows], key=0)}
        by_platform = {platform: np.flatnonzero(platform_ids == platform) for platform in self.platforms}
        return {p: self._group(rows, place_ids[rows], key=int(p) + 1) for p, rows in by_platform.items()}

    def _group(self, rows: np.ndarray, place_ids: np.ndarray, key: int) -> _Group:
        """Sort `rows` by place, places and the images of each place in a shuffled order, and size the batches."""
        rng = self._rng(key, 0, 0)
        places, code = np.unique(place_ids, return_inverse=True)
        position_of = rng.permutation(len(places))  # (P,) a random position for each place
        position = position_of[code]  # (n,)
        order = np.lexsort((rng.random(len(rows)), position))
        starts = np.concatenate([[0], np.bincount(position).cumsum()])
        batch_size = min(self.batch_size, len(places))
        shared = batch_size * self.world_size <= len(places)
        joined_size, n_streams = (batch_size * self.world_size, 1) if shared else (batch_size, self.world_size)
        ids = places[np.argsort(position_of)]
        return _Group(rows[order], starts, ids, key, batch_size, joined_size, n_streams)

    def _rng(self, *words: int) -> np.random.Generator:
        """Generator of one purpose; always three words, since numpy seeds (a, b) and (a, b, 0) alike."""
        return np.random.default_rng((self.seed, *words))

    def batch_at(self, step: int) -> list[Visit]:
        """This rank's batch at `step` of the current epoch, as many as `plan()` says for the step's platform.

        Raises ValueError unless 0 <= step < num_steps.
        """
        if not 0 <= step < self.num_steps:
            raise ValueError(f"step is {step}: it must lie between 0 and num_steps - 1 = {self.num_steps - 1}")
        turn, name = step // len(self._groups), list(self._groups)[step % len(self._groups)]
        group = self._groups[name]
        visit, batch = divmod(self.epoch * self._steps_of(name) + turn, group.batches_per_pass)
        stream = self.rank if group.n_streams > 1 else 0
        offset = batch * group.joined_size + (0 if group.n_streams > 1 else self.rank * group.batch_size)
        order = self._pass_order(group, visit, stream) if self._neighbours is None else self._near(name, visit, stream)
        places = order[offset : offset + group.batch_size]
        return [Visit(int(row), visit) for row in self._rows_of(group, places, visit, stream)]

    def _pass_order(self, group: _Group, visit: int, stream: int) -> np.ndarray:
        """Places of a pass in a fresh order; the window of places left out moves on by its own width every pass."""
        left_out = group.n_places % group.joined_size
        kept = (np.arange(group.n_places - left_out) + (visit + 1) * left_out) % group.n_places
        return self._rng(group.key, visit + 1, stream).permutation(kept)

    def _near(self, name: int | str, visit: int, stream: int) -> np.ndarray:
        """As `_pass_order`, near places together by the table that is in force where the pass begins."""
        if self._passes.get((name, stream), (None,))[0] != visit:
            group, number = self._groups[name], list(self._groups).index(name)
            epoch, turn = divmod(visit * group.batches_per_pass, self._steps_of(name))
            table = self._neighbours(epoch * self.num_steps + turn * len(self._groups) + number)[number]
            position = np.full(len(table) + 1, -1)  # the last one stands for -1
            position[group.place_ids] = np.arange(group.n_places)
            order = gather_near(
                self._pass_order(group, visit, stream), position[table[group.place_ids]], group.joined_size
            )
            self._passes[name, stream] = visit, order
        return self._passes[name, stream][1]

    @staticmethod
    def _rows_of(group: _Group, places: np.ndarray, visit: int, stream: int) -> np.ndarray:
        """The row each place shows in this pass: its next image, counted over earlier passes and over the streams."""
        left_out_before = visit * (group.n_places % group.joined_size)  # windows 0..visit-1 are 0..left_out_before-1
        missed = (left_out_before - places + group.n_places - 1) // group.n_places  # of them, those that hit the place
        turn = (visit - missed) * group.n_streams + stream
        n_images = group.starts[places + 1] - group.starts[places]
        return group.rows[group.starts[places] + turn % n_images]

    def _steps_of(self, name: int | str) -> int:
        """How many of an epoch's steps a group gets."""
        return len(range(list(self._groups).index(name), self.num_steps, len(self._groups)))

    def __iter__(self) -> Iterator[list[Visit]]:
        return map(self.batch_at, range(self.num_steps))

    def __len__(self) -> int:
        return self.num_steps

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, >= 0, that `batch_at` and iteration speak of."""
        if epoch < 0:
            raise ValueError(f"epoch is {epoch}: it must be at least 0")
        self.epoch = epoch

    def plan(self) -> dict[int | str, dict[str, int | bool]]:
        """What an epoch will do, by platform ("mixed" for the joint group).

        For each: "batch_size" per rank, "joined_batch_size" over all ranks, "steps", "batches_per_pass", "places",
        "images", and "unique_across_ranks", whether no place comes twice in the joined batch.
        """
        return {
            name: {
                "batch_size": group.batch_size,
                "joined_batch_size": group.batch_size * self.world_size,
                "steps": self._steps_of(name),
                "batches_per_pass": group.batches_per_pass,
                "places": group.n_places,
                "images": len(group.rows),
                "unique_across_ranks": group.n_streams == 1,
            }
            for name, group in self._groups.items()
        }


def gather_near(order: np.ndarray, near: np.ndarray, batch_size: int) -> np.ndarray:
    """Reorder places so that batches of `batch_size` consecutive ones hold seeds with their near places.

    Args:
        order: places in the order in which they become seeds, `(n,)`; only these are placed, each once.
        near: near places of every place, nearest first, `(P, w)`; -1 for none.
        batch_size: a seed and its near places together are at most half of it, and never cut by its end.

    Example:
        >>> gather_near(np.array([0, 1, 2, 3]), np.array([[3], [2], [1], [0]]), batch_size=4).tolist()
        [0, 3, 1, 2]
    """
    waits = np.zeros(len(near), dtype=bool)
    waits[order] = True
    placed: list[int] = []
    for seed in order:
        if waits[seed]:
            waits[seed] = False
            room = min(max(batch_size // 2, 2), batch_size - len(placed) % batch_size) - 1
            near_ones = near[seed][near[seed] >= 0]
            chosen = near_ones[waits[near_ones]][:room]
            waits[chosen] = False
            placed += [int(seed), *chosen.tolist()]
    return np.array(placed, dtype=np.int64)
