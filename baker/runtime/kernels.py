"""The compiled kernels' face, and the numpy reference of each.

A ternary layer is stored as ``codes`` uint8 (N, ceil(K/4)): weight ``4i + j`` of a row in bits ``2j..2j+1`` of byte
``i``, code = t + 1 with t in {-1, 0, +1}, padding is code 1; or, with ``weights_per_byte`` 5, as pack_trits writes
them. ``scale`` is float32 (1,), (N,) or, with ``group`` a multiple of 16, (N, ceil(K/group)); ``bias`` is float32 (N,).
What may be fused around the product: ``gamma`` float32 (K,) and ``epsilon``, an RMSNorm of x in front; ``activation``,
"" (none), "Relu", "Gelu" (erf), "GeluTanh" or "Silu"; then ``residual`` float32 (..., N), added. Source of the
arithmetic: csrc/kernels/ternary_matmul/variant.h.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from baker.errors import BakerError
from baker.runtime import row_reference

F32 = npt.NDArray[np.float32]
I8 = npt.NDArray[np.int8]
U8 = npt.NDArray[np.uint8]
T = TypeVar("T", np.uint8, np.float32)

MAX_OUTPUTS = 16
"""Outputs that one TernaryMatMul can have: kMaxOutputs of ternary_matmul.h."""


def pack_codes(t: npt.NDArray[np.signedinteger]) -> U8:
    """Packs ternary weights, four to a byte.

    Args:
        t: (N, K), any signed integer type, values -1, 0, +1.

    Returns:
        uint8 (N, ceil(K/4)).

    Raises:
        ValueError: t is not a matrix, or holds another value.
    """
    if t.ndim != 2:
        raise ValueError(f"pack_codes: t has shape {t.shape}; it must be (N, K)")
    if t.size and (t.min() < -1 or t.max() > 1):
        raise ValueError(f"pack_codes: t holds {t.min()}..{t.max()}; only -1, 0 and 1 can be packed")
    n, k = t.shape
    codes = np.ones((n, -(-k // 4) * 4), np.uint8)
    codes[:, :k] = t + 1
    fields = codes.reshape(n, -1, 4)
    packed: U8 = fields[..., 0] | fields[..., 1] << 2 | fields[..., 2] << 4 | fields[..., 3] << 6
    return packed


def pack_trits(t: npt.NDArray[np.signedinteger]) -> U8:
    """Packs ternary weights, five to a byte: digits of base 3, 1.6 bits a weight.

    Args:
        t: (N, K), any signed integer type, values -1, 0, +1.

    Returns:
        uint8 (N, ceil(K/5)): byte i of a row is the sum over j of (t[5i + j] + 1) * 3^j, at most 242; padding is t = 0.

    Raises:
        ValueError: t is not a matrix, or holds another value.
    """
    if t.ndim != 2:
        raise ValueError(f"pack_trits: t has shape {t.shape}; it must be (N, K)")
    if t.size and (t.min() < -1 or t.max() > 1):
        raise ValueError(f"pack_trits: t holds {t.min()}..{t.max()}; only -1, 0 and 1 can be packed")
    n, k = t.shape
    digits = np.ones((n, -(-k // 5) * 5), np.uint8)
    digits[:, :k] = t + 1
    fives = digits.reshape(n, -1, 5)
    packed: U8 = fives[..., 4]
    for j in (3, 2, 1, 0):
        packed = packed * np.uint8(3) + fives[..., j]
    return packed


def unpack_codes(codes: U8, k: int) -> I8:
    """The inverse of pack_codes: uint8 (N, ceil(K/4)) to int8 (N, K) in {-1, 0, +1}.

    Raises:
        ValueError: the shape does not fit K, a code is 3, or padding is not code 1.
    """
    if codes.ndim != 2 or codes.shape[1] != -(-k // 4):
        raise ValueError(f"unpack_codes: codes has shape {codes.shape}; K = {k} needs (N, {-(-k // 4)})")
    fields = codes[..., None] >> np.array([0, 2, 4, 6], np.uint8) & 3
    t = fields.reshape(codes.shape[0], -1).astype(np.int8) - np.int8(1)
    if t.size and t.max() > 1:
        raise ValueError("unpack_codes: a code is 3; a code is t + 1 with t in {-1, 0, 1}")
    if t[:, k:].any():
        raise ValueError("unpack_codes: padding holds a code other than 1")
    return t[:, :k]


def unpack_trits(codes: U8, k: int) -> I8:
    """The inverse of pack_trits: uint8 (N, ceil(K/5)) to int8 (N, K) in {-1, 0, +1}.

    Raises:
        ValueError: the shape does not fit K, a byte is above 242, or padding is not digit 1.
    """
    if codes.ndim != 2 or codes.shape[1] != -(-k // 5):
        raise ValueError(f"unpack_trits: codes has shape {codes.shape}; K = {k} needs (N, {-(-k // 5)})")
    if codes.size and codes.max() > 242:
        raise ValueError("unpack_trits: a byte is above 242; it is five digits t + 1 of base 3")
    digits = codes[..., None] // np.array([1, 3, 9, 27, 81], np.uint8) % 3
    t = digits.reshape(codes.shape[0], -1).astype(np.int8) - np.int8(1)
    if t[:, k:].any():
        raise ValueError("unpack_trits: padding holds a digit other than 1")
    return t[:, :k]


def ternary_matmul_reference(
    x: F32,
    codes: U8,
    scale: F32,
    bias: F32 | None = None,
    *,
    k: int,
    group: int = 0,
    weights_per_byte: int = 4,
    gamma: F32 | None = None,
    epsilon: float = 0.0,
    activation: str = "",
    residual: F32 | None = None,
) -> F32:
    """What TernaryMatMul computes, bit for bit, in numpy; several outputs are this one, cut.

        v = x * gamma, r = 1 / sqrt(mean(x^2) + epsilon); without gamma v = x, r = 1      a = max|v|
        q = rint(v * (127 / a)), half to even      step = (a / 127) * r      (a * r at least 1e-5)
        a row with a non-finite v or r gives NaN
        acc_g = sum of t * q over group g      f = fma(acc_g, scale_g, f), g ascending from 0
        y = activation(fma(f, step, bias)) + residual

    Args:
        x: float32 (..., K).
        codes, scale, bias, group, weights_per_byte, gamma, epsilon, activation, residual: see the module's docstring.
        k: weights in a row.

    Returns:
        float32 (..., N).

    Raises:
        ValueError: shapes that do not fit, unusable codes, an unknown activation.
    """
    if weights_per_byte not in (4, 5):
        raise ValueError(f"ternary_matmul: weights_per_byte is {weights_per_byte}; it must be 4 or 5")
    t = (unpack_trits if weights_per_byte == 5 else unpack_codes)(codes, k).astype(np.float64)
    _check_x(x, k)
    rows, n = x.reshape(-1, k), t.shape[0]
    cuts = range(0, k, group or k)
    scales = _scales(scale, n, len(cuts), grouped=bool(group))
    q, step = row_reference.quantize(rows, gamma, epsilon)
    f = np.zeros((rows.shape[0], n), np.float32)
    for g, start in enumerate(cuts):
        stop = min(start + (group or k), k)
        acc = q[:, start:stop].astype(np.float64) @ t[:, start:stop].T  # |acc| <= 2^19 * 127: exact in any order
        f = row_reference.fma(acc.astype(np.int32).astype(np.float32), scales[:, g], f)
    y = row_reference.fma(f, step, np.zeros(n, np.float32) if bias is None else bias)
    y = row_reference.activate(y, activation).reshape(*x.shape[:-1], n)
    return y if residual is None else y + residual


def _check_x(x: F32, k: int) -> None:
    if x.ndim < 1 or x.shape[-1] != k:
        raise ValueError(f"ternary_matmul: x has shape {x.shape}; it must be (..., {k})")


def _scales(scale: F32, n: int, groups: int, *, grouped: bool) -> F32:
    shapes = [(n, groups)] if grouped else [(1,), (n,)]
    if scale.shape not in shapes:
        raise ValueError(f"ternary_matmul: scale has shape {scale.shape}; it must be {' or '.join(map(str, shapes))}")
    return np.broadcast_to(scale if grouped else scale[:, None], (n, groups))


def ternary_matmul(
    x: F32,
    codes: U8,
    scale: F32,
    bias: F32 | None = None,
    *,
    k: int,
    group: int = 0,
    weights_per_byte: int = 4,
    gamma: F32 | None = None,
    epsilon: float = 0.0,
    activation: str = "",
    residual: F32 | None = None,
    isa: str = "auto",
    threads: int = 1,
) -> F32:
    """What ternary_matmul_reference computes, by the compiled kernel (weights are packed anew on each call).

    Args:
        isa: one of available_isas(), or "auto": the best of them, or what the environment variable BAKER_ISA names.
        threads: 1 to 1024.

    Raises:
        ValueError: dtypes or shapes that do not fit, unusable codes, an unknown activation, an unknown or unavailable
            isa.
    """
    from baker import _kernels

    _check_x(x, k)
    weights = _kernels.TernaryWeights(
        _contiguous("codes", codes, np.uint8),
        _contiguous("scale", scale, np.float32),
        None if bias is None else _contiguous("bias", bias, np.float32),
        k,
        group,
        weights_per_byte=weights_per_byte,
        gamma=None if gamma is None else _contiguous("gamma", gamma, np.float32),
        epsilon=epsilon,
        activation=activation,
    )
    shape = (*x.shape[:-1], weights.n)
    if residual is not None and residual.shape != shape:
        raise ValueError(f"ternary_matmul: residual has shape {residual.shape}; it must be that of y, {shape}")
    (y,) = weights.multiply(
        _contiguous("x", x.reshape(-1, k), np.float32),
        None if residual is None else _contiguous("residual", residual.reshape(-1, weights.n), np.float32),
        isa=isa,
        threads=threads,
    )
    return y.reshape(shape)


def _contiguous(name: str, array: npt.NDArray[T], dtype: type[T]) -> npt.NDArray[T]:
    if array.dtype != dtype:
        raise ValueError(f"ternary_matmul: {name} is {array.dtype}; it must be {np.dtype(dtype)}")
    return np.asarray(array, order="C")


def available_isas() -> tuple[str, ...]:
    """The kernel variants that were compiled in and that this CPU can run, best first; "scalar" is always the last."""
    from baker import _kernels

    return tuple(_kernels.available_isas())


def custom_ops_library() -> str:
    """The custom-op library's path, as ``SessionOptions.register_custom_ops_library`` takes it in any language.

    Raises:
        BakerError: it was not built.
    """
    name = "libbaker_ort.dylib" if sys.platform == "darwin" else "libbaker_ort.so"
    path = Path(__file__).resolve().parent.parent / name
    if not path.is_file():
        raise BakerError(f"baker: the custom-op library is not at '{path}'. Run 'pip install .' to build it.")
    return str(path)
