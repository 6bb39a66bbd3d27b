"""Using the model: exact search over fused vectors and the metrics of what it finds."""

from pemoe.retrieval.metrics import (
    bootstrap_difference,
    ceiling_recall,
    chance_recall,
    evaluate_retrieval,
    first_hit_ranks,
    recall_intervals,
)
from pemoe.retrieval.scoring import search

__all__ = [
    "bootstrap_difference",
    "ceiling_recall",
    "chance_recall",
    "evaluate_retrieval",
    "first_hit_ranks",
    "recall_intervals",
    "search",
]
