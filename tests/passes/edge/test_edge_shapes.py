"""Shapes at their ends: no elements, no dims, bounds beyond everything, and declarations that are wrong."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from edge_tools import Edge, check, graph, names
from helpers import seeded
from onnx import helper

F, I = np.float32, np.int64  # noqa: E741
ROWS = tuple({"x": seeded(n, 4, seed=n)} for n in (3, 1))
ANY = (*ROWS, {"x": seeded(0, 4)})
IMAGE, OUT = "float[N,2,5,5]", "float[A,B,C,D]"
IMAGES = tuple({"x": seeded(n, 2, 5, 5, seed=n)} for n in (2, 1, 0))
W = seeded(3, 2, 2, 2)
END = 2**63 - 1


def told(model: onnx.ModelProto, name: str, kind: int, dims: list[int | str]) -> onnx.ModelProto:
    """The model with a value_info that may lie."""
    model.graph.value_info.append(helper.make_tensor_value_info(name, kind, dims))
    return model


EDGES = [
    # no elements
    Edge("a Conv of an empty batch", graph("c = Conv (x, w) d = Mul (c, k) y = Relu (d)", IMAGE, OUT, w=W, k=F(2)),
         IMAGES, ["Conv", "Relu"], error=4e-6),
    Edge("a Concat with nothing", graph("a = Concat <axis = 0> (x, k) y = Abs (a)", k=np.zeros((0, 4), F)), ANY),
    Edge("an empty product is not 1", graph("a = ReduceProd <keepdims = 0> (k) y = Add (x, a)", k=np.zeros((0,), F)),
         ANY, ["Add"]),
    Edge("a Gather of nothing", graph("a = Gather <axis = 0> (x, k) y = Concat <axis = 0> (x, a)", k=np.zeros(0, I)),
         ROWS),
    Edge("a MatMul over no elements", graph("a = MatMul (x, k) y = Add (a, b)", "float[N,0]", k=np.zeros((0, 3), F),
         b=seeded(3)), [{"x": seeded(2, 0)}, {"x": seeded(1, 0)}], error=4e-6),
    Edge("a MatMul into no columns", graph("a = MatMul (x, k) y = Add (a, b)", k=np.zeros((4, 0), F),
         b=np.zeros(1, F)), ANY),
    Edge("an Expand to no rows", graph("a = Expand (x, k) y = Abs (a)", "float[1,4]", k=I([0, 4])), ROWS[1:],
         ["Expand", "Abs"]),
    Edge("a Tile no times", graph("a = Tile (x, k) y = Abs (a)", k=I([0, 1])), ANY, ["Tile", "Abs"]),
    Edge("a 0 that means nothing", graph("a = Reshape <allowzero = 1> (x, k) y = Reshape <allowzero = 1> (a, l)",
         y="float[A,B,C]", k=I([4, 0]), l=I([0, 3, 4])), [{"x": seeded(0, 4)}], ["Reshape"]),
    Edge("a 0 that copies, a -1 that is left", graph("a = Reshape (x, k) y = Reshape (a, l)", k=I([0, -1, 2]),
         l=I([0, -1])), ROWS),
    Edge("a 0 behind an Unsqueeze", graph("a = Unsqueeze (x, k) y = Reshape (a, l)", k=I([0]), l=I([0, -1])), ROWS,
         ["Reshape"]),
    # no dims
    Edge("a product of two vectors", graph("a = MatMul (x, k) y = Add (a, b)", "float[4]", "float", k=seeded(4),
         b=F(2)), [{"x": seeded(4)}], ["MatMul", "Add"], ["the weight of MatMul has 1 dims"], error=4e-6),
    Edge("a vector times a matrix", graph("a = MatMul (x, k) y = Add (a, b)", "float[4]", "float[A]", k=seeded(4, 3),
         b=seeded(3)), [{"x": seeded(4)}], ["MatMul", "Add"], ["MatMul is not known to be 2-D"], error=4e-6),
    Edge("Gather down to a scalar", graph("a = Gather <axis = 0> (x, k) y = Gather <axis = 0> (a, k)", "float[4,4]",
         "float", k=I(-1)), [{"x": seeded(4, 4)}], ["Gather", "Gather"]),
    Edge("a scalar against a vector of one", graph("a = Mul (x, k) y = Add (a, l)", "float", "float[1]", k=F(1),
         l=F([0])), [{"x": np.array(3, F)}], ["Add"], ["the operand broadcasts it to more dims"]),
    Edge("a row of constants in front of one column", graph("a = MatMul (x, k) y = Add (b, a)", k=seeded(4, 1),
         b=seeded(3)), ANY, ["MatMul", "Add"], ["the constant is not one row of the product"], error=4e-6),
    # Slice
    Edge("a Slice from beyond the end", graph("a = Slice (x, k, l, z) y = Slice (a, m, l, z)", k=I([100]), l=I([END]),
         z=I([0]), m=I([5])), ANY, ["Slice"]),
    Edge("a Slice from before the beginning", graph("a = Slice (x, k, l, z) y = Abs (a)", k=I([-100]), l=I([END]),
         z=I([0])), ANY),
    Edge("Slices with sums beyond int64", graph("a = Slice (x, k, l, z) y = Slice (a, k, l, z)", k=I([1]), l=I([END]),
         z=I([0])), ANY, ["Slice"]),
    Edge("Slices with int32 bounds", graph("a = Slice (x, k, l, z) y = Slice (a, k, l, k)", k=np.int32([1]),
         l=np.int32([2**31 - 1]), z=np.int32([0])), ROWS, ["Slice"]),
    Edge("a Slice backwards, twice", graph("a = Slice (x, k, l, o, k) y = Slice (a, k, l, o, k)", k=I([-1]),
         l=I([-(2**63)]), o=I([1])), ROWS, ["Slice", "Slice"]),
    Edge("a Slice of nothing", graph("a = Slice (x, k, k) y = Concat <axis = 0> (a, x)", k=I([0])), ANY),
    # views
    Edge("a Transpose without perm, twice", graph("a = Transpose (x) b = Transpose (a) y = Neg (b)", "float[N,4,2]",
         "float[A,B,C]"), [{"x": seeded(n, 4, 2)} for n in (2, 0)], ["Neg"]),
    Edge("a Squeeze of all that is 1", graph("a = Squeeze (x) b = Unsqueeze (a, k) y = Neg (b)", "float[N,1,4]",
         "float[A,B,C]", k=I([1])), [{"x": seeded(n, 1, 4)} for n in (3, 2)]),
    Edge("Flatten to one row, then to one column", graph("a = Flatten <axis = 0> (x) y = Flatten <axis = 2> (a)"),
         [*ROWS, {"x": seeded(2, 4)}]),
    Edge("a Concat of the same twice", graph("a = Concat <axis = 1> (x, x) y = Concat <axis = -1> (a, a, x)"), ANY,
         ["Concat", "Concat"], ["the output of Concat_0 is read elsewhere"]),
    Edge("a Concat of 2,000", graph("a = Identity (x) b = Concat <axis = 0> (" + ", ".join(["a", "x"] * 1000) + ") "
         "y = ReduceMax <keepdims = 1, axes = [0]> (b)", opset=13), ROWS, ["Concat", "ReduceMax"]),
    # Pad
    Edge("a Pad on named axes", graph("p = Pad (x, k, , a) y = Conv (p, w)", IMAGE, OUT, opset=18, w=W, k=I([1, 3]),
         a=I([-1])), IMAGES, ["Conv"]),
    Edge("a Pad with -0", graph("p = Pad (x, k, z) y = Conv (p, w)", IMAGE, OUT, w=W, z=F(-0.0),
         k=I([0, 0, 1, 2, 0, 0, 3, 0])), IMAGES, ["Conv"]),
    Edge("a Pad with NaN", graph("p = Pad (x, k, z) y = Conv (p, w)", IMAGE, OUT, w=W, z=F(np.nan),
         k=I([0, 0, 1, 2, 0, 0, 3, 0])), IMAGES, ["Pad", "Conv"], ["it does not pad with zeros"]),
    Edge("a Pad that cuts", graph("p = Pad (x, k) y = Conv (p, w)", IMAGE, OUT, w=W, k=I([0, 0, -1, 2, 0, 0, 1, 0])),
         IMAGES, ["Pad", "Conv"], ["its pads are negative, not constant, or not on the spatial axes alone"]),
    Edge("a Pad that the caller gives", graph("p = Pad (x, k) y = Conv (p, w)", f"{IMAGE} x, int64[8] k", OUT, w=W),
         [{**feed, "k": I([0, 0, 1, 2, 0, 0, 3, 0])} for feed in IMAGES], ["Pad", "Conv"],
         ["its pads are negative, not constant, or not on the spatial axes alone"]),
    Edge("a Pad wider than the kernel", graph("p = Pad (x, k) y = Conv (p, w)", IMAGE, OUT, w=seeded(3, 2, 1, 1),
         k=I([0, 0, 9, 2, 0, 0, 3, 8])), IMAGES, ["Conv"]),
    Edge("a Pad in front of SAME_UPPER", graph('p = Pad (x, k) y = Conv <auto_pad = "SAME_UPPER"> (p, w)', IMAGE, OUT,
         w=W, k=I([0, 0, 1, 2, 0, 0, 3, 0])), IMAGES, ["Pad", "Conv"], ["the Conv computes its own pads (auto_pad)"]),
    Edge("a Pad in front of VALID, dilated", graph(
         'p = Pad (x, k) y = Conv <auto_pad = "VALID", dilations = [2, 1], strides = [1, 2]> (p, w)', IMAGE, OUT, w=W,
         k=I([0, 0, 1, 2, 0, 0, 3, 0])), IMAGES, ["Conv"]),
    Edge("a Pad with zeros in front of MaxPool", graph("p = Pad (x, k) y = MaxPool <kernel_shape = [3, 3]> (p)", IMAGE,
         OUT, k=I([0, 0, 1, 1, 0, 0, 1, 1])), IMAGES, ["Pad", "MaxPool"]),
    # what is declared
    Edge("a wrong rank of the output", told(graph("s = Shape (x) a = Reshape (x, s) y = Relu (a)", y="float[N,4,1]"),
         "a", 1, ["N", 4]), ROWS, ["Relu"], verify=False),
    Edge("a wrong shape in between", told(graph("a = Relu (x) b = Reshape (a, k) y = Reshape (b, l)",
         k=I([-1, 2, 2]), l=I([-1, 4])), "a", 1, [7, 7, 7]), ROWS, ["Relu"]),
    Edge("a fixed size in between that is none", told(graph("a = Relu (x) s = Shape (a) y = Reshape (a, s)"),
         "a", 1, [5, 4]), ROWS, ["Relu"]),
    Edge("one name for two sizes", graph("s = Shape (z) y = Expand (x, s)", "float[N,4] x, float[M,4] z"),
         [{"x": seeded(1, 4), "z": seeded(3, 4)}, {"x": seeded(2, 4), "z": seeded(2, 4)}], ["Shape", "Expand"]),
]  # fmt: skip


@pytest.mark.parametrize("edge", names(EDGES))
def test_shapes(edge: Edge):
    check(edge)
