"""Hard negatives: the wrong places that score highest for a query, found in bounded memory."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pemoe.common.geodesy import EARTH_RADIUS_M
from pemoe.retrieval import scoring
from pemoe.retrieval.metrics import PlaceIds, place_codes
from pemoe.retrieval.scoring import DEFAULT_BLOCK, Array


@dataclass(frozen=True)
class FalseNegatives:
    """Which gallery items of another place are too close to be trusted as negatives; every given rule excludes.

    Args:
        max_score: exclude items that score above this.
        positive_scores: score of each query with its own image, shape (Q,).
        positive_ratio: exclude items above p - (1 - positive_ratio) * |p|, p the positive score: 0.95 * p for p >= 0
            (NV-Retriever, Moreira et al. 2024, TopK-PercPos). Only used with `positive_scores`.
        min_distance_m: exclude items nearer than this on the ground, metres.
        query_coordinates_deg: WGS84 latitude and longitude of each query, shape (Q, 2), degrees; NaN where unknown.
        gallery_coordinates_deg: the same of each gallery item, shape (G, 2). A pair with an unknown end stays.

    Raises:
        ValueError: `min_distance_m` without both coordinates, or coordinates without `min_distance_m`.
    """

    max_score: float | None = None
    positive_scores: Array | None = None
    positive_ratio: float = 0.95
    min_distance_m: float | None = None
    query_coordinates_deg: Array | None = None
    gallery_coordinates_deg: Array | None = None

    def __post_init__(self) -> None:
        together = (self.min_distance_m, self.query_coordinates_deg, self.gallery_coordinates_deg)
        if 0 < sum(part is not None for part in together) < len(together):
            raise ValueError("min_distance_m, query_coordinates_deg and gallery_coordinates_deg go together: give all")


def mine_hard_negatives(
    query: Array,
    gallery: Array,
    query_place_id: PlaceIds,
    gallery_place_id: PlaceIds,
    k: int,
    block: int = DEFAULT_BLOCK,
    exclude: FalseNegatives | None = None,
) -> tuple[Array, Array]:
    """Find for each query the `k` best-scoring gallery items of other places.

    Args:
        query: text vectors, shape (Q, D), floating; numpy or torch. The work runs on the query's device.
        gallery: image vectors, shape (G, D).
        query_place_id, gallery_place_id: place of each query and gallery item, strings or integers on both sides.
        k, block: negatives per query, at least 1; gallery rows scored at a time, which does not change the result.
        exclude: further items that are not to be trusted as negatives.

    Returns:
        indices (Q, k) int64 into the gallery and scores (Q, k) float32, falling, ties to the lower index, of the
        query's kind (numpy or torch) and device. Where fewer than k are left: index -1, score -inf.

    Raises:
        ValueError: k < 1, shapes or types that do not fit, NaN or infinite vectors.

    Example:
        >>> mine_hard_negatives(np.eye(2), np.eye(2), ["a", "b"], ["a", "b"], k=2)[0].tolist()
        [[1, -1], [0, -1]]
    """
    scoring.check_vectors(query, gallery, block)
    if k < 1:
        raise ValueError(f"k is {k}: it must be at least 1")
    device = scoring.device_of(query)
    codes = place_codes(query_place_id, gallery_place_id, len(query), len(gallery))
    query_code, gallery_code = (code.to(device) for code in codes)
    exclude = exclude or FalseNegatives()
    limit, chord = _score_limit(exclude, len(query), device), None
    if exclude.min_distance_m is not None:
        chord = 2 * math.sin(min(exclude.min_distance_m / (2 * EARTH_RADIUS_M), math.pi / 2))  # on the unit sphere
        here = unit_vectors("query_coordinates_deg", exclude.query_coordinates_deg, len(query), device)
        there = unit_vectors("gallery_coordinates_deg", exclude.gallery_coordinates_deg, len(gallery), device)
    best = scoring.empty_top(len(query), k, device)
    for rows in scoring.query_chunks(len(query)):
        for columns, scores in scoring.score_blocks(query, rows, gallery, block):
            excluded = (query_code[rows, None] == gallery_code[None, columns]) | (scores > limit[rows, None])  # (q, n)
            if chord is not None:  # NaN, an unknown end, is not near
                apart = torch.cdist(here[rows], there[columns], compute_mode="donot_use_mm_for_euclid_dist")
                excluded |= apart < chord
            scores[excluded] = -torch.inf
            best[rows] = scoring.merge_top(best[rows], scores, columns.start)
    scores, indices = scoring.decode_top(best, like=query)
    return indices, scores


def _score_limit(exclude: FalseNegatives, n_queries: int, device: torch.device) -> Tensor:
    """Highest score a negative of each query may have, shape (Q,) float32; infinite without such a rule."""
    highest = torch.inf if exclude.max_score is None else float(exclude.max_score)
    limit = torch.full((n_queries,), highest, device=device)
    if exclude.positive_scores is not None:
        positive = torch.as_tensor(exclude.positive_scores, dtype=torch.float32, device=device)
        if positive.shape != (n_queries,):
            shape = tuple(positive.shape)
            raise ValueError(f"positive_scores has shape {shape}: one score for each of {n_queries} rows")
        limit = torch.minimum(limit, positive - (1 - exclude.positive_ratio) * positive.abs())
    return limit


def unit_vectors(name: str, coordinates_deg: Array, count: int, device: torch.device) -> Tensor:
    """Latitudes and longitudes (count, 2) as points of the unit sphere, (count, 3) float64; NaN where unknown."""
    degrees = torch.as_tensor(coordinates_deg, dtype=torch.float64, device=device)
    if degrees.shape != (count, 2):
        raise ValueError(f"{name} has shape {tuple(degrees.shape)}: it must be ({count}, 2), latitude and longitude")
    if (degrees[:, 0].abs() > 90).any():
        raise ValueError(f"{name} holds a latitude beyond 90 degrees: columns are latitude, longitude")
    latitude, longitude = degrees.deg2rad().T
    across = latitude.cos()
    return torch.stack([across * longitude.cos(), across * longitude.sin(), latitude.sin()], dim=1)
