"""The parts of a PE-MoE model: how they are built, started from backbones, saved, loaded, shared and added to."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from functools import partial

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.utils import SAFE_WEIGHTS_NAME, cached_file

from .backbones_pemoe import (
    TRUNK_ROOTS,
    check_has_safetensors,
    hash_trunks,
    read_safetensors,
    read_text_backbone,
    read_vision_backbone,
    split_weights,
    unreadable,
)
from .configuration_pemoe import DEFAULT_PLATFORMS, PeMoEConfig
from .experts_pemoe import PlatformExpert, checkpoint_while_learning
from .gates_pemoe import Gate, build_gate
from .lora_pemoe import LoraPlatforms, add_lora, is_lora, resolve_adapter
from .repository_pemoe import PushedToHub, write_repository_files
from .vision_pemoe import build_vision_encoder, needs_gradient, split_vision_encoder
from .visualized_bge_pemoe import check_positions

BACKBONE_OPTIONS = ("cache_dir", "force_download", "local_files_only", "token")
HUB_OPTIONS = (*BACKBONE_OPTIONS, "revision", "subfolder")
PUSH_OPTIONS = ("push_to_hub", "repo_id", "commit_message", "commit_description", "private", "token", "revision")
PUSH_OPTIONS += ("create_pr", "tags")
HASHED_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
FURTHER_AUTO_CLASSES = {"AutoModelForZeroShotImageClassification": "modeling_pemoe.PeMoEModel"}  # beside AutoModel
FRESH_PARTS = ("visual_projection.", "gate.", "logit_scale")  # what no backbone holds


class PeMoEPreTrainedModel(LoraPlatforms, PushedToHub, PreTrainedModel):
    """Two frozen trunks, one expert per platform and a gate; `PeMoEModel` adds what they compute."""

    config_class = PeMoEConfig
    base_model_prefix = "pemoe"
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False
    _supports_sdpa = True
    # each reads parameters of its own beside its children's: in pieces, some would lie on another device
    _no_split_modules = ("PlatformExpert", "SoftmaxGate")

    def __init__(self, config: PeMoEConfig) -> None:
        super().__init__(config)
        text_config = copy.deepcopy(config.text_config)
        text_config.num_hidden_layers -= config.text_expert_layers
        text_config.dtype = None  # else a backbone stored in bf16 would give a bf16 trunk under fp32 experts
        self.text_trunk = AutoModel.from_config(text_config, add_pooling_layer=False)
        self.vision_trunk = build_vision_encoder(config.vision_config, config.image_size)
        if config.image_path == "visualized_bge":
            check_positions(config, self.vision_trunk.patch_embed.num_patches)
        tail = split_vision_encoder(self.vision_trunk, config.vision_expert_layers)
        self.experts = nn.ModuleDict({p: PlatformExpert(config, self.text_trunk, tail) for p in config.platforms})
        self.gate = build_gate(config)
        self.logit_scale = nn.Parameter(torch.tensor(float(config.logit_scale_init)))
        self._no_split_modules = (*self._no_split_modules, type(self.vision_trunk).__name__)
        self.freeze_trunks()
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(getattr(module, "logit_scale", None), nn.Parameter):
            init.constant_(module.logit_scale, self.config.logit_scale_init)
        if hasattr(module, "init_non_persistent_buffers"):  # timm's rope tables are not in the checkpoint
            module.init_non_persistent_buffers()

    def _set_gradient_checkpointing(
        self, enable: bool = True, gradient_checkpointing_func: Callable = checkpoint, every_n_layers: int = 1
    ) -> None:
        while_learning = partial(checkpoint_while_learning, gradient_checkpointing_func)
        super()._set_gradient_checkpointing(enable, while_learning, every_n_layers)
        for expert in self.experts.values():
            expert.checkpoint_every = every_n_layers

    def get_input_embeddings(self) -> nn.Module:
        """The word embeddings of the text trunk."""
        return self.text_trunk.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the word embeddings of the text trunk."""
        self.text_trunk.set_input_embeddings(value)

    @property
    def device(self) -> torch.device:
        """Where inputs belong: the device of the first weight that is not offloaded ("cpu" where all are)."""
        devices = (parameter.device for parameter in self.parameters() if not parameter.is_meta)
        return next(devices, torch.device("cpu"))

    @property
    def dtype_of_experts(self) -> torch.dtype:
        """Dtype of the trainable tails (fp32 while training, whatever the trunk's)."""
        return next(iter(self.experts.values())).logit_scale.dtype  # `DataParallel`'s replicas list no parameters

    @property
    def dtype_of_trunk(self) -> torch.dtype:
        """Dtype of the frozen image trunk."""
        return self.vision_trunk.patch_embed.proj.weight.dtype

    def freeze_trunks(self) -> None:
        """Take the shared encoders out of training; experts, gate and temperatures keep their state."""
        self.text_trunk.requires_grad_(False)
        self.vision_trunk.requires_grad_(False)

    def train(self, mode: bool = True) -> PeMoEPreTrainedModel:
        """Switch to training; a frozen trunk stays in eval mode, so that its features carry no dropout noise.

        A trunk that trains, unfrozen or through an adapter, switches as everything else does.
        """
        super().train(mode)
        for trunk in (self.text_trunk, self.vision_trunk):
            trunk.train(mode and needs_gradient(trunk, None))
        return self

    @classmethod
    def from_backbones(
        cls,
        text_repo: str,
        vision_repo: str,
        platforms: tuple[str, ...] | list[str] = DEFAULT_PLATFORMS,
        text_revision: str | None = None,
        vision_revision: str | None = None,
        token: str | None = None,
        **config_options: object,
    ) -> PeMoEPreTrainedModel:
        """A fresh model: pretrained frozen trunks, every expert a copy of the backbones' last layers, fp32.

        Projections, gate and temperatures start fresh (the caller's torch seed decides them).

        Args:
            text_repo: transformers text encoder of the BERT or XLM-R family; Hub id or directory.
            vision_repo: open_clip or timm ViT of the EVA or ViT family; Hub id or directory.
            platforms: names of the experts; `["all"]` for the unified model.
            text_revision, vision_revision: branch, tag or commit; the commit read is recorded in the config.
            config_options: further fields of `PeMoEConfig`.

        Raises:
            OSError: a repository, directory or weight file cannot be found.
            ValueError: backbones of another kind, options that contradict them, or one that is no field of the config.
        """
        if unknown := sorted(set(config_options) - set(PeMoEConfig.__annotations__)):
            raise ValueError(f"from_backbones: {', '.join(unknown)}: no field of PeMoEConfig")
        image_size = config_options.get("image_size", PeMoEConfig.image_size)
        text = read_text_backbone(text_repo, text_revision, token=token)
        vision = read_vision_backbone(vision_repo, image_size, vision_revision, token=token)
        config = cls.config_class(
            text_config=text.config,
            vision_config=vision.config,
            text_repo=str(text_repo),
            text_revision=text.revision,
            vision_repo=str(vision_repo),
            vision_revision=vision.revision,
            platforms=list(platforms),
            embed_dim=text.config.hidden_size,
            **config_options,
        )
        _resolve_repos(config, os.curdir)
        model = cls(config)
        state_dict, tail = split_weights(text, vision, config.text_expert_layers, config.vision_expert_layers)
        config.trunk_sha256 = {name: hash_trunks(state_dict, dtype) for name, dtype in HASHED_DTYPES.items()}
        for platform in config.platforms:
            state_dict |= {f"experts.{platform}.{name}": tensor for name, tensor in tail.items()}
        missing, unexpected = model.load_state_dict(state_dict, strict=False)
        wrong = [name for name in missing if not any(part in name for part in FRESH_PARTS)] + unexpected
        if wrong:
            what = f"{len(wrong)} weights do not fit the model, first {wrong[0]}"
            raise ValueError(f"{text_repo}, {vision_repo}: {what}")
        return model.eval()

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        experts_only: bool = False,
        state_dict: dict[str, Tensor] | None = None,
        **kwargs: object,
    ) -> None:
        """Write the checkpoint, self-contained or without the frozen trunks; more arguments as in `PreTrainedModel`.

        An experts-only checkpoint names its backbones (a directory relative to the checkpoint, a Hub id with its
        commit) and their hash; `from_pretrained` reads and checks them. LoRA platforms are written merged, as ordinary
        experts; `save_platform` writes one by itself.

        Raises:
            ValueError: `experts_only` although the trunks have no repository, were changed or are offloaded.
        """
        pushing = {name: kwargs.pop(name) for name in PUSH_OPTIONS if name in kwargs}
        pushes, is_main_process = pushing.pop("push_to_hub", False), kwargs.get("is_main_process", True)
        if self.lora_platforms:
            state_dict = self.merged_state_dict(self.state_dict() if state_dict is None else state_dict)
        if experts_only:
            self.check_trunks_are_external()
            state_dict = self.state_dict() if state_dict is None else state_dict
            state_dict = {name: t for name, t in state_dict.items() if not name.startswith(TRUNK_ROOTS)}
            kwargs["max_shard_size"] = "1000GB"  # one file
        config = self.config
        kept = config.backbone_weights, config.text_repo, config.vision_repo
        try:
            config.backbone_weights = "external" if experts_only else "included"
            config.text_repo, config.vision_repo = (_portable(r, save_directory, experts_only) for r in kept[1:])
            if is_main_process:
                write_repository_files(self, save_directory)
            config.auto_map = {**(getattr(config, "auto_map", None) or {}), **FURTHER_AUTO_CLASSES}
            super().save_pretrained(save_directory, state_dict=state_dict, **kwargs)
        finally:
            config.backbone_weights, config.text_repo, config.vision_repo = kept
        if pushes and is_main_process:
            repo_id = pushing.pop("repo_id", os.path.basename(os.path.abspath(save_directory)))
            self._push_saved(save_directory, repo_id, pushing, tags=pushing.pop("tags", None) or ())

    def check_trunks_are_external(self) -> None:
        """Refuse (ValueError, one line) unless both trunks can be read again, bit for bit, from where they came."""
        config = self.config
        if not (config.text_repo and config.vision_repo and config.trunk_sha256):
            what = "the trunks have no repository or directory to load from"
            raise ValueError(f"experts_only: {what}; save the full model")
        dtype = str(self.dtype_of_trunk).removeprefix("torch.")
        self._refuse_offloaded("experts_only")
        if dtype not in config.trunk_sha256:
            raise ValueError(f"experts_only: a {dtype} trunk cannot be checked; use float32 or bfloat16")
        if hash_trunks(self.state_dict(), self.dtype_of_trunk) != config.trunk_sha256[dtype]:
            raise ValueError("experts_only: the trunks differ from their backbones (trained?); save the full model")

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike | None,
        *args: object,
        config: PreTrainedConfig | None = None,
        state_dict: dict[str, Tensor] | None = None,
        **kwargs: object,
    ) -> PeMoEPreTrainedModel:
        """Load a full or an experts-only checkpoint, or a LoRA platform's folder with the base that it names.

        Arguments are those of `PreTrainedModel.from_pretrained`.

        Raises:
            OSError: checkpoint or backbone not found, or weights that are cut short or no safetensors.
            ValueError: a backbone's weights are not those the experts were trained on, trunk weights are missing, or a
                `device_map` that cannot be met; `use_safetensors=False`.
        """
        if kwargs.get("use_safetensors") is False:
            raise ValueError("use_safetensors: False would read a pickle; leave it out, weights are safetensors only")
        base, adapter = resolve_adapter(pretrained_model_name_or_path, kwargs)
        name = base
        wants_info = kwargs.pop("output_loading_info", False)
        _refuse_offloaded_scales(kwargs.get("device_map"))
        if name is not None:
            hub = {option: kwargs[option] for option in HUB_OPTIONS if option in kwargs}
            if not isinstance(config, PreTrainedConfig):
                fields = {key: kwargs.pop(key) for key in list(kwargs) if key in PeMoEConfig.__annotations__}
                config = cls.config_class.from_pretrained(name, **hub, **fields)
            _resolve_repos(config, name)
            if state_dict is None and not kwargs.get("variant"):
                check_has_safetensors(name, hub)
            if config.backbone_weights == "external" and state_dict is None:
                state_dict = _assemble(config, name, hub)
                kwargs = {option: value for option, value in kwargs.items() if option not in HUB_OPTIONS}
                asked = kwargs.pop("torch_dtype", kwargs.get("dtype"))
                kwargs["dtype"] = config.dtype or torch.float32 if asked in (None, "auto") else asked
                name = None
        kwargs |= {"use_safetensors": True, "output_loading_info": True}
        try:
            model, info = super().from_pretrained(name, *args, config=config, state_dict=state_dict, **kwargs)
        except SafetensorError as error:
            raise unreadable(name, "a safetensors file", error) from error
        if missing := sorted(info["missing_keys"]):
            what = f"{len(missing)} weights are missing, first {missing[0]}"
            raise ValueError(f"{pretrained_model_name_or_path}: {what}")
        model.freeze_trunks()  # loading makes every parameter trainable again
        if base is not None:
            model.name_or_path = model.config.name_or_path = str(base)  # what a LoRA platform's folder names
        if adapter is not None:
            model.load_adapter(**adapter)
        return (model, info) if wants_info else model

    def _refuse_offloaded(self, action: str) -> None:
        if any(parameter.is_meta for parameter in self.parameters()):
            raise ValueError(f"{action}: parts of the model are offloaded; load it without offloading first")

    @torch.no_grad()
    def add_platform(self, name: str, init_from: str, lora_rank: int | None = None) -> None:
        """Add one expert, started as a copy of `init_from`'s; the other experts and the scores do not move.

        The new platform is masked in the config (gate weight 0) until a gate stage includes it. Build optimizers
        after this call: the gate's last layer is a new, longer parameter.

        Args:
            name: of the platform: lower-case letters, digits and `_`.
            init_from: the platform whose expert is copied.
            lora_rank: None for an expert that trains in full; else its copied weights stay frozen, and LoRA matrices
                of this rank beside its linear layers learn, with its temperature (needs peft; see `save_platform`).

        Raises:
            ValueError: a name that cannot be used, an unknown `init_from` or one that is a LoRA platform, or an
                offloaded model.
            ImportError: `lora_rank` without peft.
        """
        self._refuse_offloaded("add_platform")
        if init_from not in self.experts:
            raise ValueError(f"init_from: {init_from!r} is not among the platforms {list(self.config.platforms)}")
        expert, lora = self.experts[init_from], lora_rank is not None
        if is_lora(expert):
            raise ValueError(f"init_from: {init_from!r} is a LoRA platform; merge_platform it first")
        if lora:
            self._changed({"platforms": [*self.config.platforms, name]})  # refuses a name that peft would stumble over
        self.attach_platform(name, add_lora(expert, name, init_from, lora_rank) if lora else copy.deepcopy(expert))

    @torch.no_grad()
    def attach_platform(self, name: str, expert: nn.Module) -> None:
        """Take a ready expert in as the last platform, masked; ValueError for a name that cannot be used."""
        platforms, masked = [*self.config.platforms, name], [*self.config.masked_platforms, name]
        fields = {"platforms": platforms, "masked_platforms": masked}
        _, gate = self._changed(fields)
        gate.take_over(self.gate)
        self.experts[name] = expert
        self.gate = gate
        self.config.update(fields)

    def set_gate(self, name: str) -> None:
        """Replace the gate by a fresh one, in the config too; build optimizers after this call.

        Raises:
            ValueError: the name is no key of `GATES`; the model is unchanged.
        """
        _, self.gate = self._changed({"gate": name})
        self.config.gate = name

    def share_trunks(self, platforms: list[str] | None = None) -> PeMoEPreTrainedModel:
        """A second model on the same frozen trunks (the modules themselves, no copies), with experts of its own.

        Moving, casting or unfreezing the trunks of one model does so to those of the other. Device, dtypes and
        training mode are this one's.

        Args:
            platforms: None for copies of this model's experts, gate and temperatures; else the new model's platforms:
                every expert starts as a copy of this model's first one, none is masked, the gate is fresh (drawn
                without moving torch's global random state). `["all"]` gives the unified model.

        Raises:
            ValueError: names that cannot be used.
        """
        # what deepcopy finds in `memo` it takes as copied; the text layers read the text trunk's configuration object
        memo = {id(part): part for part in (self.text_trunk, self.text_trunk.config, self.vision_trunk)}
        if platforms is not None:
            platforms = list(platforms)
            with torch.random.fork_rng(devices=[]):
                config, gate = self._changed({"platforms": platforms, "masked_platforms": []})
            first = next(iter(self.experts.values()))
            experts = nn.ModuleDict({name: copy.deepcopy(first, dict(memo)) for name in platforms})
            memo |= {id(self.config): config, id(self.experts): experts.train(self.training), id(self.gate): gate}
        return copy.deepcopy(self, memo)

    def _changed(self, fields: dict[str, object]) -> tuple[PeMoEConfig, Gate]:
        """A copy of the configuration with these fields, checked, and a fresh gate for it."""
        config = copy.deepcopy(self.config)
        config.update(fields)
        config.validate_platforms()
        config.validate_choices()
        return config, build_gate(config).to(self.device, self.dtype_of_experts).train(self.training)


