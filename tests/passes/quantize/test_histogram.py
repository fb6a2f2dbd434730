"""Streaming histograms, and the ranges that follow from them."""

from __future__ import annotations

import numpy as np
import pytest

from baker.model.qparams import activation_qparams, dequantize, quantize
from baker.passes.quantize.histogram import BINS, SAMPLES, Histogram


def filled(*arrays: np.ndarray) -> Histogram:
    histogram = Histogram()
    for array in arrays:
        histogram.add(array.astype(np.float32))
    return histogram


def squared_error(values: np.ndarray, bounds: tuple[float, float]) -> float:
    qparams = activation_qparams(*bounds)
    return float(np.square(dequantize(quantize(values, qparams), qparams) - values).sum(dtype=np.float64))


@pytest.mark.parametrize("order", [1, -1])
def test_counts_stay_exact_while_the_range_grows(order):
    rng = np.random.default_rng(0)
    parts = [rng.standard_normal(1000) * scale + shift for scale, shift in ((0.1, 0), (3, -40), (1, 300), (0.01, 5))]
    values = np.concatenate(parts).astype(np.float32)
    histogram = filled(*parts[::order])
    edges = histogram.low + histogram.width / BINS * np.arange(BINS + 1)
    expected, _ = np.histogram(values, np.concatenate([edges[:-1], [np.inf]]))
    assert histogram.counts.sum() == values.size
    assert np.abs(np.cumsum(histogram.counts) - np.cumsum(expected)).max() <= 2  # values on an edge
    assert (histogram.min, histogram.max) == (values.min(), values.max())
    assert histogram.low <= values.min()
    assert histogram.low + histogram.width >= values.max()


def test_memory_does_not_depend_on_the_data():
    histogram = filled(*(np.random.default_rng(i).standard_normal(5 * SAMPLES) * 2.0**i for i in range(12)))
    assert histogram.counts.shape == (BINS,)
    assert histogram.counts.sum() <= 12 * 1.1 * SAMPLES


def test_a_large_array_is_sampled_evenly_along_every_axis():
    array = np.zeros((64, 8, 32, 32), np.float32) + np.arange(64, dtype=np.float32)[:, None, None, None]
    counts = filled(array).counts
    shares = counts[counts > 0] / counts.sum()
    assert shares.size == 64
    assert shares.min() > 0.9 / 64
    assert shares.max() < 1.1 / 64


@pytest.mark.parametrize("shape", ["gauss", "relu", "heavy tail", "skewed"])
def test_mse_is_close_to_the_best_of_all_ranges_and_better_than_minmax(shape):
    rng = np.random.default_rng(3)
    values = rng.standard_normal(30000)
    values = {"gauss": values, "relu": values.clip(0), "heavy tail": values**5, "skewed": np.exp(values) - 0.5}[shape]
    values = values.astype(np.float32)
    histogram = filled(values)
    found = squared_error(values, histogram.range("mse"))
    best = min(
        squared_error(values, (values.min() * a, values.max() * b))
        for a in np.geomspace(0.02, 1, 25)
        for b in np.geomspace(0.02, 1, 25)
    )
    assert found <= 1.03 * best
    assert found <= squared_error(values, histogram.range("minmax")) * 1.001


def test_ranges_hold_zero_and_never_leave_what_was_seen():
    for values in (np.linspace(3, 5, 999), np.linspace(-5, -3, 999), np.linspace(-1, 9, 999)):
        for method in ("mse", "minmax", "percentile"):
            low, high = filled(values).range(method, percentile=99.0)
            assert min(values.min(), 0) - 1e-6 <= low <= 0 <= high <= max(values.max(), 0) + 1e-6
    assert filled(np.linspace(3, 5, 999)).range("minmax") == (0.0, 5.0)


def test_percentile_cuts_both_ends():
    low, high = filled(np.linspace(-100, 100, 20001)).range("percentile", percentile=90.0)
    assert abs(low + 90) < 0.5
    assert abs(high - 90) < 0.5


def test_zeros_constants_and_what_is_not_finite():
    assert filled(np.zeros(9)).range("mse") == (0.0, 0.0)
    assert filled(np.full(9, 2.5)).range("mse")[1] == pytest.approx(2.5, rel=0.01)
    assert filled(np.zeros(9), np.full(9, -4.0)).range("minmax") == (-4.0, 0.0)
    assert filled(np.full(4, 1e-38)).range("mse")[1] > 0
    broken = filled(np.array([1.0, np.inf]))
    assert not broken.finite
    assert not broken.seen
    with pytest.raises(ValueError, match="no value"):
        filled(np.zeros((0, 3))).range("mse")
