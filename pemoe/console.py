"""What the commands share: options with their help, tables, JSON on stdout, one-line refusals."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, NoReturn
from urllib.parse import urlsplit

import typer

from pemoe.common.errors import InputError
from pemoe.common.files import may_hold_data


def check_root(root: str | None) -> str | None:
    """Refuse a misspelled path while the options are read, before anything that takes seconds is imported."""
    if root is None or may_hold_data(root):
        return root
    raise InputError(f"{root} is neither a directory nor the id of a data set on the Hub; check the spelling")


def check_endpoint() -> None:
    """Refuse an HF_ENDPOINT that is no address, before the Hub's client fails at it."""
    endpoint = os.environ.get("HF_ENDPOINT", "")
    try:
        address = urlsplit(endpoint)
        is_address = address.scheme in ("http", "https") and bool(address.hostname)
    except ValueError:
        is_address = False
    if endpoint and not is_address:
        raise InputError("HF_ENDPOINT is no address as https://huggingface.co: correct or unset it")


Output = Annotated[Path | None, typer.Option(help="Directory to write to (default: runs/<command>).")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an earlier run in that directory.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on where an earlier run stopped.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
Seed = Annotated[int, typer.Option(min=0, help="Of everything drawn.")]
_ANY_DATA = "A built data set, its Hub id, GeoText-1652's files, a folder of photos, or: campus."
Data = Annotated[str | None, typer.Option(help=_ANY_DATA, callback=check_root)]
Checkpoint = Annotated[str, typer.Argument(help="Directory or Hub id of a trained model.")]


def find_accelerate_config(name: str) -> Path:
    """Path of a packaged config for `accelerate launch --config_file`; InputError names those that there are."""
    room = find_spec("pemoe.trainers")  # without importing it
    folder = Path(next(iter(room.submodule_search_locations))) / "accelerate_configs"
    paths = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    if name not in paths:
        raise InputError(f"--accelerate-config {name}: the packaged ones are {', '.join(paths)}")
    return paths[name]


def typed_command() -> str:
    """The command as typed, without user, password and query of addresses in it."""
    address = re.compile(r"(?i)(https?://)(?:[^?#\s]*@)?([^?#]*).*")
    return " ".join(["pemoe", *(address.sub(r"\1\2", word) for word in sys.argv[1:])])


def print_json(content: dict) -> None:
    """One JSON object on stdout."""
    typer.echo(json.dumps(content, ensure_ascii=False))


def note(message: str) -> None:
    """A line on stderr; of several processes on a machine the first one speaks."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        typer.echo(message, err=True)


def fail(message: str) -> NoReturn:
    """One line on stderr, exit code 2; of a machine's processes that fail alike, one speaks."""
    message = " ".join(message.split())
    if message and _is_first_to_say(message):
        typer.echo(f"pemoe: {message}", err=True)
    sys.exit(2)


_LOST_PROCESS = ("by peer", "Broken pipe", "remote process exiting prematurely")  # of gloo twice, of NCCL


def has_lost_process(error: RuntimeError) -> bool:
    """Whether PyTorch says that another process of this run is gone, in the words of gloo or of NCCL."""
    return any(words in str(error) for words in _LOST_PROCESS)


def _is_first_to_say(message: str) -> bool:
    """Whether no other process that torchrun started here has said this; it gives each a file in one folder."""
    error_file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if error_file is None:
        return True
    said = Path(error_file).parents[1] / f"pemoe-{hashlib.sha256(message.encode()).hexdigest()[:16]}"
    try:
        said.touch(exist_ok=False)
    except FileExistsError:
        return False
    except OSError:  # better twice than never
        return True
    return True


def quiet_transformers() -> None:
    """No bars and warnings of transformers in a command that has imported it; bars of our own stay."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def format_columns(rows: list[list[str]]) -> str:
    """Rows of cells as plain text, the first column to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    cells = ([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in rows)
    return "\n".join("  ".join(row).rstrip() for row in cells)
