"""Files written whole or not at all."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Callable
from pathlib import Path


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file beside `path`, this process's own on any machine, then rename it; the folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.tmp")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text so that a kill leaves the old file or the new one; lone surrogates become question marks."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8", errors="replace"))


def write_json(path: Path, content: object) -> None:
    """Write JSON so that a kill leaves the old file or the new one, never half of one."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def may_hold_data(root: str | Path) -> bool:
    """Whether this can name a data set: "campus", a directory, or what reads as an id on the Hub. Opens nothing.

    Example:
        >>> may_hold_data("campus"), may_hold_data("me/geotext1652"), may_hold_data("nowhere"), may_hold_data("./a")
        (True, True, False, False)
    """
    is_hub_id = re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", str(root)) is not None
    is_directory = str(root) != "" and Path(root).is_dir()  # an empty path reads as the working directory
    return str(root) == "campus" or is_directory or (is_hub_id and not Path(root).exists())
