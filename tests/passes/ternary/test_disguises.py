"""Ternary weights in random compositions of disguises are all found; impostors, one weight or one level off, never."""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from ternary_tools import Sketch, codes, ops, ternary

Node = Callable[[Sketch, ir.Value, np.random.Generator, tuple[int, int]], ir.Value]
"""Goes on from a float32 matrix [K, N] in the graph to one of equal values."""


def _constant(sketch: Sketch, array: object, dtype: object = np.int64) -> ir.Value:
    return sketch.constant(array, dtype)


def _turned(g: Sketch, w: ir.Value, rng: np.random.Generator, dims: tuple[int, int]) -> ir.Value:
    return g.op("Transpose", g.op("Transpose", w, perm=[1, 0]), perm=[1, 0])


def _reshaped(g: Sketch, w: ir.Value, rng: np.random.Generator, dims: tuple[int, int]) -> ir.Value:
    flat = g.op("Reshape", w, _constant(g, [-1, 4]))
    return g.op("Reshape", flat, _constant(g, dims))


def _permuted(g: Sketch, w: ir.Value, rng: np.random.Generator, dims: tuple[int, int]) -> ir.Value:
    axis = int(rng.integers(2))
    order = rng.permutation(dims[axis])
    there = g.op("Gather", w, _constant(g, order), axis=axis)
    return g.op("Gather", there, _constant(g, np.argsort(order)), axis=axis)


def _split(g: Sketch, w: ir.Value, rng: np.random.Generator, dims: tuple[int, int]) -> ir.Value:
    axis = int(rng.integers(2))
    cut = int(rng.integers(1, dims[axis]))
    parts = g.op("Split", w, _constant(g, [cut, dims[axis] - cut]), outputs=2, axis=axis)
    return g.op("Concat", *parts, axis=axis)


def _scaled(g: Sketch, w: ir.Value, rng: np.random.Generator, dims: tuple[int, int]) -> ir.Value:
    pair = [w, g.constant(np.float32(2.0 ** rng.integers(-3, 4)))]
    return g.op("Mul", *(pair if rng.integers(2) else pair[::-1]))


def _where(g: Sketch, w: ir.Value, rng: np.random.Generator, dims: tuple[int, int]) -> ir.Value:
    zero = g.constant(np.float32(0))
    positive = g.op("Where", g.op("Greater", w, zero), w, zero)
    return g.op("Where", g.op("Less", w, zero), w, positive)


def _sign(g: Sketch, w: ir.Value, rng: np.random.Generator, dims: tuple[int, int]) -> ir.Value:
    return g.op("Mul", g.op("Sign", w), g.op("Abs", w))


def _identity(g: Sketch, w: ir.Value, rng: np.random.Generator, dims: tuple[int, int]) -> ir.Value:
    for _ in range(int(rng.integers(1, 5))):
        w = g.op("Identity", w)
    return w


STEPS: list[Node] = [_turned, _reshaped, _permuted, _split, _scaled, _where, _sign, _identity]


def stored(g: Sketch, t: np.ndarray, s: np.ndarray, rng: np.random.Generator) -> ir.Value:
    """The matrix t · s [K, N] in one of the ways in which it is stored; s [K / 16, N]."""
    kinds = ["plain", "half", "int8 blocks", "cast"]
    kind = str(rng.choice(kinds))
    full = np.repeat(s, 16, axis=0)
    if kind == "half":
        return g.op("Cast", g.weight((t * full).astype(np.float16)), to=1)
    if kind == "int8 blocks":
        dtype = np.int8 if rng.integers(2) else ml_dtypes.int4
        return g.op("DequantizeLinear", g.weight(t.astype(dtype)), g.weight(s), axis=0, block_size=16)
    if kind == "cast":
        return g.op("Mul", g.op("Cast", g.weight(t), to=1), g.weight(full))
    return g.weight((t * full).astype(np.float32))


def disguised(seed: int, spoil: Callable[[np.ndarray, np.random.Generator], None] | None = None) -> ir.Model:
    rng = np.random.default_rng(seed)
    k, n = int(rng.integers(2, 9)) * 32, int(rng.integers(2, 20))
    t, group = codes(k, n, seed), int(rng.choice([16, 32, k]))
    drawn = np.float16(rng.uniform(0.1, 1.0, (-(-k // group), n))).astype(np.float32)
    s = np.repeat(drawn, group // 16, axis=0)[: k // 16]
    sketch = Sketch(("batch", k))
    if spoil is None:
        matrix = stored(sketch, t, s, rng)
    else:
        spoilt = (t * np.repeat(s, 16, axis=0)).astype(np.float32)
        spoil(spoilt, rng)
        matrix = sketch.weight(spoilt)
    for step in rng.choice(len(STEPS), int(rng.integers(0, 5))):
        matrix = STEPS[step](sketch, matrix, rng, (k, n))
    return sketch.model(sketch.op("MatMul", sketch.x, matrix))


@pytest.mark.parametrize("seed", range(120))
def test_every_disguise_is_seen_through(seed: int):
    model = disguised(seed)
    result = ternary(model)
    assert ops(model) == ["TernaryMatMul"], [declined.reason for declined in result.declined]


def _one_off(matrix: np.ndarray, rng: np.random.Generator) -> None:
    matrix[tuple(rng.choice(np.argwhere(matrix)))] *= np.float32(1.001)


def _fourth_level(matrix: np.ndarray, rng: np.random.Generator) -> None:
    matrix[:16, 0] = np.float32(0.5) * np.tile([-2, -1, 1, 2], 4)


@pytest.mark.parametrize("spoil", [_one_off, _fourth_level])
@pytest.mark.parametrize("seed", range(30))
def test_impostors_are_not_taken(seed: int, spoil: Callable[[np.ndarray, np.random.Generator], None]):
    model = disguised(seed, spoil)
    result = ternary(model)
    assert not result.changes
    assert "TernaryMatMul" not in ops(model)
