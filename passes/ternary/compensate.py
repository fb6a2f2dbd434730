"""Rounding with the layer's input in mind: what one weight loses, the weights after it make up for.

Rounding W to Q costs ``tr(D H Dᵀ)`` in squared output error, with ``D = W - Q`` ``H`` the correlation of the inputs,
``XᵀX / n + (0.01 + 0.4 K / n) mean(diag) I``. Columns are rounded in order; the error so far moves what is left to the
point where it costs least. With ``H = M Mᵀ``, M upper triangular, the cost is ``|D M|²`` and that point is

    w_k + (Σ_{i<k} D_i M_ik) / M_kk

which is GPTQ's update (there written with U = M⁻¹ = chol(H⁻¹)ᵀ) without an inverse. Afterwards the codes are swept
again, each to where it costs least given all others, and the scales of each output channel are refitted:
``(Aᵀ H A) a = Aᵀ H w``, A being its codes, a column a group.

Source: Frantar et al. 2022, arXiv:2210.17323 (GPTQ); Hassibi and Stork 1993 (optimal brain surgeon).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from baker.model.graph import Array
from baker.passes.ternary.rounding import Grid

DAMPING = 0.01
"""Share of the mean diagonal that is added to H's: the data never show all directions."""

_SCARCITY = 0.4
"""How much more is added where few rows were seen, times K / n: with n = K rows of white noise and 0.01 alone, rounding
fits the sample and is worse on anything else than rounding without data (0.70 against 0.43)."""

MAX_DEPTH = 12288
"""K up to which H is collected: float32 [K, K], 600 MB there."""

_BLOCK = 128
"""Columns whose error feedback is kept up to date one by one; what comes later is updated once a block."""

_WIDE = 4096
"""K beyond which H is factorized in float32, for memory and time."""

_CHANNELS = 2048
"""Output channels rounded at once."""

_SWEEPS = 2


@dataclass
class Correlation:
    """``XᵀX`` of what a layer reads, summed sample by sample; the samples themselves are not kept.

    Attributes:
        depth: K.
        rows: how many rows were seen.
    """

    depth: int
    rows: int = 0
    total: Array = field(init=False)

    def __post_init__(self) -> None:
        self.total = np.zeros((self.depth, self.depth), np.float32)

    def add(self, activation: Array) -> None:
        """Takes one more tensor [..., K]; rows that are not finite are left out."""
        rows = np.ascontiguousarray(activation.reshape(-1, self.depth), np.float32)
        rows = rows[np.isfinite(rows).all(axis=1)]
        self.total += rows.T @ rows
        self.rows += rows.shape[0]

    def damped(self) -> Array | None:
        """H, float32 [K, K]; None where nothing was seen but zeros."""
        level = float(np.trace(self.total, dtype=np.float64)) / (self.depth * max(self.rows, 1))
        if not 0 < level < np.inf:
            return None
        damping = DAMPING + _SCARCITY * self.depth / self.rows
        hessian = np.array(self.total / np.float32(self.rows), np.float32)
        np.fill_diagonal(hessian, np.diagonal(hessian) + np.float32(damping * level))
        return hessian


@dataclass(frozen=True)
class Rounded:
    """Codes int8 [N, K] and scales float32 [N, ceil(K / width)]."""

    codes: Array
    scale: Array
    width: int

    def dequantized(self) -> Array:
        """The matrix in float32 [N, K]."""
        scale = np.repeat(self.scale, self.width, axis=1)[:, : self.codes.shape[1]]
        return np.asarray(self.codes.astype(np.float32) * scale)


def output_error(weight: Array, rounded: Array, hessian: Array) -> float:
    """L2 norm of what rounding changes in the layer's output, relative to the output's own, on the data behind H."""
    noise = _power(weight - rounded, hessian)
    signal = _power(weight, hessian)
    return float(np.sqrt(noise / signal)) if signal > 0 else 0.0


def _power(matrix: Array, hessian: Array) -> float:
    return sum(
        float(np.einsum("nk,nk->", rows @ hessian, rows, dtype=np.float64))
        for rows in (matrix[start : start + _CHANNELS] for start in range(0, matrix.shape[0], _CHANNELS))
    )


def compensated(weight: Array, hessian: Array, width: int, grid: Grid, *, sweeps: int = _SWEEPS) -> Rounded:
    """Rounds a matrix so that the layer's output, not the matrix, stays as near as can be.

    Args:
        weight: float32 [N, K], finite.
        hessian: H, float32 [K, K], positive definite.
        width: weights along K that share a scale.
        grid: what is rounded to.
        sweeps: how often all codes are looked at again, and the scales refitted, after the first time.
    """
    factor = _factor(hessian)
    parts = []
    for start in range(0, weight.shape[0], _CHANNELS):
        columns = np.ascontiguousarray(weight[start : start + _CHANNELS].T)
        pull = hessian @ columns
        codes, scale = _feedback(columns, factor, width, grid)
        scale = _refitted(pull, codes, scale, hessian, width)
        for _ in range(sweeps):
            codes = _swept(columns, codes, scale, hessian, width, grid)
            scale = _refitted(pull, codes, scale, hessian, width)
        parts.append((codes.T, scale.T))
    codes = np.ascontiguousarray(np.concatenate([part[0] for part in parts]))
    return Rounded(codes, np.ascontiguousarray(np.concatenate([part[1] for part in parts])), width)


