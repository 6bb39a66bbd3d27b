"""The model as a module of sentence-transformers; `modules.json` names it to `SentenceTransformer`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModel, AutoProcessor, PreTrainedModel, ProcessorMixin

try:
    from sentence_transformers.base.modality import infer_modality
    from sentence_transformers.base.modules import InputModule
except ImportError:  # the file travels in every checkpoint, also to those who do not have the library
    InputModule = torch.nn.Module

_MODEL_INPUTS = ("input_ids", "attention_mask", "pixel_values")
_PICTURES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".tif", ".tiff", ".webp")  # also where there is no such file
_TASKS = (None, "query", "document")  # what encode_query and encode_document say; texts and pictures tell themselves


class PeMoESentenceModule(InputModule):
    """Texts as `[g_1 t_1 ... g_E t_E]`, pictures as `[v_1 ... v_E]`: Eq. (1) is their inner product ("dot").

    `normalize_embeddings` and cosine divide each query by its own length and every picture by the same sqrt(E): what a
    query finds keeps its order, but scores of different queries can no longer be compared.

    Args:
        model: a PE-MoE model.
        processor: the checkpoint's.

    Example:
        >>> SentenceTransformer("me/pemoe", trust_remote_code=True).encode(["round white arena"])  # doctest: +SKIP
    """

    config_file_name = "sentence_pemoe_config.json"  # the default, config.json, is the model's
    save_in_root = True

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin) -> None:
        _require_library()
        super().__init__()
        self.model, self.processor = model, processor

    @classmethod
    def load(
        cls,
        model_name_or_path: str,
        backend: str = "torch",
        cache_folder: str | None = None,
        model_kwargs: dict | None = None,
        processor_kwargs: dict | None = None,
        config_kwargs: dict | None = None,
        **hub: object,
    ) -> PeMoESentenceModule:
        """Model and processor of one repository or directory; arguments as `SentenceTransformer` gives them.

        Args:
            backend: "torch".
            cache_folder: of the Hub's files.
            model_kwargs, config_kwargs, processor_kwargs: more for `AutoModel` and `AutoProcessor`.
            hub: `revision`, `token`, `subfolder`, `local_files_only`, `trust_remote_code`.

        Raises:
            ValueError: a backend other than torch.
            ImportError: sentence-transformers is older than 6.
        """
        _require_library()
        if backend != "torch":
            raise ValueError(f"backend: {backend!r} is not for this model, use 'torch'; `pemoe export` writes ONNX")
        hub["cache_dir"] = cache_folder
        model = AutoModel.from_pretrained(model_name_or_path, **hub, **(config_kwargs or {}), **(model_kwargs or {}))
        processor = AutoProcessor.from_pretrained(model_name_or_path, **hub, **(processor_kwargs or {}))
        return cls(model, processor)

    def save(self, output_path: str, *args: object, safe_serialization: bool = True, **kwargs: object) -> None:
        """Write a full checkpoint with its processor, which `AutoModel` and `SentenceTransformer` load again.

        Raises:
            ValueError: `safe_serialization=False`.
        """
        if not safe_serialization:
            raise ValueError("safe_serialization: False would write a pickle; this model is saved as safetensors only")
        settings = Path(output_path) / "config_sentence_transformers.json"
        kept = settings.read_bytes() if settings.is_file() else None  # of this `SentenceTransformer`, just written
        self.model.save_pretrained(output_path)
        if kept is not None:
            settings.write_bytes(kept)
        self.processor.save_pretrained(output_path)

    def on_model_ready(self, model: torch.nn.Module) -> None:
        """Refuse (ValueError) a `SentenceTransformer` that cuts vectors: that would drop experts, not detail."""
        if model.truncate_dim is not None:
            size = self.get_embedding_dimension()
            raise ValueError(
                f"truncate_dim: {model.truncate_dim} would cut experts off; vectors have all {size} numbers"
            )

    @property
    def modalities(self) -> list[str]:
        """What can be encoded; one call takes one of them."""
        return ["text", "image"]

    @property
    def tokenizer(self) -> object:
        """The processor's."""
        return self.processor.tokenizer

    @property
    def max_seq_length(self) -> int:
        """Tokens of a text that are read, special tokens included; what is longer is cut."""
        return self.processor.tokenizer.model_max_length

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        config, kept = self.model.config, self.model.config.max_text_tokens
        try:
            config.max_text_tokens = value
            config.validate_sizes()
            config.validate_text()
        except ValueError:
            config.max_text_tokens = kept
            raise
        self.processor.tokenizer.model_max_length = value

    def get_embedding_dimension(self) -> int:
        """Length of a vector, E * D."""
        return self.model.config.num_experts * self.model.config.embed_dim

    def preprocess(
        self,
        inputs: Sequence[object],
        prompt: str | None = None,
        task: str | None = None,
        max_length: int | None = None,
        processing_kwargs: dict[str, dict] | None = None,
    ) -> dict[str, Tensor]:
        """Model inputs of a batch of texts or of pictures (in any form that the processor takes).

        Args:
            inputs: strings or pictures; `{"text": ...}` and `{"image": ...}` are unpacked.
            prompt: goes before each text.
            task: "query" or "document", which make no difference here.
            max_length: tokens per text.
            processing_kwargs: options of the processor, `{"text": {...}, "image": {...}}`.

        Raises:
            ValueError: texts and pictures together, a pair of texts, an empty text, a prompt for pictures, or an
                unknown task or option.
        """
        if task not in _TASKS:
            raise ValueError(f"task: {task!r} is unknown, use 'query', 'document' or none: they give the same vectors")
        options = {**(processing_kwargs or {})}
        text_options, image_options = options.pop("text", {}), options.pop("image", {})
        if options:
            raise ValueError(f"processing_kwargs: {', '.join(map(repr, options))} unknown, use 'text' or 'image'")
        inputs = [next(iter(one.values())) if isinstance(one, dict) and len(one) == 1 else one for one in inputs]
        kinds = {_kind_of(one) for one in inputs}
        if kinds == {"text"}:
            lengths = {} if max_length is None else {"max_length": max_length}
            texts = _check_texts(inputs, prompt or "")
            return dict(self.processor(text=texts, text_kwargs={**lengths, **text_options}))
        if kinds != {"image"}:
            raise ValueError(f"encode: {' and '.join(sorted(kinds))} in one call: give texts or pictures")
        if prompt:
            raise ValueError("prompt: it goes before texts, and these are pictures; encode texts by encode_query")
        return dict(self.processor(images=inputs, images_kwargs=dict(image_options)))

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Add `sentence_embedding` (B, E * D), with gradient, and for texts `gate_weights` (B, E)."""
        output = self.model(**{name: features[name] for name in _MODEL_INPUTS if name in features}, return_dict=True)
        if output.text_embeds is None:
            return {**features, "sentence_embedding": output.image_embeds.flatten(1)}
        weighted = output.gate_weights.unsqueeze(-1) * output.text_embeds  # (B, E, D)
        return {**features, "sentence_embedding": weighted.flatten(1), "gate_weights": output.gate_weights}


def _require_library() -> None:
    if InputModule is torch.nn.Module:
        raise ImportError("PeMoESentenceModule needs sentence-transformers: pip install 'sentence-transformers>=6'")


def _kind_of(one: object) -> str:
    """Text, image, or what else sentence-transformers takes an input for; no text ends as a picture's path does."""
    if isinstance(one, str) and one.lower().endswith(_PICTURES):
        return "image"
    is_file = isinstance(one, (bytes, bytearray, memoryview, os.PathLike)) or (
        isinstance(one, dict) and "bytes" in one
    )
    return "image" if is_file else infer_modality(one)


def _check_texts(texts: Sequence[object], prompt: str) -> list[str]:
    for text in texts:
        if not isinstance(text, str):
            raise ValueError(f"encode: {text!r} is a pair, give one text at a time")
        if not text.strip():
            raise ValueError("encode: one of the texts is empty, every query needs words")
    return [prompt + text for text in texts]
