"""What is there twice or read by nobody."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from helpers import from_text, ops, outputs, seeded
from rewrite_tools import all_ops, applied, fuse, held, names

from baker.model.lower import lower

HEAD = '<ir_version: 8, opset_import: ["": 17]>'


def test_equal_nodes_become_one():
    model = from_text(f"""{HEAD} g (float[N,4] x, float[N,4] z) => (float[N,4] y) {{
      a = Add (x, z) b = Add (z, x) c = Exp (a) d = Exp (b) e = Sub (x, z) f = Sub (z, x) g = Mul (c, d) h = Mul (e, f)
      y = Add (g, h) }}""")
    held(model, fuse("common-subexpressions"), {"x": seeded(2, 4), "z": seeded(2, 4, seed=1)}, error=0)
    assert ops(model) == ["Add", "Exp", "Sub", "Sub", "Mul", "Mul", "Add"]


def test_attributes_make_a_difference():
    model = from_text(f"""{HEAD} g (float[N,4] x) => (float[N,4] y) {{
      a = Softmax <axis = 0> (x) b = Softmax <axis = 1> (x) c = Softmax <axis = 1> (x)
      d = Add (a, b) y = Add (d, c) }}""")
    held(model, fuse("common-subexpressions"), {"x": seeded(2, 4)}, error=0)
    assert ops(model) == ["Softmax", "Softmax", "Add", "Add"]


@pytest.mark.parametrize(
    "op",
    [
        "RandomUniformLike (x)",
        "RandomNormalLike <seed = 1.0> (x)",
        "Bernoulli (p)",
        "RandomNormal <shape = [2, 4]> ()",
        "Dropout (x, r, t)",
    ],
)
def test_random_numbers_are_never_shared(op: str):
    model = from_text(f"""{HEAD} g (float[2,4] x) => (float[2,4] y) <float r = {{0.5}}, bool t = {{1}}> {{
      p = Sigmoid (x) a = {op} b = {op} y = Sub (a, b) }}""")
    before = [name for name in ops(model) if name != "Sigmoid"]
    assert applied(fuse("common-subexpressions")(model)) == []
    assert [name for name in ops(model) if name != "Sigmoid"] == before


def test_two_outputs_keep_their_names():
    model = from_text(f"""{HEAD} g (float[N,4] x) => (float[N,4] y, float[N,4] z, float[N,4] w) {{
      y = Exp (x) z = Exp (x) a = Exp (x) w = Neg (a) }}""")
    held(model, fuse("common-subexpressions"), {"x": seeded(2, 4)}, error=0)
    assert names(model.graph.outputs) == ["y", "z", "w"]
    assert ops(model) == ["Exp", "Exp", "Neg"]


def test_an_output_is_given_by_an_equal_node_before_it():
    model = from_text(
        f"{HEAD} g (float[N,4] x) => (float[N,4] y, float[N,4] z) {{ a = Exp (x) z = Neg (a) y = Exp (x) }}"
    )
    held(model, fuse("common-subexpressions"), {"x": seeded(2, 4)}, error=0)
    assert ops(model) == ["Exp", "Neg"]


NESTED = f"""{HEAD} g (bool k, float[N,4] x) => (float[N,4] y, float[N,4] z) {{
  a = Exp (x)
  y = If (k) <
    then_branch = t () => (float[N,4] p) {{ b = Exp (x) c = Abs (x) d = Abs (x) e = Add (c, d) p = Add (e, b) }},
    else_branch = f () => (float[N,4] q) {{ h = Abs (x) i = Exp (x) j = Neg (h) q = Add (i, j) }}>
  s = Abs (x)
  z = Add (a, s) }}"""


def test_branches_may_read_what_was_computed_before_them():
    model = from_text(NESTED)
    feeds = [{"k": np.array(k), "x": seeded(2, 4)} for k in (True, False)]
    held(model, fuse("common-subexpressions"), *feeds, error=0)
    assert sorted(all_ops(model)) == sorted(["Exp", "If", "Abs", "Add", "Add", "Abs", "Neg", "Add", "Abs", "Add"])


def test_a_branchs_own_output_stays():
    model = from_text(f"""{HEAD} g (bool k, float[N,4] x) => (float[N,4] y, float[N,4] z) {{
      z = Exp (x)
      y = If (k) <then_branch = t () => (float[N,4] p) {{ p = Exp (x) }},
                  else_branch = f () => (float[N,4] q) {{ q = Abs (x) }}> }}""")
    held(model, fuse(), *({"k": np.array(k), "x": seeded(2, 4)} for k in (True, False)), error=0)
    assert all_ops(model) == ["Exp", "If", "Exp", "Abs"]


# ---- initializers -----------------------------------------------------------------------------------------------


def test_equal_initializers_become_one():
    text = (
        f"{HEAD} g (float[N,4] x) => (float[N,4] y) {{ a = Add (x, b) c = Mul (a, d) e = Sub (c, f) y = Add (e, h) }}"
    )
    same = seeded(4)
    model = from_text(text, {"b": same, "d": same.copy(), "f": same.reshape(1, 4), "h": same + 1})
    held(model, fuse("duplicate-initializers"), {"x": seeded(2, 4)}, error=0)
    assert list(model.graph.initializers) == ["b", "f", "h"]


def test_bits_decide_not_values():
    text = f"{HEAD} g (float[4] x) => (float[4] y) {{ a = Div (x, b) c = Div (x, d) y = Add (a, c) }}"
    model = from_text(text, {"b": np.zeros(4, np.float32), "d": -np.zeros(4, np.float32)})
    assert applied(fuse("duplicate-initializers")(model)) == []


def test_siblings_may_use_one_name_for_two_things():
    text = f"""{HEAD} g (bool k, float[4] x) => (float[4] y) {{
      y = If (k) <
        then_branch = t () => (float[4] p) <float[4] w = {{1, 2, 3, 4}}, float[4] v = {{1, 2, 3, 4}}> {{
          a = Add (x, w) p = Add (a, v) }},
        else_branch = f () => (float[4] q) <float[4] w = {{5, 6, 7, 8}}> {{ q = Add (x, w) }}> }}"""
    model = lower(onnx.parser.parse_model(text))
    held(model, fuse("duplicate-initializers"), *({"k": np.array(k), "x": seeded(4)} for k in (True, False)), error=0)
    assert [len(graph.initializers) for graph in model.graphs()] == [0, 1, 1]


def test_a_branch_reads_the_outer_one():
    text = f"""{HEAD} g (bool k, float[4] x) => (float[4] y) <float[4] w = {{1, 2, 3, 4}}> {{
      s = Mul (x, w)
      y = If (k) <then_branch = t () => (float[4] p) <float[4] v = {{1, 2, 3, 4}}> {{ p = Add (s, v) }},
                  else_branch = f () => (float[4] q) {{ q = Abs (s) }}> }}"""
    model = lower(onnx.parser.parse_model(text))
    held(model, fuse("duplicate-initializers"), *({"k": np.array(k), "x": seeded(4)} for k in (True, False)), error=0)
    assert [len(graph.initializers) for graph in model.graphs()] == [1, 0, 0]


def test_overridable_initializers_stay():
    text = f"""{HEAD} g (float[4] x, float[4] b) => (float[4] y) <float[4] b = {{1,2,3,4}}, float[4] d = {{1,2,3,4}}> {{
      a = Add (x, b) y = Mul (a, d) }}"""
    model = lower(onnx.parser.parse_model(text))
    held(model, fuse(), {"x": seeded(4)}, {"x": seeded(4), "b": seeded(4, seed=1)}, error=0)
    assert sorted(model.graph.initializers) == ["b", "d"]


# ---- dead code --------------------------------------------------------------------------------------------------


def test_what_nobody_reads_goes():
    text = f"""{HEAD} g (float[N,4] x, float[3] unused) => (float[N,4] y) {{
      a = MatMul (x, w) b = Exp (a) c = If (k) <then_branch = t () => (float[N,4] p) {{ p = Exp (b) }},
                                              else_branch = f () => (float[N,4] q) {{ q = Abs (x) }}>
      y = Relu (x) }}"""
    model = from_text(text, {"w": seeded(4, 4), "k": np.array(True), "lonely": seeded(9)})
    expected = outputs(model, {"x": seeded(2, 4), "unused": seeded(3)})
    result = fuse("dead-code")(model)
    assert ops(model) == ["Relu"]
    assert not model.graph.initializers
    assert names(model.graph.inputs) == ["x", "unused"]
    assert set(applied(result)) == {"dead-code"}
    assert np.array_equal(outputs(model, {"x": seeded(2, 4), "unused": seeded(3)})["y"], expected["y"])


def test_dead_code_of_foreign_operators_stays():
    text = f"""{HEAD.replace('["": 17]', '["": 17, "com.example": 1]')} g (float[N,4] x) => (float[N,4] y) {{
      a = com.example.Log (x) b = Exp (x) y = Relu (x) }}"""
    model = lower(onnx.parser.parse_model(text))
    fuse("dead-code")(model)
    assert ops(model) == ["Log", "Relu"]
