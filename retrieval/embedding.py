"""Rows as vectors: one loop over batches, and a whole split embedded with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import datasets
import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from pemoe.datasets_scripts.schema import PLATFORMS
from pemoe.modeling_pemoe import PeMoEModel, PeMoEProcessor
from pemoe.modeling_pemoe.modeling_pemoe import fuse_images, fuse_text
from pemoe.retrieval.feature_cache import ImageStates


@dataclass(frozen=True)
class EmbeddedSplit:
    """A split as vectors: Q queries (all captions, in row order) and G images.

    query: `(Q, E * D)`; gallery: `(G, E * D)`; query_row: `(Q,)` row whose caption the query is;
    place_id: `(G,)` strings; platform: `(G,)` int64, numbers in platform_names, -1 unknown; texts: the Q queries;
    gate_weights: `(Q, E)`, of the experts `expert_names`; gate: its kind in the model's configuration.
    """

    query: np.ndarray
    gallery: np.ndarray
    query_row: np.ndarray
    place_id: np.ndarray
    platform: np.ndarray
    texts: list[str]
    gate_weights: np.ndarray
    platform_names: tuple[str, ...] = PLATFORMS
    expert_names: tuple[str, ...] = PLATFORMS
    gate: str = "softmax"

    @property
    def query_place_id(self) -> np.ndarray:
        """Place of each query, `(Q,)`."""
        return self.place_id[self.query_row]

    @property
    def query_platform(self) -> np.ndarray:
        """Platform of each query's own image, `(Q,)`."""
        return self.platform[self.query_row]


@torch.no_grad()
def embed_rows(
    model: PeMoEModel,
    rows: Sequence[int] | np.ndarray,
    embed: Callable[[Sequence[int]], tuple[Tensor, ...]],
    batch_size: int = 64,
    label: str = "",
    show_progress: bool = False,
) -> tuple[Tensor, ...]:
    """Run `embed` over batches of row numbers, the model in eval mode (it gets its own back) and without gradient.

    Args:
        model: what `embed` calls.
        rows: row numbers in the order wanted, at least one.
        embed: one batch of row numbers -> tensors with one entry for each of them.
        batch_size: rows per call. It decides the last bits of the results.
        label, show_progress: name of the progress bar, and whether to draw it.

    Returns:
        The tensors of all batches joined, on the CPU.
    """
    was_training = model.training
    model.eval()
    try:
        starts = tqdm(range(0, len(rows), batch_size), disable=not show_progress, desc=label)
        parts = [[part.cpu() for part in embed(rows[start : start + batch_size])] for start in starts]
    finally:
        model.train(was_training)
    return tuple(torch.cat(column) for column in zip(*parts, strict=True))


def embed_split(
    model: PeMoEModel,
    processor: PeMoEProcessor,
    rows: datasets.Dataset,
    batch_size: int = 64,
    show_progress: bool = False,
    image_states: Tensor | ImageStates | None = None,
) -> EmbeddedSplit:
    """Embed all captions and images of a split; `image_states`, of its rows, save the image trunk's run."""
    captions, images = rows["captions"][:], rows.select_columns(["image"])
    texts = [text for row in captions for text in row]

    def embed_texts(numbers: Sequence[int]) -> tuple[Tensor, Tensor]:
        inputs = processor(text=[texts[number] for number in numbers]).to(model.device)
        output = model.get_text_features(**inputs, return_dict=True)
        return fuse_text(output), output.gate_weights

    def embed_images(numbers: Sequence[int]) -> tuple[Tensor]:
        if image_states is None:
            inputs = processor(images=images[numbers]["image"]).to(model.device)
            return (fuse_images(model.get_image_features(**inputs, return_dict=True)),)
        states = image_states[list(numbers)].to(model.device)  # (n, N, W)
        return (fuse_images(model(image_states=states, return_dict=True)),)

    query = np.zeros((len(texts), model.config.num_experts * model.config.embed_dim), dtype=np.float32)
    weights = np.zeros((len(texts), model.config.num_experts), dtype=np.float32)
    if texts:
        order = np.argsort([len(text) for text in texts], kind="stable")  # so that batches are hardly padded
        query[order], weights[order] = embed_rows(model, order, embed_texts, batch_size, "queries", show_progress)
    (gallery,) = embed_rows(model, range(len(rows)), embed_images, batch_size, "images", show_progress)
    query_row = np.repeat(np.arange(len(rows)), [len(row) for row in captions])
    place_id = np.asarray(rows["place_id"][:], dtype=str)
    platform = np.asarray([-1 if number is None else number for number in rows["platform"]], dtype=np.int64)
    names = tuple(rows.features["platform"].names), tuple(model.config.platforms), model.config.gate
    return EmbeddedSplit(query, gallery.numpy(), query_row, place_id, platform, texts, weights, *names)
