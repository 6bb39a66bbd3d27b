"""Evaluating a model on a split: every caption is a query, every image is in one mixed gallery."""

from __future__ import annotations

from dataclasses import dataclass

import datasets
import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from pemoe.datasets_scripts.schema import PLATFORMS
from pemoe.modeling_pemoe import PeMoEModel, PeMoEProcessor
from pemoe.modeling_pemoe.modeling_pemoe import fuse_text
from pemoe.retrieval.metrics import CUTOFFS, chance_recall, evaluate_retrieval, first_hit_ranks


@dataclass(frozen=True)
class EmbeddedSplit:
    """A split as vectors: Q queries (all captions, in row order) and G images.

    query: `(Q, E * D)`; gallery: `(G, E * D)`; query_row: `(Q,)` row whose caption the query is;
    place_id: `(G,)` strings; platform: `(G,)` int64, numbers in platform_names, -1 unknown; texts: the Q queries;
    gate_weights: `(Q, E)`.
    """

    query: np.ndarray
    gallery: np.ndarray
    query_row: np.ndarray
    place_id: np.ndarray
    platform: np.ndarray
    texts: list[str]
    gate_weights: np.ndarray
    platform_names: tuple[str, ...] = PLATFORMS

    @property
    def query_place_id(self) -> np.ndarray:
        """Place of each query, `(Q,)`."""
        return self.place_id[self.query_row]

    @property
    def query_platform(self) -> np.ndarray:
        """Platform of each query's own image, `(Q,)`."""
        return self.platform[self.query_row]


@torch.no_grad()
def run_image_trunk(
    model: PeMoEModel,
    processor: PeMoEProcessor,
    rows: datasets.Dataset,
    batch_size: int = 64,
    show_progress: bool = False,
) -> Tensor:
    """Trunk states of every image `(rows, N, W)`, on the CPU; the trunk is frozen, so they serve every expert."""
    images = rows.select_columns(["image"])
    states = []
    for start in tqdm(range(0, len(rows), batch_size), disable=not show_progress, desc="images"):
        batch = processor(images=images[start : start + batch_size]["image"]).to(model.device)
        states.append(model.encode_image_trunk(batch["pixel_values"]).cpu())
    return torch.cat(states)


def embed_split(
    model: PeMoEModel,
    processor: PeMoEProcessor,
    rows: datasets.Dataset,
    batch_size: int = 64,
    show_progress: bool = False,
    image_states: Tensor | None = None,
) -> EmbeddedSplit:
    """Embed all captions and images of a split.

    Args:
        model, processor: a checkpoint.
        rows: a split with the columns of `schema.FEATURES`.
        batch_size: items per forward pass.
        show_progress: draw progress bars.
        image_states: output of `run_image_trunk` for these rows; None computes it.

    Returns:
        `EmbeddedSplit`.
    """
    captions = rows["captions"][:]
    texts = [text for row in captions for text in row]
    query, weights = _embed_texts(model, processor, texts, batch_size, show_progress)
    if image_states is None:
        gallery = _embed_images(model, processor, rows, batch_size, show_progress)
    else:
        gallery = _embed_states(model, image_states, batch_size)
    return EmbeddedSplit(
        query=query,
        gallery=gallery,
        query_row=np.repeat(np.arange(len(rows)), [len(row) for row in captions]),
        place_id=np.asarray(rows["place_id"][:], dtype=str),
        platform=np.asarray([-1 if number is None else number for number in rows["platform"]], dtype=np.int64),
        texts=texts,
        gate_weights=weights,
        platform_names=tuple(rows.features["platform"].names),
    )


def evaluate_split(
    model: PeMoEModel, processor: PeMoEProcessor, rows: datasets.Dataset, batch_size: int = 64
) -> dict[str, object]:
    """Embed a split and score it; see `score_split`."""
    return score_split(embed_split(model, processor, rows, batch_size))


def score_split(split: EmbeddedSplit) -> dict[str, object]:
    """Recall, Score and chance of a split, in all and by the platform of the query's image.

    Returns:
        `{"n_queries", "recall_at_1", "recall_at_5", "recall_at_10", "score", "chance_recall_at_1", ...,
        "i2t_recall_at_1", ..., "per_platform": {platform: the same keys without i2t}}`; fractions. The gallery is
        always the whole mixed one; platforms without queries are left out.
    """
    both_ways = evaluate_retrieval(split.query, split.gallery, split.query_place_id, split.place_id)
    ranks = first_hit_ranks(split.query, split.gallery, split.query_place_id, split.place_id)
    results = _figures(split, ranks, np.ones(len(ranks), dtype=bool))
    results.update({name: value for name, value in both_ways.items() if name.startswith("i2t_")})
    results["per_platform"] = {
        platform: _figures(split, ranks, split.query_platform == number)
        for number, platform in enumerate(split.platform_names)
        if (split.query_platform == number).any()
    }
    return results


def _figures(split: EmbeddedSplit, ranks: np.ndarray, chosen: np.ndarray) -> dict[str, float]:
    figures: dict[str, float] = {"n_queries": int(chosen.sum())}
    for k in CUTOFFS:
        figures[f"recall_at_{k}"] = float(((ranks[chosen] >= 0) & (ranks[chosen] < k)).mean())
    figures["score"] = (figures["recall_at_1"] + figures["recall_at_10"]) / 2
    for k in CUTOFFS:
        figures[f"chance_recall_at_{k}"] = chance_recall(split.query_place_id[chosen], split.place_id, k)
    return figures


@torch.no_grad()
def _embed_texts(
    model: PeMoEModel, processor: PeMoEProcessor, texts: list[str], batch_size: int, show_progress: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Fused query vectors and gate weights, texts sorted by length so that batches are hardly padded."""
    order = np.argsort([len(text) for text in texts], kind="stable")
    query = np.zeros((len(texts), model.config.num_experts * model.config.embed_dim), dtype=np.float32)
    weights = np.zeros((len(texts), model.config.num_experts), dtype=np.float32)
    model.eval()
    for start in tqdm(range(0, len(texts), batch_size), disable=not show_progress, desc="queries"):
        chosen = order[start : start + batch_size]
        inputs = processor(text=[texts[position] for position in chosen]).to(model.device)
        output = model.get_text_features(**inputs)
        query[chosen] = fuse_text(output).cpu().numpy()
        weights[chosen] = output.gate_weights.cpu().numpy()
    return query, weights


def _embed_images(
    model: PeMoEModel, processor: PeMoEProcessor, rows: datasets.Dataset, batch_size: int, show_progress: bool
) -> np.ndarray:
    images = rows.select_columns(["image"])
    parts = []  # batch by batch: a decoded split would not fit into memory
    for start in tqdm(range(0, len(rows), batch_size), disable=not show_progress, desc="images"):
        parts.append(model.encode_images(images[start : start + batch_size]["image"], processor, batch_size))
    return np.concatenate(parts)


@torch.no_grad()
def _embed_states(model: PeMoEModel, image_states: Tensor, batch_size: int) -> np.ndarray:
    model.eval()
    parts = [model(image_states=part.to(model.device)).image_embeds for part in image_states.split(batch_size)]
    return torch.cat(parts).flatten(1).cpu().numpy()
