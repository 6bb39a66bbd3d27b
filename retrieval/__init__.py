"""Using the model: exact search over fused vectors, the metrics of what it finds, the gallery, places from words.

Names are imported lazily, so that an index is opened without torch.
"""

from importlib import import_module

_MODULES = {
    "pemoe.retrieval.index": ("Filter", "GalleryIndex"),
    "pemoe.retrieval.locating": ("locate",),
    "pemoe.retrieval.metrics": (
        "bootstrap_difference",
        "ceiling_recall",
        "chance_recall",
        "evaluate_retrieval",
        "first_hit_ranks",
        "recall_intervals",
    ),
    "pemoe.retrieval.scoring": ("search",),
}

__all__ = [name for names in _MODULES.values() for name in names]


def __getattr__(name: str) -> object:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module 'pemoe.retrieval' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
