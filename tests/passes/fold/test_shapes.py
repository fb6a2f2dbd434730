"""Shape arithmetic folds where dims are known, and stays symbolic where they are not."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import bake, from_text, ops, seeded
from rewrite_tools import held

from baker.model.graph import constant_value
from baker.passes.fold import Fold


def graph(body: str, x: str, y: str, more: str = "") -> str:
    text = f'<ir_version: 8, opset_import: ["": 17]> g ({x} x) => ({y} y) <{more}> {{ {body} }}'
    return text.replace("<>", "")


NUMBERS = {"zero": 0, "one": 1, "two": 2, "four": 4, "minus": -1, "big": 99}
K = ", ".join(["int64 i = {1}", *(f"int64[1] {name} = {{{number}}}" for name, number in NUMBERS.items())])


def target(model: object) -> list[int]:
    """The constant that the last node reads as its second input."""
    array = constant_value(model.graph[-1].inputs[1])
    assert array is not None
    return array.tolist()


@pytest.mark.parametrize(
    ("arithmetic", "expected"),
    [
        ("t = Shape (x)", [2, 3, 4]),
        ("t = Shape <start = 1> (x)", [3, 4]),
        ("t = Shape <start = -2, end = -1> (x)", [3]),
        ("s = Shape (x) t = Gather (s, one)", [3]),
        ("s = Shape (x) a = Gather (s, i) t = Unsqueeze (a, zero)", [3]),
        ("s = Shape (x) t = Slice (s, one, big)", [3, 4]),
        ("s = Shape (x) t = Slice (s, minus, zero, zero, minus)", [4, 3]),
        ("s = Shape (x) a = Gather (s, zero) b = Gather (s, two) t = Mul (a, b)", [8]),
        ("s = Size (x) t = Unsqueeze (s, zero)", [24]),
        ("s = Shape (x) c = Cast <to = 6> (s) d = Slice (c, one, two) t = Cast <to = 7> (d)", [3]),
        ("s = Shape (x) a = Gather (s, two) t = Div (a, two)", [2]),
        ("s = Shape (x) a, b, c = Split (s) t = Concat <axis = 0> (c, b)", [4, 3]),
    ],
)
def test_known_dims(arithmetic: str, expected: list[int]):
    model = from_text(graph(f"{arithmetic} y = ConstantOfShape (t)", "float[2,3,4]", "float[" + "ABC"[0:1] + "]", K))
    model.graph.outputs[0].shape = None
    Fold(growth=9)(model)
    (node,) = model.graph  # y is an output and keeps its node
    array = constant_value(node.inputs[0])
    assert array is not None
    assert array.tolist() == expected


@pytest.mark.parametrize(
    ("arithmetic", "expected"),
    [
        ("s = Shape (x) a = Gather (s, zero) t = Concat <axis = 0> (a, two, minus)", [0, 2, -1]),
        ("s = Shape (x) a = Gather (s, zero) b = Gather (s, one) t = Concat <axis = 0> (a, b, two, two)", [0, 4, 2, 2]),
        ("s = Shape (x) a = Slice (s, zero, two) t = Concat <axis = 0> (a, two, two)", [0, 4, 2, 2]),
        ("s = Shape (x) a = Gather (s, zero) b = Mul (a, one) t = Concat <axis = 0> (b, minus)", [0, -1]),
        ("s = Shape (x) a = Gather (s, zero) b = Mul (a, two) t = Concat <axis = 0> (b, minus)", None),
        ("s = Shape (x) a = Gather (s, zero) t = Concat <axis = 0> (four, a, two, two)", [4, -1, 2, 2]),
    ],
)
def test_a_target_of_known_and_copied_dims(arithmetic: str, expected: list[int] | None):
    rank = 2 if expected is None or len(expected) == 2 else len(expected)
    dims = ",".join("ABCD"[:rank])
    model = from_text(graph(f"{arithmetic} r = Reshape (x, t) y = Abs (r)", "float[N,4,4]", f"float[{dims}]", K))
    held(model, Fold(), *({"x": seeded(n, 4, 4)} for n in (1, 2, 9)), error=0)
    if expected is None:
        assert "Shape" in ops(model)
    else:
        assert ops(model) == ["Reshape", "Abs"]
        assert constant_value(model.graph[0].inputs[1]).tolist() == expected


def test_nothing_is_assumed_of_two_unknown_dims():
    body = "s = Shape (x) a = Gather (s, two) b = Gather (s, zero) t = Concat <axis = 0> (a, b, one, four)"
    model = from_text(graph(f"{body} y = Reshape (x, t)", "float[N,4,M]", "float[A,B,C,D]", K))
    held(model, Fold(), {"x": seeded(2, 4, 3)}, {"x": seeded(5, 4, 1)}, error=0)
    assert "Shape" in ops(model)


def test_an_unknown_dim_beside_a_copied_one_stays():
    """With [0, -1] a tensor of no elements would leave the -1 undefined; as it was, both dims are given."""
    body = "s = Shape (x) a = Gather (s, zero) b = Gather (s, two) t = Concat <axis = 0> (a, b, four)"
    model = from_text(graph(f"{body} y = Reshape (x, t)", "float[N,4,M]", "float[A,B,C]", K))
    held(model, Fold(), {"x": seeded(2, 4, 3)}, {"x": seeded(0, 4, 3)}, error=0)
    assert "Shape" in ops(model)


def test_the_same_shape_is_no_reshape():
    body = "r = Relu (x) s = Shape (x) a = Reshape (r, s) b = Expand (a, s) y = Abs (b)"
    model = from_text(graph(body, "float[N,4,M]", "float[A,B,C]"))
    held(model, Fold(), {"x": seeded(2, 4, 3)}, {"x": seeded(1, 4, 5)}, error=0)
    assert ops(model) == ["Relu", "Abs"]


def test_an_expand_that_may_do_something_stays():
    body = "s = Shape (z) y = Expand (x, s)"
    model = from_text(graph(body, "float[N,4] z, float[M,4]", "float[A,B]"))
    feeds = [{"x": seeded(1, 4), "z": seeded(3, 4)}, {"x": seeded(2, 4), "z": seeded(2, 4)}]
    held(model, Fold(), *feeds, error=0)
    assert ops(model) == ["Shape", "Expand"]


def test_an_empty_target_dim_is_kept_with_allowzero():
    model = from_text(graph("y = Reshape <allowzero = 1> (x, t)", "float[N,4]", "float[A,B]", "int64[2] t = {0, 4}"))
    held(model, Fold(), {"x": seeded(0, 4)}, error=0)
    assert ops(model) == ["Reshape"]


def test_a_target_with_allowzero_is_constant_where_no_dim_is_0_by_itself():
    body = "s = Shape <end = 2> (x) t = Concat <axis = 0> (s, two, two) y = Reshape <allowzero = 1> (x, t)"
    model = from_text(graph(body, "float[N,M,4]", "float[A,B,C,D]", K))
    held(model, Fold(), {"x": seeded(2, 3, 4)}, {"x": seeded(0, 3, 4)}, {"x": seeded(2, 0, 4)}, error=0)
    assert ops(model) == ["Reshape"] and target(model) == [0, 0, 2, 2]


def test_a_target_that_goes_through_flat_rows_and_back():
    body = """r = Reshape (x, flat) s = Shape <end = 2> (x) e = Equal (s, minus) w = Where (e, one, s)
              t = Concat <axis = 0> (w, four) b = Reshape (r, t) z = Add (b, x) y = Abs (z)"""
    text = graph(body, "float[N,M,4]", "float[A,B,C]", K + ", int64[2] flat = {-1, 4}")
    model = from_text(text)
    held(model, Fold(), {"x": seeded(2, 3, 4)}, {"x": seeded(1, 5, 4)}, error=0)
    assert [str(value.shape) for node in model.graph for value in node.outputs if node.op_type == "Add"] == ["[N,M,4]"]


def test_the_same_dim_of_two_tensors_is_asked_for_once():
    body = """s = Shape (x) a = Gather (s, zero) r = Relu (x) u = Shape (r) b = Gather (u, zero) c = Gather (u, two)
              p = ConstantOfShape (a) q = ConstantOfShape (b) o = ConstantOfShape (c) y = Concat <axis = 0> (p, q, o)"""
    model = from_text(graph(body, "float[N,4,M]", "float[A]", K))
    held(model, Fold(), {"x": seeded(2, 4, 3)}, {"x": seeded(5, 4, 1)}, {"x": seeded(0, 4, 2)}, error=0)
    assert ops(model).count("Gather") == 2 and ops(model).count("Shape") <= 2, "N and M are not the same"


def test_dynamic_dims_stay_symbolic_at_many_sizes():
    body = """s = Shape (x) n = Gather (s, zero) t = Concat <axis = 0> (n, two, two, four) r = Reshape (x, t)
              p = Transpose <perm = [0, 2, 1, 3]> (r) u = Shape (p) m = Gather (u, zero)
              v = Concat <axis = 0> (m, minus) y = Reshape (p, v)"""
    model = from_text(graph(body, "float[batch,4,4]", "float[A,B]", K))
    held(model, Fold(), *({"x": seeded(n, 4, 4)} for n in (1, 2, 7)), error=0)
    assert ops(model) == ["Reshape", "Transpose", "Reshape"]
    assert str(model.graph.inputs[0].shape[0]) == "batch"


def test_a_size_that_is_data_is_not_guessed():
    model = from_text(graph("a = NonZero (x) s = Shape (a) y = Gather (s, one)", "float[N,4]", "int64[A]", K))
    held(model, Fold(), {"x": seeded(2, 4)}, {"x": np.zeros((2, 4), np.float32)}, error=0)
    assert ops(model)[:2] == ["NonZero", "Shape"]


def test_what_a_folded_constant_tells_of_the_sizes_behind_it_is_seen_at_once():
    text = """<ir_version: 10, opset_import: ["" : 17]> g (float[13] x) => (float[14] y) {
        f = Constant <value = float[2] {0.0, 1.0}> () pads = Cast <to = 7> (f) k = Constant <value = float[0] {}> ()
        p = Pad (k, pads) c = Concat <axis = 0> (x, p) r = Floor (c)
        s = Constant <value = int64[1] {-14}> () e = Constant <value = int64[1] {14}> ()
        t = Slice (r, s, e) y = Exp (t) }"""
    simplified, _ = bake(from_text(text), "@simplify")
    assert ops(simplified) == ["Concat", "Floor", "Exp"]
