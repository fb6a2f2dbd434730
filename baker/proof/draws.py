"""Numbers for made-up inputs: kinds of floating-point numbers, integers inside the range that a graph allows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from baker.model.graph import Array
from baker.proof.hints import InputHint

Kind = Literal[
    "normal", "small", "large", "zeros", "negative", "boundary", "uniform", "spread", "sparse", "shifted", "steps"
]

EXERCISE: tuple[Kind, ...] = ("normal", "large", "negative", "normal", "boundary", "uniform", "zeros", "small")
"""What shows a change in the function: both signs, saturation, the constants that the model clips at."""

FURTHER: tuple[Kind, ...] = ("spread", "sparse", "shifted", "spread", "steps", "boundary", "spread")
"""What comes after those: units that are silent on most inputs wake on some of these."""

CALIBRATION: tuple[Kind, ...] = ("normal",)
"""What ranges may be taken from."""

RANGES = ((0, 2), (0, 2), (0, 2), (0, 100), (-3, 4), (0, 8), (-100, 101))
"""What integers without a visible table are drawn from, in turn; the upper end is not drawn."""

SAFE_RANGE = 0


def floats(rng: np.random.Generator, shape: tuple[int, ...], kind: Kind, bends: Sequence[float]) -> Array:
    """Draws floating-point numbers of a kind, in float64; ``bends`` are the numbers that "boundary" is about."""
    normal = np.asarray(rng.standard_normal(shape))
    match kind:
        case "normal":
            return normal
        case "small":
            return 0.1 * normal
        case "large":
            return 10 * normal
        case "zeros":
            return np.zeros(shape)
        case "negative":
            return -np.abs(normal)
        case "uniform":
            return np.asarray(rng.random(shape))
        case "boundary":
            return np.asarray(rng.choice(bends, size=shape) + rng.choice([-1e-3, 0.0, 1e-3], size=shape))
        case "spread":  # a scale of its own for each input, and heavy tails
            return np.asarray(10 ** rng.uniform(-1.5, 1.5) * rng.laplace(rng.choice([-1, 0, 0, 1]), 1, size=shape))
        case "sparse":
            return np.asarray(3 * normal * (rng.random(shape) < 0.2))
        case "shifted":  # each slice along the last two axes has its own level: channels differ in sign
            levels = (*shape[:-2], 1, 1) if len(shape) > 2 else (*shape[:-1], 1) if shape else ()
            return np.asarray(normal + 3 * rng.standard_normal(levels))
        case "steps":  # what roundings make a difference of
            return np.asarray(rng.integers(-8, 9, size=shape) / 2)


def integers(
    rng: np.random.Generator, hint: InputHint, shape: tuple[int, ...], dtype: np.dtype[np.integer], style: int
) -> Array:
    """Draws integers: inside the table that they index, all of an 8-bit type, else from one of `RANGES`.

    Some are numbers that the graph compares this input with.
    """
    limits = np.iinfo(dtype)
    if hint.below is not None:
        low, high = 0, max(1, min(hint.below, int(limits.max) + 1))
    elif limits.bits == 8:
        low, high = int(limits.min), int(limits.max) + 1
    else:
        low, high = RANGES[style % len(RANGES)]
        low = max(low, int(limits.min))
    if hint.lowest is not None:
        low, high = max(low, hint.lowest), max(high, hint.lowest + 1)
    drawn = rng.integers(low, high, size=shape) if hint.below is None else _indices(rng, low, high, shape, style)
    inside = [number for number in hint.compared if limits.min <= number <= limits.max]
    if inside:
        drawn = np.where(rng.random(shape) < 0.2, rng.choice(inside, size=shape), drawn)
    return np.asarray(drawn).astype(dtype)


def _indices(rng: np.random.Generator, low: int, high: int, shape: tuple[int, ...], style: int) -> Array:
    """Indices of a table: mostly any; also few that repeat, some that end in padding, and some of its beginning."""
    drawn = np.asarray(rng.integers(low, high, size=shape))
    match style % len(RANGES):
        case 1:
            return np.asarray(rng.choice(rng.integers(low, high, size=4), size=shape))
        case 4 if shape:
            return np.where(np.arange(shape[-1]) >= (shape[-1] + 1) // 2, high - 1, drawn)
        case 5:
            return np.asarray(rng.integers(low, low + max(1, (high - low) // 4), size=shape))
    return drawn
