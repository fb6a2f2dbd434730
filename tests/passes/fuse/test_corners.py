"""What the soak of random models found: rare graphs that a rule got wrong."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from helpers import from_text, ops, seeded
from rewrite_tools import applied, fuse, held

from baker.model.lower import lower

X = {"x": 4 * seeded(3, 4)}


def graph(body: str, more: str = "", kind: str = "float") -> str:
    weights = f"<{more}>" if more else ""
    return f'<ir_version: 8, opset_import: ["": 17]> g ({kind}[N,4] x) => ({kind}[A,B] y) {weights} {{ {body} }}'


def test_an_output_without_a_rank_gets_none():
    proto = onnx.parser.parse_model(graph("y = Relu (x) z = Relu (y)"))
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    held(lower(proto), fuse(), X, error=0)


@pytest.mark.parametrize("kind", ["float16", "double"])
def test_no_hard_sigmoid_that_onnx_runtime_can_not_run(kind: str):
    body = "a = Add (x, k) c = Clip (a, z, h) m = Mul (x, c) y = Div (m, h)"
    dtype = np.float16 if kind == "float16" else np.float64
    weights = {"k": dtype(3), "z": dtype(0), "h": dtype(6)}
    model = from_text(graph(body, kind=kind), weights)
    assert not held(model, fuse(), {"x": X["x"].astype(dtype)}, error=0).changes


def test_no_hard_sigmoid_of_whole_numbers():
    body = "a = Add (x, k) c = Clip (a, z, h) y = Div (c, h)"
    more = "int64 k = {3}, int64 z = {0}, int64 h = {6}"
    assert not held(from_text(graph(body, more, kind="int64")), fuse(), {"x": X["x"].astype(np.int64)}).changes


def test_a_divisor_with_more_dims_is_no_gate():
    text = graph("a = Add (x, k) c = Clip (a, z, h) y = Div (c, d)", "float k = {3}, float z = {0}, float h = {6}")
    model = from_text(text.replace("[A,B] y", "[A,B,C] y"), {"d": np.full((1, 1, 1), 6, np.float32)})
    assert not held(model, fuse("hard-sigmoid"), X, error=0).changes


def test_a_gate_times_itself_is_no_gate():
    body = "a = Add (x, k) c = Clip (a, z, h) m = Mul (c, c) y = Div (m, h)"
    model = from_text(graph(body, "float k = {3}, float z = {0}, float h = {6}"))
    assert not held(model, fuse("hard-sigmoid"), X, error=0).changes


def test_bounds_that_no_float_can_hold():
    body = "a = Clip (x, k, l) y = Clip (a, m)"
    more = "int64 k = {-5}, int64 l = {9223372036854775807}, int64 m = {-9}"
    model = from_text(graph(body, more, kind="int64"))
    large = np.array([[2**62 + 1, -(2**62) - 1, 7, -7]], np.int64)
    assert applied(held(model, fuse("clip-chain"), {"x": large}, error=0, growth=0.5)) == ["clip-chain"]


@pytest.mark.parametrize(("high", "left"), [(6, ["Clip"]), (-1, ["Clip", "Relu"])])
def test_a_clip_whose_bounds_cross_gives_the_upper_one(high: int, left: list[str]):
    model = from_text(graph("a = Clip (x, z, h) y = Relu (a)", f"float z = {{0}}, float h = {{{high}}}"))
    held(model, fuse("relu"), X, error=0)
    assert ops(model) == left
