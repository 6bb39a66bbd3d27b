"""`pemoe export`: parses, calls, prints; no logic."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from pemoe.console import AsJson, Checkpoint, Data, Output, Overwrite, format_columns, note, print_json, typed_command


def export(  # noqa: PLR0913 - options of a command
    checkpoint: Checkpoint,
    onnx: Annotated[bool, typer.Option("--onnx", help="Graphs for onnxruntime.")] = False,
    torch_export: Annotated[bool, typer.Option("--torch-export", help="Graphs for PyTorch without pemoe.")] = False,
    output: Output = None,
    int8: Annotated[bool, typer.Option("--int8", help="Quantized graphs too; needs --data.")] = False,
    data: Data = None,
    opset: Annotated[int, typer.Option(min=18, max=25, help="Of ONNX graphs.")] = 18,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Write the text and the image half as graphs that run without pemoe; with --data, the recall they keep.

    Example: pemoe export runs/quickstart/model --onnx --int8 --data campus --output runs/export
    """
    if onnx == torch_export:
        raise typer.BadParameter("give --onnx or --torch-export")
    from transformers.utils.logging import disable_progress_bar

    from pemoe.common.runs import check_output, write_metrics
    from pemoe.export.exporter import check_options, export_model, load_for_export, staged_output
    from pemoe.retrieval.checkpoints import read_config_of
    from pemoe.trainers.batches.pairs import load_rows
    from pemoe.trainers.checkpoint_io import data_of

    started_s = time.monotonic()
    disable_progress_bar()
    graph_format = "onnx" if onnx else "torch-export"
    check_options(graph_format, opset, int8, data is not None)
    output = check_output(output or Path("runs/export"), overwrite)
    config = read_config_of(checkpoint)
    source = {
        "repo": _name_of(checkpoint),
        "commit": getattr(config, "_commit_hash", None),
        "dtype": _dtype_name(config),
    }
    if source["dtype"] != "float32":
        note(f"The checkpoint is stored in {source['dtype']}; it is exported in float32.")
    model, processor = load_for_export(checkpoint)
    rows = None
    if data is not None:
        rows = load_rows(data_of(checkpoint, data), show_progress=True, needed=("test",))["test"]
    with staged_output(output, overwrite) as staging:
        results = export_model(model, processor, staging, graph_format, opset, int8, rows, source)
        metrics = write_metrics(staging, typed_command(), None, started_s, results)
    if as_json:
        print_json(metrics)
        return
    _print_measured(results)
    typer.echo(f'\n{metrics["wall_s"]:.0f} s. {output}: python run.py "round white arena" PICTURE ...')


def _name_of(checkpoint: str) -> str:
    """A Hub id as it is, a directory by its own name: the export goes to other machines."""
    path = Path(checkpoint)
    return path.resolve().name if path.is_dir() else checkpoint


def _dtype_name(config: Any) -> str:
    return str(config.dtype or "float32").removeprefix("torch.")


def _print_measured(results: dict[str, Any]) -> None:
    """Size and latency beside PyTorch, parity, memory, and recall where it was measured."""
    precisions = list(results["peak_rss_mb"])
    rows = [["", "MB", *[f"batch {one['batch']}: ms, ratio" for one in results["latency"]["text"]]]]
    for side, latency in results["latency"].items():
        sizes = results["bytes"][side]
        times = [f"{one['pytorch_ms']:.1f}" for one in latency]
        rows.append([f"{side} PyTorch", f"{sizes['pytorch_fp32'] / 1e6:.1f}", *times])
        for name in precisions:
            times = [f"{one[f'{name}_ms']:.1f}, {one[f'{name}_ratio']:.2f}" for one in latency]
            rows.append([f"{side} {name}", f"{sizes[name] / 1e6:.1f}", *times])
    typer.echo(format_columns(rows))
    parity = results["parity"]
    typer.echo(f"\nlargest difference from PyTorch: text {parity['text']:.1e}, image {parity['image']:.1e}")
    typer.echo(f"run.py's pictures: {results['preprocessing']['pixels_max_grey_levels']:.2f} grey levels at most")
    for name, peak_mb in results["peak_rss_mb"].items():
        typer.echo(f"memory of run.py, {name}: {peak_mb:.0f} MB")
    if results["recall"] is not None:
        _print_recall(results["recall"], precisions)


def _print_recall(recall: dict[str, Any], precisions: list[str]) -> None:
    figures = [f"recall_at_{k}" for k in (1, 5, 10)]
    rows = [["", *figures]]
    for name in ("pytorch", *precisions):
        rows.append([name, *[f"{recall[name][figure]:.4f}" for figure in figures]])
    for name in precisions:
        lost = [recall["loss"][name][figure] for figure in figures]
        rows.append([f"lost by {name}", *[f"{loss:.4f} [{low:.4f}, {high:.4f}]" for loss, low, high in lost]])
    typer.echo("\n" + format_columns(rows))
