"""A checkpoint's directory as `save_pretrained` and `Trainer` write it, read before it is published.

Nothing in it is executed, nothing is written, and what could not be loaded elsewhere is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub.errors import StrictDataclassError

from pemoe.common.errors import one_line
from pemoe.common.weights import INDEX, WEIGHTS, StoredTensor, read_tensors, weight_paths
from pemoe.hub_cards.hub_client import PublishError
from pemoe.hub_cards.push import PlannedFile, as_json
from pemoe.hub_cards.weight_shards import check_fit, index_of, split_tensors

if TYPE_CHECKING:
    from pemoe.modeling_pemoe import PeMoEConfig

PICKLE = re.compile(r"(pytorch_model|model|adapter_model|consolidated)[\w.-]*\.(bin|pt|pth|ckpt|pkl)(\.index\.json)?")
PROCESSOR = ("processor_config.json", "tokenizer_config.json", "tokenizer.json")


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        PublishError: the file is missing, or holds something else.
    """
    content = _read_json(path)
    if not isinstance(content, dict):
        raise PublishError(f"{path}: holds no JSON object")
    return content


def refuse_pickles(root: Path) -> None:
    """Refuse weights that run code where they are opened; the Trainer's own pickles are no weights and not sent."""
    found = sorted(path.name for path in root.iterdir() if PICKLE.fullmatch(path.name))
    if found:
        raise PublishError(f"{root / found[0]}: weights in a pickle are not published; save them as safetensors")


def is_hub_id(name: object, root: Path) -> bool:
    """Whether a name means a repository of the Hub, not a directory of this machine (`root` the checkpoint's)."""
    is_id = isinstance(name, str) and re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name) is not None
    return is_id and not (root / str(name)).is_dir()


def read_config(root: Path) -> tuple[dict[str, Any], PeMoEConfig]:
    """`config.json` as it is written, and as the model reads it; its backbones are on the Hub, or not named.

    Raises:
        PublishError: no configuration of a PE-MoE model, or a backbone that only this machine has.
    """
    from pemoe.modeling_pemoe import PeMoEConfig

    path = root / "config.json"
    if not path.is_file():
        raise PublishError(f"{root}: no config.json and no adapter_config.json, so no checkpoint; see save_pretrained")
    content = read_object(path)
    if content.get("model_type") != PeMoEConfig.model_type:
        raise PublishError(f"{path}: model_type is {content.get('model_type')!r}, so no PE-MoE checkpoint")
    try:
        config = PeMoEConfig.from_dict(content)
    except (StrictDataclassError, TypeError, ValueError) as error:
        raise PublishError(f"{path}: {one_line(error.__cause__ or error)}") from error
    is_external = config.backbone_weights == "external"
    for field in ("text_repo", "vision_repo"):
        repo = content.get(field)
        if not is_hub_id(repo, root) and (is_external or repo is not None):
            what = f"{field} is {repo}, which is no repository on the Hub"
            raise PublishError(f"{path}: {'experts only, and ' if is_external else ''}{what}; save the full model")
    return content, config


def weight_files(root: Path, config: PeMoEConfig, limit_bytes: int, has_own_code: bool) -> Iterator[PlannedFile]:
    """The weights, opened and compared with the configuration; in shards where a file is larger than the limit.

    Raises:
        PublishError: missing, cut or other weights than those of the configuration, or an experts-only file that is
            larger than the limit.
    """
    paths = weight_paths(root)
    stored = [read_tensors(path) for path in paths]
    tensors = [tensor for one in stored for tensor in one]
    _check_weights(root, config, tensors, has_own_code)
    if all(sum(tensor.size_bytes for tensor in one) <= limit_bytes for one in stored):
        names = [path.name for path in paths] + ([INDEX] if paths[0].name != WEIGHTS else [])
        yield from (PlannedFile(name, root / name) for name in names)
        return
    if config.backbone_weights == "external":
        raise PublishError(f"{paths[0]}: experts only, which is one file; raise --max-shard-size above its size")
    shards = split_tensors(tensors, limit_bytes)
    yield from (PlannedFile(name, shard) for name, shard in shards.items())
    yield PlannedFile(INDEX, as_json(index_of(shards), INDEX))


