"""A Loop that is known to run once or never goes; every other one stays."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from helpers import from_text, ops, seeded
from rewrite_tools import all_ops, held, names, reasons

from baker.model.lower import lower
from baker.passes.fold import Fold

HEAD = '<ir_version: 8, opset_import: ["": 17]>'
X = ({"x": seeded(2, 4)}, {"x": seeded(1, 4, seed=1)})
BODY = """body = body (int64 i, bool k, float[N,4] p)
  => (bool o, float[N,4] u, float[N,4] s) <float[4] w = {1, 2, 3, 4}> {
  o = AGAIN f = Cast <to = 1> (i) a = Add (p, f) u = Mul (a, w) s = Neg (u) }"""


def loop(head: str, again: str = "Identity (k)", after: str = "y = Abs (r) z = Exp (t)", more: str = "") -> str:
    constants = f"int64 none = {{0}}, int64 one = {{1}}, int64 many = {{3}}, bool yes = {{1}}, bool no = {{0}}{more}"
    return f"""{HEAD} g (float[N,4] x) => (float[N,4] y, float[S,N,4] z) <{constants}> {{
      r, t = Loop ({head}, x) <{BODY.replace("AGAIN", again)}> {after} }}"""


@pytest.mark.parametrize(
    ("head", "again"),
    [
        ("one, yes", "Identity (k)"),
        ("one, ", "Not (k)"),
        ("many, yes", "Identity (no)"),
        (", yes", "Xor (yes, yes)"),
    ],
)
def test_one_round_leaves_the_body(head: str, again: str):
    model = from_text(loop(head, again))
    held(model, Fold(), *X, error=0)
    assert ops(model) == ["Add", "Mul", "Neg", "Unsqueeze", "Abs", "Exp"]
    assert not [name for name in model.graph.initializers if name.startswith("condition")]


@pytest.mark.parametrize("head", ["none, yes", "many, no", "none, "])
def test_no_round_leaves_the_initial_values(head: str):
    model = from_text(loop(head, after="y = Abs (r) z = Unsqueeze (x, at)", more=", int64[1] at = {0}"))
    held(model, Fold(), *X, error=0)
    assert ops(model) == ["Abs", "Unsqueeze"]


@pytest.mark.parametrize("head", ["one, yes", "none, yes"])
def test_outputs_of_the_graph_keep_their_names(head: str):
    text = f"""{HEAD} g (float[N,4] x) => (float[N,4] y, float[N,4] v)
      <int64 none = {{0}}, int64 one = {{1}}, bool yes = {{1}}> {{
      y, v = Loop ({head}, x, x) <body = b (int64 i, bool k, float[N,4] p, float[N,4] q)
        => (bool o, float[N,4] u, float[N,4] w) {{ o = Identity (k) u = Identity (q) w = Exp (p) }}> }}"""
    model = from_text(text)
    held(model, Fold(), *X, error=0)
    assert names(model.graph.outputs) == ["y", "v"]
    assert "Loop" not in ops(model)


@pytest.mark.parametrize(
    ("head", "again", "why"),
    [
        ("many, yes", "Identity (k)", ""),
        ("n, yes", "Identity (k)", ""),
        ("none, yes", "Identity (k)", "it never runs, but 't' is read: a tensor of 0 rows of unknown dims"),
    ],
)
def test_a_near_miss_stays(head: str, again: str, why: str):
    text = loop(head, again).replace("(float[N,4] x)", "(int64 n, float[N,4] x)")
    model = from_text(text)
    result = held(model, Fold(), *({"n": np.array(2), **feed} for feed in X), error=0)
    assert "Loop" in ops(model)
    assert not why or why in reasons(result, "loop")


def test_a_loop_in_a_branch_uses_what_is_outside():
    text = f"""{HEAD} g (bool c, float[N,4] x) => (float[N,4] y) <int64 one = {{1}}, float h = {{2}}> {{ m = Mul (x, h)
      y = If (c) < then_branch = t () => (float[N,4] p) {{
          p = Loop (one, , x) <body = b (int64 i, bool k, float[N,4] q) => (bool o, float[N,4] u) {{
            o = Identity (k) u = Sub (m, q) }}> }},
        else_branch = e () => (float[N,4] v) {{ v = Abs (m) }}> }}"""
    model = lower(onnx.parser.parse_model(text))
    held(model, Fold(), *({"c": np.array(c), **feed} for feed in X for c in (True, False)), error=0)
    assert all_ops(model) == ["Mul", "If", "Sub", "Abs"]
