"""The search of mining: one block of queries against a gallery that stays on disk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from pemoe.trainers.mining.hard_negatives import FalseNegatives, mine_hard_negatives
from pemoe.trainers.mining.options import MineRecipe

QUERY_BLOCK = 4096  # queries of one written result: seconds of work, and what a kill may lose


@dataclass(frozen=True)
class Searched:
    """What one expert searches: Q captions and the G pictures of the same rows.

    expert: its name; rows: row of each picture, rising, `(G,)`; own: each query's own picture in the gallery, `(Q,)`;
    caption: its number among the captions of its row, `(Q,)`; place_id: of each picture, integers `(G,)`;
    coordinates_deg: WGS84 of each picture `(G, 2)`, None where distance is not asked for.
    """

    expert: str
    rows: np.ndarray
    own: np.ndarray
    caption: np.ndarray
    place_id: np.ndarray
    coordinates_deg: np.ndarray | None = None

    @property
    def spans(self) -> list[slice]:
        """The queries in blocks."""
        starts = range(0, len(self.own), QUERY_BLOCK)
        return [slice(start, min(start + QUERY_BLOCK, len(self.own))) for start in starts]


class Found(NamedTuple):
    """Of q queries: `indices (q, k)` int64 into the gallery, -1 for none, `scores (q, k)`, `positive (q,)` float32."""

    indices: np.ndarray
    scores: np.ndarray
    positive: np.ndarray


def search_block(
    query: np.ndarray,
    gallery: np.ndarray,
    searched: Searched,
    span: slice,
    options: MineRecipe,
    device: torch.device | str = "cpu",
) -> Found:
    """Hard negatives of the queries `span`; what is held is the block and one tile of scores, never `(Q, G)`.

    Args:
        query, gallery: all vectors, `(Q, D)` and `(G, D)` float32, memory maps or arrays.
        searched, span: whose they are, and a slice of `searched.spans`, or any other: it does not change the result.
        options: k and the filters.
        device: where the products are computed.
    """
    own, vectors = searched.own[span], np.array(query[span])
    positive = (vectors * gallery[own]).sum(axis=1)
    rules: dict[str, object] = {"max_score": options.max_score}
    if options.positive_ratio is not None:
        rules |= {"positive_scores": positive, "positive_ratio": options.positive_ratio}
    if options.min_distance_m is not None:
        there = searched.coordinates_deg
        rules |= {"min_distance_m": options.min_distance_m}
        rules |= {"query_coordinates_deg": there[own], "gallery_coordinates_deg": there}
    places = searched.place_id[own], searched.place_id
    on_device = torch.from_numpy(vectors).to(device)
    found = mine_hard_negatives(on_device, gallery, *places, options.k, exclude=FalseNegatives(**rules))
    return Found(*(part.cpu().numpy() for part in found), positive)
