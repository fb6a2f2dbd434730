"""Operators of the float64 run that onnx's reference evaluator computes wrongly or slowly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from onnx.reference.op_run import OpRun
from onnx.reference.ops.op_max_pool import MaxPool as OnnxMaxPool

from baker.model.graph import Array
from baker.proof.numerics import is_float
from baker.runtime.kernels import unpack_codes, unpack_trits

COLUMN_BYTES = 32 * 2**20
"""How much of an unrolled input `Conv` holds at once."""


class BatchNormalization(OpRun):
    """Inference mode for every opset: onnx's own one runs in training mode below opset 14."""

    op_domain = ""

    def _run(self, x: Array, scale: Array, bias: Array, mean: Array, variance: Array, **settings: Any) -> tuple[Array]:
        if settings.get("training_mode"):
            raise NotImplementedError("BatchNormalization in training mode")
        shape = (-1, *(1,) * (x.ndim - 2))
        factor = scale / np.sqrt(variance + settings["epsilon"])
        return ((x - mean.reshape(shape)) * factor.reshape(shape) + bias.reshape(shape),)


class Conv(OpRun):
    """Convolution of any rank as matrix products over unrolled windows.

    Shapes: x (N, C, *in), w (M, C/group, *kernel), b (M,), y (N, M, *out).
    """

    op_domain = ""

    def _run(self, x: Array, w: Array, b: Array | None = None, **settings: Any) -> tuple[Array]:
        group = settings["group"] or 1
        windows = _windows(x, w.shape[2:], settings, 0.0)
        y = _multiply(windows, w, group)
        return (y if b is None else y + b.reshape(-1, *(1,) * (w.ndim - 2)),)


class MaxPool(OnnxMaxPool):
    """Floor mode without indices as a maximum over windows; onnx's own loops do the rest."""

    op_domain = ""

    def _run(self, x: Array, **settings: Any) -> tuple[Array, ...]:  # type: ignore[override]  # takes what it passes on
        if settings["ceil_mode"] or len(self.onnx_node.output) > 1:
            return tuple(super()._run(x, **settings))  # type: ignore[no-untyped-call]  # onnx has no types here
        kernel = settings["kernel_shape"]
        windows = _windows(x, kernel, settings, -np.inf if is_float(x) else np.iinfo(x.dtype).min)
        return (windows.max(axis=tuple(range(-len(kernel), 0))),)


class Pad(OpRun):
    """Pads below 0 take elements away; onnx's own one refuses them. Inputs from opset 11 on, before it attributes."""

    op_domain = ""

    def _run(
        self,
        x: Array,
        pads: Sequence[int] = (),
        value: Array | float | None = None,
        axes: Array | None = None,
        **settings: Any,
    ) -> tuple[Array]:
        chosen = list(range(x.ndim)) if axes is None else [int(axis) % x.ndim for axis in axes]
        around, cut = [(0, 0)] * x.ndim, [slice(None)] * x.ndim
        for index, axis in enumerate(chosen):
            before, after = int(pads[index]), int(pads[len(chosen) + index])
            around[axis] = (max(before, 0), max(after, 0))
            cut[axis] = slice(max(-before, 0), x.shape[axis] - max(-after, 0))
        mode: Any = settings.get("mode") or "constant"
        fill = {"constant_values": 0 if value is None else value} if mode == "constant" else {}
        return (np.pad(x[tuple(cut)], around, mode, **fill).astype(x.dtype),)


class TernaryMatMul(OpRun):
    """baker's own: int8 activations, a scale a row, times ternary weights, without float32's rounding.

    Shapes: x (..., K), codes (N, bytes), y_i (..., N_i); the rest as in `baker.runtime.kernels`, all float64.
    """

    op_domain = "ai.baker"

    def _run(
        self,
        x: Array,
        codes: Array,
        scale: Array,
        *optional: Array | None,
        **settings: Any,
    ) -> tuple[Array, ...]:
        bias, gamma, residual = (
            None if given is None or not given.size else given for given in (*optional, None, None, None)[:3]
        )
        k, group = settings["K"], settings.get("group") or settings["K"]
        t = (unpack_trits if settings.get("weights_per_byte") == 5 else unpack_codes)(codes, k)
        q, step = _quantized(x.reshape(-1, k), gamma, settings.get("epsilon") or 0.0)
        scales = scale if settings.get("group") else scale.reshape(-1, 1)
        y = np.zeros((len(q), len(t)))
        for index, start in enumerate(range(0, k, group)):
            part = slice(start, start + group)
            y += q[:, part] @ t[:, part].T.astype(np.float64) * scales[:, index]
        y = _activated(y * step + (0.0 if bias is None else bias), settings.get("activation") or "")
        y = y.reshape(*x.shape[:-1], len(t))
        y = y if residual is None else y + residual
        return tuple(np.split(y, np.cumsum(settings.get("splits") or [])[:-1], axis=-1))


