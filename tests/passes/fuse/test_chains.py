"""Two nodes become one: shapes, slices, pads, reductions, activations."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import from_text, ops, seeded
from rewrite_tools import applied, fuse, held, reasons


def graph(body: str, x: str = "float[N,4,6]", y: str = "float[A,B,C]", opset: int = 17, more: str = "") -> str:
    text = f'<ir_version: 8, opset_import: ["": {opset}]> g ({x} x) => ({y} y) <{more}> {{ {body} }}'
    return text.replace("<>", "")


X = ({"x": seeded(2, 4, 6)}, {"x": seeded(1, 4, 6, seed=1)})


@pytest.mark.parametrize(
    ("body", "more", "left", "y"),
    [
        ("a = Transpose <perm = [1, 0, 2]> (x) y = Transpose <perm = [2, 0, 1]> (a)", "", ["Transpose"], 3),
        ("a = Transpose (x) y = Transpose <perm = [1, 2, 0]> (a)", "", ["Transpose"], 3),
        ("a = Reshape (x, k) y = Reshape (a, l)", "int64[2] k = {-1, 6}, int64[3] l = {-1, 2, 12}", ["Reshape"], 3),
        ("a = Flatten (x) y = Reshape (a, l)", "int64[3] l = {0, 8, 3}", ["Reshape"], 3),
        ("a = Unsqueeze (x, k) y = Unsqueeze (a, l)", "int64[1] k = {1}, int64[2] l = {0, 3}", ["Unsqueeze"], 6),
        ("b = Unsqueeze (x, k) a = Squeeze (b, l) y = Relu (a)", "int64[2] k = {0, 2}, int64[1] l = {0}",
         ["Reshape", "Relu"], 4),
        ("a = Slice (x, k, l, k) y = Slice (a, k, m, n)",
         "int64[1] k = {1}, int64[1] l = {3}, int64[1] m = {5}, int64[1] n = {2}", ["Slice"], 3),
        ("a = Slice (x, k, l, n) y = Slice (a, k, m, n)",
         "int64[1] k = {1}, int64[1] l = {9223372036854775807}, int64[1] m = {3}, int64[1] n = {2}", ["Slice"], 3),
        ("a = Slice (x, k, l, k, s) y = Slice (a, k, m, n)",
         "int64[1] k = {1}, int64[1] l = {-9}, int64[1] m = {5}, int64[1] n = {2}, int64[1] s = {-1}", ["Slice"], 3),
        ("a = Slice (x, k, l, n) y = Squeeze (a, n)",
         "int64[1] k = {1}, int64[1] l = {2}, int64[1] n = {1}", ["Gather"], 2),
        ("a = Slice (x, k, l, n) y = Squeeze (a, n)",
         "int64[1] k = {-1}, int64[1] l = {9223372036854775807}, int64[1] n = {2}", ["Gather"], 2),
        ("a = Gather <axis = 1> (x, k) y = Unsqueeze (a, l)", "int64 k = {2}, int64[1] l = {1}", ["Slice"], 3),
        ("a = Gather <axis = 1> (x, k) y = Unsqueeze (a, l)", "int64 k = {-1}, int64[1] l = {-2}", ["Slice"], 3),
        ("a = ReduceMax <axes = [1], keepdims = 0> (x) y = Unsqueeze (a, l)", "int64[1] l = {1}", ["ReduceMax"], 3),
        ("a = ReduceSum <keepdims = 0> (x, k) y = Unsqueeze (a, l)", "int64[2] k = {-1, 1}, int64[2] l = {1, 2}",
         ["ReduceSum"], 3),
        ("a = Concat <axis = 1> (x, x) y = Concat <axis = -2> (x, a)", "", ["Concat"], 3),
        ("a = Relu (x) y = Clip (a, k, l)", "float k = {-1}, float l = {0.5}", ["Clip"], 3),
        ("a = Clip (x, k, l) y = Clip (a, m)", "float k = {-1}, float l = {0.5}, float m = {-0.25}", ["Clip"], 3),
    ],
)  # fmt: skip
def test_two_become_one(body: str, more: str, left: list[str], y: int):
    model = from_text(graph(body, y=f"float[{','.join('ABCDEF'[:y])}]", more=more))
    held(model, fuse(), *X, error=0, growth=0.5)
    assert ops(model) == left


def test_indices_keep_their_axis():
    text = graph(
        "a = ArgMax <axis = 1, keepdims = 0> (x) y = Unsqueeze (a, l)", y="int64[A,B,C]", more="int64[1] l = {1}"
    )
    model = from_text(text)
    held(model, fuse(), *X, error=0)
    assert ops(model) == ["ArgMax"]


@pytest.mark.parametrize(
    ("body", "more", "y"),
    [
        ("a = Slice (x, k, l, k) y = Slice (a, k, m, k)", "int64[1] k = {1}, int64[1] l = {-1}, int64[1] m = {2}", 3),
        ("a = Gather <axis = 1> (x, k) y = Unsqueeze (a, l)", "int64 k = {2}, int64[1] l = {0}", 3),
        ("a = Gather <axis = 1> (x, k) y = Unsqueeze (a, l)", "int64[1] k = {2}, int64[1] l = {1}", 4),
        ("a = ReduceMax <axes = [1], keepdims = 0> (x) y = Unsqueeze (a, l)", "int64[1] l = {0}", 3),
        ("a = Concat <axis = 1> (x, x) y = Concat <axis = 2> (a, a)", "", 3),
        ("a = Clip (x, k) y = Clip (a, m, l)", "float k = {1}, float m = {-1}, float l = {0.5}", 3),
    ],
)
def test_two_that_stay_two(body: str, more: str, y: int):
    model = from_text(graph(body, y=f"float[{','.join('ABCDEF'[:y])}]", more=more))
    before = ops(model)
    held(model, fuse(), *X, error=0)
    assert ops(model) == before


# ---- Pad + Conv -------------------------------------------------------------------------------------------------

IMAGE = {"x": seeded(2, 4, 8, 8)}
PADDED = "p = Pad{options} (x, k{value}) y = Conv{conv} (p, w)"


def padded(options: str = "", pads: str = "0,0,1,2,0,0,3,1", value: str = "", conv: str = "", more: str = "") -> str:
    body = PADDED.format(options=options, value=value, conv=conv)
    return graph(body, "float[N,4,8,8]", "float[A,B,C,D]", more=f"int64[8] k = {{{pads}}}{more}")


@pytest.mark.parametrize("conv", ["", " <pads = [1, 0, 1, 2], strides = [2, 1]>", ' <auto_pad = "VALID">'])
@pytest.mark.parametrize("value", ["", ", z"])
def test_a_pad_of_zeros_goes_into_the_conv(conv: str, value: str):
    model = from_text(
        padded(value=value, conv=conv, more=", float z = {0}" if value else ""), {"w": seeded(6, 4, 3, 3)}
    )
    held(model, fuse("pad-conv"), IMAGE, error=0)
    assert ops(model) == ["Conv"]


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"options": ' <mode = "edge">'}, "it does not pad with zeros"),
        ({"options": ' <mode = "reflect">'}, "it does not pad with zeros"),
        ({"value": ", z", "more": ", float z = {1}"}, "it does not pad with zeros"),
        ({"pads": "0,0,-1,0,0,0,0,0"}, "its pads are negative, not constant, or not on the spatial axes alone"),
        ({"pads": "1,0,1,0,0,0,0,0"}, "its pads are negative, not constant, or not on the spatial axes alone"),
        ({"conv": ' <auto_pad = "SAME_UPPER">'}, "the Conv computes its own pads (auto_pad)"),
    ],
)
def test_a_pad_that_is_no_zeros_around_the_image_stays(changed: dict[str, str], why: str):
    model = from_text(padded(**changed), {"w": seeded(6, 4, 3, 3)})
    result = held(model, fuse("pad-conv"), IMAGE, error=0)
    assert reasons(result) == [why]


# ---- hard-swish -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opset", [12, 17])
@pytest.mark.parametrize(
    "body",
    [
        "a = Add (r, k) c = Clip (a, z, h) m = Mul (r, c) y = Div (m, h)",
        "a = Add (k, r) c = Clip (a, z, h) d = Div (c, h) y = Mul (d, r)",
        "a = Add (r, k) c = Clip (a, z, h) m = Mul (c, r) y = Mul (i, m)",
    ],
    ids=["paddle", "gate first", "by the inverse"],
)
def test_hard_swish_in_four_nodes(body: str, opset: int):
    more = "float k = {3}, float z = {0}, float h = {6}, float i = {0.16666667}"
    model = from_text(graph(f"r = Abs (x) {body}".replace("Abs", "Tanh"), opset=opset, more=more))
    held(model, fuse(), {"x": 8 * seeded(2, 4, 6)}, {"x": seeded(1, 4, 6)}, error=1e-6)
    assert ops(model) == (["Tanh", "HardSwish"] if opset == 17 else ["Tanh", "HardSigmoid", "Mul"])


def test_another_gate_is_a_hard_sigmoid_alone():
    more = "float k = {2.5}, float z = {0}, float h = {5}"
    model = from_text(graph("a = Add (x, k) c = Clip (a, z, h) m = Mul (x, c) y = Div (m, h)", more=more))
    result = held(model, fuse(), {"x": 8 * seeded(2, 4, 6)}, error=1e-6)
    assert ops(model) == ["HardSigmoid", "Mul"]
    assert reasons(result, "hard-swish") == ["alpha and beta are 0.2 and 0.5, not 1/6 and 1/2"]


@pytest.mark.parametrize(
    ("body", "more"),
    [
        ("a = Add (x, k) c = Clip (a, z, h) y = Div (c, d)", "float d = {5}"),
        ("a = Add (x, k) c = Clip (a, k, h) y = Div (c, h)", ""),
        ("a = Add (x, k) c = Clip (a, z, h) m = Div (c, h) y = Add (m, c)", ""),
        ("a = Add (x, k) c = Clip (a, z, h) y = Div (h, c)", ""),
    ],
    ids=["divisor", "lower bound", "read elsewhere", "the other way round"],
)
def test_no_hard_sigmoid(body: str, more: str):
    text = graph(body, more=", ".join(filter(None, ["float k = {3}, float z = {0}, float h = {6}", more])))
    model = from_text(text)
    result = held(model, fuse("hard-sigmoid"), {"x": 1 + np.abs(seeded(2, 4, 6))}, error=0)
    assert applied(result) == []
