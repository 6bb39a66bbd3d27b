"""Using the model: exact search over fused vectors, the metrics of what it finds, the gallery, places from words."""

from pemoe.retrieval.index import Filter, GalleryIndex
from pemoe.retrieval.locating import locate
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
    "Filter",
    "GalleryIndex",
    "bootstrap_difference",
    "ceiling_recall",
    "chance_recall",
    "evaluate_retrieval",
    "first_hit_ranks",
    "locate",
    "recall_intervals",
    "search",
]
