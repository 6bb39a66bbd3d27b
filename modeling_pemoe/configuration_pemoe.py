"""`PeMoEConfig`: what a PE-MoE model is made of, checked when it is built."""

# No `from __future__ import annotations` here: it would switch off the type check of `@strict`.
import copy
import re
from typing import ClassVar

from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from .gates_pemoe import GATES

DEFAULT_PLATFORMS = ("satellite", "drone", "ground")
UNIFIED_PLATFORM = "all"  # one expert for every platform: rows 1 and 2 of the paper's Table 1
TEXT_FAMILIES = ("bert", "roberta", "xlm-roberta", "camembert")
IMAGE_PATHS = ("projection", "visualized_bge")

_PLATFORM_NAME = re.compile(r"[a-z][a-z0-9_]*")
_EVA = "eva02_large_patch14_clip_336"
_BGE_M3 = {
    "model_type": "xlm-roberta",
    "vocab_size": 250002,
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "max_position_embeddings": 8194,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
}


@strict
class PeMoEConfig(PreTrainedConfig):
    r"""Configuration of a `PeMoEModel`.

    Args:
        text_config: the whole text encoder (`model_type` bert, roberta, xlm-roberta or camembert), before the split.
        vision_config: `{"architecture": timm name, "model_args": keyword arguments of timm.create_model}`, whole; may
            add "image_mean" and "image_std", three numbers each, where the backbone wants other than CLIP's.
        text_repo, vision_repo: Hub id or directory the frozen trunks came from; None when there is none.
        text_revision, vision_revision: commit of these repositories.
        trunk_sha256: hash of both trunks' weights per dtype ("float32", "bfloat16"); None when unknown.
        backbone_weights: "included" in the checkpoint or "external" (experts-only checkpoint).
        platforms: names of the experts, in the order of the E axis; `["all"]` is the unified model.
        masked_platforms: platforms whose gate weight is 0 until a gate stage has included them.
        text_expert_layers, vision_expert_layers: last layers that every expert owns.
        embed_dim: D of the shared space; equals the text encoder's hidden size.
        gate: a key of `GATES`: "softmax" (the paper's) or "uniform" (static ensemble).
        gate_hidden_dim: hidden width of the softmax gate.
        image_size: side in px the vision trunk runs at; a remainder of the patch size is cut off right and bottom.
        max_text_tokens: longest token sequence, special tokens included.
        tail_dropout: dropout of the experts' text layers while training.
        logit_scale_init: log of the first inverse temperature.
        image_path: "projection" (linear projection of the pooled image tail, as in the paper) or "visualized_bge"
            (the image's patches read by the text encoder as a sentence, as in the public code of VISTA).
        image_prompt_ids: with "visualized_bge", the two tokens before and after the patches; None for the text
            encoder's own first and last, where its configuration names them.

    Raises:
        ValueError: fields that contradict each other (the message names them); wrong types are refused as well.

    Example:
        >>> PeMoEConfig.preset("tiny").platforms
        ['satellite', 'drone', 'ground']
    """

    model_type = "pemoe"
    sub_configs_defaults: ClassVar = {"text_config": SubConfigSpec(config_class=AutoConfig, model_type="xlm-roberta")}

    text_config: dict | PreTrainedConfig | None = None
    vision_config: dict | None = None
    text_repo: str | None = None
    text_revision: str | None = None
    vision_repo: str | None = None
    vision_revision: str | None = None
    trunk_sha256: dict | None = None
    backbone_weights: str = "included"
    platforms: list[str] | tuple[str, ...] = DEFAULT_PLATFORMS
    masked_platforms: list[str] | tuple[str, ...] = ()
    text_expert_layers: int = 2
    vision_expert_layers: int = 4
    embed_dim: int = 1024
    gate: str = "softmax"
    gate_hidden_dim: int = 512
    image_size: int = 384
    max_text_tokens: int = 109
    tail_dropout: float = 0.1
    logit_scale_init: float = 2.6592600  # log(1 / 0.07), the start of CLIP
    image_path: str = "projection"
    image_prompt_ids: list[int] | None = None

    def __post_init__(self, **kwargs):
        self.platforms = list(self.platforms)
        self.masked_platforms = list(self.masked_platforms)
        if self.text_config is None:
            self.text_config = dict(_BGE_M3)
        if self.vision_config is None:
            self.vision_config = {"architecture": _EVA, "model_args": {}}
        super().__post_init__(**kwargs)

    @property
    def num_experts(self) -> int:
        """E, the number of platforms."""
        return len(self.platforms)

    @property
    def is_unified(self) -> bool:
        """Whether one expert serves every platform (rows 1 and 2 of the paper's Table 1)."""
        return list(self.platforms) == [UNIFIED_PLATFORM]

    @property
    def active_experts(self) -> list[int]:
        """Places on the E axis that the gate weighs (all but `masked_platforms`)."""
        return [k for k, name in enumerate(self.platforms) if name not in self.masked_platforms]

    def validate_platforms(self):
        """Names must be distinct, usable as module names, and not all masked."""
        names, taken = list(self.platforms), dir(nn.ModuleDict())  # which holds the experts
        for name in names:
            if not isinstance(name, str) or not _PLATFORM_NAME.fullmatch(name) or name in taken:
                raise ValueError(f"platforms: {name!r} is no platform name: use lower-case letters, digits and '_'")
        if not names or len(set(names)) != len(names):
            raise ValueError(f"platforms: need at least one name and no name twice, got {names}")
        unknown = [name for name in self.masked_platforms if name not in names]
        if unknown or len(self.masked_platforms) >= len(names):
            raise ValueError(f"masked_platforms: {list(self.masked_platforms)} must be some, not all, of {names}")

    def validate_choices(self):
        """Fields with a fixed set of values."""
        choices = {"gate": GATES, "backbone_weights": ("included", "external"), "image_path": IMAGE_PATHS}
        for field, allowed in choices.items():
            if getattr(self, field) not in allowed:
                raise ValueError(f"{field}: {getattr(self, field)!r} is unknown, use one of {', '.join(allowed)}")

    def validate_text(self):
        """The text encoder must be of a known family, deeper than the experts, and as wide as the shared space."""
        text = self.text_config
        if not isinstance(text, PreTrainedConfig):
            return  # still a dict: resolved, and checked again, in __post_init__
        if text.model_type not in TEXT_FAMILIES:
            raise ValueError(f"text_config: model_type {text.model_type!r} is not one of {', '.join(TEXT_FAMILIES)}")
        if not 1 <= self.text_expert_layers < text.num_hidden_layers:
            bounds = f"at least 1 and below the text encoder's {text.num_hidden_layers} layers"
            raise ValueError(f"text_expert_layers: {self.text_expert_layers} must be {bounds}")
        longest = self.longest_sequence
        if self.max_text_tokens > longest:
            raise ValueError(f"max_text_tokens: {self.max_text_tokens} exceeds the text encoder's {longest} positions")
        if text.hidden_size != self.embed_dim:
            raise ValueError(
                f"embed_dim: {self.embed_dim} differs from text_config.hidden_size {text.hidden_size}; "
                "t_k is the text encoder's own CLS, so they must be equal"
            )

    def validate_image_prompt(self):
        """The text encoder must know the two tokens around an image's patches; without such a path there are none."""
        text, ids = self.text_config, self.image_prompt_ids
        if self.image_path != "visualized_bge":
            if ids is not None:
                raise ValueError(f"image_prompt_ids: {ids} are for image_path 'visualized_bge'; leave them out")
        elif isinstance(text, PreTrainedConfig):
            known = self.prompt_ids
            if len(known) != 2 or not all(isinstance(i, int) and 0 <= i < text.vocab_size for i in known):
                what = f"{known} are not two tokens of the text encoder's {text.vocab_size}"
                raise ValueError(f"image_prompt_ids: {what}; name its first and last token, [101, 102] in BERT's")

    @property
    def prompt_ids(self) -> list[int]:
        """The tokens before and after an image's patches, with `image_path="visualized_bge"`."""
        own = [getattr(self.text_config, f"{name}_token_id", None) for name in ("bos", "eos")]
        return own if self.image_prompt_ids is None else list(self.image_prompt_ids)

    @property
    def longest_sequence(self) -> int:
        """Tokens that the text encoder has positions for; RoBERTa's families begin after the padding's."""
        text = self.text_config
        return text.max_position_embeddings - (2 if text.model_type != "bert" else 0)

    def validate_sizes(self):
        """Counts are positive, the vision configuration names its model."""
        for field in ("vision_expert_layers", "embed_dim", "gate_hidden_dim", "image_size", "max_text_tokens"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field}: {getattr(self, field)} must be at least 1")
        if not 0.0 <= self.tail_dropout < 1.0:
            raise ValueError(f"tail_dropout: {self.tail_dropout} must lie in [0, 1)")
        if self.vision_config is not None and "architecture" not in self.vision_config:
            raise ValueError('vision_config: needs the keys "architecture" (a timm model name) and "model_args"')

    @classmethod
    def preset(cls, name: str, **overrides: object) -> "PeMoEConfig":
        """A named configuration, `overrides` replacing its fields; nothing is downloaded.

        Args:
            name: "paper" (BGE-M3 and EVA02-CLIP-L/14, 384 px), "tiny" (builds in a second, for tests) or "campus"
                (the shape of the shipped small backbones).

        Raises:
            ValueError: unknown name.

        Example:
            >>> PeMoEConfig.preset("paper").embed_dim
            1024
        """
        if name not in PRESETS:
            raise ValueError(f"preset: {name!r} is unknown, use one of {', '.join(PRESETS)}")
        return cls(**{**copy.deepcopy(PRESETS[name]), **overrides})


