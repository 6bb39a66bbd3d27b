"""Run directories: prepared without losing anything, closed by `metrics.json`."""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

from pemoe.common.errors import InputError
from pemoe.common.files import write_json
from pemoe.common.version import __version__


class RunError(InputError):
    """A run directory that cannot be used."""


def check_output(directory: str | Path, overwrite: bool = False, resume: bool = False) -> Path:
    """See whether a run may use a directory, and change nothing; raises as `prepare_output`."""
    path = Path(directory)
    if path.exists() and not path.is_dir():
        raise RunError(f"{path}: is a file; name a directory with --output")
    if path.is_dir() and any(path.iterdir()) and not resume:
        if not overwrite:
            raise RunError(f"{path}: is not empty; use --overwrite to replace it, or another --output")
        if not (path / "metrics.json").is_file() and not (path / "recipe.json").is_file():
            raise RunError(f"{path}: holds no earlier run, so --overwrite leaves it alone; use another --output")
    return path


def prepare_output(directory: str | Path, overwrite: bool = False, resume: bool = False) -> Path:
    """Make the directory of a run; call it when the input has been read, since `overwrite` empties it.

    Raises:
        RunError: it holds something and neither `overwrite` (empties it) nor `resume` (keeps it, but for what a kill
            left half-written) was given, or it is no directory or cannot be made, or `overwrite` would delete
            something that is no earlier run.
    """
    path = check_output(directory, overwrite, resume)
    if overwrite and not resume and path.is_dir():
        shutil.rmtree(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:  # below a file, or where writing is not allowed
        raise RunError(f"{path}: cannot be made ({error.strerror}); use another --output") from error
    if resume:
        _remove_unfinished(path)
    return path


def _remove_unfinished(directory: Path) -> None:
    """Remove what a killed run has begun to write: our own temporary files and folders, and those of safetensors."""
    for path in [*directory.rglob(".*.tmp"), *directory.rglob(".tmp??????")]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def write_metrics(
    directory: Path,
    command: str,
    seed: int | None,
    started_s: float,
    results: dict,
    device: str = "cpu",
    data: dict | None = None,
    model: dict | None = None,
) -> dict:
    """Write `metrics.json` of a run and return its content.

    `command` is as typed, `seed` None where nothing is drawn, `started_s` from `time.monotonic()`, `device` "cpu" or
    the name of a GPU, `data` what the figures were measured on and `model` which weights, None where there is nothing
    to say.
    """
    metrics = {
        "command": command,
        "version": __version__,
        "commit": _commit(),
        "seed": seed,
        "device": device,
        **({} if data is None else {"data": data}),
        **({} if model is None else {"model": model}),
        "wall_s": round(time.monotonic() - started_s, 2),
        "peak_rss_mb": round(_peak_rss_mb(), 1),
        "results": results,
    }
    write_json(directory / "metrics.json", metrics)
    return metrics


def _peak_rss_mb() -> float:
    """Highest resident memory of this process or of its largest child, MB (1e6 bytes)."""
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is bytes on macOS, KiB on Linux
    peaks = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return max(peaks) * unit / 1e6


def _commit() -> str | None:
    """Commit of the working tree that tracks this file; None outside git, and for a copy inside another project."""
    here = Path(__file__).resolve()
    root = here.parents[1]
    git = ["git", "-C", str(root)]
    try:
        subprocess.run([*git, "ls-files", "--error-unmatch", str(here)], capture_output=True, check=True)
        answer = subprocess.run(
            [*git, "rev-parse", "--show-toplevel", "HEAD"], capture_output=True, text=True, check=True
        )
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None
    toplevel, commit = answer.stdout.splitlines()
    return commit if Path(toplevel).resolve() == root else None
