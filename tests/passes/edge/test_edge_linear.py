"""Linear layers with what is rarely there: odd parameters of a norm, every form of Gemm, padding that grows."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from edge_tools import Edge, check, graph, hold, names, parse
from helpers import seeded

F = np.float32
IMAGE, OUT = "float[N,2,5,5]", "float[A,B,C,D]"
IMAGES = tuple({"x": seeded(n, 2, 5, 5, seed=n)} for n in (2, 1))
ROWS = tuple({"x": seeded(n, 4, seed=n)} for n in (3, 1))
COLUMNS = tuple({"x": seeded(4, n, seed=n)} for n in (3, 1))
W = seeded(3, 2, 3, 3)
ROUNDS = 4e-6
BN = "BatchNormalization"


def normed(options: str = "", conv: str = "Conv", w: np.ndarray = W, **changed: np.ndarray) -> onnx.ModelProto:
    """Conv and BatchNormalization, some parameters changed."""
    rng = np.random.default_rng(1)
    given = {"s": rng.uniform(0.5, 1.5, 3), "o": rng.normal(size=3), "m": rng.normal(size=3), "v": np.ones(3)}
    weights = {name: np.asarray(changed.get(name, array), F) for name, array in given.items()}
    return graph(f"c = {conv} (x, w) y = {BN} {options} (c, s, o, m, v)", IMAGE, OUT, w=w, **weights)


def old_norm(opset: int, body: str, **weights: np.ndarray) -> onnx.ModelProto:
    """A Conv and a norm of an early opset, whose weights are listed as inputs."""
    rng = np.random.default_rng(1)
    weights |= {"w": W, **{name: rng.uniform(0.5, 1.5, 3).astype(F) for name in "somv"}}
    listed = "".join(f", float[{','.join(map(str, array.shape))}] {name}" for name, array in weights.items())
    text = f'<ir_version: 3, opset_import: ["": {opset}]> g ({IMAGE} x{listed}) => ({OUT} y) {{ {body} }}'
    return parse(text, weights)


EDGES = [
    Edge("a variance of 0", normed(v=np.zeros(3)), IMAGES, ["Conv"], error=ROUNDS),
    Edge("a variance of 0 and no epsilon", normed("<epsilon = 0.0>", v=np.zeros(3)), IMAGES, ["Conv", BN],
         ["a bias does not fit float32"]),
    Edge("a negative variance", normed(v=-np.ones(3)), IMAGES, ["Conv", BN], ["a bias does not fit float32"]),
    Edge("an infinite variance", normed(v=np.full(3, np.inf)), IMAGES, ["Conv"], error=ROUNDS),
    Edge("a tiny epsilon", normed("<epsilon = 1e-30>", v=np.full(3, 1e-20)), IMAGES, ["Conv"], error=ROUNDS),
    Edge("a scale of 0", normed(s=np.zeros(3)), IMAGES, ["Conv"], error=ROUNDS),
    Edge("a NaN among the parameters", normed(o=np.array([1, np.nan, 0])), IMAGES, ["Conv", BN],
         ["a bias does not fit float32"]),
    Edge("a ConvTranspose with output_padding", normed(
         conv="ConvTranspose <strides = [2, 2], pads = [1, 1, 1, 1], output_padding = [1, 1]>", w=seeded(2, 3, 3, 3)),
         IMAGES, ["ConvTranspose"], error=ROUNDS),
    Edge("a ConvTranspose with output_shape", graph(
         "c = ConvTranspose <strides = [2, 2], output_shape = [9, 9]> (x, w) y = Mul (c, k)", IMAGE, OUT, k=F(2),
         w=seeded(2, 3, 3, 3)), IMAGES, ["ConvTranspose"], error=ROUNDS),
    Edge("a Gemm of two transposed", graph(
         "a = Gemm <transA = 1, transB = 1, alpha = 0.5, beta = 0.0> (x, w, c) y = Mul (a, k)", "float[4,N]",
         w=seeded(3, 4), c=seeded(3), k=seeded(3)), COLUMNS, ["Gemm"], error=ROUNDS),
    Edge("a scalar in front of a transposed Gemm", graph("b = Add (x, k) y = Gemm <transA = 1> (b, w, c)",
         "float[4,N]", w=seeded(4, 3), c=seeded(3), k=F(2)), COLUMNS, ["Gemm"], error=ROUNDS),
    Edge("a row in front of a transposed Gemm", graph("b = Mul (x, k) y = Gemm <transA = 1> (b, w)", "float[4,4]",
         w=seeded(4, 3), k=seeded(4)), [{"x": seeded(4, 4)}], ["Mul", "Gemm"]),
    Edge("a beta of 0 and NaN in C", graph("a = Gemm <beta = 0.0> (x, w, c) y = Mul (a, k)", w=seeded(4, 3),
         c=np.full(3, np.nan, F), k=F(2)), ROWS, ["Gemm", "Mul"], ["a bias does not fit float32"]),
    Edge("C is one number", graph("a = Gemm (x, w, c) y = Add (a, k)", w=seeded(4, 3), c=seeded(1, 1), k=seeded(1, 3)),
         ROWS, ["Gemm"], error=ROUNDS),
    Edge("C is a column", graph("a = Gemm (x, w, c) y = Add (a, k)", "float[3,4]", w=seeded(4, 3), c=seeded(3, 1),
         k=seeded(3)), ROWS[:1], ["Gemm", "Add"], ["C of Gemm_0 is more than one row"]),
    Edge("a MatMul of whole numbers", graph("a = MatMul (x, w) y = Mul (a, k)", "int32[N,4]", "int32[A,B]",
         w=np.arange(12, dtype=np.int32).reshape(4, 3), k=np.int32(3)),
         [{"x": np.arange(n * 4, dtype=np.int32).reshape(n, 4)} for n in (2, 1)], ["MatMul", "Mul"],
         ["the weight is INT32, not a float type"]),
    Edge("a MatMul taken from a number", graph("a = MatMul (x, k) y = Sub (b, a)", k=seeded(4, 3), b=seeded(3)), ROWS,
         ["MatMul", "Sub"], ["MatMul has no bias"]),
    Edge("a MatMul that divides a number", graph("a = MatMul (x, k) y = Div (b, a)", k=seeded(4, 3), b=seeded(3)), ROWS,
         ["MatMul", "Div"], ["the constant is not one number or one per output channel, or divides"]),
    Edge("a MatMul and a column", graph("a = MatMul (x, k) y = Add (b, a)", "float[3,4]", k=seeded(4, 3),
         b=seeded(3, 1)), ROWS[:1], ["MatMul", "Add"], ["the constant is not one row of the product"]),
    Edge("a shift in front of a padded Conv", graph("a = Add (x, k) y = Conv <pads = [0, 1, 0, 0]> (a, w)", IMAGE, OUT,
         w=W, k=F(1)), IMAGES, ["Add", "Conv"], ["a shift does not go through the padding of Conv"]),
    Edge("a weight that is computed from the input", graph("s = ReduceMax <keepdims = 1> (x) w = Mul (k, s) "
         "c = Conv (x, w) y = Mul (c, t)", IMAGE, OUT, k=W, t=F(3)), IMAGES, None,
         ["the weight of Conv is not constant"]),
    Edge("spatial = 0", old_norm(7, f"c = Conv (x, w) d = Mul (c, k) y = {BN} <spatial = 1> (d, s, o, m, v)",
         k=F([3])), IMAGES, ["Conv"], error=ROUNDS),
    Edge("opset 8", old_norm(8, f"c = Conv (x, w) y = {BN} (c, s, o, m, v)"), IMAGES, ["Conv"], error=ROUNDS),
    Edge("a double", graph("a = Gemm (x, w) y = Mul (a, k)", "double[N,4]", "double[A,B]", k=np.float64(3),
         w=seeded(4, 3, dtype=np.float64)), [{"x": feed["x"].astype(np.float64)} for feed in ROWS], ["Gemm"],
         error=1e-14),
]  # fmt: skip


@pytest.mark.parametrize("edge", names(EDGES))
def test_linear(edge: Edge):
    check(edge)


@pytest.mark.parametrize(
    ("opset", "options", "why"),
    [
        (6, "", "BatchNormalization is in training mode"),
        (7, "<spatial = 0>", "BatchNormalization is not per channel (spatial=0)"),
    ],
)
def test_early_norms_that_no_runtime_at_hand_takes(opset: int, options: str, why: str):
    held = hold(old_norm(opset, f"c = Conv (x, w) y = {BN} {options} (c, s, o, m, v)"), verify=False)
    assert held.ops == ["Conv", BN]
    assert held.reasons("conv-batch-norm") == [why]
