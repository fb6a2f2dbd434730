"""Rounding to a grid: the scale is the best there is, and the codes are the nearest."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from baker.passes.ternary.rounding import INT4, TERNARY
from baker.passes.ternary.weights import nearest


def least_error(group: np.ndarray) -> float:
    """The squared error of the best of all ternary vectors, tried one by one, each with its best scale."""
    codes = np.array(list(itertools.product((-1, 0, 1), repeat=group.size)), np.float64)
    kept = np.abs(codes).sum(axis=1)
    won = (codes @ group) ** 2 / np.maximum(kept, 1)
    return float((group.astype(np.float64) ** 2).sum() - won.max())


@pytest.mark.parametrize("seed", range(40))
def test_no_ternary_vector_is_nearer(seed: int):
    rng = np.random.default_rng(seed)
    draw = (rng.standard_normal, lambda n: rng.laplace(size=n), lambda n: rng.standard_t(2, n))[seed % 3]
    group = draw(8).astype(np.float32)
    codes, scale = TERNARY.nearest(group[None], 8)
    error = float(((group - codes * scale) ** 2).sum())
    assert error == pytest.approx(least_error(group), rel=1e-5)


@pytest.mark.parametrize("group", [16, 48, 64])
@pytest.mark.parametrize("depth", [64, 100])
def test_the_grid_and_the_matrix_rounding_agree(depth: int, group: int):
    matrix = np.random.default_rng(depth + group).standard_normal((6, depth)).astype(np.float32)
    codes, scale = TERNARY.nearest(matrix, group)
    expected = nearest(matrix, group)
    np.testing.assert_array_equal(codes, expected.codes)
    np.testing.assert_allclose(scale.reshape(expected.scale.shape), expected.scale, rtol=1e-6)


def test_a_group_of_zeros_stays_zero():
    for grid in (TERNARY, INT4):
        codes, scale = grid.nearest(np.zeros((2, 64), np.float32), 32)
        assert not codes.any()
        assert np.isfinite(scale).all()


@pytest.mark.parametrize("seed", range(6))
def test_int4_beats_the_range_of_the_largest_weight(seed: int):
    rng = np.random.default_rng(seed)
    matrix = rng.standard_t(4, (8, 128)).astype(np.float32)
    codes, scale = INT4.nearest(matrix, 64)
    assert codes.min() >= -8
    assert codes.max() <= 7
    groups = matrix.reshape(8, 2, 64)
    plain = np.abs(groups).max(axis=-1, keepdims=True) / 7
    theirs = np.square(np.clip(np.rint(groups / plain), -8, 7) * plain - groups).sum(axis=-1)
    ours = np.square(codes.reshape(groups.shape) * scale[..., None] - groups).sum(axis=-1)
    assert (ours <= theirs * (1 + 1e-6)).all()
    assert ours.sum() < 0.9 * theirs.sum()


def test_integers_that_fit_are_kept_exactly():
    codes = np.random.default_rng(0).integers(-8, 8, (4, 64)).astype(np.float32)
    codes[:, ::32] = -8
    found, scale = INT4.nearest(codes * np.float32(0.25), 32)
    np.testing.assert_array_equal(found.reshape(4, 2, 32) * scale[..., None], codes.reshape(4, 2, 32) * 0.25)
