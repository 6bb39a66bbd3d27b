"""Exporting a model whole or not at all: graphs, what prepares their inputs, and what was measured on them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import datasets
import torch

from pemoe.common.files import write_json
from pemoe.common.fingerprints import hash_file
from pemoe.common.runs import check_output, prepare_output
from pemoe.common.version import __version__
from pemoe.export.graphs import DEFAULT_OPSET, INT8, SUFFIXES, quantize, require_onnx, write_graph
from pemoe.export.measures import (
    PARITY,
    check_has_queries,
    check_parity,
    measure_latency,
    measure_recall,
    run_alone,
)
from pemoe.export.preprocessing import check_preprocessing, write_preprocessing
from pemoe.export.run import Encoder
from pemoe.export.sides import SIDES, ExportError, ImageSide, TextSide, check_exportable
from pemoe.modeling_pemoe import PeMoEModel, PeMoEProcessor
from pemoe.modeling_pemoe.backbones_pemoe import hash_trunks

BLOCKED = {  # what a computer that runs the export does without
    "onnx": ("pemoe", "transformers", "timm", "open_clip", "datasets", "torch", "torchvision", "onnx"),
    "torch-export": ("pemoe", "transformers", "timm", "open_clip", "datasets", "torchvision", "onnxruntime"),
}


@contextmanager
def staged_output(output: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """A directory to fill beside `output`, which takes its place when the block ends well; else it is removed.

    A kill leaves `.NAME.partial`, which the next export into `output` removes.

    Raises:
        RunError: `output` cannot be used, as `check_output` says.
    """
    path = check_output(output, overwrite)
    staging = path.with_name(f".{path.name}.partial")
    shutil.rmtree(staging, ignore_errors=True)
    prepare_output(staging)
    try:
        yield staging
        os.replace(staging, prepare_output(path, overwrite))
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def load_for_export(checkpoint: str) -> tuple[PeMoEModel, PeMoEProcessor]:
    """Model in fp32 on the CPU, whatever it was stored in, and processor; `ExportError` where they cannot be read.

    A model loaded in bf16 and turned to fp32 afterwards would keep rounded rotary tables.
    """
    try:
        model = PeMoEModel.from_pretrained(checkpoint, dtype=torch.float32).eval()
        return model, PeMoEProcessor.from_pretrained(checkpoint)
    except (ValueError, OSError) as error:
        raise ExportError(f"{checkpoint}: {error}") from error


def export_model(
    model: PeMoEModel,
    processor: PeMoEProcessor,
    directory: str | Path,
    graph_format: str = "onnx",
    opset: int = DEFAULT_OPSET,
    int8: bool = False,
    rows: datasets.Dataset | None = None,
    source: dict | None = None,
) -> dict[str, object]:
    """Write a model as two graphs whose outputs' inner product is Eq. 1, and everything needed to run them.

    Args:
        model, processor: fp32, on the CPU.
        directory: an existing empty directory; see `staged_output`.
        graph_format: a key of `SUFFIXES`: "onnx", or "torch-export" for PyTorch without this package.
        opset: of ONNX graphs.
        int8: write quantized ONNX graphs too; needs `rows`, so that their loss is known.
        rows: a test split; recall is measured on it.
        source: what else `export.json` says about where the model came from.

    Returns:
        What was measured: `parity`, `preprocessing`, `latency`, `bytes`, `peak_rss_mb`, `recall` (None without rows).
        `export.json`, which holds it too, is written last.

    Raises:
        ExportError: an option that does not go with the others, a model that cannot be traced, or a graph that
            differs by more than 1e-5 from PyTorch.
    """
    directory = Path(directory)
    check_options(graph_format, opset, int8, rows is not None)
    check_exportable(model)
    check_space(directory, model, int8)
    if rows is not None:
        check_has_queries(rows)
    suffix = SUFFIXES[graph_format]
    sides = {name: side_class(model) for name, side_class in SIDES.items()}
    write_preprocessing(model, processor, directory, suffix)
    graphs = {name: {"fp32": directory / f"{name}{suffix}"} for name in sides}
    parity = {}
    for name, side in sides.items():
        write_graph(side, graphs[name]["fp32"], opset)
        parity[name] = check_parity(side, graphs[name]["fp32"])
        if int8:
            graphs[name]["int8"] = quantize(graphs[name]["fp32"])
    precisions = {"fp32": "", "int8": INT8} if int8 else {"fp32": ""}
    encoders = {name: Encoder(directory, precision) for name, precision in precisions.items()}
    results = {
        "parity": {"allowed": PARITY, **parity},
        "preprocessing": check_preprocessing(encoders["fp32"], model, processor),
        "recall": None if rows is None else measure_recall(model, processor, rows, encoders),
        "latency": {name: measure_latency(side, graphs[name]) for name, side in sides.items()},
        "bytes": _count_bytes(sides, graphs) | {"checkpoint_fp32": _bytes_of(model)},
        "peak_rss_mb": {
            name: run_alone(directory, precision, BLOCKED[graph_format], encoders[name])
            for name, precision in precisions.items()
        },
    }
    _write_description(model, directory, graph_format, opset, sides, source or {}, results)
    return results


def check_options(graph_format: str, opset: int, int8: bool, has_rows: bool) -> None:
    """Raise `ExportError` for options that do not go together, or missing packages, before anything is read."""
    if graph_format not in SUFFIXES:
        raise ExportError(f"graph_format: {graph_format!r} is unknown, use one of {', '.join(SUFFIXES)}")
    if graph_format == "onnx":
        require_onnx()
    elif int8:
        raise ExportError("--int8 quantizes ONNX graphs; give it with --onnx")
    elif opset != DEFAULT_OPSET:
        raise ExportError("--opset is of ONNX graphs; give it with --onnx")
    if int8 and not has_rows:
        raise ExportError("--int8 loses accuracy, so it needs --data, whose test split says how much")


def check_space(directory: Path, model: PeMoEModel, int8: bool) -> None:
    """Raise `ExportError` where the graphs do not fit on the disk: PyTorch's own writer ends the process there."""
    needed = _bytes_of(model) * (1.4 if int8 else 1.1)  # int8 is a quarter; tokenizer and descriptions are small
    free = shutil.disk_usage(directory).free
    if free < needed:
        sizes = f"the graphs need about {needed / 1e6:,.0f} MB, {free / 1e6:,.0f} MB are free"
        raise ExportError(f"{directory.parent}: {sizes}; make room, or choose another --output")


