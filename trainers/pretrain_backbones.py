"""Makes the small backbones that ship with the package: `python -m pemoe.trainers.pretrain_backbones --output DIR`.

They stand in for BGE-M3 and EVA-CLIP where nothing can be downloaded: an XLM-R and an EVA (rope) encoder of the same
classes, aligned by CLIP's loss on rendered places that appear in no training or test split, with captions that mix all
platforms. They know the campus's things and words, and nothing about what a platform sees or how queries are put.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import AutoModel, PreTrainedTokenizerFast

from pemoe.datasets_scripts.campus.source import campus_rows
from pemoe.datasets_scripts.schema import FEATURES
from pemoe.modeling_pemoe import InfoNCELoss, PeMoEConfig, PeMoEProcessor
from pemoe.modeling_pemoe.vision_pemoe import build_vision_encoder
from pemoe.trainers.pairs import number_places

logger = logging.getLogger(__name__)

SPECIAL_TOKENS = ["<s>", "<pad>", "</s>", "<unk>"]  # ids 0 to 3, as in XLM-R
CONTEXT_TOKENS = 64


def train_tokenizer(texts: list[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A lower-casing unigram tokenizer of at most `vocab_size` pieces, laid out as XLM-R's."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()])
    tokenizer.decoder = decoders.Metaspace()
    alphabet = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size, special_tokens=SPECIAL_TOKENS, unk_token="<unk>", initial_alphabet=alphabet
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    names = dict(zip(("bos_token", "pad_token", "eos_token", "unk_token"), SPECIAL_TOKENS, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names, cls_token="<s>", sep_token="</s>")


class Clip(nn.Module):
    """Both encoders with a projection each and one temperature: what CLIP trains."""

    def __init__(self, config: PeMoEConfig) -> None:
        super().__init__()
        self.text = AutoModel.from_config(config.text_config, add_pooling_layer=False)
        self.vision = build_vision_encoder(config.vision_config, config.image_size)
        self.visual_projection = nn.Linear(self.vision.num_features, config.embed_dim, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(config.logit_scale_init))

    def forward(self, input_ids: Tensor, attention_mask: Tensor, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """Unit rows of texts and images, `(B, D)` each."""
        text = self.text(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state[:, 0]
        image = self.visual_projection(self.vision(pixel_values))
        return F.normalize(text.float(), dim=-1), F.normalize(image.float(), dim=-1)


def pretrain(places: int, steps: int, batch_size: int, seed: int, learning_rate: float) -> tuple[Clip, PeMoEProcessor]:
    """Render places of the split namespace "pretrain", train a tokenizer on their captions and CLIP on the pairs."""
    rows = Dataset.from_list(campus_rows("pretrain", places, seed), features=FEATURES)
    config = PeMoEConfig.preset("campus", platforms=["all"], tail_dropout=0.0)
    tokenizer = train_tokenizer([t for captions in rows["captions"] for t in captions], config.text_config.vocab_size)
    processor = PeMoEProcessor.build(tokenizer, config.image_size, config.max_text_tokens)
    torch.manual_seed(seed)
    config.text_config.vocab_size = len(tokenizer)
    clip = Clip(config)
    optimizer = torch.optim.AdamW(clip.parameters(), lr=learning_rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, steps, pct_start=0.04)
    info_nce = InfoNCELoss()
    progress = tqdm(draw_batches(rows, processor, steps, batch_size, seed), total=steps)
    for inputs, place_id in progress:
        with torch.autocast("cpu", torch.bfloat16):
            embeds = clip(**inputs)
        loss = info_nce(*embeds, place_id, clip.logit_scale)["loss"]
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(clip.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        progress.set_postfix(loss=round(loss.item(), 3))
    return clip.eval(), processor


def draw_batches(
    rows: Dataset, processor: PeMoEProcessor, steps: int, batch_size: int, seed: int
) -> Iterator[tuple[dict, Tensor]]:
    """Random batches of one image per place, with one of its captions; yields model inputs and places."""
    rng = np.random.default_rng(seed)
    place_id = number_places(rows["place_id"][:])
    captions = rows["captions"][:]
    by_place = [np.flatnonzero(place_id == place) for place in range(place_id.max() + 1)]
    pixels = torch.cat(
        [
            processor(images=rows[start : start + 64]["image"])["pixel_values"].bfloat16()
            for start in range(0, len(rows), 64)
        ]
    )
    for _ in range(steps):
        places = rng.choice(len(by_place), size=min(batch_size, len(by_place)), replace=False)
        chosen = np.array([rng.choice(by_place[place]) for place in places])
        texts = [captions[row][rng.integers(len(captions[row]))] for row in chosen]
        inputs = dict(processor(text=texts, max_length=CONTEXT_TOKENS))
        inputs["pixel_values"] = pixels[chosen].float()
        yield inputs, torch.from_numpy(place_id[chosen])


def save_backbones(clip: Clip, processor: PeMoEProcessor, output: Path) -> None:
    """Write `text/` as transformers and `vision/` as timm lays its repositories out, weights in bf16."""
    clip.bfloat16()
    clip.text.save_pretrained(output / "text")
    processor.tokenizer.save_pretrained(output / "text")
    vision = output / "vision"
    vision.mkdir(parents=True, exist_ok=True)
    description = PeMoEConfig.preset("campus").vision_config
    (vision / "config.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    save_file(clip.vision.state_dict(), vision / "model.safetensors", metadata={"format": "pt"})


def main(argv: list[str] | None = None) -> None:
    """Command line; the shipped weights were made with the defaults."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--places", type=int, default=1500)
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=2024)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    options = parser.parse_args(argv)
    clip, processor = pretrain(options.places, options.steps, options.batch_size, options.seed, options.learning_rate)
    save_backbones(clip, processor, options.output)


if __name__ == "__main__":
    main()
