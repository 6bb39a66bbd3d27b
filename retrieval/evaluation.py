"""Evaluating a model on a split: every caption is a query, every image is in one mixed gallery."""

from __future__ import annotations

import datasets
import numpy as np

from pemoe.modeling_pemoe import PeMoEModel, PeMoEProcessor
from pemoe.retrieval.embedding import EmbeddedSplit, embed_split
from pemoe.retrieval.metrics import CUTOFFS, chance_recall, first_hit_ranks, recalls


def evaluate_split(
    model: PeMoEModel, processor: PeMoEProcessor, rows: datasets.Dataset, batch_size: int = 64
) -> dict[str, object]:
    """Embed a split and score it; see `score_split`."""
    return score_split(embed_split(model, processor, rows, batch_size))


def rank_split(split: EmbeddedSplit) -> np.ndarray:
    """Rank of each query's best picture of its own place in the mixed gallery, `(Q,)` int64, 0 the top."""
    return first_hit_ranks(split.query, split.gallery, split.query_place_id, split.place_id)


def score_split(split: EmbeddedSplit, ranks: np.ndarray | None = None) -> dict[str, object]:
    """Recall, Score and chance of a split, in all and by the platform of the query's image.

    A caller who needs the ranks of `rank_split` too hands them over; None ranks here.

    Returns:
        `{"n_queries", "recall_at_1", "recall_at_5", "recall_at_10", "score", "chance_recall_at_1", ...,
        "i2t_recall_at_1", ..., "per_platform": {platform: the same keys without i2t}}`; fractions. The gallery is
        always the whole mixed one; platforms without queries are left out.

    Raises:
        ValueError: a split without queries.
    """
    ranks = rank_split(split) if ranks is None else ranks
    image_ranks = first_hit_ranks(split.gallery, split.query, split.place_id, split.query_place_id)
    results = _figures(split, ranks, np.ones(len(ranks), dtype=bool))
    results.update({f"i2t_{name}": value for name, value in recalls(image_ranks).items()})
    results["per_platform"] = {
        platform: _figures(split, ranks, split.query_platform == number)
        for number, platform in enumerate(split.platform_names)
        if (split.query_platform == number).any()
    }
    return results


def _figures(split: EmbeddedSplit, ranks: np.ndarray, chosen: np.ndarray) -> dict[str, object]:
    places = split.query_place_id[chosen]
    chance = {f"chance_recall_at_{k}": chance_recall(places, split.place_id, k) for k in CUTOFFS}
    return {"n_queries": int(chosen.sum()), **recalls(ranks[chosen]), **chance}