def _quantized(x: Array, gamma: Array | None, epsilon: float) -> tuple[Array, Array]:
    """Whole numbers within 127 (M, K), and their step (M, 1), NaN for a row that is not finite."""
    v, r = x, np.ones((len(x), 1))
    if gamma is not None:
        v, r = x * gamma, 1 / np.sqrt(np.mean(x * x, axis=1, keepdims=True) + epsilon)
    usable = np.isfinite(v).all(axis=1, keepdims=True) & np.isfinite(r)
    normal = np.where(usable, v * r, 0.0)
    step = np.maximum(np.abs(normal).max(axis=1, keepdims=True), 1e-5) / 127
    return np.rint(normal / step), np.where(usable, step, np.nan)


def _activated(y: Array, kind: str) -> Array:
    if kind == "Relu":
        return np.asarray(np.maximum(y, 0.0))
    if kind == "Silu":
        return np.asarray(y / (1 + np.exp(-y)))
    if kind == "GeluTanh":
        return np.asarray(y / (1 + np.exp(-2 * math.sqrt(2 / math.pi) * (y + 0.044715 * y**3))))
    if kind == "Gelu":
        return np.asarray(y * 0.5 * (1 + np.vectorize(math.erf, otypes=[float])(y / math.sqrt(2))))
    return y


def _windows(x: Array, kernel: Sequence[int], settings: dict[str, Any], padding: float) -> Array:
    """A view of x (N, C, *in), padded, as (N, C, *out, *kernel)."""
    rank = len(kernel)
    strides = tuple(settings["strides"] or (1,) * rank)
    dilations = tuple(settings["dilations"] or (1,) * rank)
    extent = [d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True)]
    pads = _pads(settings, x.shape[2:], extent, strides)
    around = [(0, 0), (0, 0), *zip(pads[:rank], pads[rank:], strict=True)]
    padded = np.pad(x, around, constant_values=padding) if any(pads) else x
    windows = sliding_window_view(padded, extent, axis=tuple(range(2, rank + 2)))
    steps = (slice(None, None, step) for step in (*strides, *dilations))
    return np.asarray(windows[(slice(None), slice(None), *steps)])


def _pads(settings: dict[str, Any], sizes: Sequence[int], extent: Sequence[int], strides: Sequence[int]) -> list[int]:
    """Returns the pads before each axis, then those after."""
    mode = settings["auto_pad"] or "NOTSET"
    if mode == "NOTSET":
        return list(settings["pads"] or (0,) * (2 * len(sizes)))
    if mode == "VALID":
        return [0] * (2 * len(sizes))
    total = [
        max(0, (-(-size // stride) - 1) * stride + reach - size)
        for size, stride, reach in zip(sizes, strides, extent, strict=True)
    ]
    small, large = [t // 2 for t in total], [t - t // 2 for t in total]
    return small + large if mode == "SAME_UPPER" else large + small


def _multiply(windows: Array, w: Array, group: int) -> Array:
    """windows (N, C, *out, *kernel) times w (M, C/group, *kernel), a slab of the first output axis at a time.

    Columns are unrolled as (C/group * kernel, out), so that runs of the input are copied whole and the product has the
    layout of y.
    """
    batch, channels = windows.shape[:2]
    rank, filters = w.ndim - 2, w.shape[0]
    out, kernel = windows.shape[2 : 2 + rank], w.shape[2:]
    matrix = w.reshape(group, filters // group, -1)
    y = np.empty((batch, group, filters // group, *out), windows.dtype)
    slab = max(1, COLUMN_BYTES // max(1, 8 * batch * channels * math.prod(out[1:]) * math.prod(kernel)))
    grouped = windows.reshape(batch, group, channels // group, *out, *kernel) if group > 1 else windows[:, None]
    order = (0, 1, 2, *range(3 + rank, 3 + 2 * rank), *range(3, 3 + rank))
    for start in range(0, out[0], slab):
        part = grouped[:, :, :, start : start + slab].transpose(order)  # (N, group, C/group, *kernel, *out)
        product = matrix @ part.reshape(batch, group, matrix.shape[2], -1)
        y[:, :, :, start : start + slab] = product.reshape(batch, group, -1, *part.shape[3 + rank :])
    return y.reshape(batch, filters, *out)
