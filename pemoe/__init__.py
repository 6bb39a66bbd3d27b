"""PE-MoE: find a place from a sentence. Public names are imported lazily, so `import pemoe` is instant."""

from importlib import import_module

from pemoe.common.version import __version__

_ROOMS = {
    "pemoe.modeling_pemoe": ("PeMoEConfig", "PeMoEModel", "PeMoEOutput", "PeMoEProcessor"),
    "pemoe.datasets_scripts": ("load_source",),
    "pemoe.trainers": ("PeMoETrainer", "PeMoETrainingArguments"),
    "pemoe.retrieval": ("evaluate_retrieval", "search"),
}

__all__ = ["__version__", *(name for names in _ROOMS.values() for name in names)]


def __getattr__(name: str) -> object:
    for room, names in _ROOMS.items():
        if name in names:
            return getattr(import_module(room), name)
    raise AttributeError(f"module 'pemoe' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
