"""`PeMoEProcessor`: sentences and pictures to model inputs."""

from __future__ import annotations

from transformers import CLIPImageProcessor, PreTrainedTokenizerBase, ProcessorMixin
from transformers.feature_extraction_utils import BatchFeature

CLIP_MEAN = [0.48145466, 0.4578275, 0.40821073]
CLIP_STD = [0.26862954, 0.26130258, 0.27577711]


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
    def build(cls, tokenizer: PreTrainedTokenizerBase, image_size: int, max_text_tokens: int) -> PeMoEProcessor:
        """The processor of a model: square bicubic resize (aspect not kept), CLIP mean and standard deviation."""
        tokenizer.model_max_length = max_text_tokens
        tokenizer.padding_side = tokenizer.truncation_side = "right"
        image_processor = CLIPImageProcessor(
            size={"height": image_size, "width": image_size},
            resample=3,  # bicubic
            do_center_crop=False,
            do_convert_rgb=True,
            image_mean=CLIP_MEAN,
            image_std=CLIP_STD,
        )
        return cls(image_processor, tokenizer)

    def __call__(self, text=None, images=None, **kwargs) -> BatchFeature:
        """Model inputs as PyTorch tensors.

        Args:
            text: a sentence or a list of sentences, none empty.
            images: a PIL picture or a list of them, of any size and mode.

        Raises:
            ValueError: nothing given, or an empty sentence (its position is named).
        """
        if text is None and images is None:
            raise ValueError("processor: give text, images or both")
        inputs = {}
        if text is not None:
            inputs.update(self._encode_text([text] if isinstance(text, str) else list(text), **kwargs))
        if images is not None:
            inputs.update(self.image_processor(images, return_tensors="pt"))
        return BatchFeature(inputs)

    def _encode_text(self, texts: list[str], **kwargs) -> dict:
        for position, text in enumerate(texts):
            if not isinstance(text, str) or not text.strip():
                raise ValueError(
                    f"processor: text {position} is empty: every image needs a caption, every query words"
                )
        options = {"padding": True, "truncation": True, "return_tensors": "pt", **kwargs}
        encoded = self.tokenizer(texts, **options)
        return {name: encoded[name] for name in ("input_ids", "attention_mask")}
