"""From a sentence to a place, part by part: search, ingest, `locate` end to end, the service.

    python benchmarks/locate.py --model runs/quickstart/model --output runs/bench_locate

search     one query on rows of 3 x 1024, exact and by the nearest-neighbour index; beside it brute force of torch in
           fp32 and fp16, and reading the matrix once (`torch.sum`), the least that an exact search can do
ingest     encoded rows into a new index, beside the same bytes into one file; pictures into vectors, step by step
locate     a sentence to ranked places as JSON, with the share of each step
service    latency of `pemoe serve` under 8 clients, beside a FastAPI application that gives back what it gets

Everything compared runs in turns, round by round, and ratios are of the same round. Rows are random unit vectors
around random centres, so recall says how well the nearest-neighbour index works here and not on photos.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from service_clients import SENTENCES, clocked, measure_service
from timing import time_interleaved

from pemoe.common.errors import InputError
from pemoe.common.runs import prepare_output, write_metrics
from pemoe.retrieval.checkpoints import load_checkpoint
from pemoe.retrieval.index import GalleryIndex
from pemoe.retrieval.index.identity import ModelIdentity
from pemoe.retrieval.index.ingest import ENCODED, WRITTEN, ingest, thumbnail_of
from pemoe.retrieval.index.pictures import read_pictures
from pemoe.retrieval.index.records import table_of
from pemoe.retrieval.locating import Locator

PARTS = ("search", "ingest", "locate", "service")
PLATFORMS = ("satellite", "drone", "ground")
EMBED_DIM, TOP = 1024, 10
PICTURES_PER_PLACE = 6


# ---- rows ----


def draw_vectors(rows: int, experts: int, width: int, seed: int) -> np.ndarray:
    """Rows `(rows, experts * width)` float32 of unit parts around random centres, one per hundred rows."""
    generator = np.random.default_rng(seed)
    centres = generator.standard_normal((max(1, rows // 100), experts, width), dtype=np.float32)
    vectors = np.empty((rows, experts, width), dtype=np.float32)
    for start in range(0, rows, 4096):
        part = vectors[start : start + 4096]
        part[:] = centres[generator.integers(len(centres), size=len(part))]
        part += 0.5 * generator.standard_normal(part.shape, dtype=np.float32)
        part /= np.linalg.norm(part, axis=2, keepdims=True)
    return vectors.reshape(rows, -1)


def rows_of(vectors: np.ndarray, first: int, thumbnail: bytes) -> pa.Table:
    """Rows of an index for these vectors, six pictures to a place."""
    known = []
    for row in range(first, first + len(vectors)):
        place = row // PICTURES_PER_PLACE
        where = {"latitude_deg": 40 + place % 1000 * 1e-3, "longitude_deg": -88 + place // 1000 * 1e-3}
        facts = {"image_id": f"{row:08d}", "place_id": f"{place:07d}", "platform": PLATFORMS[row % 3]}
        known.append({**facts, **where, "name": f"place {place}", "path": f"{row:08d}.jpg", "thumbnail": thumbnail})
    return table_of(known, vectors)


def draw_thumbnail(seed: int) -> bytes:
    """A JPEG of 160 pixels with the detail of a small photo."""
    pixels = np.random.default_rng(seed).integers(0, 255, (20, 20, 3), dtype=np.uint8)
    return thumbnail_of(Image.fromarray(pixels).resize((160, 160)))


def fill(uri: Path, identity: ModelIdentity, vectors: np.ndarray, seed: int) -> GalleryIndex:
    """A new index of these vectors, in commits as `ingest` makes them."""
    index, thumbnail = GalleryIndex.create(str(uri), identity), draw_thumbnail(seed)
    for start in range(0, len(vectors), WRITTEN):
        index.add(rows_of(vectors[start : start + WRITTEN], start, thumbnail))
    index.optimize(nearest=False)
    return index


# ---- search ----


def measure_search(rows: int, rounds: int, seed: int, scratch: Path) -> dict[str, Any]:
    """Milliseconds of one query by every way, recall of the nearest-neighbour index, ratios by round."""
    vectors = draw_vectors(rows, len(PLATFORMS), EMBED_DIM, seed)
    identity = ModelIdentity("random", None, "0", PLATFORMS, EMBED_DIM)
    index = fill(scratch / f"search-{rows}", identity, vectors, seed)
    started_s = time.perf_counter()
    index.optimize(nearest=True)
    build_s = time.perf_counter() - started_s
    chosen = np.random.default_rng(seed + 1).integers(rows, size=rounds + 1)
    queries = [vectors[row] + 0.02 * draw_vectors(1, 3, EMBED_DIM, int(row))[0] for row in chosen]
    full, half = torch.from_numpy(vectors), torch.from_numpy(vectors).half()
    turns: dict[str, int] = defaultdict(int)

    def per_query(name: str, call: Callable[[np.ndarray], object]) -> Callable[[], object]:
        def one() -> object:
            turns[name] += 1
            return call(queries[(turns[name] - 1) % len(queries)])

        return one

    calls = {
        "read_fp32": lambda: full.sum(),
        "read_fp16": lambda: full[: rows // 2].sum(),  # as many bytes as the fp16 matrix has
        "torch_fp32": per_query("torch_fp32", lambda query: torch.mv(full, torch.from_numpy(query)).topk(TOP)),
        "torch_fp16": per_query("torch_fp16", lambda query: torch.mv(half, torch.from_numpy(query).half()).topk(TOP)),
        "exact": per_query("exact", lambda query: index.search(query, TOP, exact=True)),
        "nearest": per_query("nearest", lambda query: index.search(query, TOP, exact=False)),
    }
    seconds = time_interleaved(calls, rounds)
    pairs = ("exact/torch_fp32", "exact/torch_fp16", "exact/read_fp16", "torch_fp32/read_fp32", "nearest/torch_fp32")
    return {
        "rows": rows,
        "nearest_build_s": build_s,
        "recall_at_10": {name: recall(index, queries, full, name == "exact") for name in ("exact", "nearest")},
        "median_ms": {name: 1000 * statistics.median(times) for name, times in seconds.items()},
        "ratios": {pair: ratio(seconds, pair) for pair in pairs},
    }


def recall(index: GalleryIndex, queries: list[np.ndarray], full: torch.Tensor, exact: bool) -> float:
    """Share of the ten rows that fp32 brute force finds."""
    shared = 0
    for query in queries:
        wanted = torch.mv(full, torch.from_numpy(query)).topk(TOP).indices.tolist()
        found = index.search(query, TOP, exact=exact, columns=["image_id"])[0]["image_id"].to_pylist()
        shared += len({f"{row:08d}" for row in wanted} & set(found))
    return shared / (TOP * len(queries))


def ratio(seconds: dict[str, list[float]], pair: str) -> dict[str, float]:
    """Median and bounds of the rounds' own ratios."""
    first, second = pair.split("/")
    rounds = [a / b for a, b in zip(seconds[first], seconds[second], strict=True)]
    return {"measured": statistics.median(rounds), "lowest": min(rounds), "highest": max(rounds)}


