"""Compensation: what the layer's output loses on data that was not calibrated on, against plain rounding."""

from __future__ import annotations

import numpy as np
import pytest
from correlated import SPECTRA, inputs, weights

from baker.passes.ternary import compensate
from baker.passes.ternary.compensate import Correlation, Rounded, compensated, output_error
from baker.passes.ternary.rounding import INT4, TERNARY, Grid

K, N, GROUP = 256, 96, 64


def correlation(x: np.ndarray, feeds: int = 4) -> np.ndarray:
    seen = Correlation(x.shape[-1])
    for part in np.array_split(x, feeds):
        seen.add(part)
    found = seen.damped()
    assert found is not None
    return found


def loss(x: np.ndarray, matrix: np.ndarray, rounded: np.ndarray) -> float:
    """Relative L2 error of the output."""
    return float(np.linalg.norm(x @ (matrix - rounded).T) / np.linalg.norm(x @ matrix.T))


def plain(matrix: np.ndarray, grid: Grid) -> np.ndarray:
    return Rounded(*grid.nearest(matrix, GROUP), GROUP).dequantized()


@pytest.mark.parametrize("exponent", SPECTRA.values(), ids=list(SPECTRA))
@pytest.mark.parametrize("seed", range(2))
def test_the_output_error_is_at_most_three_tenths(exponent: float, seed: int):
    matrix, held_out = weights(N, K, seed), inputs(2048, K, exponent, seed + 100)
    hessian = correlation(inputs(4096, K, exponent, seed))
    ternary = compensated(matrix, hessian, GROUP, TERNARY)
    error = loss(held_out, matrix, ternary.dequantized())
    assert error <= 0.30
    assert error < 0.75 * loss(held_out, matrix, plain(matrix, TERNARY))
    assert output_error(matrix, ternary.dequantized(), hessian) == pytest.approx(error, rel=0.2)  # damped, hence higher
    int4 = loss(held_out, matrix, compensated(matrix, hessian, GROUP, INT4).dequantized())
    assert int4 < 0.8 * loss(held_out, matrix, plain(matrix, INT4))
    assert int4 < 0.3 * error


def test_every_step_gains():
    matrix, x = weights(N, K), inputs(4096, K, 0.5)
    hessian, held_out = correlation(x), inputs(2048, K, 0.5, 9)
    columns = np.ascontiguousarray(matrix.T)
    codes, scale = compensate._feedback(columns, compensate._factor(hessian), GROUP, TERNARY)
    errors = [
        loss(held_out, matrix, plain(matrix, TERNARY)),
        loss(held_out, matrix, Rounded(codes.T, scale.T, GROUP).dequantized()),
        *(
            loss(held_out, matrix, compensated(matrix, hessian, GROUP, TERNARY, sweeps=n).dequantized())
            for n in range(3)
        ),
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[1] < 0.8 * errors[0]


def test_white_inputs_cost_next_to_nothing():
    """There is nothing to make up with; the sample's own noise must not be fitted."""
    matrix, rng = weights(N, K), np.random.default_rng(3)
    held_out = rng.standard_normal((2048, K)).astype(np.float32)
    for rows in (32, 256, 4096):
        hessian = correlation(rng.standard_normal((rows, K)).astype(np.float32))
        error = loss(held_out, matrix, compensated(matrix, hessian, GROUP, TERNARY).dequantized())
        assert error <= 1.12 * loss(held_out, matrix, plain(matrix, TERNARY)), rows


@pytest.mark.parametrize("rows", [16, 64, 256])
def test_few_rows_help_too(rows: int):
    matrix, held_out = weights(N, K), inputs(2048, K, 0.75, 5)
    hessian = correlation(inputs(rows, K, 0.75))
    error = loss(held_out, matrix, compensated(matrix, hessian, GROUP, TERNARY).dequantized())
    assert error < 0.95 * loss(held_out, matrix, plain(matrix, TERNARY))


@pytest.mark.parametrize("width", [16, 48, 128, 200])
@pytest.mark.parametrize("grid", [TERNARY, INT4], ids=lambda grid: grid.name)
def test_feedback_is_the_textbook_update(grid: Grid, width: int):
    """Against the column-by-column update with U = chol(inv(H))ᵀ, in float64, scales taken as found."""
    depth = 200
    matrix, hessian = weights(5, depth), correlation(inputs(1000, depth, 0.5))
    factor = compensate._factor(hessian)
    codes, scale = compensate._feedback(np.ascontiguousarray(matrix.T), factor, width, grid)
    upper = np.linalg.cholesky(np.linalg.inv(hessian.astype(np.float64))).T
    left = matrix.astype(np.float64).T.copy()
    for k in range(depth):
        step = scale[k // width]
        if k % width == 0:
            np.testing.assert_allclose(step, grid.fit(left[k : k + width].T.astype(np.float32)), rtol=1e-3)
        value = codes[k] * step
        assert (np.abs(codes[k] - np.clip(left[k] / step, grid.low, grid.high)) <= 0.501).all()
        left[k + 1 :] -= np.outer(upper[k, k + 1 :], (left[k] - value) / upper[k, k])


def test_refitted_scales_are_where_the_cost_is_flat():
    matrix, hessian = weights(N, K), correlation(inputs(4096, K, 0.5))
    rounded = compensated(matrix, hessian, GROUP, TERNARY)
    slope = (matrix - rounded.dequantized()) @ hessian * rounded.codes
    assert np.abs(slope.reshape(N, -1, GROUP).sum(axis=-1)).max() < 1e-3 * np.abs(matrix @ hessian).max()


def test_a_short_last_group_and_one_scale_a_channel():
    matrix, hessian = weights(8, 200), correlation(inputs(1000, 200, 0.5))
    short = compensated(matrix, hessian, 64, TERNARY)
    assert short.scale.shape == (8, 4)
    assert short.dequantized().shape == (8, 200)
    channel = compensated(matrix, hessian, 200, TERNARY)
    assert channel.scale.shape == (8, 1)
    assert loss(inputs(500, 200, 0.5, 1), matrix, channel.dequantized()) < 0.45


def test_inputs_that_never_move_and_weights_of_zero():
    x = inputs(500, 128, 0.5)
    x[:, 40:80] = 0
    matrix = weights(4, 128)
    matrix[1] = 0
    rounded = compensated(matrix, correlation(x), 64, TERNARY)
    assert np.isfinite(rounded.scale).all()
    assert not rounded.dequantized()[1].any()


def test_a_layer_that_saw_only_zeros_has_no_correlation():
    seen = Correlation(8)
    assert seen.damped() is None
    seen.add(np.zeros((3, 8), np.float32))
    assert seen.damped() is None
    seen.add(np.full((2, 8), np.nan, np.float32))
    assert seen.rows == 3


def test_channels_are_rounded_one_by_one_whatever_their_number(monkeypatch: pytest.MonkeyPatch):
    matrix, hessian = weights(10, 128), correlation(inputs(1000, 128, 0.5))
    together = compensated(matrix, hessian, 64, TERNARY)
    monkeypatch.setattr(compensate, "_CHANNELS", 3)
    parts = compensated(matrix, hessian, 64, TERNARY)
    assert np.mean(together.codes != parts.codes) < 0.01
