"""What scores are usual: vectors of a sample of the gallery."""

from __future__ import annotations

from threading import Lock

import numpy as np

from pemoe.retrieval.index import Filter, GalleryIndex
from pemoe.retrieval.index.records import VECTOR, to_vectors

SAMPLE = 2048  # pictures


class GallerySample:
    """Vectors of at most `SAMPLE` pictures of an index, drawn evenly by seed.

    They are read anew where pictures came or went, of a gallery larger than the sample where a twentieth did.

    The standard error of a mean over them is 1/45 of a standard deviation.
    """

    def __init__(self, index: GalleryIndex) -> None:
        self._index, self._lock, self._pictures = index, Lock(), -1
        self._vectors = np.zeros((0, index.model.dimension), np.float32)

    def vectors(self) -> np.ndarray:
        """`(m, E * D)` float32; of all pictures where there are few."""
        pictures = self._index.count()
        with self._lock:
            if abs(pictures - self._pictures) > (0 if pictures <= SAMPLE else self._pictures / 20):
                self._vectors, self._pictures = self._read(), pictures
            return self._vectors

    def _read(self) -> np.ndarray:
        ids = sorted(self._index.read(["image_id"])["image_id"].to_pylist())
        if len(ids) > SAMPLE:
            chosen = np.random.default_rng(0).choice(len(ids), SAMPLE, replace=False)
            ids = [ids[number] for number in sorted(chosen)]
        rows = self._index.read(["image_id", VECTOR], Filter(image_ids=tuple(ids)) if ids else None)
        return to_vectors(rows.sort_by("image_id")[VECTOR]).astype(np.float32)
