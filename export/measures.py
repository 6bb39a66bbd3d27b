"""What is measured on exported graphs: parity with PyTorch, latency, memory, recall."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import torch

from pemoe.common.errors import one_line
from pemoe.export.preprocessing import TEXTS, example_pictures
from pemoe.export.run import Encoder, open_graph
from pemoe.export.sides import ExportError, ImageSide, TextSide
from pemoe.modeling_pemoe import PeMoEModel, PeMoEProcessor
from pemoe.retrieval.embedding import EmbeddedSplit, embed_split
from pemoe.retrieval.evaluation import rank_split, score_split
from pemoe.retrieval.metrics import CUTOFFS, bootstrap_difference

PARITY = 1e-5  # largest difference of an output's elements; vectors are of unit length per platform
BATCHES = (1, 16)
ROUNDS, ROUND_BUDGET_S = 9, 6.0  # at least 3 rounds, then as many as the budget allows
Graph = Callable[[dict[str, np.ndarray]], list[np.ndarray]]

# Only what the exported folder needs. VmHWM is this program's own peak, where ru_maxrss also holds its parent's.
_ALONE = """
import resource, runpy, sys
from pathlib import Path
import numpy as np
from PIL import Image
folder, precision, scratch, text, *blocked = sys.argv[1:]
sys.modules.update(dict.fromkeys(blocked))
encoder = runpy.run_path(folder + "/run.py")["Encoder"](Path(folder), precision)
query, weights = encoder.encode_text([text])
np.savez(scratch + "/vectors.npz", query=query, gallery=encoder.encode_images([Image.open(scratch + "/picture.png")]))
status = Path("/proc/self/status")
if status.exists():
    peak = next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM"))
else:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(peak)
"""


@torch.no_grad()
def check_parity(side: TextSide | ImageSide, path: Path) -> float:
    """Largest difference between a graph and the PyTorch side, over batch sizes, lengths, padded and not.

    Raises:
        ExportError: it exceeds `PARITY`, or the graph does not run.
    """
    graph, worst = open_graph(path), 0.0
    for case in side.cases():
        shape = tuple(next(iter(case.values())).shape)
        try:
            outputs = graph({name: tensor.numpy() for name, tensor in case.items()})
        except Exception as error:  # onnxruntime's errors share no base of their own
            raise ExportError(f"{path.name}: does not run on shape {shape}: {one_line(error)[:300]}") from error
        for name, ours, theirs in zip(side.outputs, side(**case), outputs, strict=True):
            apart = float(np.abs(ours.numpy() - theirs).max())
            if not apart <= PARITY:
                what = f"{name} differs by {apart:.1e} from PyTorch on shape {shape}"
                raise ExportError(f"{path.name}: {what}; at most {PARITY:.0e} is allowed, so nothing was written")
            worst = max(worst, apart)
    return worst


def measure_latency(side: TextSide | ImageSide, paths: dict[str, Path]) -> list[dict[str, object]]:
    """Seconds of PyTorch and of every graph of a side on the same inputs and threads, rounds interleaved.

    Texts are the longest the model takes. `paths` are graphs by precision ("fp32", "int8").

    Returns:
        One entry per batch size: `batch`, `threads`, `rounds`, `pytorch_ms` and per precision `<name>_ms`,
        `<name>_ratio` (of medians, below 1 where the graph is faster).
    """
    threads = torch.get_num_threads()
    graphs = {name: open_graph(path, threads) for name, path in paths.items()}
    results = []
    for batch in BATCHES:
        example = side.example(batch)
        arrays = {name: tensor.numpy() for name, tensor in example.items()}
        runs = {"pytorch": lambda example=example: side(**example)}
        runs |= {name: lambda graph=graph, arrays=arrays: graph(arrays) for name, graph in graphs.items()}
        times = _interleave(runs)
        medians = {name: float(np.median(one)) for name, one in times.items()}
        entry: dict[str, object] = {"batch": batch, "threads": threads, "rounds": len(times["pytorch"])}
        entry |= {f"{name}_ms": 1000 * median for name, median in medians.items()}
        entry |= {f"{name}_ratio": medians[name] / medians["pytorch"] for name in graphs}
        results.append(entry)
    return results


@torch.no_grad()
def _interleave(runs: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()  # the first one allocates
    start_s = time.perf_counter()
    for number in range(ROUNDS):
        if number >= 3 and time.perf_counter() - start_s > ROUND_BUDGET_S:
            break
        for name, run in runs.items():
            before_s = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - before_s)
    return times


def run_alone(directory: Path, precision: str, blocked: tuple[str, ...], encoder: Encoder) -> float:
    """Peak memory, MB (1e6 bytes), of a process that encodes a sentence and a picture and cannot import `blocked`.

    Raises:
        ExportError: the folder does not run by itself, or gives other vectors than `encoder` does here.
    """
    text, picture = TEXTS[0], example_pictures()[0]
    with tempfile.TemporaryDirectory() as scratch:
        picture.save(Path(scratch) / "picture.png")
        command = [sys.executable, "-c", _ALONE, str(directory.resolve()), precision, scratch, text, *blocked]
        done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise ExportError(f"the exported folder does not run without {', '.join(blocked)}: {last}")
        with np.load(Path(scratch) / "vectors.npz") as alone:
            query, gallery = alone["query"], alone["gallery"]
    here = (encoder.encode_text([text])[0], encoder.encode_images([picture]))
    apart = max(float(np.abs(a - b).max()) for a, b in zip(here, (query, gallery), strict=True))
    if not apart <= PARITY:
        raise ExportError(f"the exported folder gives vectors {apart:.1e} away in a process of its own")
    return int(done.stdout.split()[-1]) / 1e6


def measure_recall(
    model: PeMoEModel, processor: PeMoEProcessor, rows: datasets.Dataset, encoders: dict[str, Encoder]
) -> dict[str, dict]:
    """Recall of PyTorch and of every encoder on the same rows, and what each loses, with 95 % intervals over places.

    The encoders prepare texts and pictures by themselves, as the computer they go to will.

    Returns:
        `{"pytorch": figures of score_split, name: the same, "loss": {name: {"recall_at_1": [loss, low, high], ...}}}`.

    Raises:
        ExportError: the rows have no captions to search with.
    """
    check_has_queries(rows)
    ours = embed_split(model, processor, rows)
    ranks, figures, loss = rank_split(ours), {"pytorch": score_split(ours)}, {}
    for name, encoder in encoders.items():
        split = _embed(encoder, rows, ours)
        its = rank_split(split)
        figures[name] = score_split(split, its)
        loss[name] = {
            f"recall_at_{k}": list(bootstrap_difference(ranks < k, its < k, ours.query_place_id)) for k in CUTOFFS
        }
    return figures | {"loss": loss}


def check_has_queries(rows: datasets.Dataset) -> None:
    """Raise `ExportError` when a split has no captions, so that no recall can be measured."""
    if not any(rows["captions"]):
        raise ExportError("the data has no test captions, so recall cannot be measured; name other data with --data")


def _embed(encoder: Encoder, rows: datasets.Dataset, like: EmbeddedSplit, batch_size: int = 32) -> EmbeddedSplit:
    """The vectors of `like`'s texts and pictures by an encoder; a batch holds texts of about one length."""
    query, weights = np.empty_like(like.query), np.empty_like(like.gate_weights)
    order = np.argsort([len(text) for text in like.texts], kind="stable")
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        query[chosen], weights[chosen] = encoder.encode_text([like.texts[k] for k in chosen])
    images = rows.select_columns(["image"])
    starts = range(0, len(rows), batch_size)
    gallery = [encoder.encode_images(images[start : start + batch_size]["image"]) for start in starts]
    return dataclasses.replace(like, query=query, gallery=np.concatenate(gallery), gate_weights=weights)