def _factor(hessian: Array) -> Array:
    """M, upper triangular, with ``M Mᵀ = H``: the Cholesky factor seen from the last row."""
    turned: NDArray[Any] = hessian[::-1, ::-1].astype(np.float32 if hessian.shape[0] > _WIDE else np.float64)
    level = DAMPING * float(np.trace(turned)) / turned.shape[0]
    for _ in range(6):
        try:
            return np.ascontiguousarray(np.linalg.cholesky(turned)[::-1, ::-1], np.float32)
        except np.linalg.LinAlgError:  # float32 rounding made it indefinite: more damping
            np.fill_diagonal(turned, np.diagonal(turned) + level)
    raise ArithmeticError("the correlation of a layer's inputs is not positive definite, even damped sixfold")


def _feedback(weight: Array, factor: Array, width: int, grid: Grid) -> tuple[Array, Array]:
    """Codes [K, N] and scales [G, N] of a matrix [K, N], column of the layer by column, errors fed forward."""
    depth, channels = weight.shape
    codes = np.empty((depth, channels), np.int8)
    scale = np.empty((-(-depth // width), channels), np.float32)
    lost = np.zeros((depth, channels), np.float32)
    for group, begin in enumerate(range(0, depth, width)):
        end = min(begin + width, depth)
        carried = factor[:begin, begin:end].T @ lost[:begin]
        moved = weight[begin:end]  # to where they cost least, were none of the group rounded
        if begin:
            moved = moved + np.linalg.solve(factor[begin:end, begin:end].T, carried)
        scale[group] = grid.fit(np.ascontiguousarray(moved.T))
        for first in range(begin, end, _BLOCK):
            last = min(first + _BLOCK, end)
            inner = carried[first - begin : last - begin] + factor[begin:first, first:last].T @ lost[begin:first]
            for k in range(first, last):
                pulled = inner[k - first] + factor[first:k, k] @ lost[first:k]
                codes[k] = grid.codes(weight[k] + pulled / factor[k, k], scale[group])
                lost[k] = weight[k] - codes[k] * scale[group]
    return codes, scale


def _swept(weight: Array, codes: Array, scale: Array, hessian: Array, width: int, grid: Grid) -> Array:
    """The codes [K, N], each in turn moved to where the output error is least while all others stay."""
    depth = weight.shape[0]
    codes = codes.copy()
    lost = weight - codes * np.repeat(scale, width, axis=0)[:depth]
    for first in range(0, depth, _BLOCK):
        last = min(first + _BLOCK, depth)
        slope = hessian[first:last] @ lost
        for k in range(first, last):
            step = scale[k // width]
            new = grid.codes(codes[k] * step + slope[k - first] / hessian[k, k], step)
            change = weight[k] - new * step - lost[k]
            codes[k], lost[k] = new, lost[k] + change
            slope[k - first + 1 :] += hessian[k, k + 1 : last, None] * change
    return codes


def _refitted(pull: Array, codes: Array, scale: Array, hessian: Array, width: int) -> Array:
    """The scales [G, N] that suit the codes best, for each output channel by itself; ``pull`` is H Wᵀ."""
    depth, channels = codes.shape
    groups = scale.shape[0]
    starts = np.arange(0, depth, width)
    left = np.empty((groups, groups, channels), np.float32)
    wide = codes.astype(np.float32)
    for group, begin in enumerate(starts):
        part = slice(begin, min(begin + width, depth))
        reach = hessian[begin:, part] @ wide[part]
        reach *= wide[begin:]
        left[group:, group] = np.add.reduceat(reach, starts[group:] - begin, axis=0)
        left[group, group:] = left[group:, group]
    right = np.add.reduceat(wide * pull, starts, axis=0)
    return _solved(left.transpose(2, 0, 1), right.T, scale.T).T


def _solved(left: Array, right: Array, before: Array) -> Array:
    """Solves [N, G, G] a = [N, G]; a group of zeros, which no scale changes, keeps its own."""
    result = np.empty_like(before)
    groups = before.shape[1]
    for start in range(0, before.shape[0], 64):
        part = slice(start, start + 64)
        system, known = left[part].astype(np.float64), right[part].astype(np.float64)
        diagonal = np.einsum("ngg->ng", system)
        empty = diagonal <= 0
        level = np.where(empty, 1.0, diagonal)
        system = system + np.eye(groups) * np.where(empty, 1.0, 1e-6 * level)[:, None, :]
        found = np.linalg.solve(system, known[..., None])[..., 0]
        usable = np.isfinite(found) & ~empty & (found != 0)
        result[part] = np.where(usable, found, before[part])
    return result
