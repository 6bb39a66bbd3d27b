"""Evaluating a model on a split: every caption is a query, every image is in one mixed gallery."""

from __future__ import annotations

import datasets
import numpy as np

from pemoe.modeling_pemoe import PeMoEModel, PeMoEProcessor
from pemoe.retrieval.embedding import EmbeddedSplit, embed_split
from pemoe.retrieval.metrics import (
    CUTOFFS,
    ceiling_recall,
    chance_recall,
    first_hit_ranks,
    recall_intervals,
    recalls,
)


def evaluate_split(
    model: PeMoEModel,
    processor: PeMoEProcessor,
    rows: datasets.Dataset,
    batch_size: int = 64,
    n_resamples: int = 2000,
) -> dict[str, object]:
    """Embed a split and score it; see `score_split`."""
    return score_split(embed_split(model, processor, rows, batch_size), n_resamples=n_resamples)


def rank_split(split: EmbeddedSplit) -> np.ndarray:
    """Rank of each query's best picture of its own place in the mixed gallery, `(Q,)` int64, 0 the top."""
    return first_hit_ranks(split.query, split.gallery, split.query_place_id, split.place_id)


def score_split(split: EmbeddedSplit, ranks: np.ndarray | None = None, n_resamples: int = 2000) -> dict[str, object]:
    """Recall, Score, chance, ceiling and intervals of a split, in all and by the platform of the query's image.

    A caller who needs the ranks of `rank_split` too hands them over; None ranks here. `n_resamples` is of the
    bootstrap over places (see `recall_intervals`, seed 0); 0 leaves the intervals out.

    Returns:
        `{"n_queries", "recall_at_1", "recall_at_5", "recall_at_10", "score", "chance_recall_at_1", ...,
        "ceiling_recall_at_1", ..., "intervals": {"recall_at_1": [low, high], ..., "score"}, "i2t_recall_at_1", ...,
        "gate", "per_platform": {platform: the same keys without i2t and gate}}`; fractions. The gallery is always the
        whole mixed one; platforms without queries are left out. For "gate" see `describe_gate`.

    Raises:
        ValueError: a split without queries.
    """
    ranks = rank_split(split) if ranks is None else ranks
    image_ranks = first_hit_ranks(split.gallery, split.query, split.place_id, split.query_place_id)
    results = _figures(split, ranks, np.ones(len(ranks), dtype=bool), n_resamples)
    results.update({f"i2t_{name}": value for name, value in recalls(image_ranks).items()})
    results["gate"] = describe_gate(split)
    results["per_platform"] = {
        platform: _figures(split, ranks, split.query_platform == number, n_resamples)
        for number, platform in enumerate(split.platform_names)
        if (split.query_platform == number).any()
    }
    return results


def describe_gate(split: EmbeddedSplit) -> dict[str, object] | None:
    """How the gate weighs the experts of a split's queries.

    Returns:
        `{"weights": {query platform: {expert: mean weight}}, "names_platform"}`: the share of queries whose largest
        weight is that of their own platform's expert, over the queries whose platform has one, None without any. None
        in all where no gate reads the query: one expert, or the uniform gate.
    """
    weights = split.gate_weights.astype(np.float64)  # (Q, E)
    if weights.shape[1] == 1 or split.gate == "uniform":
        return None
    own = np.array([*split.platform_names, ""])[split.query_platform]  # (Q,) each query's platform; "" unknown
    means = {
        platform: dict(zip(split.expert_names, weights[own == platform].mean(0, dtype=float).tolist(), strict=True))
        for platform in split.platform_names
        if (own == platform).any()
    }
    with_expert = np.isin(own, split.expert_names)
    named = np.array(split.expert_names)[weights.argmax(axis=1)] == own
    return {"weights": means, "names_platform": float(named[with_expert].mean()) if with_expert.any() else None}


def _figures(split: EmbeddedSplit, ranks: np.ndarray, chosen: np.ndarray, n_resamples: int) -> dict[str, object]:
    places, texts = split.query_place_id[chosen], [split.texts[query] for query in np.flatnonzero(chosen)]
    figures = {"n_queries": int(chosen.sum()), **recalls(ranks[chosen])}
    figures |= {f"chance_recall_at_{k}": chance_recall(places, split.place_id, k) for k in CUTOFFS}
    figures |= {f"ceiling_recall_at_{k}": ceiling_recall(texts, places, split.place_id, k) for k in CUTOFFS}
    return figures | ({"intervals": recall_intervals(ranks[chosen], places, n_resamples)} if n_resamples else {})
