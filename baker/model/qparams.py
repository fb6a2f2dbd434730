"""Scale and zero-point arithmetic, and the packing of 2-bit integers.

Everywhere ``real = (q - zero_point) * scale``, as ONNX's QuantizeLinear and DequantizeLinear define it: quantizing
rounds half to even and saturates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from baker.model.graph import Array

MIN_SCALE = float(np.finfo(np.float32).tiny)
"""Smallest scale in use: a subnormal one divides to infinity where the hardware flushes it to zero."""


@dataclass(frozen=True)
class Affine:
    """How real numbers become integers.

    Attributes:
        scale: real units per step, float32, shape () or (C,).
        zero_point: the integer that stands for 0.0, same shape; its dtype is the storage type.
        axis: the axis that the C channels lie on, or None for one scale per tensor.
    """

    scale: Array
    zero_point: Array
    axis: int | None = None


def activation_qparams(
    lo: float, hi: float, dtype: Any = np.uint8, *, within: tuple[float, float] = (-np.inf, np.inf)
) -> Affine:
    """Asymmetric per-tensor parameters for a range, which is widened to hold 0.0 so that zeros stay exact.

    Args:
        lo: smallest real value to represent.
        hi: largest real value to represent.
        dtype: uint8 or int8.
        within: bounds that no representable value may leave, such as those of a Clip in front of the
            QuantizeLinear: ONNX Runtime drops the Clip only if the QuantizeLinear saturates inside of it.

    Raises:
        ValueError: the range is not finite, or ``within`` does not hold 0.0.
    """
    if not (np.isfinite(lo) and np.isfinite(hi)):
        raise ValueError(f"range [{lo}, {hi}] is not finite")
    if not within[0] <= 0.0 <= within[1]:
        raise ValueError(f"bounds [{within[0]}, {within[1]}] do not hold 0")
    low, high = max(min(lo, 0.0), within[0]), min(max(hi, 0.0), within[1])
    info = np.iinfo(dtype)
    steps = info.max - info.min
    scale = max((high - low) / steps, MIN_SCALE) if high > low else 1.0
    below = round(-low / scale)
    if below:
        scale = min(scale, -within[0] / below)
    if below < steps:
        scale = min(scale, within[1] / (steps - below))
    rounded = np.float32(max(scale, MIN_SCALE))
    if float(rounded) > scale:  # float32 rounding must not leave the bounds either
        rounded = max(np.nextafter(rounded, np.float32(0)), np.float32(MIN_SCALE))
    return Affine(np.array(rounded, np.float32), np.array(info.min + below, dtype))


def weight_qparams(weight: Array, axis: int | None) -> Affine:
    """Symmetric int8 parameters, max|w| -> 127, per channel of ``axis`` or per tensor. A channel of zeros gets 1.0.

    Args:
        weight: real weights of any shape.
        axis: channel axis, or None.
    """
    peak = np.abs(weight).max(initial=0.0, axis=None if axis is None else _other_axes(weight.ndim, axis))
    scale = np.maximum(np.asarray(peak, np.float64) / 127, MIN_SCALE)
    scale = np.where(np.asarray(peak) > 0, scale, 1.0).astype(np.float32)
    return Affine(scale, np.zeros(scale.shape, np.int8), axis)


def quantize(real: Array, qparams: Affine) -> Array:
    """Returns the integers, of the zero point's dtype and the shape of ``real``; int32 for a bias works as well."""
    scale, zero_point = _broadcast(qparams, real.ndim)
    info = np.iinfo(qparams.zero_point.dtype)
    wide = np.float32 if info.bits <= 16 else np.float64
    steps = np.rint(np.divide(real, scale, dtype=wide))
    steps += zero_point.astype(wide)
    integers: Array = np.clip(steps, info.min, info.max, out=steps).astype(qparams.zero_point.dtype)
    return integers


def dequantize(q: Array, qparams: Affine) -> Array:
    """Returns the float32 values that the integers stand for."""
    scale, zero_point = _broadcast(qparams, q.ndim)
    return ((q.astype(np.float64) - zero_point.astype(np.float64)) * scale).astype(np.float32)


def _broadcast(qparams: Affine, rank: int) -> tuple[Array, Array]:
    if qparams.axis is None:
        return qparams.scale, qparams.zero_point
    shape = [1] * rank
    shape[qparams.axis] = -1
    return qparams.scale.reshape(shape), qparams.zero_point.reshape(shape)


def _other_axes(rank: int, axis: int) -> tuple[int, ...]:
    return tuple(i for i in range(rank) if i != axis % rank)


def pack_int2(values: Array) -> Array:
    """Packs integers, four a byte in row-major order, the first in the low bits (ONNX's layout); pads with 0.

    Args:
        values: integers of any shape in [-2, 3]; signed ones keep their two's complement low bits.

    Raises:
        ValueError: a value does not fit in two bits.
    """
    flat = np.asarray(values).ravel()
    if flat.size and (flat.min() < -2 or flat.max() > 3):
        raise ValueError(f"values in [{flat.min()}, {flat.max()}] do not fit in 2 bits")
    fields = np.zeros((-(-flat.size // 4), 4), np.uint8)
    fields.reshape(-1)[: flat.size] = flat.astype(np.int8).view(np.uint8) & 3
    packed: Array = fields[:, 0] | fields[:, 1] << 2 | fields[:, 2] << 4 | fields[:, 3] << 6
    return packed
