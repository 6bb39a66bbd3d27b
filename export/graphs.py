"""Graphs of a side: traced, written for onnxruntime or for PyTorch alone, quantized."""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.export import Dim, ExportedProgram

from pemoe.common.errors import one_line
from pemoe.export.sides import SHORTEST_TEXT, ExportError, ImageSide, TextSide

SUFFIXES = {"onnx": ".onnx", "torch-export": ".pt2"}
INT8 = ".int8"  # before the suffix of a quantized graph
DEFAULT_OPSET = 18  # what torch writes without converting
EXTERNAL_DATA_BYTES = 2**31 - 2**26  # one protobuf file holds less than 2 GB
QUANTIZED_OPS = ["MatMul", "Gemm", "Gather"]  # not Conv: onnxruntime has no fast int8 one on the CPU
_ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def require_onnx() -> None:
    """Raise `ExportError`, one line, unless what writes and runs ONNX graphs is installed."""
    for name in _ONNX_PACKAGES:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ExportError(f'--onnx needs {name}: run `pip install "pemoe[export]"`') from error


def write_graph(side: TextSide | ImageSide, path: Path, opset: int = DEFAULT_OPSET) -> None:
    """Trace a side with dynamic batch (and text length) and write it, as the suffix of `path` says.

    Weights beyond 2 GB go into `path` + ".data". `opset` is of ONNX graphs.

    Raises:
        ExportError: torch or onnx cannot do it.
    """
    write = _write_onnx if path.suffix == ".onnx" else _write_pt2
    try:
        with _quiet(), torch.no_grad():
            write(side, _trace(side), path, opset)
    except (ExportError, OSError):
        raise
    except Exception as error:  # torch.export, torch.onnx and onnx raise many kinds
        raise ExportError(f"{path.name}: {one_line(error)[:300]}") from error


def quantize(path: Path) -> Path:
    """Write the int8 form of an ONNX graph beside it (`text.int8.onnx`): weights int8, activations on the fly.

    Raises:
        ExportError: onnxruntime cannot do it.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    target = path.with_name(path.stem + INT8 + path.suffix)
    is_large = path.with_name(path.name + ".data").exists()
    try:
        with _quiet():
            quantize_dynamic(
                path,
                target,
                op_types_to_quantize=QUANTIZED_OPS,
                per_channel=True,
                weight_type=QuantType.QInt8,
                use_external_data_format=is_large,
            )
    except OSError:
        raise
    except Exception as error:  # onnx's and onnxruntime's errors share no base
        raise ExportError(f"{target.name}: onnxruntime cannot quantize: {one_line(error)[:300]}") from error
    return target


def _trace(side: TextSide | ImageSide) -> ExportedProgram:
    example = side.example(2, is_padded=True) if isinstance(side, TextSide) else side.example(2)
    bounds = {"batch": (1, None), "length": (SHORTEST_TEXT, side.model.config.max_text_tokens)}
    dims = {number: Dim(name, min=bounds[name][0], max=bounds[name][1]) for number, name in enumerate(side.axes)}
    program = torch.export.export(side, (), example, dynamic_shapes=dict.fromkeys(example, dims), strict=False)
    for module in program.graph_module.modules():
        for node in getattr(module, "graph", program.graph).nodes:
            node.meta.pop("stack_trace", None)  # names files of this machine
    return program


def _write_onnx(side: TextSide | ImageSide, program: ExportedProgram, path: Path, opset: int) -> None:
    import onnx

    names = {name: dict(enumerate(side.axes)) for name in side.inputs}
    options = {"dynamo": True, "verbose": False, "opset_version": opset, "dynamic_shapes": names}
    graph = torch.onnx.export(program, input_names=side.inputs, output_names=side.outputs, **options)
    graph.save(path, external_data=_weight_bytes(side) > EXTERNAL_DATA_BYTES)
    model = onnx.load(path, load_external_data=False)
    del model.graph.value_info[:]  # the quantizer infers shapes anew, and stops where torch's differ
    for node in model.graph.node:
        del node.metadata_props[:]  # traces of PyTorch's modules
    path.write_bytes(model.SerializeToString())
    onnx.checker.check_model(path)
    written = next(one.version for one in model.opset_import if not one.domain)
    if written != opset:
        raise ExportError(f"--opset {opset}: torch could write opset {written} only; leave --opset out")


def _write_pt2(side: TextSide | ImageSide, program: ExportedProgram, path: Path, opset: int) -> None:
    torch.export.save(program, path)


def _weight_bytes(side: TextSide | ImageSide) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in side.parameters())


@contextmanager
def _quiet() -> Iterator[None]:
    """No warnings and log lines of the exporters: what matters is checked on the result."""
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