# ---- ingest ----


def measure_rows(rows: int, rounds: int, seed: int, scratch: Path) -> dict[str, Any]:
    """Rows per second of already encoded vectors into a new index, beside the same bytes into a file."""
    vectors = draw_vectors(rows, len(PLATFORMS), EMBED_DIM, seed)
    identity = ModelIdentity("random", None, "0", PLATFORMS, EMBED_DIM)
    thumbnail = draw_thumbnail(seed)
    batches = [rows_of(vectors[start : start + WRITTEN], start, thumbnail) for start in range(0, rows, WRITTEN)]
    made = iter(range(10**6))

    def into_index() -> None:
        index = GalleryIndex.create(str(scratch / f"rows-{next(made)}"), identity)
        for batch in batches:
            index.upsert(batch)

    def into_file() -> None:
        with pa.OSFile(str(scratch / "rows.arrow"), "wb") as file, pa.ipc.new_file(file, batches[0].schema) as writer:
            for batch in batches:
                writer.write_table(batch)
        with (scratch / "rows.arrow").open("rb") as file:
            os.fsync(file.fileno())

    seconds = time_interleaved({"index": into_index, "file": into_file}, rounds)
    return {
        "rows": rows,
        "rows_per_commit": WRITTEN,
        "bytes_per_row": sum(batch.nbytes for batch in batches) / rows,
        "rows_per_s": {name: rows / statistics.median(times) for name, times in seconds.items()},
        "ratios": {"index/file": ratio(seconds, "index/file")},
    }


