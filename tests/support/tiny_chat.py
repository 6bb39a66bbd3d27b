"""Small random chat models on disk, as transformers saves them: Qwen2 for text, Llava for pictures and text."""

from __future__ import annotations

import string
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

IMAGE_PX, PATCH_PX = 28, 14
TEXT_TEMPLATE = "{% for m in messages %}<s>{{ m['role'] }} {{ m['content'] }}</s>{% endfor %}<s>assistant "
IMAGE_TEMPLATE = (
    "{% for m in messages %}<s>{{ m['role'] }} {% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for p in m['content'] %}{% if p['type'] == 'image' %}<image>{% else %}{{ p['text'] }}{% endif %}{% endfor %}"
    "{% endif %}</s>{% endfor %}<s>assistant "
)


def build_tokenizer(template: str) -> PreTrainedTokenizerFast:
    """One token for every printable character."""
    letters = ["<pad>", "<s>", "</s>", "<image>", "<unk>", *string.printable]
    tokenizer = Tokenizer(models.BPE({letter: k for k, letter in enumerate(letters)}, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=["<image>"],
        chat_template=template,
        model_max_length=8192,
    )


def text_config(vocabulary: int) -> Qwen2Config:
    return Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=8192,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )


def write_text_chat(directory: Path, template: str | None = TEXT_TEMPLATE) -> Path:
    torch.manual_seed(0)
    tokenizer = build_tokenizer(template)
    Qwen2ForCausalLM(text_config(len(tokenizer))).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def write_image_chat(directory: Path) -> Path:
    torch.manual_seed(0)
    tokenizer = build_tokenizer(IMAGE_TEMPLATE)
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=IMAGE_PX,
        patch_size=PATCH_PX,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text_config(len(tokenizer)),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
    )
    LlavaForConditionalGeneration(config).save_pretrained(directory)
    size = {"height": IMAGE_PX, "width": IMAGE_PX}
    image_processor = CLIPImageProcessor(size={"shortest_edge": IMAGE_PX}, crop_size=size)
    processor = LlavaProcessor(
        image_processor,
        tokenizer,
        patch_size=PATCH_PX,
        vision_feature_select_strategy="default",
        chat_template=IMAGE_TEMPLATE,
        image_token="<image>",
        num_additional_image_tokens=1,
    )
    processor.save_pretrained(directory)
    return directory
