"""The activations against float64: every exponent, both signs, and the values that are special."""

from __future__ import annotations

import math

import numpy as np
import pytest

from baker.runtime import kernels, row_reference

# Largest error in units of the last place (2^-149 below the normal range), rounded up from what every 37th float gives.
BOUNDS = {"Relu": 0.0, "Silu": 3.5, "GeluTanh": 3.5, "Gelu": 5.0}


def exact(activation: str, x: np.ndarray) -> np.ndarray:
    """In float64, written so that the left tail keeps its digits."""
    wide = x.astype(np.float64)
    if activation == "Relu":
        return np.maximum(wide, 0)
    if activation == "Gelu":
        return np.array([0.5 * value * math.erfc(-value / math.sqrt(2)) for value in wide])
    with np.errstate(over="ignore"):
        cubed = wide + 0.044715 * wide**3 if activation == "GeluTanh" else wide
        return wide / (1 + np.exp(-(2 * math.sqrt(2 / math.pi) if activation == "GeluTanh" else 1) * cubed))


def every_exponent(seed: int) -> np.ndarray:
    """40 mantissas at each exponent of either sign, and densely where the curves bend."""
    rng = np.random.default_rng(seed)
    bits = (np.arange(255, dtype=np.uint32)[:, None] << 23 | rng.integers(0, 1 << 23, (255, 40), np.uint32)).ravel()
    magnitudes = np.concatenate([bits.view(np.float32), rng.uniform(0, 110, 20000), rng.uniform(0, 15, 20000)])
    return np.concatenate([magnitudes, -magnitudes]).astype(np.float32)


def through_the_kernel(x: np.ndarray, activation: str, isa: str) -> np.ndarray:
    """A product of zeros leaves the bias, so that the activation sees exactly x."""
    codes = np.full((x.size, 1), 0x55, np.uint8)
    zero, scale = np.zeros((1, 1), np.float32), np.ones(1, np.float32)
    return kernels.ternary_matmul(zero, codes, scale, x, k=1, activation=activation, isa=isa)[0]


@pytest.mark.parametrize("activation", BOUNDS)
def test_error_against_float64(activation):
    x = every_exponent(0)
    want = exact(activation, x)
    ulp = np.exp2(np.maximum(np.frexp(np.abs(want))[1] - 24.0, -149))
    error = np.abs(row_reference.activate(x, activation).astype(np.float64) - want) / ulp
    assert error.max() <= BOUNDS[activation], f"{error.max()} ulp at x = {x[error.argmax()]!r}"
    assert activation == "Relu" or error.max() > 1, "exact everywhere: the bound proves nothing"


@pytest.mark.parametrize("isa", kernels.available_isas())
@pytest.mark.parametrize("activation", BOUNDS)
def test_kernels_equal_the_reference(isa, activation):
    special = np.float32([0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 3.4e38, -3.4e38, 88.8, -88.8, -104, -110])
    x = np.concatenate([special, every_exponent(1)])[:-1]  # an odd number: the last lanes are filled by a copy
    got = through_the_kernel(x, activation, isa)
    np.testing.assert_array_equal(
        got.view(np.uint32), row_reference.activate(x + np.float32(0), activation).view(np.uint32)
    )


@pytest.mark.parametrize("activation", BOUNDS)
def test_limits(activation):
    y = row_reference.activate(np.float32([np.inf, -np.inf, 0, 3e38, np.nan]), activation)
    np.testing.assert_array_equal(y, np.float32([np.inf, 0, 0, 3e38, np.nan]))


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="activation is 'relu'; it must be Relu, Gelu, GeluTanh, Silu or empty"):
        row_reference.activate(np.ones(1, np.float32), "relu")
    with pytest.raises(ValueError, match="activation is 'relu'; it must be Relu, Gelu, GeluTanh, Silu or empty"):
        through_the_kernel(np.ones(1, np.float32), "relu", "auto")
