"""`PeMoEProcessor`: sentences and pictures to model inputs."""

from __future__ import annotations

import copy
import os

from transformers import CLIPImageProcessor, PreTrainedConfig, PreTrainedTokenizerBase, ProcessorMixin
from transformers.feature_extraction_utils import BatchFeature
from transformers.processing_utils import ImagesKwargs, TextKwargs
from transformers.tokenization_utils_base import FULL_TOKENIZER_FILE

from .backbones_pemoe import has_file
from .lora_pemoe import ADAPTER_OPTIONS, resolve_processor
from .pictures_pemoe import Picture, holds_floats, read_pictures

CLIP_MEAN = [0.48145466, 0.4578275, 0.40821073]
CLIP_STD = [0.26862954, 0.26130258, 0.27577711]
_PAIR_OPTIONS = {"text_pair", "text_target", "text_pair_target", "is_split_into_words"}  # not of a single sentence
_CHAT_OPTIONS = {"return_mm_token_type_ids", "return_text_replacement_offsets", "sanitize_control_tokens"}
_LEFT_OUT = {"padding_side"}  # the experts read the first token, which must be CLS, no padding
_ALWAYS_DONE = {"do_convert_rgb"}  # whatever form a picture has, it is read as RGB
_RESCALING = {"do_rescale": True, "rescale_factor": 1 / 255}
_OPTIONS = {
    "text_kwargs": set(TextKwargs.__annotations__) - _PAIR_OPTIONS - _CHAT_OPTIONS - _LEFT_OUT,
    "images_kwargs": set(ImagesKwargs.__annotations__) - _ALWAYS_DONE,
}


class PeMoEProcessor(ProcessorMixin):
    """Tokenizer and image processor of a PE-MoE checkpoint.

    Args:
        image_processor: turns pictures into `pixel_values (B, 3, H, W)`.
        tokenizer: turns sentences into `input_ids` and `attention_mask (B, S)`; its `model_max_length` truncates.

    Example:
        >>> processor(text=["round white arena"], images=[picture])  # doctest: +SKIP
        {'input_ids': ..., 'attention_mask': ..., 'pixel_values': ...}
    """

    text_kwargs = {  # noqa: RUF012 - ProcessorMixin's place for defaults
        "padding": True,
        "truncation": True,
        "return_attention_mask": True,
        "return_token_type_ids": False,
        "return_tensors": "pt",
    }
    images_kwargs = {"return_tensors": "pt"}  # noqa: RUF012

    def __init__(self, image_processor: CLIPImageProcessor, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__(image_processor, tokenizer)

    @classmethod
    def build(cls, tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig) -> PeMoEProcessor:
        """The processor of the model of `config`, around a copy of its text backbone's tokenizer.

        Pictures are resized to a square, bicubic (aspect not kept), and normalised as the backbone wants.
        """
        tokenizer = copy.deepcopy(tokenizer)
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
        processor = cls(image_processor, tokenizer)
        processor(text="any")  # a call sets truncation and padding in the tokenizer, which is saved with them
        return processor

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **options: object) -> PeMoEProcessor:
        """The processor of a checkpoint, Hub id or directory; of a LoRA platform's folder that of its base.

        `options` are those of `ProcessorMixin.from_pretrained`.

        Raises:
            OSError: no such repository or directory, or it has no tokenizer.
        """
        name, options = resolve_processor(pretrained_model_name_or_path, options)
        try:
            return super().from_pretrained(name, **options)
        except ValueError as error:  # which speaks of every kind of tokenizer but names no file
            hub = {option: options[option] for option in ADAPTER_OPTIONS if option in options}
            if has_file(name, FULL_TOKENIZER_FILE, hub):
                raise
            what = f"holds no {FULL_TOKENIZER_FILE}; save the processor there, or download it again"
            raise OSError(f"{name}: {what}") from error

    def __call__(
        self, images: Picture | list[Picture] | None = None, text: str | list[str] | None = None, **options: object
    ) -> BatchFeature:
        """Model inputs, PyTorch tensors unless `return_tensors` names another kind.

        Args:
            images: one picture or a list of them, of any size: PIL pictures of any mode, paths, encoded bytes,
                `{"bytes", "path"}` as `datasets` keeps them, numpy arrays or torch tensors (a 4-d one is a list).
                Each is read upright, as EXIF says, with 8 bits per channel, as RGB on white; `pictures_pemoe` has
                the table. `input_data_format` says where an array's channels stand, where its shape leaves it open.
            text: a sentence or a list of sentences, none empty.
            options: as in every `ProcessorMixin`: options of the tokenizer (`max_length`, `add_special_tokens`, ...)
                and of the image processor (`do_rescale`, `device`, ...), given flat or in `text_kwargs` and
                `images_kwargs`; `return_tensors` reaches both, `device` is where pictures are processed and stay.

        Returns:
            `input_ids` and `attention_mask`, `pixel_values`, and what else the options ask the tokenizer for.

        Raises:
            ValueError: nothing given, an unknown option (it is named), one given twice, an empty sentence, or
                something that is no picture (its position is named); `do_rescale=False` or `rescale_factor` for
                floats, which are taken to 0..255 here.
            OSError: a missing file, or one that cannot be decoded (its position is named).
        """
        if text is None and images is None:
            raise ValueError("processor: give text, images or both")
        unknown = set(options) - set(_OPTIONS) - set().union(*_OPTIONS.values())
        for group, known in _OPTIONS.items():
            unknown |= {f"{group}[{name!r}]" for name in set(options.get(group) or ()) - known}
        if unknown:
            raise ValueError(f"processor: {', '.join(sorted(unknown))}: no option of the tokenizer or image processor")
        # without `tokenizer_init_kwargs`: what a tokenizer was once saved with would beat this class's defaults
        merged = self._merge_kwargs(**options)
        inputs = {}
        if text is not None:
            texts = [text] if isinstance(text, str) else list(text)
            for position, one in enumerate(texts):
                if not isinstance(one, str) or not one.strip():
                    what = "every image needs a caption, every query words"
                    raise ValueError(f"processor: text {position} is empty: {what}")
            inputs.update(self.tokenizer(texts, **merged["text_kwargs"]))
        if images is not None:
            inputs.update(self._process_images(images, **merged["images_kwargs"]))
        return BatchFeature(inputs)

    def _process_images(
        self, images: Picture | list[Picture], input_data_format: str | None = None, **options: object
    ) -> BatchFeature:
        unusual = [name for name, usual in _RESCALING.items() if options.get(name) not in (None, usual)]
        if unusual and holds_floats(images):
            asked = ", ".join(f"{name}={options[name]}" for name in unusual)
            raise ValueError(f"processor: {asked}, but floats are taken to 0..255 first; leave it out")
        return self.image_processor(read_pictures(images, input_data_format), **options)
