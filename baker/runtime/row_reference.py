"""The float32 steps around the ternary product in numpy, one rounding for each, in the order that the kernels keep.

The order is fixed in csrc/kernels/ternary_matmul/variant.h and the activations' polynomials in activations.h beside it;
this is written from those texts alone and shares no code with them, so equal bits say something.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

MIN_ABS_MAX = np.float32(1e-5)
QUANT_MAX = np.float32(127)
SQUARE_LANES = 64

_ROUNDER = np.float32(12582912)  # 1.5 * 2^23: adding it rounds to an integer, half to even
_EXP = (0.00139504822, 0.00836895406, 0.041666206, 0.166665182, 0.5)
_MILLS = (
    *(5.44893483e-05, 0.000131330715, -0.000244730123, -0.0010325741, 0.0010247539, 0.00696931127),
    *(-0.0104625132, -0.0472626872, 0.230017707, -0.509332001, 0.729083717),
)
_LOG2_E, _LN2, _LN2_LOW = np.float32(1.44269502), np.float32(0.693147182), np.float32(-1.90465421e-09)
_TANH_1, _TANH_1_LOW = np.float32(1.59576917), np.float32(-4.53406805e-08)  # 2 sqrt(2/pi) in two floats
_TANH_3, _TANH_3_LOW = np.float32(0.0713548139), np.float32(2.39883247e-09)  # and that times 0.044715


def fma(a: F32 | np.float32, b: F32 | np.float32, c: F32 | np.float32) -> F32:
    """float32 a * b + c with one rounding.

    The product of two float32 is exact in float64. The sum is rounded to odd there (the inexact result keeps a set last
    bit), after which the rounding to float32 sees which side of a tie it is on: 53 >= 2 * 24 + 2.
    Source: Boldo and Melquiond, "Emulation of a FMA and correctly rounded sums", IEEE TC 57(4), 2008.
    """
    with np.errstate(invalid="ignore", over="ignore", under="ignore"):
        product = np.multiply(a, b, dtype=np.float64)
        product, addend = np.broadcast_arrays(product, np.asarray(c, np.float64))
        total = product + addend
        back = total - product
        error = (product - (total - back)) + (addend - back)  # Knuth's TwoSum: total + error is the sum exactly
        even = (total.view(np.int64) & 1) == 0
        nudge = np.isfinite(total) & (error != 0) & even
        odd: F64 = np.where(nudge, np.nextafter(total, np.copysign(np.inf, error)), total)
        return odd.astype(np.float32)


def quantize(x: F32, gamma: F32 | None, epsilon: float) -> tuple[F32, F32]:
    """Rows of x as int8 values, after an RMSNorm where gamma is given.

    Returns:
        q, float32 (M, K) of whole numbers within 127, and step, float32 (M, 1); q is 0 and step NaN where a row cannot
        be quantized (a non-finite value, or a norm that is not finite).
    """
    with np.errstate(all="ignore"):
        v = x if gamma is None else x * gamma
        r = np.ones((len(x), 1), np.float32) if gamma is None else _inverse_rms(x, np.float32(epsilon))
        usable = np.isfinite(v).all(axis=1, keepdims=True) & np.isfinite(r)
        v = np.where(usable, v, np.float32(0))
        a = np.abs(v).max(axis=1, keepdims=True)
        small = a * r < MIN_ABS_MAX
        inverse = np.where(small, QUANT_MAX / MIN_ABS_MAX * r, QUANT_MAX / a)
        step = np.where(small, MIN_ABS_MAX / QUANT_MAX, a / QUANT_MAX * r)
        q = np.rint(np.where(usable, v * inverse, np.float32(0)))
    return q, np.where(usable, step, np.float32(np.nan))


def _inverse_rms(x: F32, epsilon: np.float32) -> F32:
    """1 / sqrt(mean of x^2 + epsilon), (M, 1): 64 sums along the row, then halved into one."""
    sums = np.zeros((len(x), SQUARE_LANES), np.float32)
    padded = np.pad(x, ((0, 0), (0, -x.shape[1] % SQUARE_LANES)))
    for start in range(0, padded.shape[1], SQUARE_LANES):
        part = padded[:, start : start + SQUARE_LANES]
        sums = fma(part, part, sums)
    while sums.shape[1] > 1:
        half = sums.shape[1] // 2
        sums = sums[:, :half] + sums[:, half:]
    inverse: F32 = np.float32(1) / np.sqrt(sums / np.float32(x.shape[1]) + epsilon)
    return inverse


def activate(x: F32, activation: str) -> F32:
    """The activation of TernaryMatMul: "" (none), Relu, Gelu (erf), GeluTanh or Silu.

    Each smooth one is max(x, 0) minus what it lies below that. Within 5 ulp of the exact value.

    Raises:
        ValueError: another name.
    """
    if activation == "":
        return x
    above = np.where(x <= 0, np.float32(0), x)
    if activation == "Relu":
        return above
    if activation not in _TAILS:
        raise ValueError(
            f"ternary_matmul: activation is '{activation}'; it must be Relu, Gelu, GeluTanh, Silu or empty (none)"
        )
    tail, limit = _TAILS[activation]
    with np.errstate(all="ignore"):
        t = np.where(np.isnan(x), np.float32(0), np.minimum(np.abs(x), np.float32(limit)))
        return np.where(np.isnan(x), x, above - tail(t))


def _polynomial(coefficients: tuple[float, ...], x: F32) -> F32:
    total = np.full(x.shape, np.float32(coefficients[0]))
    for coefficient in coefficients[1:]:
        total = fma(total, x, np.float32(coefficient))
    return total


def _exponential(x: F32, low: F32 | np.float32) -> tuple[F32, F32]:
    """exp(x + low) as fraction, n: fraction * 2^n."""
    n = fma(x, _LOG2_E, _ROUNDER) - _ROUNDER
    r = fma(n, -_LN2_LOW, fma(n, -_LN2, x)) + low
    return np.float32(1) + fma(r * r, _polynomial(_EXP, r), r), n


def _scaled(value: F32, n: F32) -> F32:
    """value * 2^n in two steps, so that a result below the normal range is rounded once."""
    half = np.rint(n * np.float32(0.5))
    scaled: F32 = np.ldexp(np.ldexp(value, half.astype(np.int32)), (n - half).astype(np.int32))
    return scaled


def _logistic_tail(t: F32, x: F32, low: F32 | np.float32) -> F32:
    """t e / (1 + e) for e = exp(x + low)."""
    fraction, n = _exponential(x, low)
    return _scaled(t * fraction / (np.float32(1) + _scaled(fraction, n)), n)


def _silu_tail(t: F32) -> F32:
    return _logistic_tail(t, -t, np.float32(0))


def _gelu_tanh_tail(t: F32) -> F32:
    square = t * t
    square_low = fma(t, t, -square)
    cubic = _TANH_3 * square
    cubic_low = fma(_TANH_3, square_low, fma(_TANH_3_LOW, square, fma(_TANH_3, square, -cubic)))
    total = _TANH_1 + cubic
    back = total - _TANH_1
    lost = (_TANH_1 - (total - back)) + (cubic - back)
    total_low = lost + (cubic_low + _TANH_1_LOW)
    u = t * total
    return _logistic_tail(t, -u, -fma(t, total_low, fma(t, total, -u)))


def _gelu_tail(t: F32) -> F32:
    """t exp(-t^2/2) m(t), m the Mills ratio of the normal distribution over sqrt(2 pi)."""
    half, three = np.float32(-0.5), np.float32(3)
    square = t * t
    fraction, n = _exponential(square * half, fma(t, t, -square) * half)
    total = t + three
    below = np.float32(1) / total
    near = (t - three) * below
    q = fma(fma(-near, t, fma(near + np.float32(1), -three, t)), below, near)
    return _scaled(t * fraction * _polynomial(_MILLS, q) / total, n)


_TAILS: dict[str, tuple[Callable[[F32], F32], float]] = {
    "Silu": (_silu_tail, 110),
    "GeluTanh": (_gelu_tanh_tail, 11),
    "Gelu": (_gelu_tail, 15),
}
