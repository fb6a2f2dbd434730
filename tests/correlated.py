"""Linear layers whose inputs are correlated, as a network's are: what compensation lives on, and what tests it."""

from __future__ import annotations

import numpy as np

from baker.model.graph import Array

SPECTRA = {"power law": 0.5, "steep": 0.75}
"""The i-th largest of the inputs' principal components has a standard deviation of i^-exponent."""


def inputs(rows: int, depth: int, exponent: float, seed: int = 0) -> Array:
    """Rows [n, K], float32: normal, with a power-law spectrum along random directions.

    The directions depend on K alone, so that two seeds give samples of one distribution.
    """
    directions = np.linalg.qr(np.random.default_rng(depth).standard_normal((depth, depth)))[0]
    deviations = np.arange(1, depth + 1) ** -exponent
    drawn = np.random.default_rng(seed).standard_normal((rows, depth))
    return (drawn * deviations @ directions.T).astype(np.float32)


def weights(channels: int, depth: int, seed: int = 0) -> Array:
    """A matrix [N, K], float32, normal."""
    return np.random.default_rng([seed, 1]).standard_normal((channels, depth)).astype(np.float32)
