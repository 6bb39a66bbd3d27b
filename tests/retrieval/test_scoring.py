"""Guards exact search: parity with a stable sort, and results that no block size or company of queries can change."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pemoe.retrieval.scoring import score_blocks, search


def vectors(rows: int, width: int, seed: int, dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, width)).astype(dtype)


def integers(rows: int, width: int, seed: int) -> np.ndarray:
    """Small integers: inner products are exact in float32, so ties are true ties and any order of sums agrees."""
    return np.random.default_rng(seed).integers(-2, 3, size=(rows, width)).astype("float32")


def stable_top(query: np.ndarray, gallery: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    scores = query @ gallery.T
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, axis=1), order


@pytest.mark.parametrize("k", [1, 7, 1500, 2500])
@pytest.mark.parametrize("block", [1, 1024, 65536])
def test_equals_a_stable_argsort_with_many_ties(k, block):
    query, gallery = integers(150, 4, 0), integers(2500, 4, 1)
    expected_scores, expected = stable_top(query, gallery, k)
    scores, indices = search(query, gallery, k, block=block)
    assert len(np.unique(query @ gallery.T)) < 60  # ties everywhere
    np.testing.assert_array_equal(indices, expected)
    np.testing.assert_array_equal(scores, expected_scores)
    assert scores.dtype == np.float32 and indices.dtype == np.int64


def test_real_vectors_equal_argsort():
    query, gallery = vectors(20, 48, 0), vectors(3000, 48, 1)
    expected_scores, expected = stable_top(query.astype("float64"), gallery.astype("float64"), 10)
    scores, indices = search(query, gallery, 10)
    np.testing.assert_array_equal(indices, expected)
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("width", [3, 96, 1000])
def test_bit_identical_for_every_block_size(width):
    query, gallery = vectors(5, width, 2), vectors(5000, width, 3)
    scores, indices = search(query, gallery, 4000)
    for block in (1, 1000, 1024, 1025, 2048, 3333, 4999, 5000, 10**9):
        other_scores, other = search(query, gallery, 4000, block=block)
        np.testing.assert_array_equal(other, indices)
        np.testing.assert_array_equal(other_scores.view(np.int32), scores.view(np.int32))


@pytest.mark.parametrize("width", [3, 96, 1000])
def test_bit_identical_whatever_other_queries_are_in_the_call(width):
    query, gallery = vectors(300, width, 4), vectors(1500, width, 5)
    scores, indices = search(query, gallery, 1500)
    rng = np.random.default_rng(6)
    subsets = [np.array([i]) for i in (0, 31, 32, 127, 128, 299)]
    subsets += [rng.permutation(300)[:n] for n in (2, 33, 129, 300)]
    for subset in subsets:
        other_scores, other = search(query[subset], gallery, 1500)
        np.testing.assert_array_equal(other, indices[subset])
        np.testing.assert_array_equal(other_scores.view(np.int32), scores[subset].view(np.int32))


def test_duplicate_rows_tie_to_the_lower_index():
    """Copies of one vector score the same bits in any column of any tile, so their order is their index."""
    gallery = vectors(3000, 37, 7)
    copies = [5, 6, 1023, 1024, 2047, 2999]
    gallery[copies] = gallery[5]
    indices = search(gallery[5:6] * 3, gallery, 6)[1]
    assert indices.tolist() == [copies]


def test_minus_zero_ties_with_zero_and_negative_scores_are_ordered():
    query = np.array([[1.0]], dtype="float32")
    gallery = np.array([[-2.0], [-0.0], [0.0], [-1.0], [-0.0]], dtype="float32")
    scores, indices = search(query, gallery, 5)
    assert indices.tolist() == [[1, 2, 4, 3, 0]]
    assert scores.tolist() == [[0.0, 0.0, 0.0, -1.0, -2.0]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_torch_in_torch_out_and_other_dtypes_are_scored_in_fp32(dtype):
    query, gallery = torch.tensor(vectors(4, 16, 8)).to(dtype), torch.tensor(vectors(50, 16, 9)).to(dtype)
    scores, indices = search(query.requires_grad_(), gallery, 5)
    assert isinstance(scores, torch.Tensor) and not scores.requires_grad
    assert scores.dtype == torch.float32 and indices.dtype == torch.int64
    expected_scores, expected = search(query.detach().float().numpy(), gallery.float().numpy(), 5)
    np.testing.assert_array_equal(indices.numpy(), expected)
    np.testing.assert_array_equal(scores.numpy(), expected_scores)


def test_autocast_does_not_coarsen_the_scores():
    query, gallery = torch.tensor(vectors(4, 16, 8)), torch.tensor(vectors(50, 16, 9))
    expected = search(query, gallery, 5)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(search(query, gallery, 5)[0], expected)


def test_read_only_memory_map_and_strided_views(tmp_path):
    gallery = vectors(2000, 8, 10)
    np.save(tmp_path / "gallery.npy", gallery)
    mapped = np.load(tmp_path / "gallery.npy", mmap_mode="r")
    query = vectors(3, 16, 11)[:, ::2]
    expected = search(np.ascontiguousarray(query), gallery, 3)
    for ours, theirs in zip(search(query, mapped, 3), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_no_queries_give_empty_results():
    scores, indices = search(np.zeros((0, 4)), np.zeros((3, 4)), 2)
    assert scores.shape == indices.shape == (0, 2)


def test_scores_held_are_bounded_by_the_block():
    query, gallery = vectors(100, 4, 12), vectors(5000, 4, 13)
    shapes = [tuple(scores.shape) for _, scores in score_blocks(query, slice(0, 100), gallery, block=1500)]
    assert shapes == [(100, 2048), (100, 2048), (100, 904)]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", ["query", "gallery"])
def test_nan_and_infinity_are_refused_with_their_row(value, side):
    query, gallery = vectors(140, 4, 14), vectors(1300, 4, 15)
    broken, row = (query, 133) if side == "query" else (gallery, 1234)
    broken[row, 2] = value
    with pytest.raises(ValueError, match=f"{side} row {row} "):
        search(query, gallery, 3, block=1024)


def test_overflow_is_refused_and_large_finite_sums_are_not():
    large = np.full((4, 1), 1e19, dtype="float32")
    scores = search(large, large * 0.3, 4)[0]  # each 3e37, their sum beyond float32
    assert np.isfinite(scores).all()
    with pytest.raises(ValueError, match="overflow"):
        search(large * 10, large * 10, 1)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"k": 6}, "k is 6"),
        ({"k": 0}, "k is 0"),
        ({"block": 0}, "block is 0"),
        ({"query": np.zeros(4)}, "float matrix"),
        ({"gallery": np.zeros((5, 4), dtype=int)}, "float matrix"),
        ({"gallery": np.zeros((5, 3))}, "D = 4"),
        ({"gallery": np.zeros((0, 4))}, "no rows"),
        ({"query": [[0.0, 0.0, 0.0, 0.0]]}, "list"),
    ],
)
def test_bad_arguments(change, message):
    good = {"query": np.zeros((2, 4)), "gallery": np.zeros((5, 4)), "k": 5}
    search(**good)
    with pytest.raises(ValueError, match=message):
        search(**(good | change))
