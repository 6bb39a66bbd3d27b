"""Mining a training split: each expert searches among the pictures of its own platform."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import datasets
import numpy as np
from torch import Tensor

from pemoe.common.files import write_atomically
from pemoe.modeling_pemoe import PeMoEModel, PeMoEProcessor
from pemoe.retrieval.embedding import embed_rows
from pemoe.trainers.data import PairCollator, PairDataset, model_inputs
from pemoe.trainers.mining.hard_negatives import FalseNegatives, mine_hard_negatives
from pemoe.trainers.samplers import Visit

NEGATIVES = "negatives.npy"


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
        rows, k: the training split, and negatives per row.
        caption_column, seed, batch_size: as in training; items per forward pass.
        positive_ratio: leave out images that score above `p - (1 - positive_ratio) * |p|`, p the score of the row's
            own image, as likely false negatives (see `FalseNegatives`); None leaves out the same place alone.
        image_states: trunk states of the rows; None runs the trunk.

    Returns:
        `(rows, k)` int64 row numbers; -1 where fewer were found, and for platforms the model has no expert for.
    """
    pairs, collate = PairDataset(rows, caption_column, seed, image_states=image_states), PairCollator(processor)
    negatives = np.full((len(rows), k), -1, dtype=np.int64)
    for expert in model.config.platforms:
        number = pairs.platform_names.index(expert) if expert in pairs.platform_names else -1
        chosen = np.arange(len(pairs)) if model.config.is_unified else np.flatnonzero(pairs.platform_id == number)
        if not len(chosen):
            continue

        def embed(numbers: Sequence[int], expert: str = expert) -> tuple[Tensor, Tensor]:
            inputs = model_inputs(collate([pairs[Visit(int(row), 0)] for row in numbers]))
            output = model(**{name: part.to(model.device) for name, part in inputs.items()}, experts=[expert])
            return output.text_embeds[:, 0], output.image_embeds[:, 0]

        query, gallery = (part.numpy() for part in embed_rows(model, chosen, embed, batch_size))  # (n, D) each
        places = pairs.place_id[chosen]
        exclude = None
        if positive_ratio is not None:
            own = (query * gallery).sum(axis=1)  # (n,)
            exclude = FalseNegatives(positive_scores=own, positive_ratio=positive_ratio)
        found, _ = mine_hard_negatives(query, gallery, places, places, k, exclude=exclude)
        negatives[chosen] = np.where(found >= 0, chosen[found], -1)
    return negatives


def save_negatives(directory: Path, negatives: np.ndarray) -> None:
    """Write `negatives.npy`, whole or not at all."""
    array = io.BytesIO()
    np.save(array, negatives)
    write_atomically(directory / NEGATIVES, lambda path: path.write_bytes(array.getvalue()))
