"""PE-MoE: find a place from a sentence. Public names are imported lazily, so `import pemoe` is instant."""

from importlib import import_module

from pemoe.common.version import __version__

_EXPORTS = {
    "PeMoEConfig": "pemoe.modeling_pemoe",
    "PeMoEModel": "pemoe.modeling_pemoe",
    "PeMoEOutput": "pemoe.modeling_pemoe",
    "PeMoEProcessor": "pemoe.modeling_pemoe",
    "load_source": "pemoe.datasets_scripts",
    "PeMoETrainer": "pemoe.trainers",
    "PeMoETrainingArguments": "pemoe.trainers",
    "evaluate_retrieval": "pemoe.retrieval",
    "search": "pemoe.retrieval",
}

__all__ = ["__version__", *_EXPORTS]


def __getattr__(name: str) -> object:
    if name in _EXPORTS:
        return getattr(import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module 'pemoe' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
