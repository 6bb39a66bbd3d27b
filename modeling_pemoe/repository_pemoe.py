"""What a model's repository on the Hub holds beside weights, code and processor, and how it is pushed."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import CommitInfo, HfApi, whoami
from transformers import PreTrainedConfig, PreTrainedModel, ProcessorMixin

from .card_pemoe import hub_backbones, render_model_card, shown_root

if TYPE_CHECKING:  # never imported here: these lines are why the two files travel with every checkpoint
    from .pipeline_pemoe import GeoLocalizationPipeline  # noqa: F401
    from .sentence_pemoe import PeMoESentenceModule  # noqa: F401

_PIPELINE = {"impl": "pipeline_pemoe.GeoLocalizationPipeline", "pt": ["AutoModel"], "type": "multimodal"}
CUSTOM_PIPELINES = {"geo-localization": _PIPELINE}
_SEARCH = {"prompts": {}, "default_prompt_name": None, "similarity_fn_name": "dot"}  # a query's length holds its gate
REPOSITORY_FILES = {  # those of sentence-transformers
    "modules.json": [{"idx": 0, "name": "0", "path": "", "type": "sentence_pemoe.PeMoESentenceModule"}],
    "sentence_pemoe_config.json": {},
    "config_sentence_transformers.json": {"model_type": "SentenceTransformer", **_SEARCH},
}
ADAPTER_FILES = ["adapter_config.json", "adapter_model.safetensors"]
WEIGHTS = ["model*.safetensors", "model.safetensors.index.json", *ADAPTER_FILES]
REPLACED_FILES = [*WEIGHTS, "*_pemoe.py", "metrics.json"]
PROCESSOR_FILES = ["*processor_config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*"]
VOCABULARIES = ["merges.txt", "*.model"]
PUSHED_FILES = ["README.md", "config.json", *REPLACED_FILES, *REPOSITORY_FILES, *PROCESSOR_FILES, *VOCABULARIES]
PUBLISHED_METRICS = (  # the command is full of paths, and what others wrote there is not known
    *("version", "commit", "seed", "device", "wall_s", "peak_rss_mb", "data", "model", "results"),
)
_START = r"(?:[A-Za-z]:[\\/]|~[\w.-]*/|/)"  # of an absolute path; not behind a letter, a dot or the colon of a URL
_PATH = re.compile(rf"^{_START}[^\n]+|(?<![\w/.])(?!(?<=:)//){_START}[^\s\"'<>|,;()]+")


def write_repository_files(model: PreTrainedModel, directory: str | os.PathLike) -> None:
    """Write `REPOSITORY_FILES` beside a checkpoint and name its pipelines in `model.config`, which is saved later.

    An adapter that lay there goes, unless the model carries one of its own: it would be read instead of the model.
    """
    model.config.custom_pipelines = {task: dict(pipeline) for task, pipeline in CUSTOM_PIPELINES.items()}
    os.makedirs(directory, exist_ok=True)
    for name in () if getattr(model, "peft_config", None) else ADAPTER_FILES:
        Path(directory, name).unlink(missing_ok=True)
    for name, content in REPOSITORY_FILES.items():
        with open(os.path.join(directory, name), "w", encoding="utf-8") as file:
            file.write(json.dumps(content, indent=2) + "\n")


class PushedToHub:
    """The part of a PE-MoE model that pushes it as `pemoe publish model` does."""

    def push_to_hub(
        self,
        repo_id: str,
        *,
        processor: ProcessorMixin | None = None,
        metrics: dict | None = None,
        license_id: str | None = None,
        experts_only: bool = False,
        max_shard_size: int | str = "5GB",
        tags: list[str] | None = None,
        **options: object,
    ) -> CommitInfo:
        """Push the model, its card and, where given, its processor to the Hub in one commit.

        Args:
            repo_id: `owner/name`, or a name of your own.
            processor: the model's; without it, nobody can encode with what is pushed.
            metrics: content of a `metrics.json`, for the card; None says that nothing was measured.
            license_id: of the weights, as the Hub names licences.
            experts_only: leave out the frozen trunks, which must be repositories of the Hub.
            tags: further ones for the card.
            options: `commit_message`, `private` (None: public, as the Hub does), `token`, `revision`, `create_pr`, ...

        Raises:
            ValueError: a figure is missing from `metrics`, or `experts_only` with a backbone that is not on the Hub.
        """
        if experts_only and len(hub_backbones(self.config)) < 2:
            raise ValueError("experts_only: a backbone is no repository on the Hub; push the full model")
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, experts_only=experts_only, max_shard_size=max_shard_size)
            if processor is not None:
                processor.save_pretrained(folder)
            card = {"metrics": metrics, "license_id": license_id, "tags": tags or ()}
            return self._push_saved(folder, repo_id, options, **card)

    def _push_saved(
        self, folder: str | os.PathLike, repo_id: str, options: dict, metrics: dict | None = None, **card: object
    ) -> CommitInfo:
        """Write the card into the folder of a saved model, and push it; arguments as in `push_to_hub`."""
        if "/" not in repo_id:
            repo_id = f"{whoami(options.get('token'))['name']}/{repo_id}"
        write_model_card(self.config, folder, repo_id=repo_id, metrics=metrics, **card)
        return push_folder(folder, repo_id, **options)


def push_folder(
    folder: str | os.PathLike,
    repo_id: str,
    *,
    private: bool | None = None,
    token: bool | str | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
    ignore_patterns: Sequence[str] = (),
    folders: Sequence[str] = (),
    **commit: object,
) -> CommitInfo:
    """Push what the folder of a saved model holds of `PUSHED_FILES`, and delete what an earlier push left over.

    One commit, without files of `ignore_patterns`; with `folders`, the names of LoRA platforms' folders in it, those
    adapters and the README above them are sent, and nothing is deleted. `commit` may hold `commit_description`,
    `create_pr` and `run_as_future`. Nothing is made on the Hub where this raises ValueError: another option, a folder
    without weights.
    """
    if unknown := sorted(set(commit) - {"commit_description", "create_pr", "run_as_future"}):
        raise ValueError(f"push_to_hub: {', '.join(unknown)}: no option of a push")
    if not all(any(Path(folder, name).glob("*.safetensors")) for name in folders or ("",)):
        raise ValueError(f"{folder}: holds no safetensors, so no model to push")
    api = HfApi(token=token)
    api.create_repo(repo_id, private=private, exist_ok=True)
    if revision is not None and not revision.startswith("refs/pr"):
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    patterns = {"allow_patterns": PUSHED_FILES, "delete_patterns": REPLACED_FILES}
    patterns["ignore_patterns"] = ["*/*", *ignore_patterns]
    if folders:
        adapters = [f"{name}/{file}" for name in folders for file in ADAPTER_FILES]
        patterns = {"allow_patterns": ["README.md", *adapters], "ignore_patterns": list(ignore_patterns)}
    commit |= {"commit_message": commit_message or "Upload model", "revision": revision}
    return api.upload_folder(repo_id=repo_id, folder_path=folder, **patterns, **commit)


def write_model_card(config: PreTrainedConfig, directory: str, *, metrics: dict | None, **options: object) -> None:
    """Write README.md, and metrics.json where figures are given, beside a checkpoint; see `render_model_card`."""
    if os.path.isfile(os.path.join(directory, "config.json")):
        config = type(config).from_pretrained(directory)  # what is stored decides, not what is in memory
    texts = {"README.md": render_model_card(config, metrics=metrics, **options)}
    if metrics is not None:
        texts["metrics.json"] = json.dumps(shown_metrics(metrics), indent=2, ensure_ascii=False) + "\n"
    for name, text in texts.items():
        with open(os.path.join(directory, name), "w", encoding="utf-8") as file:
            file.write(text)


def shown_metrics(metrics: dict) -> dict:
    """The `PUBLISHED_METRICS` of a `metrics.json`; of absolute paths in them the last name stays."""
    return _cut_paths({name: value for name, value in metrics.items() if name in PUBLISHED_METRICS})


def _cut_paths(value: object) -> object:
    if isinstance(value, str):
        return _PATH.sub(lambda path: shown_root(path[0]), value)
    if isinstance(value, dict):
        return {_cut_paths(key): _cut_paths(inner) for key, inner in value.items()}
    return [_cut_paths(inner) for inner in value] if isinstance(value, (list, tuple)) else value
