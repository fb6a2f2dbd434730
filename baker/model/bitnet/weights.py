"""Weights of a BitNet checkpoint -> arrays of the graph, a layer at a time.

A packed matrix of N channels and K inputs is uint8 [ceil(N/4), K]: channel ``i * ceil(N/4) + r`` is in bits 2i..2i+1
of row r, code = t + 1. The graph has W [K, N] int8 in {-1, 0, +1} and one float32 scale.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from baker.errors import ModelError
from baker.model.bitnet.config import Form
from baker.model.graph import Array
from baker.model.pages import rows_of, stored
from baker.model.safetensors import StoredTensor

PER_BYTE = 4
FLOATS = (ir.DataType.BFLOAT16, ir.DataType.FLOAT16, ir.DataType.FLOAT)

_SMALLEST_MEAN = 1e-5  # BitNet's own limit on the mean magnitude


@dataclass(frozen=True)
class TernaryMatrix:
    """W = codes * scale, both computed when they are asked for.

    Attributes:
        codes: int8 [K, N].
        scale: float32 [].
    """

    codes: Callable[[], Array]
    scale: Callable[[], Array]


def ternary_matrix(
    weight: StoredTensor, scale: StoredTensor | None, channels: int, form: Form, where: str
) -> TernaryMatrix:
    """Looks at what there is of a weight, reading nothing yet.

    Args:
        weight: uint8 [ceil(N/4), K], or floats [N, K]; ``scale``: floats [1] or [], None for latent weights.

    Raises:
        ModelError: by the functions of the result: a code that is none, a weight that is not finite.
    """
    if scale is None:
        return _latent(weight, where)
    known = scale

    def number() -> Array:
        found = np.float32(known.whole().reshape(-1)[0])
        factor = found if form == "times" else np.float32(1) / found if found else np.float32(np.inf)
        if not np.isfinite(factor) or factor == 0:
            raise ModelError(f"{where}: weight_scale {found} is no scale")
        return np.asarray(factor, np.float32)

    def codes() -> Array:
        unpack = _unpacked if weight.dtype == ir.DataType.UINT8 else _signs
        return _transposed(unpack(weight, channels, where))

    return TernaryMatrix(codes, number)


def floats(tensor: StoredTensor) -> Array:
    """Reads a tensor of bfloat16, float16 or float32 as float32, in memory or on disk."""
    parts = (tensor.rows(rows.start, rows.stop).astype(np.float32) for rows in rows_of(tensor.shape, 4))
    return stored(tensor.shape, np.dtype(np.float32), parts)


def _unpacked(weight: StoredTensor, channels: int, where: str) -> Array:
    """int8 [N, K] from uint8 [ceil(N/4), K]."""
    packed = weight.whole()
    if (packed & (packed >> 1) & 0x55).any():
        raise ModelError(f"{where}: holds the code 3, which stands for no weight")
    found = np.empty((PER_BYTE, *packed.shape), np.int8)
    for quarter in range(PER_BYTE):
        found[quarter] = (packed >> (2 * quarter)) & 3
    found -= 1
    return found.reshape(-1, packed.shape[1])[:channels]


def _signs(weight: StoredTensor, channels: int, where: str) -> Array:
    """int8 [N, K] from floats that are codes already."""
    found = np.empty(weight.shape, np.int8)
    for rows in rows_of(weight.shape, 4):
        part = weight.rows(rows.start, rows.stop).astype(np.float32)
        if not np.isin(part, (-1, 0, 1)).all():
            raise ModelError(f"{where}: has a weight_scale, and weights other than -1, 0 and 1")
        found[rows] = part
    return found


def _latent(weight: StoredTensor, where: str) -> TernaryMatrix:
    """Rounded as BitNet does in every forward run: clip(round(w / mean|w|), -1, 1) * mean|w|."""

    def parts() -> Iterator[tuple[slice, Array]]:
        for rows in rows_of(weight.shape, 4):
            yield rows, weight.rows(rows.start, rows.stop).astype(np.float32)

    def inverse() -> np.float32:
        total = sum(float(np.abs(part).sum(dtype=np.float64)) for _, part in parts())
        mean = np.float32(total / (weight.shape[0] * weight.shape[1]))
        if not np.isfinite(mean):
            raise ModelError(f"{where}: a weight is NaN or infinite")
        return np.float32(1) / max(mean, np.float32(_SMALLEST_MEAN))

    def codes() -> Array:
        factor, found = inverse(), np.empty(weight.shape, np.int8)
        for rows, part in parts():
            found[rows] = np.clip(np.rint(part * factor), -1, 1)
        return _transposed(found)

    return TernaryMatrix(codes, lambda: np.asarray(np.float32(1) / inverse(), np.float32))


def _transposed(codes: Array) -> Array:
    """[N, K] -> [K, N], in memory or on disk."""
    turned = codes.T
    return stored(turned.shape, turned.dtype, (turned[rows] for rows in rows_of(turned.shape, 1)))
