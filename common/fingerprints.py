"""What names a state of files: sizes and times of change, and hashes of bytes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from pemoe.common.errors import InputError


def file_states(directory: Path) -> Iterator[str]:
    """One line for every file below a directory, in a fixed order: relative path, size in bytes, time of change in ns.

    Links are followed, as they are when images are read. A directory met again, under another name or inside itself,
    is one line that says which; a link that leads nowhere gives its own state. `InputError` where a file vanishes.
    """
    seen: set[str] = set()
    for parent, folders, names in os.walk(directory, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            yield f"{os.path.relpath(parent, directory)} -> {real}"
            continue
        seen.add(real)
        folders.sort()
        for name in sorted(names):
            path = os.path.join(parent, name)
            yield file_state(path, os.path.relpath(path, directory))


def file_state(path: str | Path, name: str) -> str:
    """The line of one file, which it calls `name`; `InputError` where there is no such file."""
    try:
        state = os.stat(path) if os.path.exists(path) else os.lstat(path)
    except OSError as error:
        raise InputError(f"{path} vanished while it was read ({error.strerror}); run again") from error
    return f"{name} {state.st_size} {state.st_mtime_ns}"


def hash_lines(lines: Iterable[str]) -> str:
    """SHA-256 of lines of text, in hexadecimal digits."""
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode() + b"\0")
    return digest.hexdigest()


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
