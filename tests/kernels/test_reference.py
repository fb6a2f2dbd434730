"""The numpy reference: its fma against exact fractions, its packing against its inverse, the whole against float64."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from ternary_layers import random_layers

from baker.runtime import kernels, row_reference


def nearest_float32(value: Fraction) -> np.float32:
    """The float32 nearest to an exact value in range, ties to even, by comparing neighbours exactly."""
    guess = np.float32(float(value))
    below, above = np.nextafter(guess, np.float32(-np.inf)), np.nextafter(guess, np.float32(np.inf))
    candidates = [number for number in (below, guess, above) if np.isfinite(number)]
    distance = {number: abs(Fraction(float(number)) - value) for number in candidates}
    best = min(distance.values())
    tied = [number for number in candidates if distance[number] == best]
    return next(number for number in tied if len(tied) == 1 or not number.view(np.uint32) & 1)


def test_fma_rounds_once():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 4000)).astype(np.float32)
    # Addends from far above to far below the product, and those that leave a tie or miss one by a hair.
    c = (-a * b * rng.choice([0, 1, 1 + 2**-24, 2**-20, 2**20, 2**24, 2**30, 2**60], 4000)).astype(np.float32)
    a[:6] = np.float32([1 + 2**-12, 1 + 3 * 2**-12, 3, 1e-30, -1e-30, 2**-100])
    b[:6] = np.float32([1 + 2**-12, 1 + 2**-12, 1 / 3, 1e-15, 1e-15, 2**-49])
    c[:6] = np.float32([2**-80, -(2**-80), -1, 1, 1, 1e-40])
    got = row_reference.fma(a, b, c)
    double_rounded = (a.astype(np.float64) * b + c).astype(np.float32)
    want = [
        nearest_float32(Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z)))
        for x, y, z in zip(a, b, c, strict=True)
    ]
    np.testing.assert_array_equal(got, np.array(want))
    assert (got != double_rounded).any(), "no case tells one rounding from two: the test proves nothing"


def test_fma_keeps_special_values():
    inf, nan = np.float32(np.inf), np.float32(np.nan)
    a, b, c = np.float32([inf, 0, 1, 3e38, -0.0]), np.float32([1, inf, nan, 10, 5]), np.float32([1, 1, 1, 1, -0.0])
    np.testing.assert_array_equal(row_reference.fma(a, b, c), np.float32([inf, nan, nan, inf, -0.0]))


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5, 63, 64, 65])
def test_codes_round_trip(k):
    t = np.random.default_rng(k).integers(-1, 2, (9, k)).astype(np.int8)
    codes = kernels.pack_codes(t)
    assert codes.shape == (9, -(-k // 4))
    assert codes.dtype == np.uint8
    np.testing.assert_array_equal(kernels.unpack_codes(codes, k), t)


def test_codes_lie_as_documented():
    np.testing.assert_array_equal(kernels.pack_codes(np.int8([[-1, 0, 1, 1, 1]])), [[0b10_10_01_00, 0b01_01_01_10]])


def test_pack_refuses_what_is_not_ternary():
    with pytest.raises(ValueError, match=r"-1\.\.2; only -1, 0 and 1"):
        kernels.pack_codes(np.int8([[-1, 2]]))
    with pytest.raises(ValueError, match=r"must be \(N, K\)"):
        kernels.pack_codes(np.int8([1]))


@pytest.mark.parametrize(("codes", "k", "why"), [(0x57, 4, "a code is 3"), (0x15, 3, "padding"), (0x55, 5, "needs")])
def test_unpack_refuses_unusable_codes(codes, k, why):
    with pytest.raises(ValueError, match=why):
        kernels.unpack_codes(np.uint8([[codes]]), k)


def test_reference_is_the_product_up_to_the_activations_rounding():
    """|y - x @ w| <= half a quantization step of the row times the sum of |w|, plus float32 rounding."""
    checked = 0
    for layer in random_layers(seed=1, count=16):
        got = kernels.ternary_matmul_reference(
            layer.x, layer.codes, layer.scale, layer.bias, k=layer.k, group=layer.group
        )
        assert got.dtype == np.float32
        finite = np.isfinite(layer.x).all(axis=1)
        assert np.isnan(got[~finite]).all()
        per_weight = np.broadcast_to(
            layer.scale.reshape(layer.scale.shape[0], -1),
            (layer.t.shape[0], max(1, layer.scale.size // layer.scale.shape[0])),
        )
        w = layer.t * np.repeat(per_weight, layer.group or layer.k, axis=1)[:, : layer.k].astype(np.float64)
        bias = 0 if layer.bias is None else layer.bias
        want = layer.x[finite].astype(np.float64) @ w.T + bias
        step = np.maximum(np.abs(layer.x[finite]).max(axis=1, initial=0, keepdims=True), 1e-5) / 127
        bound = 0.5001 * step * np.abs(w).sum(axis=1) + 1e-5 * (np.abs(want) + np.abs(bias))
        assert (np.abs(got[finite] - want) <= bound).all()
        checked += want.size
    assert checked > 10_000
