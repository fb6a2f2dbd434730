"""Nodes that do nothing go, and those that only look like it stay."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from helpers import from_text, ops, seeded
from rewrite_tools import applied, fuse, held, names, reasons

from baker.model.lower import lower


def graph(body: str, x: str = "float[N,4,6]", y: str = "float[A,B,C]", opset: int = 17, more: str = "") -> str:
    return f'<ir_version: 8, opset_import: ["": {opset}]> g ({x} x) => ({y} y) <{more}> {{ {body} }}'


X = ({"x": seeded(2, 4, 6)}, {"x": seeded(1, 4, 6, seed=1)})


@pytest.mark.parametrize(
    ("body", "more", "rule"),
    [
        ("a = Identity (r)", "", "identity"),
        ("a = Dropout (r)", "", "dropout"),
        ("a = Dropout (r, k, m)", "float k = {0.5}, bool m = {0}", "dropout"),
        ("a = Cast <to = 1> (r)", "", "cast"),
        ("b = Cast <to = 11> (r) a = Cast <to = 1> (b)", "", "cast"),
        ("a = Add (r, k)", "float k = {0}", "neutral-operand"),
        ("a = Add (k, r)", "float[4,1] k = {0, 0, 0, 0}", "neutral-operand"),
        ("a = Sub (r, k)", "float[1] k = {0}", "neutral-operand"),
        ("a = Mul (r, k)", "float[1,6] k = {1, 1, 1, 1, 1, 1}", "neutral-operand"),
        ("a = Div (r, k)", "float k = {1}", "neutral-operand"),
        ("a = Pow (r, k)", "float k = {1}", "neutral-operand"),
        ("a = Transpose <perm = [0, 1, 2]> (r)", "", "transpose"),
        ("b = Transpose <perm = [1, 2, 0]> (r) a = Transpose <perm = [2, 0, 1]> (b)", "", "transpose"),
        ("b = Transpose (r) a = Transpose (b)", "", "transpose"),
        ("a = Reshape (r, k)", "int64[3] k = {0, 4, 6}", "same-shape"),
        ("b = Unsqueeze (r, k) a = Squeeze (b, k)", "int64[2] k = {0, -1}", "squeeze-chain"),
        ("a = Expand (r, k)", "int64[2] k = {4, 6}", "same-shape"),
        ("a = Tile (r, k)", "int64[3] k = {1, 1, 1}", "same-shape"),
        ("a = Slice (r, k, e)", "int64[3] k = {0, 0, 0}, int64[3] e = {2147483647, 4, 100}", "slice"),
        (
            "a = Slice (r, k, e, k, s)",
            "int64[1] k = {0}, int64[1] e = {9223372036854775807}, int64[1] s = {1}",
            "slice",
        ),
        ("a = Pad (r, k)", "int64[6] k = {0, 0, 0, 0, 0, 0}", "pad"),
        ('a = Pad <mode = "edge"> (r, k)', "int64[6] k = {0, 0, 0, 0, 0, 0}", "pad"),
        ("a = Concat <axis = 1> (r)", "", "variadic"),
        ("a = Sum (r)", "", "variadic"),
        ("a = Max (r)", "", "variadic"),
        ("a = Relu (r)", "", "relu"),
        ("b = Softmax (r) a = Relu (b)", "", "relu"),
    ],
)
def test_it_goes(body: str, more: str, rule: str):
    model = from_text(graph(f"r = Relu (x) {body} y = Abs (a)", more=more).replace("<>", ""))
    result = held(model, fuse(rule), *X, error=0)
    assert set(applied(result)) == {rule}
    assert ops(model) in (["Relu", "Abs"], ["Relu", "Softmax", "Abs"])


@pytest.mark.parametrize(
    ("body", "more", "y"),
    [
        ("y = Add (x, k)", "float[2,1,1] k = {0, 0}", "float[A,B,C]"),
        ("y = Mul (x, k)", "float[1,1,1,1] k = {1}", "float[A,B,C,D]"),
        ("y = Sub (k, x)", "float k = {0}", "float[A,B,C]"),
        ("y = Div (k, x)", "float k = {1}", "float[A,B,C]"),
        ("y = Pow (k, x)", "float k = {1}", "float[A,B,C]"),
        ("y = Add (x, k)", "float[6] k = {0, 0, 0, 0, 0, 0.0001}", "float[A,B,C]"),
        ("a = Cast <to = 10> (x) y = Cast <to = 1> (a)", "", "float[A,B,C]"),
        ("a = Cast <to = 7> (x) b = Cast <to = 6> (a) y = Cast <to = 7> (b)", "", "int64[A,B,C]"),
        ("y = Slice (x, k, e)", "int64[1] k = {0}, int64[1] e = {1}", "float[A,B,C]"),
        ("y = Slice (x, k, e, a, k)", "int64[1] k = {-1}, int64[1] e = {-100}, int64[1] a = {1}", "float[A,B,C]"),
        ('y = Pad <mode = "edge"> (x, k)', "int64[6] k = {0, 0, 1, 0, 0, 0}", "float[A,B,C]"),
        ("y = Transpose <perm = [0, 2, 1]> (x)", "", "float[A,B,C]"),
        ("y = Tile (x, k)", "int64[3] k = {1, 2, 1}", "float[A,B,C]"),
        ("y = Expand (x, k)", "int64[4] k = {1, 1, 4, 6}", "float[A,B,C,D]"),
        ("y = Relu (x)", "", "float[A,B,C]"),
        ("a = Clip (x, k, h) y = Relu (a)", "float k = {-1}, float h = {-0.5}", "float[A,B,C]"),
    ],
)
def test_it_stays(body: str, more: str, y: str):
    model = from_text(graph(body, y=y, more=more).replace("<>", ""))
    before = ops(model)
    held(model, fuse(), *X, error=0)
    assert ops(model) == before


def test_a_neutral_operand_of_unknown_effect_stays():
    text = graph(
        "a = Squeeze (x) y = Add (a, k)", x="float[N,1,6]", y="float[A,B]", more="float[1,6] k = {0,0,0,0,0,0}"
    )
    model = from_text(text)
    result = held(model, fuse("neutral-operand"), {"x": seeded(3, 1, 6)}, error=0)
    assert ops(model) == ["Squeeze", "Add"]
    assert len(reasons(result)) == 1


def test_dropout_in_training_mode_stays():
    model = from_text(graph("y = Dropout (x, k, m)", more="float k = {0.5}, bool m = {1}"))
    result = fuse()(model)
    assert ops(model) == ["Dropout"]
    assert reasons(result) == ["it is in training mode, or may be"]


def test_dropout_whose_mask_is_read_stays():
    text = graph("y, z = Dropout (x)").replace("y) <>", "y, bool[A,B,C] z)")
    model = from_text(text)
    result = held(model, fuse(), *X, error=0)
    assert reasons(result) == ["its mask is read"]


@pytest.mark.parametrize("body", ["y = Identity (x)", "r = Relu (x) y = Identity (r) z = Identity (r)"])
def test_an_output_keeps_its_name_and_its_node(body: str):
    text = graph(body).replace("<>", "")
    if "z =" in body:
        text = text.replace("y) ", "y, float[A,B,C] z) ")
    model = from_text(text)
    result = held(model, fuse("identity"), *X, error=0)
    assert reasons(result) == [f"it gives the output '{names(model.graph.outputs)[-1]}' its name"]
    assert ops(model)[-1] == "Identity"


def test_an_unused_input_stays_in_the_signature():
    text = graph("a = Identity (x) y = Abs (a)").replace("x) =>", "x, float[7] unused) =>").replace("<>", "")
    model = from_text(text)
    held(model, fuse(), *({**feed, "unused": np.zeros(7, np.float32)} for feed in X), error=0)
    assert names(model.graph.inputs) == ["x", "unused"]


def test_a_declared_shape_that_is_wrong_removes_nothing():
    text = graph("r = Relu (x) y = Reshape (r, k)", y="float[N,4,6]", more="int64[2] k = {-1, 6}")
    model = lower(onnx.parser.parse_model(text))  # y is (4N, 6); the declared rank 3 is not
    fuse()(model)
    assert ops(model) == ["Relu", "Reshape"]


def test_foreign_operators_pass_through():
    text = """<ir_version: 8, opset_import: ["": 17, "com.example": 1]>
    g (float[N,4] x) => (float[N,4] y) { a = com.example.Thing <level = 3> (x) b = com.example.Thing (x)
      c = com.example.Thing (x) d = Identity (a) e = Add (d, c) y = Identity (e) }"""
    model = lower(onnx.parser.parse_model(text))
    result = fuse()(model)
    assert ops(model) == ["Thing", "Thing", "Thing", "Add"]
    assert applied(result) == ["identity", "identity"]
    assert model.graph[0].attributes["level"].as_int() == 3
