"""Memory and time of mining's search at full size: 113,000 captions against 38,000 pictures of 1,024 dimensions.

    python benchmarks/mining_memory.py --output runs/bench_mining

Random unit vectors are written to disk block by block, as mining writes embeddings, and searched from there by the
code of `mine_split`: every block of queries gives one Parquet file, joined at the end. `peak_rss_gb` is the whole
process's, PyTorch included; `score_matrix_gb` is what the scores alone would take if they were held at once. The
floor is 2 Q G D operations; `gflop_per_s` is what was reached of them, `gemm_gflop_per_s` what one large product in
the same process reaches.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

from pemoe.common.runs import RunError, prepare_output, write_metrics
from pemoe.trainers.mining.options import MineRecipe
from pemoe.trainers.mining.search import Searched, search_block
from pemoe.trainers.mining.table import NEGATIVES, build_table, join_tables, load_negatives
from pemoe.trainers.mining.vectors import VectorFile

BLOCK_ROWS = 1024
K = 10


def write_vectors(path: Path, n_rows: int, dim: int, seed: int) -> VectorFile:
    """Random unit vectors in a file, `(n_rows, dim)`; a function of seed and block alone."""
    vectors = VectorFile(path, n_rows, dim, BLOCK_ROWS)
    vectors.create()
    for number in range(vectors.n_blocks):
        span = vectors.span(number)
        block = np.random.default_rng((seed, number)).standard_normal((span.stop - span.start, dim), dtype=np.float32)
        vectors.write(number, block / np.linalg.norm(block, axis=1, keepdims=True))
    return vectors


def search_all(folder: Path, n_queries: int, n_gallery: int, dim: int, seed: int) -> dict[str, float]:
    """Write the vectors, search and join the results; seconds of each part.

    Captions belong to pictures in turn, pictures to places three by three, as GeoText-1652's do.
    """
    started_s = time.monotonic()
    query = write_vectors(folder / "query.npy", n_queries, dim, seed)
    gallery = write_vectors(folder / "gallery.npy", n_gallery, dim, seed + 1)
    written_s = time.monotonic()
    own = np.sort(np.arange(n_queries) % n_gallery)
    rows, caption = np.arange(n_gallery), np.arange(n_queries) - np.searchsorted(own, own)
    searched = Searched("all", rows, own, caption, place_id=rows // 3)
    image_id, place_id = [f"{row}.jpg" for row in rows], [str(row // 3) for row in rows]
    options, parts = MineRecipe(k=K, captions="all", positive_ratio=0.95), []
    for span in searched.spans:
        found = search_block(query.read(), gallery.read(), searched, span, options)
        columns = own[span], caption[span], found.indices, found.scores, found.positive
        parts.append(folder / f"negatives-{span.start}.parquet")
        pq.write_table(build_table(*columns, image_id, place_id), parts[-1])
    searched_s = time.monotonic()
    join_tables(folder / NEGATIVES, parts, {})
    load_negatives(folder / NEGATIVES, n_gallery, K)
    ends = (written_s - started_s, searched_s - written_s, time.monotonic() - searched_s)
    return dict(zip(("write_s", "search_s", "join_s"), ends, strict=True))


def gemm_gflop_per_s(size: int) -> float:
    """Speed of one square product of this size, the best of three."""
    matrix, best_s = torch.ones(size, size), np.inf
    for _ in range(3):
        started_s = time.monotonic()
        matrix @ matrix
        best_s = min(best_s, time.monotonic() - started_s)
    return 2 * size**3 / best_s / 1e9


def main() -> None:
    """Measure once and write `metrics.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default="runs/bench_mining")
    parser.add_argument("--queries", type=int, default=113_000)
    parser.add_argument("--gallery", type=int, default=38_000)
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--overwrite", action="store_true")
    options = parser.parse_args()
    started_s = time.monotonic()
    try:
        directory = prepare_output(options.output, options.overwrite)
    except RunError as error:
        sys.exit(str(error))
    n_queries, n_gallery, dim = options.queries, options.gallery, options.dim
    seconds = search_all(directory, n_queries, n_gallery, dim, options.seed)
    operations = 2 * n_queries * n_gallery * dim
    results = {
        "queries": n_queries,
        "gallery": n_gallery,
        "dim": dim,
        "threads": torch.get_num_threads(),
        **{name: round(value, 2) for name, value in seconds.items()},
        "floor_operations": operations,
        "vectors_gb": round((n_queries + n_gallery) * dim * 4 / 1e9, 3),
        "score_matrix_gb": round(n_queries * n_gallery * 4 / 1e9, 3),
        "gflop_per_s": round(operations / seconds["search_s"] / 1e9, 1),
    }
    command = "python " + " ".join(sys.argv)
    results["gemm_gflop_per_s"] = round(gemm_gflop_per_s(min(4096, n_gallery)), 1)
    metrics = write_metrics(directory, command, options.seed, started_s, results)
    for name, value in {**results, "peak_rss_gb": metrics["peak_rss_mb"] / 1e3}.items():
        print(f"{name:20} {value}")


if __name__ == "__main__":
    main()
