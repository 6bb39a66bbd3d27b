"""Table 1 of the paper on any data: unified, + refined captions, + experts, + gate, at equal pairs seen."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import datasets
import numpy as np

from pemoe.datasets_scripts.schema import SPLITS
from pemoe.modeling_pemoe import PeMoEModel, PeMoEProcessor
from pemoe.modeling_pemoe.configuration_pemoe import UNIFIED_PLATFORM
from pemoe.retrieval.embedding import embed_split
from pemoe.retrieval.evaluation import rank_split, score_split
from pemoe.trainers.batches.validation import hold_out_places
from pemoe.trainers.recipes import GateRecipe, Recipe, StageRecipe
from pemoe.trainers.stages import StageRunner, open_cache

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
    """Trains and evaluates the rows; all of them share the frozen trunks, whose image states are computed once where
    the recipe caches them.

    Equal pairs: the gated row sees `recipe.pairs_seen` pairs; the row without a gate spends the gate's pairs on its
    second stage, and the unified rows spend the same numbers of pairs stage by stage.

    Args:
        start, processor: what a fresh run starts from (see `build_model`), with its platforms' experts.
        splits: `train` (with refined captions) and `test`.
        recipe: the gated row; the others follow from it.
        directory: where the stages are written.
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
        rows, self.validation = hold_out_places(splits["train"], recipe.validation.places, recipe.seed)
        self.start, self.processor, self.recipe = start, processor, recipe
        self.splits = {"train": rows, "test": splits["test"]}
        self.directory, self.show_progress, self.on_row = directory, show_progress, on_row
        self.features = self.test_states = None
        if recipe.cache_image_states:
            rows = (self.splits[split] for split in SPLITS)
            train, test = (open_cache(recipe, directory, start, processor, one, show_progress) for one in rows)
            self.features, self.test_states = train, test.states()

    def run(self) -> list[Row]:
        """The rows in Table 1's order."""
        unified = [("unified", "captions"), ("unified+refined", "refined_captions")]
        return [*(self.unified(name, column) for name, column in unified), *self.experts()]

    def unified(self, name: str, caption_column: str, budget: float = 1.0) -> Row:
        """One expert for all platforms, both stages; `budget` multiplies the pairs it sees."""
        started_s = time.monotonic()
        recipe = self.recipe
        first = self._expert_pairs(recipe.contrastive.steps) + self._mixed_pairs(recipe.unified.steps)
        second = self._expert_pairs(recipe.hard_negative.steps) + self._mixed_pairs(recipe.gate.steps)
        recipe = replace(
            recipe,
            caption_column=caption_column,
            unified=StageRecipe(),
            contrastive=self._mixed_stage(recipe.contrastive, budget * first),
            hard_negative=self._mixed_stage(recipe.hard_negative, budget * second),
            gate=GateRecipe(),
        )
        model = self.start.share_trunks([UNIFIED_PLATFORM])
        return self._finish(name, model, self._runner(model, recipe, name).run().values(), started_s)

    def experts(self) -> list[Row]:
        """Rows 3 and 4: they share everything up to the mined negatives."""
        started_s = time.monotonic()
        recipe = self.recipe
        shared = self._runner(self.start.share_trunks(), recipe, "experts")
        records = shared.run(("unified", "contrastive"))
        shared.mine()
        gate_steps = round(self._mixed_pairs(recipe.gate.steps) / float(np.mean(self._expert_batches())))
        longer = replace(recipe.hard_negative, steps=recipe.hard_negative.steps + gate_steps)
        uniform = replace(recipe, hard_negative=longer, gate=GateRecipe())
        shared_s, rows = time.monotonic() - started_s, []
        for name, own in (("experts_uniform", uniform), ("experts_gated", recipe)):
            started_s = time.monotonic() - shared_s
            model = shared.model.share_trunks()
            later = self._runner(model, own, name, shared.hard_negatives).run(("hard_negative", "gate"))
            if own is uniform:
                model.set_gate("uniform")
            rows.append(self._finish(name, model, [*records.values(), *later.values()], started_s))
        return rows

    def _finish(self, name: str, model: PeMoEModel, records: Iterable[dict], started_s: float) -> Row:
        split = embed_split(model.eval(), self.processor, self.splits["test"], image_states=self.test_states)
        ranks = rank_split(split)
        pairs_seen = sum(record.get("pairs_seen", 0) for record in records)  # mining sees none
        figures, seconds = score_split(split, ranks, n_resamples=0), time.monotonic() - started_s
        row = Row(name, model, pairs_seen, seconds, figures, ranks, split.gallery)
        if self.on_row is not None:
            self.on_row(row)
        return row

    def _runner(
        self, model: PeMoEModel, recipe: Recipe, name: str, hard_negatives: np.ndarray | None = None
    ) -> StageRunner:
        options = {"show_progress": self.show_progress, "features": self.features, "validation": self.validation}
        run = model, self.processor, self.splits["train"], recipe, self.directory / name
        return StageRunner(*run, hard_negatives=hard_negatives, **options)

    def _mixed_stage(self, stage: StageRecipe, pairs: float) -> StageRecipe:
        """The stage with as many steps as see these pairs, all platforms at once."""
        return replace(stage, steps=max(1, round(pairs / self._mixed_pairs(1))))

    def _expert_pairs(self, steps: int) -> int:
        """Pairs that expert steps see, platforms taking turns."""
        return _count_pairs(self._expert_batches(), steps)

    def _mixed_pairs(self, steps: int) -> int:
        """Pairs that steps over all platforms at once see."""
        return _count_pairs([min(self.recipe.global_batch_size, len(set(self.splits["train"]["place_id"])))], steps)

    def _expert_batches(self) -> list[int]:
        """Batch of each platform that model and data share, in the model's order."""
        rows = self.splits["train"]
        names = rows.features["platform"].names
        platform, place = np.asarray(rows["platform"][:]), np.asarray(rows["place_id"][:])
        counts = [len(set(place[platform == names.index(p)])) for p in self.start.config.platforms if p in names]
        return [min(self.recipe.global_batch_size, count) for count in counts if count]


def _count_pairs(batches: list[int], steps: int) -> int:
    """Pairs seen in `steps` steps that take these batch sizes in turn: few places make small batches."""
    return sum(batches[step % len(batches)] for step in range(steps))
