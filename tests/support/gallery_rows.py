"""Rows of a gallery index drawn from a seed, and what a search of them must answer, by brute force."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from pemoe.retrieval.index import Filter
from pemoe.retrieval.index.records import VECTOR, table_of, to_vectors

if TYPE_CHECKING:
    from pemoe.retrieval.index.identity import ModelIdentity

PLATFORMS = ("satellite", "drone", "ground")
DAY_0 = datetime(2024, 5, 1, tzinfo=timezone.utc)


def identity_of(dimension: int) -> ModelIdentity:
    """A model whose fused vectors have that length, a multiple of three."""
    from pemoe.retrieval.index.identity import ModelIdentity  # here, since it imports torch: writers start without

    return ModelIdentity("tiny", None, "0" * 64, PLATFORMS, dimension // len(PLATFORMS))


def draw_rows(ids: list[str], dimension: int, seed: int, clusters: int = 8) -> pa.Table:
    """Rows of those ids: clustered vectors, every seventh without coordinates, every fifth without a time."""
    rng = np.random.default_rng(seed)
    numbers = rng.integers(0, clusters, len(ids))
    facts = [
        {
            "image_id": one,
            "place_id": f"place {number}",
            "name": f"Place {number}",
            "platform": PLATFORMS[n % len(PLATFORMS)],
            "latitude_deg": None if n % 7 == 6 else float(rng.uniform(-80, 80)),
            "longitude_deg": None if n % 7 == 6 else float(rng.uniform(-180, 180)),
            "captured_at": None if n % 5 == 4 else DAY_0 + timedelta(hours=n % 500),
            "path": f"pictures/{one}",
            "content_sha256": f"{seed}",
            "thumbnail": one.encode(),
        }
        for n, (one, number) in enumerate(zip(ids, numbers, strict=True))
    ]
    return table_of(facts, draw_vectors(numbers, dimension, seed))


def draw_vectors(numbers: np.ndarray, dimension: int, seed: int) -> np.ndarray:
    """Vectors around the centre of each one's cluster, three unit blocks long: `(n, dimension)`."""
    centres = np.random.default_rng(99).standard_normal((1 + int(numbers.max(initial=0)), dimension))
    vectors = centres[numbers] + np.random.default_rng((seed, 1)).standard_normal((len(numbers), dimension))
    blocks = vectors.reshape(len(numbers), len(PLATFORMS), -1)
    return (blocks / np.linalg.norm(blocks, axis=-1, keepdims=True)).reshape(len(numbers), dimension)


def draw_queries(n: int, dimension: int, seed: int) -> np.ndarray:
    """Queries near the clusters of `draw_rows`, not of unit length."""
    numbers = np.random.default_rng((seed, 2)).integers(0, 8, n)
    return (0.4 * draw_vectors(numbers, dimension, seed + 1)).astype(np.float32)


def brute_force(rows: pa.Table, query: np.ndarray, k: int, where: Filter) -> list[tuple[str, np.float32]]:
    """Ids and scores of the best `k` rows that pass: each scored, equal scores by id."""
    rows = rows.filter(pa.array(where.mask(rows)))
    scores = (to_vectors(rows[VECTOR]).astype(np.float64) @ query.astype(np.float64)).astype(np.float32)
    return sorted(zip(rows["image_id"].to_pylist(), scores, strict=True), key=lambda one: (-one[1], one[0]))[:k]


def hits_of(answer: pa.Table) -> list[tuple[str, np.float32]]:
    """Ids and scores of an index's answer."""
    return list(zip(answer["image_id"].to_pylist(), answer["score"].to_numpy(), strict=True))
