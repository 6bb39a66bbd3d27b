"""Makes the small backbones that ship with the package.

`python -m pemoe.trainers.experiments.pretrain_backbones --output DIR`

They stand in for BGE-M3 and EVA-CLIP where nothing can be downloaded: an XLM-R and an EVA (rope) encoder of the same
classes, pretrained on rendered places that appear in no training or test split, with long and short captions of all
platforms mixed. The CLS of a text must tell its words (as RetroMAE trains BGE-M3), the pooled image the words of its
caption (as SuperClass, Huang et al. 2024), and both must find each other (CLIP).
"""

from __future__ import annotations

import argparse
import json
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
from pemoe.trainers.batches.pairs import number_places

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
        for module in (*self.text.modules(), *self.vision.modules()):
            if isinstance(module, nn.Linear):  # at this width the usual 0.02 leaves CLS deaf to the words for long
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
        self.words = nn.Linear(config.embed_dim, config.text_config.vocab_size)
        self.logit_scale = nn.Parameter(torch.tensor(config.logit_scale_init))

    def forward(self, input_ids: Tensor, attention_mask: Tensor, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """Features of texts and images, `(B, D)` each, not normalised."""
        text = self.text(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state[:, 0]
        return text, self.visual_projection(self.vision(pixel_values))


def word_loss(logits: Tensor, input_ids: Tensor, rarity: Tensor) -> Tensor:
    """Cross-entropy with the words of a caption, rare ones counting more; `(B, V)`, `(B, S)`, `(V,)` -> scalar."""
    present = torch.zeros_like(logits).scatter(1, input_ids, 1.0) * rarity  # (B, V)
    targets = present / present.sum(1, keepdim=True).clamp(min=1e-6)
    return -(targets * logits.log_softmax(-1)).sum(1).mean()


def count_rarity(texts: list[str], processor: PeMoEProcessor, vocab_size: int) -> Tensor:
    """log(texts / texts with the piece), 0 for special tokens and pieces never seen; `(V,)`."""
    seen = torch.zeros(vocab_size)
    for text in texts:
        seen[list(set(processor.tokenizer(text)["input_ids"]))] += 1
    rarity = torch.where(seen > 0, (len(texts) / seen.clamp(min=1)).log(), 0.0)
    rarity[: len(SPECIAL_TOKENS)] = 0.0
    return rarity


def pretrain(places: int, steps: int, batch_size: int, seed: int, learning_rate: float) -> tuple[Clip, PeMoEProcessor]:
    """Render places of the split namespace "pretrain", train a tokenizer on their captions and CLIP on the pairs."""
    rows = Dataset.from_list(campus_rows("pretrain", places, seed), features=FEATURES)
    config = PeMoEConfig.preset("campus", platforms=["all"], tail_dropout=0.0)
    texts = [text for captions in rows["captions"] for text in captions]
    tokenizer = train_tokenizer(texts, config.text_config.vocab_size)
    processor = PeMoEProcessor.build(tokenizer, config)
    torch.manual_seed(seed)
    config.text_config.vocab_size = len(tokenizer)
    clip = Clip(config)
    optimizer = torch.optim.AdamW(clip.parameters(), lr=learning_rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, steps, pct_start=0.04)
    info_nce, rarity = InfoNCELoss(), count_rarity(texts[::7], processor, len(tokenizer))
    progress = tqdm(draw_batches(rows, processor, steps, batch_size, seed), total=steps)
    for inputs, short, place_id in progress:
        with torch.autocast("cpu", torch.bfloat16):
            features = clip(**inputs)
            words = [clip.words(part) for part in features]
        ids = inputs["input_ids"], short["input_ids"]
        own_words = [word_loss(logits.float(), side, rarity) for logits, side in zip(words, ids, strict=True)]
        joined = (F.normalize(part.float(), dim=-1) for part in features)
        contrast = info_nce(*joined, place_id, clip.logit_scale)["loss"]
        loss = contrast + sum(own_words)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(clip.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        progress.set_postfix(contrast=contrast.item(), text=own_words[0].item(), image=own_words[1].item())
    return clip.eval(), processor


def draw_batches(
    rows: Dataset, processor: PeMoEProcessor, steps: int, batch_size: int, seed: int
) -> Iterator[tuple[dict, dict, Tensor]]:
    """Batches of one image per place: model inputs with one of its captions, its two shortest captions, its place."""
    rng = np.random.default_rng(seed)
    place_id = number_places(rows["place_id"][:])
    captions = rows["captions"][:]
    by_place = [np.flatnonzero(place_id == place) for place in range(place_id.max() + 1)]
    batches = (rows[start : start + 64]["image"] for start in range(0, len(rows), 64))
    pixels = torch.cat([processor(images=images)["pixel_values"].bfloat16() for images in batches])
    for _ in range(steps):
        places = rng.choice(len(by_place), size=min(batch_size, len(by_place)), replace=False)
        chosen = np.array([rng.choice(by_place[place]) for place in places])
        texts = [captions[row][rng.integers(len(captions[row]))] for row in chosen]
        inputs = dict(processor(text=texts, max_length=CONTEXT_TOKENS))
        shortest = [" ".join(sorted(captions[row], key=len)[:2]) for row in chosen]
        short = processor(text=shortest, max_length=CONTEXT_TOKENS)
        inputs["pixel_values"] = pixels[chosen].float()
        yield inputs, short, torch.from_numpy(place_id[chosen])


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
    defaults = {"places": 1200, "steps": 2200, "batch-size": 64, "seed": 2024, "learning-rate": 1e-3}
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    options = vars(parser.parse_args(argv))
    output = options.pop("output")
    save_backbones(*pretrain(**options), output)


if __name__ == "__main__":
    main()
