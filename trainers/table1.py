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

from pemoe.datasets_scripts.schema import PLATFORMS
from pemoe.modeling_pemoe import PeMoEModel, PeMoEProcessor
from pemoe.modeling_pemoe.gates_pemoe import build_gate
from pemoe.retrieval.evaluation import embed_split, run_image_trunk, score_split
from pemoe.retrieval.metrics import first_hit_ranks
from pemoe.trainers.recipes import Recipe, StageRecipe
from pemoe.trainers.stages import StageRunner, as_unified

ROWS = ("unified", "unified+refined", "experts_uniform", "experts_gated")


@dataclass
class Row:
    """One row of the table: its model, what it saw, what it reached, and the rank of each query's first hit."""

    name: str
    model: PeMoEModel
    pairs_seen: int
    seconds: float
    figures: dict
    ranks: np.ndarray

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
        first, second, gate = (self._pairs(stage) for stage in (recipe.contrastive, recipe.hard_negative, recipe.gate))
        first += recipe.unified_steps * recipe.global_batch_size
        model = as_unified(self.start)
        runner = self._runner(model, replace(recipe, caption_column=caption_column), name)
        records = [runner.train("contrastive", self._unified_steps(recipe.contrastive, budget * first))]
        runner.mine()
        last = self._unified_steps(recipe.hard_negative, budget * (second + gate))
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
            steps = recipe.hard_negative.steps + self._gate_steps()
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
        row = Row(name, model, pairs_seen, time.monotonic() - started_s, score_split(split), ranks)
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

    def _pairs(self, stage: StageRecipe) -> int:
        """Pairs an expert stage sees: a platform with fewer places than the batch makes smaller batches."""
        if stage is self.recipe.gate:
            return self.recipe.global_batch_size * stage.steps
        sizes = [min(self.recipe.global_batch_size, places) for places in self._places_per_platform()]
        return sum(sizes[step % len(sizes)] for step in range(stage.steps))

    def _gate_steps(self) -> int:
        """Expert steps that see as many pairs as the gate stage."""
        sizes = [min(self.recipe.global_batch_size, places) for places in self._places_per_platform()]
        return round(self._pairs(self.recipe.gate) / (sum(sizes) / len(sizes)))

    def _unified_steps(self, stage: StageRecipe, pairs: float) -> StageRecipe:
        return replace(stage, steps=max(1, round(pairs / self.recipe.global_batch_size)))

    def _places_per_platform(self) -> list[int]:
        """Training places of each platform the model and the data share, in the model's order."""
        rows = self.splits["train"]
        platform, place = np.asarray(rows["platform"][:]), np.asarray(rows["place_id"][:])
        numbers = [PLATFORMS.index(name) for name in self.start.config.platforms if name in PLATFORMS]
        counts = [len(np.unique(place[platform == number])) for number in numbers]
        return [count for count in counts if count]