def measure_pictures(checkpoint: str, places: int, seed: int, scratch: Path) -> dict[str, Any]:
    """Pictures per second of `ingest`, and what each step takes when done by itself."""
    from pemoe.modeling_pemoe.pictures_pemoe import read_picture

    model, processor = load_checkpoint(checkpoint)
    pictures = list(read_pictures("campus", "test", test_places=places, seed=seed))
    identity = ModelIdentity.of(checkpoint, model)
    indexes = [GalleryIndex.create(str(scratch / f"pictures-{number}"), identity) for number in range(3)]
    ingest(indexes[0], pictures[:ENCODED], model, processor)  # warm
    seconds: dict[str, float] = defaultdict(float)
    with clocked(seconds, "ingest"):
        ingest(indexes[1], pictures, model, processor)
    parts = []
    for start in range(0, len(pictures), ENCODED):
        batch = pictures[start : start + ENCODED]
        with clocked(seconds, "decode"):
            images = [read_picture(one.data) for one in batch]
        with clocked(seconds, "thumbnail"):
            facts = [{**one.facts, "thumbnail": thumbnail_of(image)} for one, image in zip(batch, images, strict=True)]
        with clocked(seconds, "pixels"):
            pixels = processor(images=images)["pixel_values"].to(model.device)
        with clocked(seconds, "encode"), torch.no_grad():
            vectors = model(pixel_values=pixels, return_dict=True).pooler_output.cpu().numpy()
        parts.append(table_of(facts, vectors))
    with clocked(seconds, "write"):
        for start in range(0, len(parts), WRITTEN // ENCODED):
            indexes[2].upsert(pa.concat_tables(parts[start : start + WRITTEN // ENCODED]))
    total = seconds.pop("ingest")
    return {
        "pictures": len(pictures),
        "pictures_per_s": len(pictures) / total,
        "share": {name: took / sum(seconds.values()) for name, took in seconds.items()},
        "steps_over_ingest": sum(seconds.values()) / total,
    }


# ---- locate ----


def measure_locate(locator: Locator, rounds: int) -> dict[str, Any]:
    """Milliseconds of an answer, and the share of each step in it; `other` is what no step accounts for."""
    for sentence in SENTENCES:
        locator.locate(sentence)
    seconds: dict[str, float] = defaultdict(float)
    totals = []
    steps = {
        "encode": (locator._encoder, "encode"),
        "count": (locator.index, "count"),
        "search": (locator.index, "search"),
        "fuse": (sys.modules[Locator.__module__], "fuse_places"),
        "read_thumbnails_and_vectors": (locator.index, "read"),
        "evidence": (locator, "_evidence"),
    }
    with watched(steps, seconds):
        for number in range(rounds * len(SENTENCES)):
            started_s = time.perf_counter()
            result = locator.locate(SENTENCES[number % len(SENTENCES)])
            with clocked(seconds, "format"):
                json.dumps(result.as_json(thumbnails=True))
            totals.append(time.perf_counter() - started_s)
    share = {name: took / sum(totals) for name, took in seconds.items()}
    return {
        "rows": locator.index.count(),
        "queries": len(totals),
        "median_ms": 1000 * statistics.median(totals),
        "highest_ms": 1000 * max(totals),
        "share": {**share, "other": 1 - sum(share.values())},
    }


@contextmanager
def watched(steps: dict[str, tuple[Any, str]], seconds: dict[str, float]) -> Iterator[None]:
    """Clock calls of an object's or a module's functions inside the block."""
    kept = []

    def wrap(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*given: Any, **named: Any) -> Any:
            with clocked(seconds, name):
                return call(*given, **named)

        return timed

    for name, (owner, attribute) in steps.items():
        call = getattr(owner, attribute)
        kept.append((owner, attribute, vars(owner).get(attribute)))
        setattr(owner, attribute, wrap(name, call))
    try:
        yield
    finally:
        for owner, attribute, before in kept:
            if before is None:
                delattr(owner, attribute)
            else:
                setattr(owner, attribute, before)


# ---- all ----


def measure(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """The chosen parts, in order."""
    results: dict[str, Any] = {"torch_threads": torch.get_num_threads(), "rounds": options.rounds}
    if "search" in options.parts:
        sizes = {str(rows): measure_search(rows, options.rounds, options.seed, scratch) for rows in options.rows}
        results["search"] = sizes
    if "ingest" in options.parts:
        rows = min(options.rows)
        results["ingest"] = {"rows": measure_rows(rows, min(options.rounds, 3), options.seed, scratch)}
        results["ingest"]["pictures"] = measure_pictures(options.model, options.places, options.seed, scratch)
    if "locate" in options.parts or "service" in options.parts:
        model, processor = load_checkpoint(options.model)
        identity, config = ModelIdentity.of(options.model, model), model.config
        vectors = draw_vectors(max(options.rows), config.num_experts, config.embed_dim, options.seed)
        index = fill(scratch / "located", identity, vectors, options.seed)
        if "locate" in options.parts:
            results["locate"] = measure_locate(Locator(index, model, processor), options.rounds)
        if "service" in options.parts:
            results["service"] = measure_service(scratch / "located", options.model, options.rounds)
    return results


def show(name: str, value: Any, indent: int = 0) -> None:
    """Print figures, nested ones further to the right."""
    if isinstance(value, dict) and "measured" not in value:
        print(f"{'  ' * indent}{name}")
        for key, one in value.items():
            show(key, one, indent + 1)
        return
    if isinstance(value, dict):
        text = f"{value['measured']:.3f}  ({value['lowest']:.3f} .. {value['highest']:.3f})"
    else:
        text = f"{value:,.3f}" if isinstance(value, float) else f"{value:,}"
    print(f"{'  ' * indent}{name:<36}{text:>14}")


def main() -> None:
    """Parse, measure, print, write."""
    options, started_s = _parse(), time.monotonic()
    try:
        output = prepare_output(options.output, overwrite=options.overwrite)
        with tempfile.TemporaryDirectory() as scratch:
            results = measure(options, Path(scratch))
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    for name, value in results.items():
        show(name, value)
    sizes, parts = " ".join(map(str, options.rows)), " ".join(options.parts)
    command = f"python benchmarks/locate.py --rows {sizes} --parts {parts} --rounds {options.rounds}"
    write_metrics(output, command, options.seed, started_s, results)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Search, ingest, locate and service against what bounds them.",
        epilog="example: python benchmarks/locate.py --model runs/quickstart/model",
    )
    parser.add_argument("--output", type=Path, default=Path("runs/bench_locate"), help="for metrics.json")
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 50_000, 100_000], help="of the galleries")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what is measured")
    parser.add_argument("--model", help="a checkpoint, needed by ingest, locate and service")
    parser.add_argument("--places", type=int, default=50, help="of the campus that is encoded, 6 pictures each")
    parser.add_argument("--rounds", type=int, default=15, help="timed rounds")
    parser.add_argument("--seed", type=int, default=0, help="of rows and pictures")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier run in --output")
    options = parser.parse_args()
    if min(options.rows) < 1000 or options.rounds < 1 or options.places < 1:
        parser.error("--rows must be at least 1000, --rounds and --places at least 1")
    if options.model is None and set(options.parts) - {"search"}:
        parser.error(f"--model is needed by {', '.join(one for one in options.parts if one != 'search')}")
    return options


if __name__ == "__main__":
    main()
