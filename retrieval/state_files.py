"""Files of states: records of one size, named call by call.

Each writer has a pair of files: `NAME.states`, the records, and `NAME.calls`, whose entries name them. An entry is
written when the records of its call are on the disk, and carries a check sum: what an entry names is whole, whenever
the writer was killed. What is torn behind the last whole entry is dropped by the next writer.
"""

from __future__ import annotations

import errno
import itertools
import os
import struct
import zlib
from io import FileIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from pemoe.common.errors import InputError

DTYPES = {"float32": ("<f4", torch.float32), "bfloat16": ("<u2", torch.bfloat16)}
_ENTRY = struct.Struct("<32sI")  # hash of a call, its number of records; behind it their CRC-32
_ENTRY_BYTES = _ENTRY.size + 4
_RECORDS_AT_ONCE = 64  # what a kill can lose: waiting for the disk after every picture takes longer than a small trunk


class FeatureCacheError(InputError):
    """A cache that cannot be used or has no room."""


class Records(NamedTuple):
    """How one state is stored: `shape` is (tokens N, width W)."""

    shape: tuple[int, int]
    dtype: str

    @property
    def n_bytes(self) -> int:
        """Size of one record."""
        return self.shape[0] * self.shape[1] * np.dtype(DTYPES[self.dtype][0]).itemsize


def find_calls(folder: Path, records: Records) -> dict[bytes, tuple[Path, int]]:
    """Of every call that lies whole in a folder, by its hash: the file and the number of its first record there."""
    found = {}
    for index in sorted(folder.glob("*.calls")):
        states, first = index.with_suffix(".states"), 0
        for key, count in _whole_calls(index, records):
            found.setdefault(key, (states, first))
            first += count
    return found


def _whole_calls(index: Path, records: Records) -> list[tuple[bytes, int]]:
    """Entries of an index, up to the first that is torn or whose records are not all there."""
    states = index.with_suffix(".states")
    content = index.read_bytes() if index.is_file() else b""
    held = states.stat().st_size // records.n_bytes if states.is_file() else 0
    entries: list[tuple[bytes, int]] = []
    total = 0
    for start in range(0, len(content) - _ENTRY_BYTES + 1, _ENTRY_BYTES):
        packed, check = content[start : start + _ENTRY.size], content[start + _ENTRY.size : start + _ENTRY_BYTES]
        key, count = _ENTRY.unpack(packed)
        total += count
        if zlib.crc32(packed).to_bytes(4, "little") != check or total > held:
            break
        entries.append((key, count))
    return entries


class CallWriter:
    """Appends calls to the first pair of files that no other process writes."""

    def __init__(self, folder: Path, records: Records) -> None:
        self.folder, self.records = folder, records
        self.waiting: list[tuple[np.ndarray, bytes]] = []
        self.n_waiting = 0

    def __enter__(self) -> CallWriter:
        for number in itertools.count():
            self.lock = FileLock(self.folder / f"{number:03d}.lock")
            try:
                self.lock.acquire(timeout=0)
            except Timeout:
                continue
            break
        index = self.folder / f"{number:03d}.calls"
        entries = _whole_calls(index, self.records)
        self.whole = sum(count for _, count in entries) * self.records.n_bytes, len(entries) * _ENTRY_BYTES
        self.files = tuple(path.open("ab", buffering=0) for path in (index.with_suffix(".states"), index))
        self._drop_torn_tail()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._write_waiting()
        finally:
            for file in self.files:
                file.close()
            self.lock.release()

    def append(self, key: bytes, states: Tensor) -> None:
        """Take the states of a call `(n, N, W)`; they are on the disk after 64 records, or when the writer closes."""
        values = states.to(DTYPES[self.records.dtype][1]).contiguous()
        packed = _ENTRY.pack(key, len(values))
        entry = packed + zlib.crc32(packed).to_bytes(4, "little")
        self.waiting.append((values.flatten().view(torch.uint8).numpy(), entry))
        self.n_waiting += len(values)
        if self.n_waiting >= _RECORDS_AT_ONCE:
            self._write_waiting()

    def _write_waiting(self) -> None:
        """Write the calls that wait, then their names."""
        calls, self.waiting, self.n_waiting = self.waiting, [], 0
        written = list(self.whole)
        try:
            for side, file in enumerate(self.files):  # names go last
                for call in calls:
                    written[side] += _write_whole(file, call[side])
                os.fsync(file.fileno())
        except OSError as error:
            self._drop_torn_tail()
            full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
            what = "the disk is full" if full else f"cannot be written ({error.strerror})"
            advice = "make room and go on with --resume: what is there is kept"
            raise FeatureCacheError(f"feature cache {self.folder.parent}: {what}; {advice}") from error
        self.whole = tuple(written)

    def _drop_torn_tail(self) -> None:
        for file, size in zip(self.files, self.whole, strict=True):
            file.truncate(size)


def _write_whole(file: FileIO, content: bytes | np.ndarray) -> int:
    """Write all bytes and say how many; a file without buffer may take fewer than it is given."""
    left = memoryview(content)
    while left:
        left = left[file.write(left) :]
    return len(content)