def _write_description(
    model: PeMoEModel,
    directory: Path,
    graph_format: str,
    opset: int,
    sides: dict[str, TextSide | ImageSide],
    source: dict,
    results: dict,
) -> None:
    packages = ("torch", "transformers", "timm") + (("onnx", "onnxscript", "onnxruntime") * (graph_format == "onnx"))
    files = sorted(path for path in directory.iterdir() if path.is_file())
    description = {
        "format": graph_format,
        "opset": opset if graph_format == "onnx" else None,
        "score": "inner product of query and gallery rows (not cosine)",
        "platforms": list(model.config.platforms),
        "masked_platforms": list(model.config.masked_platforms),
        "graphs": {name: _describe_side(side) for name, side in sides.items()},
        "source": source | {"weights_sha256": hash_trunks(model.state_dict(), torch.float32, roots=("",))},
        "versions": {"pemoe": __version__, **{name: version(name) for name in packages}},
        "files": {path.name: {"bytes": path.stat().st_size, "sha256": hash_file(path)} for path in files},
        "measured": results,
    }
    write_json(directory / "export.json", description)


def _describe_side(side: TextSide | ImageSide) -> dict[str, dict]:
    """Names, dtypes and shapes of a graph's inputs and outputs; dynamic axes by name."""
    example = side.example(2)
    with torch.no_grad():
        outputs = dict(zip(side.outputs, side(**example), strict=True))

    def describe(name: str, tensor: torch.Tensor, axes: tuple[str, ...]) -> dict:
        shape = [*axes, *tensor.shape[len(axes) :]]
        return {"name": name, "dtype": str(tensor.dtype).removeprefix("torch."), "shape": shape}

    return {
        "inputs": [describe(name, tensor, side.axes) for name, tensor in example.items()],
        "outputs": [describe(name, tensor, ("batch",)) for name, tensor in outputs.items()],
    }


def _count_bytes(sides: dict, graphs: dict[str, dict[str, Path]]) -> dict[str, dict[str, int]]:
    """Bytes of every graph with its external data, and of the weights that the side holds in PyTorch."""
    sizes = {}
    for name, paths in graphs.items():
        parts = {key: [path, path.with_name(path.name + ".data")] for key, path in paths.items()}
        sizes[name] = {key: sum(p.stat().st_size for p in both if p.exists()) for key, both in parts.items()}
        sizes[name]["pytorch_fp32"] = _bytes_of(sides[name])
    return sizes


def _bytes_of(module: torch.nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())
