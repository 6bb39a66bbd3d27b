"""Table 1 of the paper on any data: unified, + refined captions, + experts, + gate, at equal pairs seen."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import datasets
import numpy as np
from torch import Tensor

from pemoe.modeling_pemoe import PeMoEModel, PeMoEProcessor
from pemoe.modeling_pemoe.gates_pemoe import build_gate
from pemoe.retrieval.evaluation import embed_split, run_image_trunk, score_split
from pemoe.retrieval.metrics import first_hit_ranks
from pemoe.trainers.recipes import Recipe, StageRecipe
from pemoe.trainers.stages import StageRunner, as_unified

ROWS = ("unified", "unified+refined", "experts_uniform", "experts_gated")


@dataclass
class Row:
    """One row of the table: its model, what it saw and reached, each query's first hit, the test images' vectors."""

    name: str
    model: PeMoEModel
    pairs_seen: int
    seconds: float
    figures: dict
    ranks: np.ndarray
    gallery: np.ndarray

    def as_json(self) -> dict:
        """The row as `metrics.json` holds it."""
        return {"name": self.name, "pairs_seen": self.pairs_seen, "seconds": round(self.seconds, 1), **self.figures}


class Table1:
    """Trains and evaluates the rows; all of them share the frozen trunks, whose image states are computed once.

    Equal pairs: the gated row sees `recipe.pairs_seen` pairs; the row without a gate spends the gate's pairs on its
    second stage, and the unified rows spend the same numbers of pairs stage by stage.

    Args:
        start: model a fresh run starts from (see `build_model`), with its platforms' experts.
        processor: its processor.
        splits: `train` (with refined captions) and `test`.
        recipe: the gated row; the others follow from it.
        directory: where the stages are written.
        show_progress: draw progress bars.
        on_row: called with every finished row.
    """

    def __init__(
        self,
        start: PeMoEModel,
        processor: PeMoEProcessor,
        splits: datasets.DatasetDict,
        recipe: Recipe,
        directory: Path,
        show_progress: bool = False,
        on_row: Callable[[Row], None] | None = None,
    ) -> None:
        self.start, self.processor, self.splits, self.recipe = start, processor, splits, recipe
        self.directory, self.show_progress, self.on_row = directory, show_progress, on_row
        self.train_states: Tensor = run_image_trunk(start, processor, splits["train"], show_progress=show_progress)
        self.test_states: Tensor = run_image_trunk(start, processor, splits["test"], show_progress=show_progress)

    def run(self, names: tuple[str, ...] = ROWS) -> list[Row]:
        """The rows in Table 1's order."""
        rows = []
        if "unified" in names:
            rows.append(self.unified("unified", "captions"))
        if "unified+refined" in names:
            rows.append(self.unified("unified+refined", "refined_captions"))
        if "experts_uniform" in names or "experts_gated" in names:
            rows += self.experts(names)
        return rows

    def unified(self, name: str, caption_column: str, budget: float = 1.0) -> Row:
        """One expert for all platforms, both stages; `budget` multiplies the pairs it sees."""
        started_s = time.monotonic()
        recipe = self.recipe
        first = self._expert_pairs(recipe.contrastive.steps) + self._mixed_pairs(recipe.unified_steps)
        second = self._expert_pairs(recipe.hard_negative.steps) + self._mixed_pairs(recipe.gate.steps)
        model = as_unified(self.start)
        runner = self._runner(model, replace(recipe, caption_column=caption_column), name)
        records = [runner.train("contrastive", self._unified_steps(recipe.contrastive, budget * first))]
        runner.mine()
        last = self._unified_steps(recipe.hard_negative, budget * second)
        records.append(runner.train("hard_negative", last))
        return self._finish(name, model, records, started_s)

    def experts(self, names: tuple[str, ...] = ROWS) -> list[Row]:
        """Rows 3 and 4: they share everything up to the mined negatives."""
        started_s = time.monotonic()
        recipe, model = self.recipe, copy.deepcopy(self.start)
        shared = self._runner(model, recipe, "experts")
        records = [shared.unified()] if recipe.unified_steps else []
        records.append(shared.train("contrastive", recipe.contrastive))
        shared.mine()
        shared_s, rows = time.monotonic() - started_s, []
        if "experts_uniform" in names:
            gate_pairs = self._mixed_pairs(recipe.gate.steps)
            steps = recipe.hard_negative.steps + round(gate_pairs / float(np.mean(self._expert_batches())))
            rows.append(self._expert_row("experts_uniform", shared, records, steps, shared_s))
        if "experts_gated" in names:
            rows.append(self._expert_row("experts_gated", shared, records, recipe.hard_negative.steps, shared_s))
        return rows

    def _expert_row(self, name: str, shared: StageRunner, records: list[dict], steps: int, shared_s: float) -> Row:
        started_s = time.monotonic() - shared_s
        model = copy.deepcopy(shared.model)
        runner = self._runner(model, self.recipe, name)
        runner.hard_negatives = shared.hard_negatives
        records = [*records, runner.train("hard_negative", replace(self.recipe.hard_negative, steps=steps))]
        if name == "experts_gated":
            records.append(runner.train("gate", self.recipe.gate))
        else:
            model.config.gate = "uniform"
            model.gate = build_gate("uniform", model.config.embed_dim, 1, model.config.num_experts)
        return self._finish(name, model, records, started_s)

    def _finish(self, name: str, model: PeMoEModel, records: list[dict], started_s: float) -> Row:
        split = embed_split(model.eval(), self.processor, self.splits["test"], image_states=self.test_states)
        ranks = first_hit_ranks(split.query, split.gallery, split.query_place_id, split.place_id)
        pairs_seen = sum(record["pairs_seen"] for record in records)
        row = Row(name, model, pairs_seen, time.monotonic() - started_s, score_split(split), ranks, split.gallery)
        if self.on_row is not None:
            self.on_row(row)
        return row

    def _runner(self, model: PeMoEModel, recipe: Recipe, name: str) -> StageRunner:
        return StageRunner(
            model,
            self.processor,
            self.splits["train"],
            recipe,
            self.directory / name,
            show_progress=self.show_progress,
            image_states=self.train_states,
        )

    def _unified_steps(self, stage: StageRecipe, pairs: float) -> StageRecipe:
        return replace(stage, steps=max(1, round(pairs / self._mixed_pairs(1))))

    def _expert_pairs(self, steps: int) -> int:
        """Pairs that expert steps see, platforms taking turns."""
        return count_pairs(self._expert_batches(), steps)

    def _mixed_pairs(self, steps: int) -> int:
        """Pairs that steps over all platforms at once see."""
        return count_pairs([min(self.recipe.global_batch_size, len(set(self.splits["train"]["place_id"])))], steps)

    def _expert_batches(self) -> list[int]:
        """Batch of each platform that model and data share, in the model's order."""
        rows = self.splits["train"]
        names = rows.features["platform"].names
        platform, place = np.asarray(rows["platform"][:]), np.asarray(rows["place_id"][:])
        counts = [len(set(place[platform == names.index(p)])) for p in self.start.config.platforms if p in names]
        return [min(self.recipe.global_batch_size, count) for count in counts if count]


def count_pairs(batches: list[int], steps: int) -> int:
    """Pairs seen in `steps` steps that take these batch sizes in turn: a platform of few places makes small batches.

    Example:
        >>> count_pairs([10, 10, 4], 7)
        58
    """
    return sum(batches[step % len(batches)] for step in range(steps))
