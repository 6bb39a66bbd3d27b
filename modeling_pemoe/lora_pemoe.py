"""LoRA platforms: an expert that is a frozen copy of another one with small trained matrices (peft), a folder each."""

from __future__ import annotations

import copy
import hashlib
import importlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.tokenization_utils_base import TOKENIZER_CONFIG_FILE
from transformers.utils import (
    ADAPTER_CONFIG_NAME,
    ADAPTER_SAFE_WEIGHTS_NAME,
    CONFIG_NAME,
    PROCESSOR_NAME,
    cached_file,
)
from transformers.utils.peft_utils import find_adapter_config_file

from .backbones_pemoe import has_file, read_safetensors
from .platform_card_pemoe import render_platform_card
from .repository_pemoe import REPOSITORY_FILES

ADAPTER_OPTIONS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")
PEFT_ROOT = "base_model.model."  # what peft puts before a model's own names
_TRAINED = re.compile(r"\.lora_[AB]\.|^logit_scale$")


class LoraPlatforms:
    """The part of a PE-MoE model that adds, trains, saves, loads and merges LoRA platforms."""

    @property
    def lora_platforms(self) -> list[str]:
        """Names of the platforms that are LoRA adapters, not yet merged."""
        return [name for name, expert in self.experts.items() if is_lora(expert)]

    def train_experts(self, names: list[str]) -> None:
        """Let these experts learn and no other; of a LoRA platform its adapter alone."""
        for platform, expert in self.experts.items():
            for name, parameter in expert.named_parameters():
                learns = platform in names and (not is_lora(expert) or _TRAINED.search(name) is not None)
                parameter.requires_grad_(learns)

    @torch.no_grad()
    def adapt_platform(self, name: str, lora_rank: int = 8) -> None:
        """Make a platform that is there a LoRA platform: its expert is frozen as it is, and an adapter on it learns.

        Nothing moves by this call; gate and masks stay. What `save_platform` then writes loads on the same base, where
        it takes that expert's place. Add platforms that start from this expert first: they need it plain.

        Args:
            name: a platform of this model that is no LoRA platform yet.
            lora_rank: as in `add_platform`.

        Raises:
            ValueError: no such platform, one that is a LoRA platform already, a rank below 1, or an offloaded model.
            ImportError: peft is not installed.

        Example:
            >>> model.adapt_platform("drone", lora_rank=8)  # doctest: +SKIP
            >>> model.lora_platforms  # doctest: +SKIP
            ['drone']
        """
        if name not in self.experts:
            raise ValueError(f"adapt_platform: {name!r} is not among the platforms {list(self.experts)}")
        self.experts[name] = add_lora(self.experts[name], name, name, lora_rank)

    @contextmanager
    def without_adapter(self, name: str) -> Iterator[LoraPlatforms]:
        """Inside the block, LoRA platform `name` gives the vectors of the expert it started from.

        The temperature, which scales scores and moves no vector, stays the trained one.

        Raises:
            ValueError: it is no LoRA platform of this model.

        Example:
            >>> with model.without_adapter("infrared"):  # doctest: +SKIP
            ...     before = model(**inputs, experts=["infrared"]).text_embeds
        """
        _check_is_lora(self, name)
        layers = [module for module in self.experts[name].modules() if hasattr(module, "base_layer")]
        learns = {parameter: parameter.requires_grad for layer in layers for parameter in layer.parameters()}
        try:
            for layer in layers:
                layer.enable_adapters(False)
            yield self
        finally:
            for layer in layers:
                layer.enable_adapters(True)
            for parameter, learned in learns.items():  # peft switches these too
                parameter.requires_grad_(learned)

    def adapter_state_dict(self) -> dict[str, Tensor]:
        """What the LoRA platforms train, and no more, by its names in `state_dict()`; empty in a model without."""
        found = {}
        for name in self.lora_platforms:
            weights = self.experts[name].state_dict()
            found |= {f"experts.{name}.{key}": tensor for key, tensor in weights.items() if _TRAINED.search(key)}
        return found

    def save_platform(
        self, name: str, directory: str | os.PathLike, base: str | None = None, repo_id: str | None = None
    ) -> None:
        """Write a LoRA platform alone, a few MB: `adapter_config.json`, `adapter_model.safetensors` and a README.

        `AutoModel`, `AutoProcessor`, `pipeline` and `SentenceTransformer` then load the directory with
        `trust_remote_code=True`: the base, its code and its processor, and the platform added.

        Args:
            base: Hub id or directory of the model that the platform was added to; None where this model came from.
            repo_id: where it will be published, for the README.

        Raises:
            ValueError: not a LoRA platform of this model, or nothing says what the base is.
        """
        _check_is_lora(self, name)
        config = copy.deepcopy(self.experts[name].peft_config[name])
        config.base_model_name_or_path = base_of(self, base)
        config.inference_mode = True
        root = f"{PEFT_ROOT}experts.{name}."
        tensors = {root + key: tensor for key, tensor in adapter_state(self.experts[name], name).items()}
        os.makedirs(directory, exist_ok=True)
        save_file(tensors, os.path.join(directory, ADAPTER_SAFE_WEIGHTS_NAME), metadata={"format": "pt"})
        _write_card(directory, config.base_model_name_or_path, [_describe(config, "")], repo_id)
        for file_name, content in platform_files(config.base_model_name_or_path).items():
            with open(os.path.join(directory, file_name), "w", encoding="utf-8") as file:
                file.write(json.dumps(content, indent=2) + "\n")
        config.save_pretrained(str(directory))

    def load_platform(self, repo: str | os.PathLike, **hub: object) -> str:
        """Add the LoRA platform of a folder that `save_platform` wrote; the model is unchanged where this fails.

        A platform of `adapt_platform` takes the place of the expert of its name. Load those that start from that
        expert before it.

        Args:
            repo: Hub id or directory.
            hub: `revision`, `subfolder`, `token`, `cache_dir`, `force_download`, `local_files_only`.

        Returns:
            The platform's name.

        Raises:
            OSError: no such folder, or its weights are missing or cut short.
            ValueError: another base than this model, a name that is taken, or weights that do not fit.
            ImportError: peft is not installed.
        """
        fields = read_adapter_config(repo, hub)
        facts = platform_facts(fields)
        if facts is None:
            what = f"its {ADAPTER_CONFIG_NAME} is no PE-MoE platform's"
            raise ValueError(f"{repo}: {what}; use load_adapter or peft")
        peft, name, init_from = import_peft(), facts["platform"], facts["init_from"]
        base = f"base {fields['base_model_name_or_path']}"
        if name in self.experts and name != init_from:
            raise ValueError(f"{repo}: the model has a platform {name!r} already")
        if init_from not in self.experts:
            what = f"starts from expert {init_from!r}, the model has {list(self.experts)}"
            raise ValueError(f"{repo}: platform {name!r} {what}; load its {base}")
        if is_lora(self.experts[init_from]):
            what = f"starts from {init_from!r} as it is in its {base}, which carries an adapter here"
            raise ValueError(
                f"{repo}: platform {name!r} {what}; load that base, and the adapter of {init_from!r} last"
            )
        expected, dtype = facts["init_sha256"], hashed_dtype(self.experts[init_from])
        if hash_expert(self.experts[init_from], dtype) != expected.get(str(dtype).removeprefix("torch.")):
            raise ValueError(f"{repo}: was trained on another {init_from!r} expert than this model's; load its {base}")
        expert = build_lora_expert(self.experts[init_from], name, peft.PeftConfig.from_peft_type(**fields))
        _load_adapter_state(expert, name, _read_weights(repo, hub), str(repo))
        if name == init_from:
            self.experts[name] = expert
        else:
            self.attach_platform(name, expert)
        return name

    def load_adapter(self, peft_model_id: str | None = None, *args: object, **kwargs: object) -> object:
        """transformers' own way to adapters: a folder of `save_platform` adds its platform, any other goes to peft."""
        given = {**kwargs, **(kwargs.get("adapter_kwargs") or {})}
        hub = {option: given[option] for option in ADAPTER_OPTIONS if option in given}
        facts = None if peft_model_id is None else platform_facts(read_adapter_config(peft_model_id, hub))
        if facts is None:
            return super().load_adapter(peft_model_id, *args, **kwargs)
        asked = args[0] if args else kwargs.get("adapter_name")
        if asked not in (None, "default", facts["platform"]):
            raise ValueError(f"adapter_name: {peft_model_id} holds the platform {facts['platform']!r}, not {asked!r}")
        return self.load_platform(peft_model_id, **hub)

    def merge_platform(self, name: str) -> None:
        """Turn a LoRA platform into an ordinary expert, its matrices added to the copied weights.

        Build optimizers after this call. Raises ValueError when it is no LoRA platform of this model.
        """
        _check_is_lora(self, name)
        lora = self.experts[name]
        expert = without_lora(lora)
        expert.load_state_dict(merge_state(lora.state_dict(), name, _scaling(lora, name)))
        self.experts[name] = expert.requires_grad_(True).train(lora.training)

    def merged_state_dict(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """`state_dict` with the LoRA platforms as ordinary experts, the model as it is."""
        for name in self.lora_platforms:
            state_dict = merge_state(state_dict, name, _scaling(self.experts[name], name))
        return state_dict


def write_platforms_card(
    model: nn.Module, names: list[str], directory: str | os.PathLike, repo_id: str | None = None
) -> None:
    """Write the README above the folders of several LoRA platforms of a model, each in the folder of its name."""
    about = [_describe(model.experts[name].peft_config[name], name) for name in names]
    _write_card(directory, base_of(model), about, repo_id)


def _describe(config: object, folder: str) -> dict:
    facts = config.auto_mapping
    return {"platform": facts["platform"], "init_from": facts["init_from"], "rank": config.r, "folder": folder}


def _write_card(directory: str | os.PathLike, base: str, platforms: list[dict], repo_id: str | None) -> None:
    with open(os.path.join(directory, "README.md"), "w", encoding="utf-8") as file:
        file.write(render_platform_card(base, platforms, repo_id=repo_id))


def add_lora(expert: nn.Module, name: str, init_from: str, rank: int) -> nn.Module:
    """A copy of an expert with LoRA matrices of this rank on its linear layers: platform `name`, its output unmoved.

    Raises:
        ValueError: a rank below 1, or an expert that is itself a LoRA platform.
        ImportError: peft is not installed.
    """
    if rank < 1:
        raise ValueError(f"lora_rank: {rank} must be at least 1")
    dtypes = {"bfloat16": torch.bfloat16, "float16": torch.float16}
    hashes = {dtype_name: hash_expert(expert, dtype) for dtype_name, dtype in dtypes.items()}
    facts = {"platform": name, "init_from": init_from, "init_sha256": hashes}
    loader = {"base_model_class": "AutoModel", "parent_library": "transformers"}  # what peft itself keeps there
    config = import_peft().LoraConfig(
        r=rank, lora_alpha=rank, target_modules=_target_pattern(expert, name), auto_mapping={**loader, **facts}
    )
    return build_lora_expert(expert, name, config)


def build_lora_expert(expert: nn.Module, name: str, config: object) -> nn.Module:
    """A frozen copy of an expert with fresh LoRA layers of a `peft.LoraConfig`; the temperature learns too."""
    config.inference_mode = False
    lora = copy.deepcopy(expert)
    import_peft().inject_adapter_in_model(config, lora, adapter_name=name)
    lora.logit_scale.requires_grad_(True)
    return lora


def without_lora(expert: nn.Module) -> nn.Module:
    """A copy of a LoRA expert as an ordinary one, of the frozen weights and the trained temperature."""
    plain = copy.deepcopy(expert)
    for path, module in list(plain.named_modules()):
        if hasattr(module, "base_layer"):
            plain.set_submodule(path, module.base_layer)
    del plain.peft_config
    return plain


def _target_pattern(expert: nn.Module, name: str) -> str:
    """Regular expression of an expert's linear layers, by their names in the model or in the expert.

    A fused qkv whose biases are apart is left out: timm multiplies by its weight without calling it.
    """
    fused = {
        f"{path}.qkv"
        for path, module in expert.named_modules()
        if getattr(module, "q_bias", None) is not None and not getattr(module, "qkv_bias_separate", False)
    }
    linear = {path for path, module in expert.named_modules() if isinstance(module, nn.Linear)} - fused
    paths = sorted({re.sub(r"(?<=\\\.)\d+(?=\\\.)", r"\\d+", re.escape(path)) for path in linear})
    return rf"(experts\.{name}\.)?({'|'.join(paths)})"


def merge_state(state_dict: dict[str, Tensor], name: str, scaling: float) -> dict[str, Tensor]:
    """`state_dict` with the matrices of adapter `name` added to the weights beside them, W + scaling * B A."""
    merged = {}
    for key, tensor in state_dict.items():
        layer, is_base, rest = key.partition(".base_layer.")
        down, up = (f"{layer}.lora_{side}.{name}.weight" for side in "AB")
        if is_base and down in state_dict:
            if rest == "weight":
                delta = state_dict[up].float() @ state_dict[down].float()  # (out, r) @ (r, in)
                tensor = (tensor.float() + scaling * delta).to(tensor.dtype)
            merged[f"{layer}.{rest}"] = tensor
        elif not key.endswith((f".lora_A.{name}.weight", f".lora_B.{name}.weight")):
            merged[key] = tensor
    return merged


def is_lora(expert: nn.Module) -> bool:
    """Whether an expert carries LoRA layers."""
    return bool(getattr(expert, "peft_config", None))


def adapter_state(expert: nn.Module, name: str) -> dict[str, Tensor]:
    """What a LoRA platform trains, named as peft names it in its files."""
    tensors = {key: tensor for key, tensor in expert.state_dict().items() if _TRAINED.search(key)}
    return {key.replace(f".{name}.weight", ".weight"): tensor.contiguous() for key, tensor in tensors.items()}


def load_adapter_file(expert: nn.Module, name: str, path: str | os.PathLike) -> None:
    """Read what `save_platform` wrote in a directory into the LoRA expert `name`, in place."""
    _load_adapter_state(expert, name, _read_weights(path, {}), str(path))


def _load_adapter_state(expert: nn.Module, name: str, tensors: dict[str, Tensor], source: str) -> None:
    root = PEFT_ROOT + f"experts.{name}."
    expected = adapter_state(expert, name)
    found = {key.removeprefix(root): tensor for key, tensor in tensors.items()}
    wrong = sorted(set(found) ^ set(expected)) or [key for key in found if found[key].shape != expected[key].shape]
    if wrong:
        raise ValueError(f"{source}: {len(wrong)} adapter weights do not fit platform {name!r}, first {wrong[0]}")
    full = {re.sub(r"(\.lora_[AB])\.weight$", rf"\1.{name}.weight", key): tensor for key, tensor in found.items()}
    expert.load_state_dict(full, strict=False)


def hashed_dtype(expert: nn.Module) -> torch.dtype:
    """The dtype an expert is compared in: bf16 is the same whether a model was read in bf16 or fp32."""
    return torch.float16 if expert.logit_scale.dtype == torch.float16 else torch.bfloat16


def hash_expert(expert: nn.Module, dtype: torch.dtype) -> str:
    """SHA-256 over an expert's names and values, as they are in `dtype`; ValueError for a LoRA platform."""
    if is_lora(expert):
        raise ValueError(f"init_from: {next(iter(expert.peft_config))!r} is a LoRA platform; merge_platform it first")
    if any(parameter.is_meta for parameter in expert.parameters()):
        raise ValueError("LoRA platforms: the expert to start from is offloaded; load the model without offloading")
    digest = hashlib.sha256()
    for name, tensor in sorted(expert.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().to("cpu", dtype).contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def base_of(model: nn.Module, base: str | None = None) -> str:
    """Hub id, or absolute directory, of the model that platforms were added to; ValueError where none is known."""
    base = str(base or model.name_or_path or "")
    if not base:
        raise ValueError("a LoRA platform's folder names its base: save or publish the model, load it, or give base=")
    return os.path.abspath(base) if os.path.isdir(base) else base


def resolve_adapter(name: str | os.PathLike | None, kwargs: dict) -> tuple[str | os.PathLike | None, dict | None]:
    """What `from_pretrained` was given, as base and arguments for `load_adapter` (None: no adapter).

    Takes out of `kwargs` what belongs to the adapter; AutoModel has put the base in the place of the name already.
    """
    options = dict(kwargs.pop("adapter_kwargs", None) or {})
    path = options.pop("_adapter_model_path", None)
    if path is not None:
        return name, {"peft_model_id": path, "adapter_kwargs": options}
    hub = {option: kwargs[option] for option in ADAPTER_OPTIONS if option in kwargs}
    is_searched = name is None or bool(options)
    if is_searched or os.path.isfile(os.path.join(name, CONFIG_NAME)) or find_adapter_config_file(name, **hub) is None:
        return name, None
    base = read_adapter_config(name, hub)["base_model_name_or_path"]
    for option in ("revision", "subfolder"):  # the adapter's own
        kwargs.pop(option, None)
    return base, {"peft_model_id": str(name), "adapter_kwargs": hub}


def platform_files(base: str) -> dict[str, object]:
    """The JSON files by which a LoRA platform's folder points at the code of its base, by their names."""
    files = copy.deepcopy(REPOSITORY_FILES)
    for module in files["modules.json"]:
        module["type"] = f"{base}--{module['type']}"
    auto_map = {"AutoProcessor": f"{base}--processing_pemoe.PeMoEProcessor"}
    return {**files, PROCESSOR_NAME: {"auto_map": auto_map, "processor_class": "PeMoEProcessor"}}


def resolve_processor(name: str | os.PathLike, options: dict) -> tuple[str | os.PathLike, dict]:
    """Where the processor of a repository is, with the options to load it: a LoRA platform's is its base's."""
    hub = {option: options[option] for option in ADAPTER_OPTIONS if option in options}
    if has_file(name, TOKENIZER_CONFIG_FILE, hub) or find_adapter_config_file(str(name), **hub) is None:
        return name, options
    own = ("revision", "subfolder")  # of the adapter
    kept = {option: value for option, value in options.items() if option not in own}
    return read_adapter_config(name, hub)["base_model_name_or_path"], kept


def read_adapter_config(repo: str | os.PathLike, hub: dict) -> dict:
    """Fields of a folder's `adapter_config.json`; OSError where there is none."""
    path = find_adapter_config_file(str(repo), **hub)
    if path is None:
        raise OSError(f"{repo}: holds no {ADAPTER_CONFIG_NAME}, so it is no LoRA platform")
    with open(path, encoding="utf-8") as file:
        try:
            fields = json.load(file)
        except ValueError as error:
            raise OSError(f"{repo}: {ADAPTER_CONFIG_NAME} is no JSON ({error}); save or download it again") from error
    if not fields.get("base_model_name_or_path"):
        raise OSError(f"{repo}: {ADAPTER_CONFIG_NAME} names no base model; set base_model_name_or_path")
    return fields


def platform_facts(fields: dict) -> dict | None:
    """Platform, the expert it starts from and that one's hashes; None for an adapter that is no platform."""
    facts = fields.get("auto_mapping") or {}
    return facts if {"platform", "init_from", "init_sha256"} <= set(facts) else None


def import_peft() -> ModuleType:
    """peft, imported where it is used."""
    try:
        return importlib.import_module("peft")
    except ImportError as error:
        raise ImportError("LoRA platforms are peft adapters: run `pip install peft`") from error


def _read_weights(repo: str | os.PathLike, hub: dict) -> dict[str, Tensor]:
    name = ADAPTER_SAFE_WEIGHTS_NAME
    path = cached_file(str(repo), name, _raise_exceptions_for_missing_entries=False, **hub)
    if path is None:
        raise OSError(f"{repo}: holds no {name}; weights in another format are not read")
    return read_safetensors(path, repo)


def _check_is_lora(model: nn.Module, name: str) -> None:
    if name not in model.lora_platforms:
        raise ValueError(f"{name!r} is not among the LoRA platforms {model.lora_platforms} of this model")


def _scaling(expert: nn.Module, name: str) -> float:
    config = expert.peft_config[name]
    return config.lora_alpha / config.r
