"""What a push of a checkpoint or of LoRA platforms sends: weights, what loads them, card and figures."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pemoe.common.errors import one_line
from pemoe.common.weights import ADAPTER, hash_weights, read_tensors
from pemoe.hub_cards.checkpoint import (
    PROCESSOR,
    check_processor,
    code_files,
    is_hub_id,
    is_packaged,
    read_config,
    read_object,
    refuse_pickles,
    weight_files,
)
from pemoe.hub_cards.hub_client import PublishError, check_license_id, check_repo_id
from pemoe.hub_cards.push import PlannedFile, PushPlan, as_json, visibility_note
from pemoe.hub_cards.weight_shards import parse_size

if TYPE_CHECKING:
    from pemoe.modeling_pemoe import PeMoEConfig

CARRIED = (  # beside configuration, weights and code, where they are there
    *PROCESSOR,
    *("preprocessor_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt", "vocab.json"),
    *("merges.txt", "sentencepiece.bpe.model", "spiece.model", "tokenizer.model"),
    *("modules.json", "config_sentence_transformers.json", "sentence_pemoe_config.json", "calibration.json"),
    *("LICENSE", "LICENSE.md", "LICENSE.txt", "NOTICE"),
)
MARKER = re.compile(r"configuration_pemoe\.py")
OURS = re.compile(
    r"model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json|\w+_pemoe\.py|(metrics|calibration)\.json"
    r"|handler\.py|gallery\.parquet|code/pemoe/.+\.py"  # of an endpoint
)
UNMEASURED_ADAPTERS = "LoRA platforms have no figures of their own: they weigh 0 in what pemoe evaluate measures"
ADAPTER_MARKER = re.compile(r"([^/]+/)?adapter_config\.json")
ADAPTER_OURS = re.compile(
    r"([^/]+/)?adapter_(config\.json|model\.safetensors)|metrics\.json|modules\.json"
    r"|processor_config\.json|(sentence_pemoe_config|config_sentence_transformers)\.json"
)


def plan_model(
    directory: str | Path,
    repo_id: str,
    *,
    metrics: str | Path | None = None,
    unmeasured: bool = False,
    license_id: str | None = None,
    private: bool = True,
    max_shard_size: str = "5GB",
    gallery: str | None = None,
) -> PushPlan:
    """Check a checkpoint and list what a push would send; reaches no server and writes nothing.

    Args:
        directory: a full or an experts-only checkpoint with its processor, or the folder of a LoRA platform
            (`adapter_config.json`, `adapter_model.safetensors`), or one that holds several of them.
        repo_id: `owner/name` on the Hub.
        metrics: the `metrics.json` whose figures the card shows; None: that of the directory or of the one above it.
            LoRA platforms take none.
        unmeasured: say in the card that nothing was measured, instead of figures.
        license_id: of the weights, as the Hub spells licences.
        private: whether only the owner shall see it.
        max_shard_size: weights in larger files are cut into shards of at most this size.
        gallery: an index of this model, sent with what makes the repository an Inference Endpoint that locates.

    Raises:
        PublishError: no such checkpoint, weights that are cut or do not fit the configuration or are pickled, a
            backbone that only this machine has, no processor, missing code, no figures, or figures that lack one.

    Example:
        >>> [file.path for file in plan_model("runs/train/model", "me/pemoe").files]  # doctest: +SKIP
        ['README.md', 'config.json', ...]
    """
    root, limit_bytes = Path(directory), parse_size(max_shard_size)
    check_repo_id(repo_id)
    if license_id:
        check_license_id(license_id)
    if not root.is_dir():
        raise PublishError(f"{root}: no such directory; name a checkpoint that save_pretrained wrote")
    adapters = [] if (root / "config.json").is_file() else _find_adapters(root)
    if adapters and metrics:
        raise PublishError(f"{metrics}: {UNMEASURED_ADAPTERS}; leave out --metrics")
    if adapters and gallery:
        raise PublishError("--gallery: an endpoint loads a whole model; publish the one that has these platforms")
    figures, source = (None, UNMEASURED_ADAPTERS) if adapters else _read_figures(root, metrics, unmeasured)
    notes = [visibility_note(private), source]
    if adapters:
        files = [PlannedFile(f"{prefix}{name}", root / prefix / name) for prefix in adapters for name in ADAPTER]
        card = _render_adapter_card(root, adapters, repo_id, license_id)
        files += _loading_files(root) if adapters == [""] else []
    else:
        refuse_pickles(root)
        content, config = read_config(root)
        code = code_files(root, content)
        own_code = [name for name in code if not is_packaged(root / name)]
        check_processor(root)
        names = ["config.json", *(name for name in CARRIED if (root / name).is_file()), *code]
        weights = weight_files(root, config, limit_bytes, has_own_code=bool(own_code))
        files = [*(PlannedFile(name, root / name) for name in names), *weights]
        card = _render_card(config, repo_id, figures, license_id, source)
        notes += _check_measured(root, figures, source)
        if own_code:
            differs = f"differs from this package's ({', '.join(own_code)}) and is sent as it is"
            notes.append(f"the checkpoint's code {differs}; of its weights the experts' names alone were checked")
    measured = [] if figures is None else [PlannedFile("metrics.json", as_json(figures, "metrics.json"))]
    files = [PlannedFile("README.md", card.encode()), *measured, *files]
    marker, ours = (ADAPTER_MARKER, ADAPTER_OURS) if adapters else (MARKER, OURS)
    left_out = tuple(_find_left_out(root, files))
    if gallery:
        from pemoe.retrieval.serving.bundle import bundle_endpoint

        endpoint = bundle_endpoint(Path(__file__).with_name("endpoint"), gallery, root)
        files += [PlannedFile(name, content) for name, content in endpoint.items()]
    return PushPlan(repo_id, "model", private, tuple(files), card, marker, ours, tuple(notes), left_out)


def _read_figures(root: Path, metrics: str | Path | None, unmeasured: bool) -> tuple[dict[str, Any] | None, str]:
    """Content of the `metrics.json` without paths of this machine, and a sentence that says which one it is."""
    if unmeasured and metrics:
        raise PublishError("--metrics and --unmeasured contradict each other: give one of them")
    if unmeasured:
        return None, "unmeasured: the card will hold no figures"
    usual = (root / "metrics.json", root.resolve().parent / "metrics.json")
    path = Path(metrics) if metrics else next((path for path in usual if path.is_file()), None)
    if path is None:
        raise PublishError(f"{root}: no metrics.json there or above it; name one with --metrics, or say --unmeasured")
    from pemoe.modeling_pemoe.repository_pemoe import shown_metrics

    return shown_metrics(read_object(path)), f"the card's figures are those of {path}"


def _check_measured(root: Path, figures: dict[str, Any] | None, source: str) -> list[str]:
    """Refuse figures of other weights; a note where they do not say of which they are."""
    if figures is None:
        return []
    recorded = figures.get("model")
    digest = recorded.get("weights_sha256") if isinstance(recorded, dict) else None
    if digest is None:
        return ["the figures do not say which weights were measured: make sure that these were"]
    if digest != hash_weights(root):
        todo = "run pemoe evaluate on it, and name its metrics.json with --metrics"
        raise PublishError(f"{source}, which measured other weights than {root} holds; {todo}")
    return []


def _find_left_out(root: Path, files: Iterable[PlannedFile]) -> list[str]:
    """What the directory holds beside the files of a plan; of a directory that sends nothing, its name alone."""
    sent = {file.path for file in files}
    sending = {path.rpartition("/")[0] for path in sent} - {""}
    inside = [path for name in sorted(sending) for path in (root / name).iterdir()]
    found = {path.relative_to(root).as_posix() + "/" * path.is_dir() for path in [*root.iterdir(), *inside]}
    return sorted(found - sent - {f"{name}/" for name in sending})


def _render_card(
    config: PeMoEConfig, repo_id: str, figures: dict[str, Any] | None, license_id: str | None, source: str
) -> str:
    from pemoe.modeling_pemoe.card_pemoe import render_model_card

    try:
        return render_model_card(config, repo_id=repo_id, metrics=figures, license_id=license_id)
    except ValueError as error:  # the model's own files know no error of ours
        todo = ", and name its metrics.json with --metrics" if "pemoe evaluate" in str(error) else ""
        raise PublishError(f"{source}, and {one_line(error)}{todo}") from error


def _find_adapters(root: Path) -> list[str]:
    """ "" where the directory is a LoRA platform's folder, else the folders in it that are, each with a slash."""
    if (root / ADAPTER[0]).is_file():
        return [""]
    return sorted(f"{path.parent.name}/" for path in root.glob(f"*/{ADAPTER[0]}"))


