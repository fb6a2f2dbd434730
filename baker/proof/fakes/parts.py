"""Whether an array is another one, or a part of it."""

from __future__ import annotations

import numpy as np

from baker.model.graph import Array

STARTS = 64
"""How many places a part may begin at are looked at."""


def is_part(part: Array, whole: Array) -> bool:
    """True when the numbers of one array stand in another: all, a corner, the start of each row, or one run.

    Types must be equal. Single numbers, and arrays of equal numbers, prove nothing: False.
    """
    if part.dtype != whole.dtype or not 2 <= part.size <= whole.size or part.dtype.kind not in "fiu":
        return False
    flat, source = part.ravel(), whole.ravel()
    if (flat[0] == flat).all():
        return False
    if flat.size == source.size and np.array_equal(flat, source):
        return True
    return _corner(part, whole) or _rows(part, whole) or _run(flat, source)


def _corner(part: Array, whole: Array) -> bool:
    if part.ndim != whole.ndim or any(small > large for small, large in zip(part.shape, whole.shape, strict=True)):
        return False
    return bool(np.array_equal(part, whole[tuple(slice(size) for size in part.shape)]))


def _rows(part: Array, whole: Array) -> bool:
    """The first numbers of each row, whatever the dims after the first."""
    if part.ndim < 1 or whole.ndim < 1 or len(part) != len(whole):
        return False
    narrow, wide = part.reshape(len(part), -1), whole.reshape(len(whole), -1)
    return narrow.shape[1] <= wide.shape[1] and bool(np.array_equal(narrow, wide[:, : narrow.shape[1]]))


def _run(flat: Array, source: Array) -> bool:
    starts = np.flatnonzero(source[: source.size - flat.size + 1] == flat[0])[:STARTS]
    return any(np.array_equal(source[start : start + flat.size], flat) for start in starts)