def check_processor(root: Path) -> None:
    """Refuse a checkpoint without tokenizer and image processor."""
    missing = [name for name in PROCESSOR if not (root / name).is_file()]
    if missing:
        what = f"no {missing[0]}, so nobody could encode with it"
        raise PublishError(f"{root}: {what}; call processor.save_pretrained on that directory")


def code_files(root: Path, config: dict[str, Any]) -> list[str]:
    """The `.py` files that load the checkpoint: those that its JSON files name, and what these import.

    Raises:
        PublishError: one is missing, or `config.json` names none.
    """
    from transformers.dynamic_module_utils import get_relative_import_files

    if not config.get("auto_map"):
        raise PublishError(f"{root / 'config.json'}: has no auto_map, so nobody could load it; use save_pretrained")
    if not config.get("custom_pipelines") or not (root / "modules.json").is_file():
        what = "made before checkpoints held a pipeline and modules.json, which its card shows"
        raise PublishError(f"{root}: {what}; load it and call save_pretrained again")
    classes = [*_strings(config["auto_map"]), *(one["impl"] for one in config["custom_pipelines"].values())]
    for name in PROCESSOR[:2]:
        if (root / name).is_file():
            classes += _strings(read_object(root / name).get("auto_map", {}))
    modules = _read_json(root / "modules.json")
    classes += [one["type"] for one in modules if not one["type"].startswith("sentence_transformers.")]
    named = {f"{one.partition('.')[0]}.py" for one in classes if "--" not in one}  # "--": of another repository
    try:
        reached = {Path(path).name for name in named for path in get_relative_import_files(root / name)}
    except FileNotFoundError as error:
        missing = Path(error.filename).name
        raise PublishError(f"{root}: its code needs {missing}, which is not there; save the model again") from error
    return sorted(named | reached)


def is_packaged(path: Path) -> bool:
    """Whether a file of code is, byte for byte, one of this package's own."""
    from pemoe import modeling_pemoe

    own = Path(next(iter(modeling_pemoe.__path__))) / path.name
    return own.is_file() and own.read_bytes() == path.read_bytes()


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise PublishError(f"{path}: no such file") from error
    except (OSError, ValueError) as error:
        raise PublishError(f"{path}: cannot be read as JSON ({error})") from error


def _check_weights(root: Path, config: PeMoEConfig, tensors: list[StoredTensor], has_own_code: bool) -> None:
    """Refuse weights that the model of this configuration would not load."""
    if has_own_code:  # this package cannot tell what such a model holds beside its experts
        for platform in config.platforms:
            if not any(tensor.name.startswith(f"experts.{platform}.") for tensor in tensors):
                raise PublishError(f"{root}: no weights of the expert {platform!r}, which config.json lists")
        return
    import torch

    from pemoe.modeling_pemoe import PeMoEModel
    from pemoe.modeling_pemoe.backbones_pemoe import TRUNK_ROOTS

    try:
        with torch.device("meta"):
            model = PeMoEModel(config)
    except (ImportError, RuntimeError, ValueError) as error:
        raise PublishError(f"{root / 'config.json'}: no model can be built of it ({one_line(error)})") from error
    left_out = TRUNK_ROOTS if config.backbone_weights == "external" else ()
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    check_fit(tensors, {name: shape for name, shape in shapes.items() if not name.startswith(left_out)}, root)


def _strings(auto_map: Any) -> Iterator[str]:
    """The names of classes in an `auto_map`, whose values may be lists."""
    for value in auto_map.values():
        yield from (one for one in (value if isinstance(value, (list, tuple)) else [value]) if isinstance(one, str))