def _loading_files(root: Path) -> list[PlannedFile]:
    """What points at the code and the processor of a LoRA platform's base, written anew for the base it names now."""
    from pemoe.modeling_pemoe.lora_pemoe import platform_files

    contents = platform_files(read_object(root / ADAPTER[0])["base_model_name_or_path"])
    return [PlannedFile(name, as_json(content, name)) for name, content in contents.items()]


def _render_adapter_card(root: Path, prefixes: list[str], repo_id: str, license_id: str | None) -> str:
    """The card of LoRA platforms, whose folders are checked on the way: all are of one base that is on the Hub."""
    platforms = [_read_adapter(root / prefix) for prefix in prefixes]
    bases = sorted({one["base"] for one in platforms})
    if len(bases) > 1:
        raise PublishError(f"{root}: adapters of several base models ({', '.join(bases)}); publish them apart")
    from pemoe.modeling_pemoe.platform_card_pemoe import render_platform_card

    named = [{**one, "folder": prefix.rstrip("/")} for one, prefix in zip(platforms, prefixes, strict=True)]
    return render_platform_card(bases[0], named, repo_id=repo_id, license_id=license_id)


def _read_adapter(folder: Path) -> dict[str, Any]:
    """What a LoRA platform's folder says of itself; its weights are opened on the way."""
    refuse_pickles(folder)
    path, weights = (folder / name for name in ADAPTER)
    config = read_object(path)
    facts, base = config.get("auto_mapping") or {}, config.get("base_model_name_or_path")
    if "platform" not in facts or "init_from" not in facts or not isinstance(config.get("r"), int):
        raise PublishError(f"{path}: is no PE-MoE platform's; write it with model.save_platform")
    if not is_hub_id(base, folder) or "/" not in base:
        what = f"base_model_name_or_path is {base}, which is no repository on the Hub"
        raise PublishError(f"{path}: {what}; publish the base and save the platform with base='owner/name'")
    if not weights.is_file():
        raise PublishError(f"{folder}: no {weights.name}; write it with model.save_platform")
    if not any(".lora_" in tensor.name for tensor in read_tensors(weights)):
        raise PublishError(f"{weights}: holds no LoRA weights; write it with model.save_platform")
    return {"platform": facts["platform"], "init_from": facts["init_from"], "rank": config["r"], "base": base}
