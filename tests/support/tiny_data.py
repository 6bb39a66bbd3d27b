"""Small splits and processors for training tests: coloured squares, one colour per place."""

from __future__ import annotations

import io

import datasets
import numpy as np
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from pemoe.datasets_scripts.schema import FEATURES, PLATFORMS
from pemoe.modeling_pemoe import PeMoEConfig, PeMoEProcessor

COLOURS = ("red", "green", "blue", "white", "black", "brown", "grey", "teal", "pink", "gold")
WORDS = ("<s>", "<pad>", "</s>", "<unk>", "roof", "wall", "door", "seen", "from", *PLATFORMS, *COLOURS)


def build_processor(image_size: int = 56) -> PeMoEProcessor:
    """A word-level tokenizer laid out as XLM-R's, and the model's image processor."""
    tokenizer = Tokenizer(models.WordLevel({word: k for k, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    return PeMoEProcessor.build(fast, PeMoEConfig.preset("tiny", image_size=image_size))


def build_split(places: int = 6, drone_views: int = 2, split: str = "train") -> datasets.Dataset:
    """One satellite, `drone_views` drone and one ground picture per place."""
    rows = []
    for place in range(places):
        views = ["satellite", *["drone"] * drone_views, "ground"]
        rows += [build_row(place, platform, number, split) for number, platform in enumerate(views)]
    return datasets.Dataset.from_list(rows, features=FEATURES)


def build_row(place: int, platform: str, number: int, split: str) -> dict:
    colour = COLOURS[place % len(COLOURS)]
    rng = np.random.default_rng((place, number, 7))
    pixels = np.full((40, 40, 3), 20 * place + 30, dtype=np.uint8) + rng.integers(0, 25, (40, 40, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    texts = [f"{colour} roof seen from {platform}", f"{colour} wall {platform}", f"{colour} door"]
    return {
        "image": {"bytes": buffer.getvalue(), "path": None},
        "image_id": f"{place:04d}/image-{number:02d}.png",
        "place_id": f"{place:04d}",
        "platform": platform,
        "captions": texts,
        "refined_captions": texts[:2] if split == "train" else [],
        "regions": [],
        "latitude_deg": None,
        "longitude_deg": None,
        "source": "campus",
        "split": split,
    }
