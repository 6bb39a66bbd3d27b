"""Invariant: the search by bands finds exactly the pairs that comparing all with all finds, each once."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from pemoe.datasets_scripts.audit.duplicates import NEAR_FREQUENCY_BITS, NEAR_GRADIENT_BITS, near_pairs


def brute_force(frequency: np.ndarray, gradient: np.ndarray) -> set[tuple[int, int]]:
    def apart(hashes: np.ndarray, i: int, j: int) -> int:
        return bin(int(hashes[i]) ^ int(hashes[j])).count("1")

    return {
        (i, j)
        for i, j in combinations(range(len(frequency)), 2)
        if apart(frequency, i, j) <= NEAR_FREQUENCY_BITS and apart(gradient, i, j) <= NEAR_GRADIENT_BITS
    }


def clustered(rng: np.random.Generator, centres: int, flips: int) -> np.ndarray:
    """Hashes around a few centres with up to `flips` bits turned, so that many pairs lie at the limit."""
    hashes = rng.integers(0, 2**64, centres, dtype=np.uint64)[rng.integers(0, centres, 300)]
    for _ in range(flips):
        hashes ^= np.where(rng.random(300) < 0.5, np.uint64(1) << rng.integers(0, 64, 300, dtype=np.uint64), 0).astype(
            np.uint64
        )
    return hashes


@pytest.mark.parametrize("seed", range(6))
def test_bands_equal_brute_force(seed: int) -> None:
    rng = np.random.default_rng(seed)
    frequency, gradient = clustered(rng, 20, 2 * seed), clustered(rng, 2, 3 * seed)
    found = list(near_pairs(frequency, gradient))
    assert len(found) == len(set(found))
    assert set(found) == brute_force(frequency, gradient)
    assert seed > 4 or found


def test_few_or_no_images_have_no_pairs() -> None:
    for count in (0, 1):
        empty = np.zeros(count, dtype=np.uint64)
        assert list(near_pairs(empty, empty)) == []
