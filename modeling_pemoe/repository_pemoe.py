"""What a model's repository on the Hub holds beside weights, code and processor: its card and the files of libraries
that find a model's own code by them."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from transformers import PreTrainedConfig, PreTrainedModel

if TYPE_CHECKING:  # never imported here: these lines are why the two files travel with every checkpoint
    from .pipeline_pemoe import GeoLocalizationPipeline  # noqa: F401
    from .sentence_pemoe import PeMoESentenceModule  # noqa: F401

CUSTOM_PIPELINES = {
    "geo-localization": {
        "impl": "pipeline_pemoe.GeoLocalizationPipeline",
        "pt": ["AutoModel"],
        "type": "multimodal",
    }
}
REPOSITORY_FILES = {  # those of sentence-transformers
    "modules.json": [{"idx": 0, "name": "0", "path": "", "type": "sentence_pemoe.PeMoESentenceModule"}],
    "sentence_pemoe_config.json": {},
    "config_sentence_transformers.json": {
        "model_type": "SentenceTransformer",
        "prompts": {},
        "default_prompt_name": None,
        "similarity_fn_name": "dot",  # queries are not unit length: the gate's weights are in them
    },
}


def write_repository_files(model: PreTrainedModel, directory: str | os.PathLike) -> None:
    """Write `REPOSITORY_FILES` beside a checkpoint, and name its pipelines in `model.config`, to be saved after this.

    Example:
        >>> write_repository_files(model, "checkpoint")  # doctest: +SKIP
    """
    model.config.custom_pipelines = {task: dict(pipeline) for task, pipeline in CUSTOM_PIPELINES.items()}
    os.makedirs(directory, exist_ok=True)
    for name, content in REPOSITORY_FILES.items():
        with open(os.path.join(directory, name), "w", encoding="utf-8") as file:
            file.write(json.dumps(content, indent=2) + "\n")


def render_model_card(
    config: PreTrainedConfig, *, repo_id: str | None, metrics: dict | None, license_id: str | None = None
) -> str:
    """The README.md of a model's repository: YAML metadata, then what the model is, measured to do, and how it loads.

    Args:
        config: of a PE-MoE model.
        repo_id: where it will be found; None names no repository.
        metrics: content of a `metrics.json`, whose `results.test` or `results` hold the figures; None says that
            nothing was measured.
        license_id: of the model's own weights, as the Hub names licences; None says nothing.

    Raises:
        ValueError: a figure is missing from `metrics`; it is named.
    """
    results = (metrics or {}).get("results", {})
    figures = results.get("test", results)
    name, load = repo_id.rpartition("/")[2] if repo_id else "PE-MoE", repr(repo_id or "path/to/this/folder")
    lines = ["---", "library_name: transformers", *([f"license: {license_id}"] if license_id else []), "---"]
    lines += [f"# {name}", "", "Text-to-image retrieval by platform experts: " + ", ".join(config.platforms) + ".", ""]
    lines += [f"    AutoModel.from_pretrained({load}, trust_remote_code=True)", ""]
    if metrics is None:
        return "\n".join([*lines, "Nothing was measured.", ""])
    for figure in ("recall_at_1", "recall_at_5", "recall_at_10", "score"):
        if figure not in figures:
            raise ValueError(f"metrics: {figure} is missing")
        lines.append(f"{figure}: {figures[figure]:.4f}")
    return "\n".join([*lines, ""])