def _refuse_offloaded_scales(device_map: object) -> None:
    """No module fetches a parameter that a `device_map` offloads on its own."""
    for name, place in device_map.items() if isinstance(device_map, dict) else ():
        if name.endswith("logit_scale") and place == "disk":
            raise ValueError(f"device_map: {name} is a single number and cannot be offloaded; put it on a device")


def _assemble(config: PeMoEConfig, name: str | os.PathLike, hub: dict) -> dict[str, Tensor]:
    """State dict of an experts-only checkpoint: its own tensors and those of its backbones, checked by hash."""
    for repo in (config.text_repo, config.vision_repo):
        if str(repo).startswith(".") and not os.path.isdir(name):
            what = f"its backbone {repo} is a directory beside the checkpoint"
            raise ValueError(f"{name}: {what}, which a Hub id has not")
    options = {option: hub[option] for option in BACKBONE_OPTIONS if option in hub}
    text = read_text_backbone(config.text_repo, config.text_revision, **options)
    vision = read_vision_backbone(config.vision_repo, config.image_size, config.vision_revision, **options)
    state_dict, _ = split_weights(text, vision, config.text_expert_layers, config.vision_expert_layers)
    if hash_trunks(state_dict, torch.float32) != config.trunk_sha256["float32"]:
        raise ValueError(
            f"{name}: {config.text_repo} and {config.vision_repo} hold other weights than these experts were trained "
            "on; point text_repo and vision_repo at the right ones"
        )
    return state_dict | read_safetensors(cached_file(str(name), SAFE_WEIGHTS_NAME, **hub), name)


def _portable(repo: str | None, checkpoint: str | os.PathLike, experts_only: bool) -> str | None:
    """How a checkpoint names a backbone: a Hub id as it is, a directory relative to an experts-only checkpoint.

    A full checkpoint does not need the directory, and would only carry a path of this machine.
    """
    if repo is None or not os.path.isabs(repo):
        return repo
    return os.path.relpath(repo, checkpoint) if experts_only else None


def _resolve_repos(config: PeMoEConfig, start: str | os.PathLike) -> None:
    """Turn repositories that are directories, relative to `start`, into absolute paths."""
    for field in ("text_repo", "vision_repo"):
        path = os.path.join(start, getattr(config, field) or "")
        if getattr(config, field) and os.path.isdir(path):
            setattr(config, field, os.path.abspath(path))