def _small_text_config(hidden_size: int, layers: int, heads: int, vocab_size: int) -> dict:
    sizes = {"hidden_size": hidden_size, "intermediate_size": 4 * hidden_size, "num_hidden_layers": layers}
    rest = {"num_attention_heads": heads, "vocab_size": vocab_size, "max_position_embeddings": 258}
    return {**_BGE_M3, **sizes, **rest}


PRESETS = {
    "paper": {"text_repo": "BAAI/bge-m3", "vision_repo": "timm/eva02_large_patch14_clip_336.merged2b_s6b_b61k"},
    "tiny": {
        "text_config": _small_text_config(hidden_size=32, layers=3, heads=2, vocab_size=200),
        "vision_config": {
            "architecture": _EVA,
            "model_args": {"depth": 3, "embed_dim": 64, "num_heads": 2, "ref_feat_shape": [4, 4]},
        },
        "text_expert_layers": 1,
        "vision_expert_layers": 1,
        "embed_dim": 32,
        "gate_hidden_dim": 16,
        "image_size": 56,
        "max_text_tokens": 64,
    },
    "campus": {
        "text_config": _small_text_config(hidden_size=128, layers=4, heads=4, vocab_size=2000),
        "vision_config": {
            "architecture": _EVA,
            "model_args": {"depth": 6, "embed_dim": 128, "num_heads": 4, "ref_feat_shape": [8, 8], "img_size": 112},
        },
        "vision_expert_layers": 2,
        "embed_dim": 128,
        "gate_hidden_dim": 64,
        "image_size": 112,
    },
}
