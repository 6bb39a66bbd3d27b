"""`PeMoEProcessor`: sentences and pictures to model inputs."""

from __future__ import annotations

from transformers import CLIPImageProcessor, PreTrainedConfig, PreTrainedTokenizerBase, ProcessorMixin
from transformers.feature_extraction_utils import BatchFeature

CLIP_MEAN = [0.48145466, 0.4578275, 0.40821073]
CLIP_STD = [0.26862954, 0.26130258, 0.27577711]
TEXT_OPTIONS = {"padding", "truncation", "max_length"}


class PeMoEProcessor(ProcessorMixin):
    """Tokenizer and image processor of a PE-MoE checkpoint.

    Args:
        image_processor: turns pictures into `pixel_values (B, 3, H, W)`.
        tokenizer: turns sentences into `input_ids` and `attention_mask (B, S)`; its `model_max_length` truncates.

    Example:
        >>> processor(text=["round white arena"], images=[picture])  # doctest: +SKIP
        {'input_ids': ..., 'attention_mask': ..., 'pixel_values': ...}
    """

    def __init__(self, image_processor: CLIPImageProcessor, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__(image_processor, tokenizer)

    @classmethod
    def build(cls, tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig) -> PeMoEProcessor:
        """The processor of a model: square bicubic resize (aspect not kept), normalised as the backbone wants."""
        tokenizer.model_max_length = config.max_text_tokens
        tokenizer.padding_side = tokenizer.truncation_side = "right"
        image_processor = CLIPImageProcessor(
            size={"height": config.image_size, "width": config.image_size},
            resample=3,  # bicubic
            do_center_crop=False,
            do_convert_rgb=True,
            image_mean=config.vision_config.get("image_mean", CLIP_MEAN),
            image_std=config.vision_config.get("image_std", CLIP_STD),
        )
        return cls(image_processor, tokenizer)

    def __call__(
        self, text: str | list[str] | None = None, images: object = None, **text_options: object
    ) -> BatchFeature:
        """Model inputs as PyTorch tensors.

        Args:
            text: a sentence or a list of sentences, none empty.
            images: a PIL picture or a list of them, of any size and mode.
            text_options: `padding`, `truncation` and `max_length` of the tokenizer; tensors are always PyTorch's.

        Raises:
            ValueError: nothing given, an unknown option, or an empty sentence (its position is named).
        """
        if text is None and images is None:
            raise ValueError("processor: give text, images or both")
        if text_options.pop("return_tensors", "pt") != "pt" or set(text_options) - TEXT_OPTIONS:
            raise ValueError(f"processor: options are {', '.join(sorted(TEXT_OPTIONS))}, and tensors are PyTorch's")
        inputs = {}
        if text is not None:
            inputs.update(self._encode_text([text] if isinstance(text, str) else list(text), **text_options))
        if images is not None:
            inputs.update(self.image_processor(images, return_tensors="pt"))
        return BatchFeature(inputs)

    def _encode_text(self, texts: list[str], **options: object) -> dict:
        for position, text in enumerate(texts):
            if not isinstance(text, str) or not text.strip():
                raise ValueError(
                    f"processor: text {position} is empty: every image needs a caption, every query words"
                )
        encoded = self.tokenizer(texts, return_tensors="pt", **{"padding": True, "truncation": True, **options})
        return {name: encoded[name] for name in ("input_ids", "attention_mask")}
