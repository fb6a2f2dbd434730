"""Embedding tables as integers with scales: recognizing one that is that already, and rounding to one where none is.

A table [V, D] is exact in q levels when each of its rows is ``code * scale`` with whole codes of at most q, to the
last bits of float32. Levels 1, 7 and 127 are what 2, 4 and 8 bits hold.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

import numpy as np

from baker.model.graph import Array
from baker.passes.ternary import integers
from baker.passes.ternary.integers import IntWeight
from baker.passes.ternary.weights import TernaryWeight

Weight = TernaryWeight | IntWeight

_LEVELS = 127

_TOLERANCE = np.float32(2.0**-21)
"""How far a weight may be from its step, relative: dividing the peak by its code and multiplying again loses 2^-23."""

_PREVIEW = 32
"""Weights of a row that a scale is first tried on."""


def exact(table: Array) -> Weight | str:
    """The smallest form that holds a table [V, D] without loss, or why there is none.

    Codes are -1 to 1 (ternary), -7 to 7 (int4 in blocks, whose scales are equal along a row) or -127 to 127 (int8).
    """
    codes = np.empty(table.shape, np.int8)
    scale = np.empty(table.shape[0], np.float32)
    for rows in _row_blocks(table.shape):
        found = _steps(table[rows])
        if isinstance(found, int):
            return f"row {rows.start + found} of the table is no multiple of one step in {_LEVELS} levels"
        codes[rows], scale[rows] = found
    top = int(np.abs(codes).max())
    if top <= 1:
        return TernaryWeight(codes, scale[:1] if (scale == scale[0]).all() else scale)
    return in_blocks(codes, scale) if top <= 7 else IntWeight(8, codes, scale)


def in_blocks(codes: Array, scale: Array, bits: Literal[4, 8] = 4) -> IntWeight:
    """Codes [V, D] with a scale a row, in the blocks along D that MatMulNBits wants."""
    group = integers.block_of(codes.shape[1])
    blocks = -(-codes.shape[1] // group)
    return IntWeight(bits, codes, np.repeat(scale[:, None], blocks, axis=1), group)


def rounded(table: Array, bits: Literal[4, 8], *, blocks: bool) -> IntWeight:
    """Rounds a finite table.

    Args:
        blocks: scales for blocks along D, as a linear layer of the same table needs; int4 has them in any case.
    """
    if bits == 8 and not blocks:
        return integers.int8(table)
    make = integers.int8_in_blocks if bits == 8 else lambda part: integers.int4(part, None)
    parts = [make(table[rows]) for rows in _row_blocks(table.shape)]
    codes, scale = (np.concatenate([getattr(part, what) for part in parts]) for what in ("codes", "scale"))
    return IntWeight(bits, codes, scale, parts[0].group)


def relative_error(table: Array, weight: IntWeight) -> float:
    """The L2 norm of what rounding took away, relative to the table's own."""
    lost = norm = 0.0
    for rows in _row_blocks(table.shape):  # at once it would take three times the table
        part = replace(weight, codes=weight.codes[rows], scale=weight.scale[rows])
        lost += float(np.square(table[rows] - part.dequantized(), dtype=np.float64).sum())
        norm += float(np.square(table[rows], dtype=np.float64).sum())
    return math.sqrt(lost / norm) if norm else 0.0


def _steps(rows: Array) -> tuple[Array, Array] | int:
    """Codes, int8 [n, D], and the scale of each row, float32 [n]; or the first row that has none."""
    peak = np.abs(rows).max(axis=1)
    codes, scale = np.zeros(rows.shape, np.int8), np.ones(len(rows), np.float32)
    open_rows = np.flatnonzero(peak)
    for top in range(1, _LEVELS + 1):
        if not open_rows.size:
            break
        step = peak[open_rows] / np.float32(top)
        fit = _fits(rows[open_rows, :_PREVIEW], step)
        fit[fit] = _fits(rows[open_rows[fit]], step[fit])
        done = open_rows[fit]
        codes[done], scale[done] = np.rint(rows[done] / step[fit, None]), step[fit]
        open_rows = open_rows[~fit]
    return int(open_rows[0]) if open_rows.size else (codes, scale)


def _fits(rows: Array, step: Array) -> Array:
    """Which rows [n, d] are whole multiples of their steps [n]; a step too small for float32 fits nothing."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        near = np.rint(rows / step[:, None]) * step[:, None]
        return np.asarray((np.abs(rows - near) <= np.abs(rows) * _TOLERANCE).all(axis=1) & (step > np.float32(1e-37)))


def _row_blocks(shape: tuple[int, ...]) -> Iterator[slice]:
    """Runs of rows: the first short, since it refutes most tables, the others of about a million weights."""
    step, start = 4, 0
    while start < shape[0]:
        yield slice(start, min(start + step, shape[0]))
        start, step = start + step, max(4, (1 << 20) // shape[1])
