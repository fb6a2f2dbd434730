"""Ternary weight matrices: recognizing one that is there, and rounding to the nearest one where none is.

A matrix W [N, K] is ternary when every weight of a scale group is -s, 0 or +s. Three kinds of scale group are
stored: the whole tensor (scale [1]), an output channel (scale [N]), or a run of ``group`` weights along K (scale
[N, ceil(K / group)], group a multiple of 16, the last one may be short).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from baker.model.graph import Array

GROUP_STEP = 16
"""`ai.baker::TernaryMatMul` takes groups of a multiple of this many weights."""

TOLERANCE = 2.0**-18
"""How far two magnitudes of one scale group may differ, relative: 32 float32 steps.

What makes them differ is rounding alone: a straight-through estimator left in the graph, ``w + (q - w)``, loses
up to |w| / s steps, and a product in another order loses one or two. Trained or quantized-elsewhere weights
differ by parts in a thousand and more. A zero must be exactly zero.
"""


@dataclass(frozen=True)
class TernaryWeight:
    """A ternary matrix: ``W[n, k] = codes[n, k] * scale[group of (n, k)]``.

    Attributes:
        codes: int8 [N, K], each -1, 0 or +1.
        scale: float32 [1], [N] or [N, ceil(K / group)].
        group: weights along K that share a scale; 0 where the scale is per tensor or per channel.
    """

    codes: Array
    scale: Array
    group: int = 0

    @property
    def kind(self) -> str:
        """What shares a scale, in words."""
        if self.group:
            return f"group {self.group}"
        return "per tensor" if self.scale.size == 1 else "per channel"

    @property
    def nbytes(self) -> int:
        """Bytes stored: four codes a byte, each row padded to a whole byte, and float32 scales."""
        channels, depth = self.codes.shape
        return int(channels * -(-depth // 4) + 4 * self.scale.size)

    def scale_per_weight(self) -> Array:
        """The scale of every weight, float32, broadcastable to [N, K]."""
        if not self.group:
            return self.scale.reshape(-1, 1)
        return np.repeat(self.scale, self.group, axis=1)[:, : self.codes.shape[1]]

    def dequantized(self) -> Array:
        """The matrix in float32 [N, K]."""
        return self.codes.astype(np.float32) * self.scale_per_weight()

    def scaled(self, factor: float) -> TernaryWeight:
        """The matrix times a number."""
        return TernaryWeight(self.codes, (self.scale * np.float32(factor)).astype(np.float32), self.group)


def lossless(weight: Array) -> TernaryWeight | str:
    """Returns the ternary form of a matrix that is ternary already, or why it is not.

    The widest scale group that holds is taken: tensor, then channel, then the largest multiple of 16 along K.

    Args:
        weight: float32 [N, K].
    """
    extremes = _Extremes.of(weight)
    if not np.isfinite(extremes.top).all():
        return "a weight is NaN or infinite"
    if not extremes.uniform().all():
        return _why_not(extremes)
    whole, channels = extremes.overall(), extremes.merged(extremes.top.shape[1])
    for wide in (whole, channels):
        if wide.uniform().all():
            return TernaryWeight(_signs(weight), wide.scale().reshape(-1))
    group = extremes.widest_group()
    return TernaryWeight(_signs(weight), extremes.merged(group // GROUP_STEP).scale(), group)


def nearest(weight: Array, group: int) -> TernaryWeight:
    """Rounds a matrix to the ternary one nearest in least squares, for each scale group by itself.

    With |w| sorted in descending order, keeping the k largest at their mean a_k removes (sum of the k largest)² / k
    of the squared norm, so the best k is ``argmax_k (sum_{i<=k} |w|_i)² / k``. It is never worse than the
    thresholds of TWN (Li et al. 2016, arXiv:1605.04711) or absmean (Ma et al. 2024, arXiv:2402.17764).

    Args:
        weight: float32 [N, K], finite.
        group: weights along K that share a scale, a multiple of 16; 0 for one scale a channel.
    """
    channels, depth = weight.shape
    width = group if 0 < group < depth else depth
    codes = np.empty((channels, depth), np.int8)
    scale = np.empty((channels, -(-depth // width)), np.float32)
    for rows in _row_blocks(channels, depth):
        kept, scale[rows] = nearest_in(_blocked(np.abs(weight[rows]), width))
        mask = kept.reshape(kept.shape[0], -1)[:, :depth]
        codes[rows] = _signs(weight[rows]) * mask
    return TernaryWeight(codes, scale, width) if width < depth else TernaryWeight(codes, scale.reshape(-1))


def relative_error(weight: Array, ternary: TernaryWeight) -> float:
    """The L2 norm of what rounding took away, relative to the matrix's own."""
    norm = float(np.linalg.norm(weight.astype(np.float64)))
    return float(np.linalg.norm(weight.astype(np.float64) - ternary.dequantized())) / norm if norm else 0.0


