"""A histogram that never needs to know the range in advance, and the range that is best to quantize with."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np

from baker.model.graph import Array

RangeMethod = Literal["mse", "minmax", "percentile"]

BINS = 2048
SAMPLES = 1 << 15
"""Values of one array that the histogram takes, evenly spread; its smallest and largest are always exact."""

_SHRINK = np.concatenate([np.linspace(1.0, 0.5, 26), np.geomspace(0.48, 0.02, 22)])
"""Fractions of a bound that the search by mean squared error tries."""


class Histogram:
    """What is known of a tensor's values after any number of arrays, in constant memory.

    The bins cover a range that holds 0.0. A value outside doubles the range, towards where it lies, by merging
    neighbouring bins, so no count is ever split and the order of the arrays hardly matters.

    Attributes:
        low: real value at which the first bin starts.
        width: of all bins together; 0.0 until a value other than 0.0 was seen.
        counts: int64 (BINS,).
        min: the smallest value seen.
        max: the largest value seen.
        finite: False once a NaN or an infinity was seen; such arrays are not counted.
    """

    def __init__(self) -> None:
        self.low = 0.0
        self.width = 0.0
        self.counts: Array = np.zeros(BINS, np.int64)
        self.min = math.inf
        self.max = -math.inf
        self.finite = True

    @property
    def seen(self) -> bool:
        """Whether any value was added."""
        return self.min <= self.max

    def add(self, array: Array) -> None:
        """Counts the values of a float32 array of any shape."""
        if array.size == 0:
            return
        low, high = float(array.min()), float(array.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            self.finite = False
            return
        self.min, self.max = min(self.min, low), max(self.max, high)
        self._cover(min(low, 0.0), max(high, 0.0))
        if self.width == 0.0:
            return
        flat = array.reshape(-1)[:: _stride(array.size)]
        places = ((flat - np.float32(self.low)) * np.float32(BINS / self.width)).astype(np.int32)
        np.clip(places, 0, BINS - 1, out=places)
        self.counts += np.bincount(places, minlength=BINS)

    def _cover(self, low: float, high: float) -> None:
        if self.width == 0.0:
            self.low, self.width = low, max(high - low, 0.0)
            if 0.0 < self.width < 1e-30:  # keep clear of subnormal bin widths
                self.width = 1e-30
            return
        while low < self.low:
            self._double()
            self.counts = np.concatenate([np.zeros(BINS // 2, np.int64), self.counts[: BINS // 2]])
            self.low -= self.width / 2
        while high > self.low + self.width * (1 + 1e-6):
            self._double()

    def _double(self) -> None:
        merged = self.counts[0::2] + self.counts[1::2]
        self.counts = np.concatenate([merged, np.zeros(BINS // 2, np.int64)])
        self.width *= 2

    def range(self, method: RangeMethod, *, percentile: float = 99.99, steps: int = 255) -> tuple[float, float]:
        """The range [lo, hi] to quantize with; it holds 0.0.

        Args:
            method: ``minmax``: all that was seen. ``mse``: argmin of Σ counts · (x − Q(x))² over shrunken ranges.
                ``percentile``: what ``percentile`` of the values lie in, an equal share cut at both ends.
            percentile: in percent.
            steps: integers in the range, minus one.

        Raises:
            ValueError: no value was seen.
        """
        if not self.seen:
            raise ValueError("no value was seen")
        low, high = min(self.min, 0.0), max(self.max, 0.0)
        if method == "minmax" or low == high:
            return low, high
        if method == "percentile":
            return self._percentile(low, high, percentile)
        return self._least_squares(low, high, steps)

    def _percentile(self, low: float, high: float, percentile: float) -> tuple[float, float]:
        share = (1 - percentile / 100) / 2 if low < 0 < high else 1 - percentile / 100
        total = np.cumsum(self.counts) / max(int(self.counts.sum()), 1)
        edges = self.low + self.width / BINS * np.arange(BINS + 1)
        below = float(edges[np.searchsorted(total, share)]) if low < 0 else 0.0
        above = float(edges[min(int(np.searchsorted(total, 1 - share)) + 1, BINS)]) if high > 0 else 0.0
        return max(low, min(below, 0.0)), min(high, max(above, 0.0))

    def _least_squares(self, low: float, high: float, steps: int) -> tuple[float, float]:
        filled = np.flatnonzero(self.counts)
        centres = (self.low + self.width / BINS * (filled + 0.5)).astype(np.float32)
        counts = self.counts[filled].astype(np.float32)
        both = np.stack([low * _SHRINK, high * _SHRINK])
        low, high = _best(both, centres, counts, steps)
        for _ in range(2 if low < 0 < high else 0):  # then each bound for itself
            low, high = _best(np.stack([low * _SHRINK, np.full_like(_SHRINK, high)]), centres, counts, steps)
            low, high = _best(np.stack([np.full_like(_SHRINK, low), high * _SHRINK]), centres, counts, steps)
        return low, high


def _best(bounds: Array, centres: Array, counts: Array, steps: int) -> tuple[float, float]:
    """The pair of bounds with the least squared error over the histogram; the widest of equals.

    Args:
        bounds: (2, C), candidates for lo and hi.
        centres: (B,), the values.
        counts: (B,), how often each was seen.
    """
    low, high = bounds
    scale = ((high - low) / steps).astype(np.float32)[:, None]
    zero = np.rint(-low[:, None] / scale).astype(np.float32)
    q = centres / scale
    np.rint(q, out=q)
    np.clip(q, -zero, steps - zero, out=q)
    q *= scale
    q -= centres
    np.square(q, out=q)
    errors: Any = q @ counts
    best = int(np.argmin(errors))
    return float(low[best]), float(high[best])


def _stride(size: int) -> int:
    """A step that takes about SAMPLES values and has no factor in common with the size, so that no axis aliases."""
    stride = max(1, size // SAMPLES)
    while stride > 1 and math.gcd(stride, size) != 1:
        stride += 1
    return stride
