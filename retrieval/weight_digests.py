"""Hashes of weights, remembered beside the state of their files: hashing 4 GB takes seconds, and every query asks."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from huggingface_hub import constants

from pemoe.common.files import write_json
from pemoe.common.weights import ADAPTER, hash_weights, weight_paths

REMEMBERED_BYTES = 64 * 2**20  # what is hashed at once needs no memory
SETTLED_NS = 2 * 10**9  # a file changed so shortly ago may change again within one tick of the disk's clock


def weights_digest(folder: Path) -> str:
    """`hash_weights` of a checkpoint's directory, from memory where no byte of it can have changed since.

    Remembered in `HF_HOME/pemoe`, from `REMEMBERED_BYTES` on, under size, inode and both times of every weight file. A
    file that was changed within the last seconds, or a memory that cannot be read or written, means hashing.

    Raises:
        InputError: there are no weights as safetensors.
    """
    paths = [folder / ADAPTER[1]] if (folder / ADAPTER[0]).is_file() else weight_paths(folder)
    if sum(path.stat().st_size for path in paths) < REMEMBERED_BYTES:
        return hash_weights(folder)
    return _remembered([path.resolve() for path in paths], lambda: hash_weights(folder))


def _remembered(paths: list[Path], compute: Callable[[], str]) -> str:
    before = [os.stat(path) for path in paths]
    state = [
        [str(path), of.st_size, of.st_ino, of.st_mtime_ns, of.st_ctime_ns]
        for path, of in zip(paths, before, strict=True)
    ]
    name = hashlib.sha256("\0".join(map(str, paths)).encode()).hexdigest()[:32]
    memory = Path(constants.HF_HOME) / "pemoe" / f"weights-{name}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):  # nothing is remembered, or not this
        known = json.loads(memory.read_text(encoding="utf-8"))
        if known["files"] == state:
            return known["sha256"]
    digest = compute()
    after = [os.stat(path) for path in paths]
    is_settled = all(time.time_ns() - of.st_ctime_ns > SETTLED_NS for of in after)
    if is_settled and [of.st_ctime_ns for of in after] == [of.st_ctime_ns for of in before]:
        with suppress(OSError):  # a home that cannot be written: hashed again next time
            write_json(memory, {"files": state, "sha256": digest})
    return digest
