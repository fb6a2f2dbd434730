"""The compiled kernels' face, and the numpy reference of each.

A ternary layer is stored as ``codes`` uint8 (N, ceil(K/4)): weight ``4i + j`` of a row in bits ``2j..2j+1`` of byte
``i``, code = t + 1 with t in {-1, 0, +1}, padding is code 1. ``scale`` is float32 (1,), (N,) or, with ``group`` a
multiple of 16, (N, ceil(K/group)); ``bias`` is float32 (N,). Source of the arithmetic:
csrc/kernels/ternary_matmul/variant.h.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from baker.errors import BakerError

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int8]
U8 = npt.NDArray[np.uint8]
T = TypeVar("T", np.uint8, np.float32)

MIN_ABS_MAX = np.float32(1e-5)
QUANT_MAX = np.float32(127)


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
        uint8 (N, ceil(K/5)): byte i of a row is the sum over j of (t[5i + j] + 1) * 3^j, at most 242; padding is 0.

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


def ternary_matmul_reference(x: F32, codes: U8, scale: F32, bias: F32 | None = None, *, k: int, group: int = 0) -> F32:
    """What TernaryMatMul computes, bit for bit, in numpy.

        a = max(max|x|, 1e-5)      q = rint(x * (127 / a)), half to even      a row with a non-finite value gives NaN
        acc_g = sum of t * q over group g      f = fma(acc_g, scale_g, f), g ascending from 0
        y = fma(f, a / 127, bias)

    Args:
        x: float32 (..., K).
        codes, scale, bias, group: see the module's docstring.
        k: weights in a row.

    Returns:
        float32 (..., N).

    Raises:
        ValueError: shapes that do not fit, or unusable codes.
    """
    t = unpack_codes(codes, k).astype(np.float64)
    if x.ndim < 1 or x.shape[-1] != k:
        raise ValueError(f"ternary_matmul: x has shape {x.shape}; it must be (..., {k})")
    rows, n = x.reshape(-1, k), t.shape[0]
    cuts = range(0, k, group or k)
    scales = _scales(scale, n, len(cuts), grouped=bool(group))
    finite = np.isfinite(rows).all(axis=1, keepdims=True)
    a = np.maximum(np.abs(np.where(finite, rows, 0)).max(axis=1, keepdims=True), MIN_ABS_MAX)
    q = np.rint(np.where(finite, rows, 0) * (QUANT_MAX / a)).astype(np.float64)
    f = np.zeros((rows.shape[0], n), np.float32)
    for g, start in enumerate(cuts):
        stop = min(start + (group or k), k)
        acc = q[:, start:stop] @ t[:, start:stop].T  # |acc| <= 2^19 * 127: exact in float64 in any order
        f = _fma(acc.astype(np.int32).astype(np.float32), scales[:, g], f)
    step = np.where(finite, a / QUANT_MAX, np.float32(np.nan))
    y = _fma(f, step, np.zeros(n, np.float32) if bias is None else bias)
    return y.reshape(*x.shape[:-1], n)


def _scales(scale: F32, n: int, groups: int, *, grouped: bool) -> F32:
    shapes = [(n, groups)] if grouped else [(1,), (n,)]
    if scale.shape not in shapes:
        raise ValueError(f"ternary_matmul: scale has shape {scale.shape}; it must be {' or '.join(map(str, shapes))}")
    return np.broadcast_to(scale if grouped else scale[:, None], (n, groups))


def _fma(a: F32, b: F32, c: F32) -> F32:
    """float32 a * b + c with one rounding.

    The product of two float32 is exact in float64. The sum is rounded to odd there (the inexact result keeps a set last
    bit), after which the rounding to float32 sees which side of a tie it is on: 53 >= 2 * 24 + 2.
    Source: Boldo and Melquiond, "Emulation of a FMA and correctly rounded sums", IEEE TC 57(4), 2008.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        product = np.multiply(a, b, dtype=np.float64)
        addend = np.broadcast_to(c, product.shape).astype(np.float64)
        total = product + addend
        back = total - product
        error = (product - (total - back)) + (addend - back)  # Knuth's TwoSum: total + error is the sum exactly
        even = (total.view(np.int64) & 1) == 0
        nudge = np.isfinite(total) & (error != 0) & even
        odd: F64 = np.where(nudge, np.nextafter(total, np.copysign(np.inf, error)), total)
        return odd.astype(np.float32)


def ternary_matmul(
    x: F32,
    codes: U8,
    scale: F32,
    bias: F32 | None = None,
    *,
    k: int,
    group: int = 0,
    isa: str = "auto",
    threads: int = 1,
) -> F32:
    """What ternary_matmul_reference computes, by the compiled kernel (weights are packed anew on each call).

    Args:
        isa: one of available_isas(), or "auto": the best of them, or what the environment variable BAKER_ISA names.
        threads: 1 to 1024.

    Raises:
        ValueError: dtypes or shapes that do not fit, unusable codes, an unknown or unavailable isa.
    """
    from baker import _kernels

    if x.ndim < 1 or x.shape[-1] != k:
        raise ValueError(f"ternary_matmul: x has shape {x.shape}; it must be (..., {k})")
    weights = _kernels.TernaryWeights(
        _contiguous("codes", codes, np.uint8),
        _contiguous("scale", scale, np.float32),
        None if bias is None else _contiguous("bias", bias, np.float32),
        k=k,
        group=group,
    )
    y = weights.multiply(_contiguous("x", x.reshape(-1, k), np.float32), isa=isa, threads=threads)
    return y.reshape(*x.shape[:-1], weights.n)


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
