"""Grids of few levels with a scale a group: which scale fits a group best, and where a weight falls on the grid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from baker.model.graph import Array
from baker.passes.ternary.weights import nearest_in

_SHRINKS = np.linspace(1.0, 0.6, 17)
"""Ranges tried for int4, as shares of the largest magnitude: cutting it off pays where few weights are large."""


@dataclass(frozen=True)
class Grid:
    """Weights ``code * scale`` with ``low <= code <= high``.

    Attributes:
        name: for people.
        low, high: the integer codes.
        fit: the scales, float32 [...], that suit groups of weights [..., g] best.
    """

    name: str
    low: int
    high: int
    fit: Callable[[Array], Array]

    def codes(self, weight: Array, scale: Array) -> Array:
        """The nearest codes, int8, of weights whose scales broadcast against them."""
        safe = np.where(scale == 0, 1, scale)
        return np.clip(np.rint(weight / safe), self.low, self.high).astype(np.int8)

    def nearest(self, weight: Array, width: int) -> tuple[Array, Array]:
        """Rounds a matrix with nothing but its own error in mind.

        Args:
            weight: float32 [N, K].
            width: weights along K that share a scale.

        Returns:
            codes int8 [N, K] and scales float32 [N, ceil(K / width)].
        """
        depth = weight.shape[1]
        padded = np.pad(weight, ((0, 0), (0, -depth % width))).reshape(weight.shape[0], -1, width)
        scale = self.fit(padded)
        codes = self.codes(padded, scale[..., None])
        return codes.reshape(weight.shape[0], -1)[:, :depth].copy(), scale


def _fit_ternary(groups: Array) -> Array:
    """The mean of the k largest magnitudes, k = argmax (their sum)² / k: least squares over all ternary matrices.

    Half of that mean lies between the k-th and the next magnitude (each k best in its neighbourhood says so), hence
    rounding to the nearest level keeps exactly those k.
    """
    return nearest_in(np.abs(groups))[1]


def _fit_int4(groups: Array) -> Array:
    """The best in least squares among ranges of several widths, with the -8 on either side."""
    order = np.abs(groups).argmax(axis=-1)[..., None]
    extreme = np.take_along_axis(groups, order, axis=-1)[..., 0]
    best = np.full(extreme.shape, np.inf, np.float32)
    scale = np.ones(extreme.shape, np.float32)
    for steps in (-8.0, 7.0):
        for share in _SHRINKS:
            tried = (extreme * np.float32(share / steps)).astype(np.float32)
            error = np.square(groups - tried[..., None] * INT4.codes(groups, tried[..., None])).sum(axis=-1)
            better = error < best
            best, scale = np.where(better, error, best), np.where(better & (tried != 0), tried, scale)
    return scale


TERNARY = Grid("ternary", -1, 1, _fit_ternary)
INT4 = Grid("int4", -8, 7, _fit_int4)