@dataclass(frozen=True)
class _Extremes:
    """The largest and the smallest non-zero magnitude of scale groups; 0 and infinity where all weights are zero.

    Attributes:
        top: float32 [N, groups].
        low: float32 [N, groups].
    """

    top: Array
    low: Array

    @classmethod
    def of(cls, weight: Array) -> _Extremes:
        """Of every 16 weights of a matrix [N, K] along K."""
        channels, depth = weight.shape
        top = np.empty((channels, -(-depth // GROUP_STEP)), np.float32)
        low = np.empty_like(top)
        for rows in _row_blocks(channels, depth):
            magnitude = _blocked(np.abs(weight[rows]), GROUP_STEP)
            top[rows] = magnitude.max(axis=-1)
            low[rows] = np.where(magnitude > 0, magnitude, np.inf).min(axis=-1)
        return cls(top, low)

    def overall(self) -> _Extremes:
        """Of the whole matrix, [1, 1]."""
        return _Extremes(self.top.max(keepdims=True), self.low.min(keepdims=True))

    def merged(self, count: int) -> _Extremes:
        """Of ``count`` groups of a channel each."""
        channels, groups = self.top.shape
        padding = ((0, 0), (0, -groups % count))
        top = np.pad(self.top, padding).reshape(channels, -1, count)
        low = np.pad(self.low, padding, constant_values=np.inf).reshape(channels, -1, count)
        return _Extremes(top.max(axis=-1), low.min(axis=-1))

    def uniform(self) -> Array:
        """Which groups hold one magnitude, but for rounding, besides zero."""
        return np.asarray(self.low >= self.top * (1.0 - TOLERANCE))

    def scale(self) -> Array:
        """The magnitude of each uniform group, float32; 1 where all weights are zero."""
        middle = (self.top.astype(np.float64) + self.low) / 2
        return np.where(self.top > 0, middle, 1.0).astype(np.float32)

    def widest_group(self) -> int:
        """The largest group size in weights that leaves every group uniform, given that 16 does.

        One channel with more than one scale rules most sizes out at little cost; the rest is tried on all of them.
        """
        mixed = np.flatnonzero(~self.merged(self.top.shape[1]).uniform())
        channel = int(mixed[0]) if mixed.size else 0
        one = _Extremes(self.top[channel : channel + 1], self.low[channel : channel + 1])
        for count in range(self.top.shape[1], 1, -1):
            if one.merged(count).uniform().all() and self.merged(count).uniform().all():
                return count * GROUP_STEP
        return GROUP_STEP


def _why_not(extremes: _Extremes) -> str:
    channels = extremes.merged(extremes.top.shape[1])
    mixed = np.flatnonzero(~channels.uniform())
    worst = int(mixed[0])
    low, top = channels.low[worst, 0], channels.top[worst, 0]
    return (
        f"the weights are not ternary: {mixed.size} of {extremes.top.shape[0]} output channels hold more than one "
        f"magnitude (channel {worst}: {low:.4g} to {top:.4g})"
    )


def _signs(weight: Array) -> Array:
    """-1, 0 or +1 for every weight, int8."""
    return (weight > 0).view(np.int8) - (weight < 0).view(np.int8)


def _blocked(matrix: Array, width: int) -> Array:
    """[N, K] -> [N, ceil(K / width), width], padded with zeros."""
    channels, depth = matrix.shape
    padded = np.pad(matrix, ((0, 0), (0, -depth % width))) if depth % width else matrix
    return padded.reshape(channels, -1, width)


def nearest_in(magnitude: Array) -> tuple[Array, Array]:
    """Which weights of each group [..., g] stay, and at what magnitude [...], float32; see `nearest`."""
    order = np.argsort(-magnitude, axis=-1, kind="stable")
    total = np.cumsum(np.take_along_axis(magnitude, order, axis=-1), axis=-1, dtype=np.float64)
    count = np.arange(1, magnitude.shape[-1] + 1)
    best = np.argmax(total**2 / count, axis=-1)[..., None]
    kept = np.zeros(magnitude.shape, np.bool_)
    np.put_along_axis(kept, order, np.arange(magnitude.shape[-1]) <= best, axis=-1)
    scale = np.take_along_axis(total, best, axis=-1) / (best + 1)
    return kept, scale[..., 0].astype(np.float32)


def _row_blocks(channels: int, depth: int) -> Iterator[slice]:
    """Runs of rows of about a million weights: sorting needs five times a run's size in temporary memory."""
    step = max(1, (1 << 20) // depth)
    for start in range(0, channels, step):
        yield slice(start, start + step)
