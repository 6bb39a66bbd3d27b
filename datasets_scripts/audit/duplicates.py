"""Near-duplicates among many 128-bit image hashes: exact, and far from comparing all pairs."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from itertools import pairwise

import numpy as np

from pemoe.datasets_scripts.audit.images import Hashes

NEAR_FREQUENCY_BITS = 6  # of 64; other campus places differ in 8 or more, other real places in 14 or more
NEAR_GRADIENT_BITS = 8
RECENT = 2**16  # pictures that one is compared with while they come in
_BANDS = NEAR_FREQUENCY_BITS + 1  # two hashes that differ in 6 bits agree in one of 7 bands

_POPCOUNT = np.array([bin(number).count("1") for number in range(256)], dtype=np.uint8)


def _bits_apart(hashes: np.ndarray, one: np.uint64) -> np.ndarray:
    """(n,) numbers of bits in which (n,) uint64 hashes differ from one."""
    return _POPCOUNT[(hashes ^ one).view(np.uint8)].reshape(len(hashes), 8).sum(axis=1)


def _band_keys(hashes: np.ndarray) -> np.ndarray:
    """(bands, n): the hashes cut into bands of 9 or 10 bits."""
    edges = np.linspace(0, 64, _BANDS + 1).astype(np.uint64)
    one = np.uint64(1)
    return np.stack([(hashes >> low) & ((one << (high - low)) - one) for low, high in pairwise(edges)])


def near_pairs(frequency: np.ndarray, gradient: np.ndarray) -> Iterator[tuple[int, int]]:
    """All pairs of images that look nearly the same.

    They differ in at most `NEAR_FREQUENCY_BITS` bits of the one hash and `NEAR_GRADIENT_BITS` of the other. By the
    pigeonhole principle such a pair agrees fully in one band of the first hash, so only images in a common bucket
    are compared; memory is one bucket.

    Args:
        frequency, gradient: (n,) uint64, the hashes of `images.hash_image`.

    Returns:
        Iterator over `(i, j)` with i < j, each pair once, in no fixed order.

    Example:
        >>> list(near_pairs(np.array([7, 0, 2**63 - 1], dtype=np.uint64), np.zeros(3, dtype=np.uint64)))
        [(0, 1)]
    """
    keys = _band_keys(frequency)
    for band, key in enumerate(keys):
        order = np.argsort(key, kind="stable")
        starts = np.flatnonzero(np.diff(key[order])) + 1
        for bucket in np.split(order, starts):
            for position, i in enumerate(bucket[:-1]):
                rest = bucket[position + 1 :]
                rest = rest[_bits_apart(frequency[rest], frequency[i]) <= NEAR_FREQUENCY_BITS]
                rest = rest[_bits_apart(gradient[rest], gradient[i]) <= NEAR_GRADIENT_BITS]
                new = (keys[:band, rest] != keys[:band, i][:, None]).all(axis=0)  # not met in an earlier band
                yield from ((int(i), int(j)) for j in rest[new])


class Looks:
    """The hashes of pictures by number, in the order in which they came in."""

    def __init__(self) -> None:
        self._numbers, self._frequency, self._gradient = array("Q"), array("Q"), array("Q")

    def add(self, number: int, hashes: Hashes) -> None:
        """Take in a picture."""
        self._numbers.append(number)
        self._frequency.append(hashes.frequency)
        self._gradient.append(hashes.gradient)

    def like(self, hashes: Hashes) -> list[int]:
        """The pictures that look nearly the same, as in `near_pairs`, out of the `RECENT` ones that came in last."""
        columns = (self._numbers, self._frequency, self._gradient)
        numbers, frequency, gradient = (np.asarray(column[-RECENT:], dtype=np.uint64) for column in columns)
        near = np.flatnonzero(_bits_apart(frequency, np.uint64(hashes.frequency)) <= NEAR_FREQUENCY_BITS)
        near = near[_bits_apart(gradient[near], np.uint64(hashes.gradient)) <= NEAR_GRADIENT_BITS]
        return numbers[near].tolist()

    def pairs(self, wanted: Iterable[int]) -> Iterator[tuple[int, int]]:
        """`near_pairs` among the pictures `wanted`, of each pair first the one that stands first there."""
        places = {number: place for place, number in enumerate(self._numbers)}
        numbers = [number for number in wanted if number in places]
        chosen = [places[number] for number in numbers]
        columns = (np.asarray(column, dtype=np.uint64)[chosen] for column in (self._frequency, self._gradient))
        yield from ((numbers[i], numbers[j]) for i, j in near_pairs(*columns))
