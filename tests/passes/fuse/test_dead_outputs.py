"""Outputs that nobody reads go, with what was carried for them; so do states that are zero anyway."""

from __future__ import annotations

import numpy as np
from helpers import from_text, ops, seeded
from rewrite_tools import all_ops, applied, fuse, held, names, reasons

HEAD = '<ir_version: 8, opset_import: ["": 17]>'
X = {"x": seeded(3, 4)}
STEPS = {"n": np.array(3), **X}


def test_an_if_loses_an_output_in_both_branches():
    model = from_text(f"""{HEAD} g (bool k, float[N,4] x) => (float[N,4] y, float[N,4] z) {{
      a, y, c, z = If (k) <
        then_branch = t () => (float[N,4] p, float[N,4] q, float[N,4] r, float[N,4] s) {{
          p = Exp (x) q = Neg (x) r = Abs (q) s = Mul (x, q) }},
        else_branch = e () => (float[N,4] u, float[N,4] v, float[N,4] w, float[N,4] o) {{
          u = Abs (x) v = Sin (x) w = Exp (x) o = Add (x, v) }}> }}""")
    held(model, fuse("dead-outputs", "dead-code"), *({"k": np.array(k), **X} for k in (True, False)), error=0)
    assert all_ops(model) == ["If", "Neg", "Mul", "Sin", "Add"]
    assert names(model.graph[0].outputs) == ["y", "z"]


LOOP = f"""{HEAD} g (int64 n, float[N,4] x) => (float[N,4] y) <bool t = {{1}}, float one = {{1}}> {{
  a, b, c, s = Loop (n, t, x, x, x) <body = body (int64 i, bool k, float[N,4] p, float[N,4] q, float[N,4] r)
    => (bool o, float[N,4] u, float[N,4] v, float[N,4] w, float[N,4] scanned) {{
      o = Identity (k) u = Add (p, CARRIED) v = Mul (q, one) w = Exp (r) scanned = Neg (q) }}>
  y = Abs (a) }}"""


def test_a_loop_carries_only_what_is_needed():
    model = from_text(LOOP.replace("CARRIED", "one"))
    held(model, fuse("dead-outputs", "dead-code"), STEPS, {**STEPS, "n": np.array(0)}, error=0)
    assert all_ops(model) == ["Loop", "Identity", "Add", "Abs"]
    assert len(model.graph[0].inputs) == 3


def test_a_loop_carries_on_what_another_value_needs():
    model = from_text(LOOP.replace("CARRIED", "q"))
    held(model, fuse("dead-outputs", "dead-code"), STEPS, error=0)
    assert all_ops(model) == ["Loop", "Identity", "Add", "Mul", "Abs"]
    assert len(model.graph[0].inputs) == 4


def test_a_loop_carries_on_what_a_nested_graph_needs():
    text = LOOP.replace(
        "u = Add (p, CARRIED)",
        """u = If (k) <
      then_branch = t1 () => (float[N,4] t2) { t2 = Sub (p, r) },
      else_branch = e1 () => (float[N,4] e2) { e2 = Abs (p) }>""",
    )
    model = from_text(text)
    held(model, fuse("dead-outputs", "dead-code"), STEPS, error=0)
    assert len(model.graph[0].inputs) == 4
    assert "Exp" in all_ops(model)


def test_a_loop_without_limit_and_condition_keeps_its_two_inputs():
    text = f"""{HEAD} g (float[N,4] x) => (float[N,4] y) {{
      y, s = Loop (, t, x) <body = body (int64 i, bool k, float[N,4] p)
      => (bool o, float[N,4] u, float[N,4] v) {{ o = Not (k) u = Exp (p) v = Neg (p) }}> }}"""
    model = from_text(text, {"t": np.array(True)})
    held(model, fuse("dead-outputs", "dead-code"), X, error=0)
    assert all_ops(model) == ["Loop", "Not", "Exp"]
    assert len(model.graph[0].inputs) == 3


def test_a_scan_loses_states_and_what_it_scans_out():
    model = from_text(f"""{HEAD} g (float[3,4] x, float[4] h) => (float[3,4] y) {{
      a, b, s, y = Scan <num_scan_inputs = 1, scan_output_directions = [1, 0],
        body = body (float[4] p, float[4] q, float[4] r) => (float[4] u, float[4] v, float[4] scanned, float[4] kept) {{
          u = Add (p, r) v = Mul (q, r) scanned = Neg (v) kept = Exp (u) }}> (h, h, x) }}""")
    held(model, fuse("dead-outputs", "dead-code"), {"x": seeded(3, 4), "h": seeded(4)}, error=0)
    assert all_ops(model) == ["Scan", "Add", "Exp"]
    assert list(model.graph[0].attributes["scan_output_directions"].as_ints()) == [0]


LSTM = """y, h, c = LSTM <hidden_size = 5> (x, w, r, , , h0, c0)"""
WEIGHTS = {"w": seeded(1, 20, 4), "r": seeded(1, 20, 5, seed=1)}


def test_optional_outputs_are_left_out():
    body = LSTM.replace("h0, c0", "")
    model = from_text(f"{HEAD} g (float[3,N,4] x) => (float[1,N,5] h) {{ {body} }}", WEIGHTS)
    result = held(model, fuse(), {"x": seeded(3, 2, 4)}, error=0)
    assert applied(result) == ["dead-outputs", "dead-outputs"]
    assert names(model.graph[0].outputs) == ["", "h"]
    assert len(model.graph[0].inputs) == 3


def test_an_output_that_is_read_stays():
    text = f"""{HEAD} g (float[N,2,6,6] x) => (float[A,B,C,D] y, int64[A,B,C,D] i) {{
      y, i = MaxPool <kernel_shape = [2, 2]> (x) }}"""
    model = from_text(text)
    assert not held(model, fuse("dead-outputs"), {"x": seeded(1, 2, 6, 6)}, error=0).changes


def test_states_of_zeros_go_with_the_shapes_they_are_made_of():
    text = f"""{HEAD} g (float[3,N,4] x) => (float[3,1,N,5] y)
      <int64 at = {{1}}, int64[1] zero = {{0}}, int64[1] one = {{1}}, int64[1] five = {{5}}, float z = {{0}}> {{
      s = Shape (x) n = Gather (s, at) m = Unsqueeze (n, zero) d = Concat <axis = 0> (one, m, five)
      h0 = ConstantOfShape (d) c0 = Expand (z, d) {LSTM} }}"""
    model = from_text(text, WEIGHTS)
    held(model, fuse("zero-state", "dead-outputs"), {"x": seeded(3, 2, 4)}, {"x": seeded(3, 1, 4)}, error=0)
    assert ops(model) == ["LSTM"]


def test_a_state_that_is_not_zero_stays():
    for start in ({"h0": seeded(1, 2, 5), "c0": seeded(1, 2, 5)}, {"h0": -np.zeros((1, 2, 5), np.float32)}):
        body = LSTM if "c0" in start else LSTM.replace(", c0", "")
        model = from_text(f"{HEAD} g (float[3,2,4] x) => (float[3,1,2,5] y) {{ {body} }}", WEIGHTS | start)
        result = held(model, fuse("zero-state"), {"x": seeded(3, 2, 4)}, error=0)
        assert reasons(result) == ["its initial state is not known to be zero"]
