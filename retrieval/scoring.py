"""Exact search by inner product in bounded memory, with results that do not depend on how the work was cut.

Every score comes from a matrix product of one constant shape, `QUERY_TILE` x `GALLERY_TILE`, on zero-padded copies:
the kernel, and with it the order of summation, is the same for every block size and every set of queries in the call.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

QUERY_TILE = 32  # rows of one product: wide enough for near-peak GEMM, small enough that one query costs little
GALLERY_TILE = 1024
_QUERY_CHUNK = 128  # queries that share one copy of a gallery tile; also bounds the scores held to 128 x block
DEFAULT_BLOCK = 65536
_LOW_WORD = 0xFFFFFFFF

Array: TypeAlias = "np.ndarray | Tensor"


def search(query: Array, gallery: Array, k: int, block: int = DEFAULT_BLOCK) -> tuple[Array, Array]:
    """Find the `k` gallery rows with the highest inner product for each query, exactly.

    The vectors are fused ones, S(q, I) = sum_k g_k(q) cos(t_k, v_k) as one inner product, and are used as they are:
    queries are not unit length, so nothing is normalised.

    Args:
        query: shape (Q, D), floating; numpy or torch. The work runs on the query's device.
        gallery: shape (G, D), floating; numpy (a memory map too) or torch, on any device.
        k: results per query, 1 <= k <= G.
        block: gallery rows scored before the running top k is updated, rounded up to whole tiles of 1024. Bounds the
            memory at about 128 x block x 12 bytes; does not change one bit of the result.

    Returns:
        scores (Q, k) float32, falling, and indices (Q, k) int64, of the query's kind (numpy or torch) and device.
        Equal scores are ordered by the lower gallery index. (0, k) when there are no queries.

    Raises:
        ValueError: shapes that do not fit, k outside 1..G, block < 1, NaN or infinite input.

    Example:
        >>> search(np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32), k=1)[1].tolist()
        [[0], [1]]
    """
    check_vectors(query, gallery, block)
    if not 1 <= k <= len(gallery):
        raise ValueError(f"k is {k}: it must lie between 1 and the gallery's {len(gallery)} rows")
    best = empty_top(len(query), k, device_of(query))
    for rows in query_chunks(len(query)):
        for columns, scores in score_blocks(query, rows, gallery, block):
            best[rows] = merge_top(best[rows], scores, columns.start)
    return decode_top(best, like=query)


def check_vectors(query: Array, gallery: Array, block: int) -> None:
    """Raise ValueError unless `query` (Q, D) and `gallery` (G, D) are float matrices of one D, G >= 1, block >= 1."""
    for name, vectors in (("query", query), ("gallery", gallery)):
        if not isinstance(vectors, (np.ndarray, Tensor)):
            raise ValueError(f"{name} is a {type(vectors).__name__}: pass a numpy array or a torch tensor")
        floating = vectors.is_floating_point() if isinstance(vectors, Tensor) else vectors.dtype.kind == "f"
        if vectors.ndim != 2 or not floating or vectors.shape[1] == 0:
            raise ValueError(f"{name} is {tuple(vectors.shape)} {vectors.dtype}: it must be a float matrix (rows, D)")
    if query.shape[1] != gallery.shape[1]:
        raise ValueError(f"query has D = {query.shape[1]}, gallery D = {gallery.shape[1]}: encode both with one model")
    if len(gallery) == 0:
        raise ValueError("gallery has no rows: there is nothing to search in")
    if block < 1:
        raise ValueError(f"block is {block}: it must be at least 1")


def query_chunks(n_queries: int) -> Iterator[slice]:
    """Slices of at most `_QUERY_CHUNK` rows that cover 0..n_queries in order."""
    for start in range(0, n_queries, _QUERY_CHUNK):
        yield slice(start, min(start + _QUERY_CHUNK, n_queries))


def score_blocks(query: Array, rows: slice, gallery: Array, block: int) -> Iterator[tuple[slice, Tensor]]:
    """Score the queries `rows`, a slice of `query_chunks` (q of them), against the gallery, block after block.

    Yields:
        The gallery rows as a slice, and their scores: (q, rows) float32 on the query's device, the caller's to change.

    Raises:
        ValueError: NaN or infinite values in either input, or products beyond float32.
    """
    device = device_of(query)
    n_queries = rows.stop - rows.start
    tiles = _load_rows(query, rows, -(-n_queries // QUERY_TILE) * QUERY_TILE, device).split(QUERY_TILE)
    block = -(-block // GALLERY_TILE) * GALLERY_TILE  # rounded up to whole tiles
    for start in range(0, len(gallery), block):
        columns = slice(start, min(start + block, len(gallery)))
        scores = torch.empty(n_queries, columns.stop - start, device=device)
        for left in range(start, columns.stop, GALLERY_TILE):
            right = min(left + GALLERY_TILE, columns.stop)
            product = _tile_product(tiles, _load_rows(gallery, slice(left, right), GALLERY_TILE, device))
            scores[:, left - start : right - start] = product[:n_queries, : right - left]
        if not torch.isfinite(scores.sum()):  # cheap alarm; the sum of good scores may overflow too
            _explain_not_finite(query, rows, gallery, columns, scores)
        yield columns, scores


@torch.no_grad()
def _tile_product(tiles: tuple[Tensor, ...], gallery_tile: Tensor) -> Tensor:
    """Inner products of the query tiles with one gallery tile in full fp32: (padded q, GALLERY_TILE)."""
    with torch.autocast(gallery_tile.device.type, enabled=False):
        return torch.cat([tile @ gallery_tile.T for tile in tiles])


def _load_rows(vectors: Array, rows: slice, n_rows: int, device: torch.device) -> Tensor:
    """Copy `vectors[rows]` as fp32 into a fresh aligned (n_rows, D) tensor on `device`, padded with zeros."""
    n, is_tensor = rows.stop - rows.start, isinstance(vectors, Tensor)
    tile = torch.zeros(n_rows, vectors.shape[1], device=device if is_tensor else "cpu")
    if is_tensor:
        tile[:n] = vectors[rows].detach().to(device)
    else:  # filled through numpy: a read-only memory map gives no torch tensor
        tile.numpy()[:n] = vectors[rows]
    return tile.to(device)


def _explain_not_finite(query: Array, rows: slice, gallery: Array, columns: slice, scores: Tensor) -> None:
    """Raise ValueError naming the row that made `scores` not finite; return if the scores are good after all."""
    if torch.isfinite(scores).all():
        return
    for name, vectors, span in (("query", query, rows), ("gallery", gallery, columns)):
        loaded = _load_rows(vectors, span, span.stop - span.start, torch.device("cpu"))
        bad = (~torch.isfinite(loaded)).any(dim=1).nonzero()
        if len(bad):
            row = span.start + int(bad[0])
            raise ValueError(f"{name} row {row} holds NaN or values beyond float32: remove it or encode it again")
    raise ValueError("inner products overflow float32: scale the vectors down")


def merge_top(best: Tensor, scores: Tensor, start: int) -> Tensor:
    """Update the running top k, keys (q, k) from `empty_top`, with one block's scores (q, n); keys come back falling.

    A key is one int64 that sorts by score first and, among equal scores, by the lower gallery index; keys are unique,
    so the merge is exact and its order does not matter. `start` is the gallery index of the block's first column. A
    score of -inf never enters the result.
    """
    k = min(best.shape[1], scores.shape[1])
    values, columns = scores.topk(min(k + 1, scores.shape[1]))
    keys = _to_keys(values[:, :k], columns[:, :k] + start)  # (q, k)
    if values.shape[1] > k:
        tied = values[:, k - 1] == values[:, k]  # which of the equal ones topk took is its own affair: order them all
        everything = torch.arange(start, start + scores.shape[1], device=scores.device)
        keys[tied] = _to_keys(scores[tied], everything).topk(k).values
    return torch.cat([best, keys], dim=1).topk(best.shape[1]).values


def empty_top(n_queries: int, k: int, device: torch.device) -> Tensor:
    """Keys of a top k that holds nothing yet: shape (n_queries, k) int64."""
    nothing = _to_keys(torch.tensor(-torch.inf, device=device), torch.tensor(_LOW_WORD, device=device))
    return nothing.expand(n_queries, k).clone()


def decode_top(best: Tensor, like: Array) -> tuple[Array, Array]:
    """Turn keys (Q, k) into scores float32 and indices int64 of `like`'s kind; -inf scores have index -1."""
    ordered = (best >> 32).to(torch.int32)
    scores = (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).view(torch.float32)
    indices = torch.where(scores == -torch.inf, -1, _LOW_WORD - (best & _LOW_WORD))
    return (scores, indices) if isinstance(like, Tensor) else (scores.numpy(), indices.numpy())


def device_of(vectors: Array) -> torch.device:
    """The device of a tensor; the CPU for numpy."""
    return vectors.device if isinstance(vectors, Tensor) else torch.device("cpu")


def _to_keys(scores: Tensor, indices: Tensor) -> Tensor:
    """Pack float32 scores and gallery indices (below 2**32) into int64 that sort by score, then by lower index."""
    bits = (scores + 0.0).view(torch.int32)  # + 0.0: -0.0 equals 0.0 and must tie with it
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # IEEE bits as integers in the order of the floats
    return (ordered.to(torch.int64) << 32) | (_LOW_WORD - indices)
