"""Vectors on disk: one file that several processes fill block by block, and that is searched without being read in."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from pemoe.common.files import write_atomically


class VectorFile:
    """A matrix `(n_rows, dim)` float32 in a `.npy` file, written in numbered blocks.

    A block counts once it is closed, by an empty file beside the matrix that is made after its bytes are on the disk:
    a process that is killed loses the block it was at, and the others are not computed again.

    Args:
        path: of the `.npy` file; the closed blocks are noted in `path` with the suffix `.closed`, a folder.
        n_rows, dim, block_rows: shape of the matrix, and rows of a block; the last block may be shorter.

    Example:
        >>> vectors = VectorFile(Path("query.npy"), n_rows=3, dim=2, block_rows=2)
        >>> [vectors.span(number) for number in range(vectors.n_blocks)]
        [slice(0, 2, None), slice(2, 3, None)]
    """

    def __init__(self, path: Path, n_rows: int, dim: int, block_rows: int) -> None:
        self.path, self.shape, self.block_rows = path, (n_rows, dim), block_rows
        self.closed = path.with_suffix(".closed")

    @property
    def n_blocks(self) -> int:
        """How many blocks the rows make."""
        return -(-self.shape[0] // self.block_rows)

    def span(self, number: int) -> slice:
        """The rows of a block."""
        return slice(number * self.block_rows, min((number + 1) * self.block_rows, self.shape[0]))

    def create(self) -> None:
        """Make the file, with no block closed; one that is there stays as it is."""
        self.closed.mkdir(parents=True, exist_ok=True)
        if not self.path.is_file():
            write_atomically(self.path, self._reserve)

    def _reserve(self, path: Path) -> None:
        np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=self.shape)

    def is_closed(self, number: int) -> bool:
        """Whether a block has all its vectors."""
        return self._note(number).is_file()

    def write(self, number: int, vectors: np.ndarray) -> None:
        """Put a block's vectors into the file and close it; through `write`, which a full disk fails with an error."""
        span = self.span(number)
        with self.path.open("r+b") as file:
            file.seek(self.read().offset + span.start * self.shape[1] * 4)
            file.write(np.ascontiguousarray(vectors, dtype=np.float32).data)
            file.flush()
            os.fsync(file.fileno())
        self._note(number).touch()

    def read(self) -> np.memmap:
        """The matrix as a read-only memory map."""
        return np.load(self.path, mmap_mode="r")

    def _note(self, number: int) -> Path:
        return self.closed / f"{number:06d}"
