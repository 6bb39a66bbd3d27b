"""Mining a split: each expert searches its own platform's training images for the wrong places it confuses."""

from __future__ import annotations

import datasets
import numpy as np
import torch
from torch import Tensor

from pemoe.modeling_pemoe import PeMoEModel, PeMoEProcessor
from pemoe.trainers.mining import FalseNegatives, mine_hard_negatives
from pemoe.trainers.pairs import PairDataset
from pemoe.trainers.samplers import Visit


@torch.no_grad()
def mine_split(  # noqa: PLR0913 -- the model, the rows, and what training uses of them
    model: PeMoEModel,
    processor: PeMoEProcessor,
    rows: datasets.Dataset,
    k: int,
    caption_column: str = "refined_captions",
    seed: int = 0,
    batch_size: int = 64,
    positive_ratio: float | None = None,
    image_states: Tensor | None = None,
) -> np.ndarray:
    """Hard negatives of every row: the `k` best-scoring images of other places, by cos(t_k, v_k).

    Expert k searches inside its own platform; the unified model searches everything. One caption per row is the
    query, drawn as in the first visit of training.

    Args:
        model, processor: what the first stage trained.
        rows: the training split.
        k: negatives per row.
        caption_column, seed: as in training.
        batch_size: items per forward pass.
        positive_ratio: leave out images that score above `p - (1 - positive_ratio) * |p|`, p the score of the row's
            own image, as likely false negatives (see `FalseNegatives`); None leaves out the same place alone.
        image_states: trunk states of the rows; None runs the trunk.

    Returns:
        `(rows, k)` int64 row numbers; -1 where fewer were found, and for platforms the model has no expert for.
    """
    pairs = PairDataset(rows, caption_column, seed, image_states=image_states)
    negatives = np.full((len(rows), k), -1, dtype=np.int64)
    for expert in model.config.platforms:
        chosen = np.arange(len(pairs)) if model.config.is_unified else _rows_of(expert, pairs)
        if not len(chosen):
            continue
        query, gallery = _embed_rows(model, processor, pairs, chosen, expert, batch_size)
        places = pairs.place_id[chosen]
        exclude = None
        if positive_ratio is not None:
            own = (query * gallery).sum(axis=1)  # (n,)
            exclude = FalseNegatives(positive_scores=own, positive_ratio=positive_ratio)
        found, _ = mine_hard_negatives(query, gallery, places, places, k, exclude=exclude)
        negatives[chosen] = np.where(found >= 0, chosen[found], -1)
    return negatives


def _rows_of(platform: str, pairs: PairDataset) -> np.ndarray:
    names = pairs.platform_names
    return np.flatnonzero(pairs.platform_id == (names.index(platform) if platform in names else -1))


def _embed_rows(
    model: PeMoEModel, processor: PeMoEProcessor, pairs: PairDataset, chosen: np.ndarray, expert: str, batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """One expert's text and image vectors of the chosen rows, `(n, D)` each."""
    was_training = model.training
    model.eval()
    texts, images = [], []
    for start in range(0, len(chosen), batch_size):
        batch = [pairs[Visit(int(row), 0)] for row in chosen[start : start + batch_size]]
        inputs = dict(processor(text=[pair["text"] for pair in batch]))
        if pairs.image_states is None:
            inputs.update(processor(images=[pair["image"] for pair in batch]))
        else:
            inputs["image_states"] = torch.stack([pair["image"] for pair in batch])
        output = model(**{name: tensor.to(model.device) for name, tensor in inputs.items()}, experts=[expert])
        texts.append(output.text_embeds[:, 0].cpu())
        images.append(output.image_embeds[:, 0].cpu())
    model.train(was_training)
    return torch.cat(texts).numpy(), torch.cat(images).numpy()
