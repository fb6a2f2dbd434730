"""If: a known condition, and a branch that can only fail."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from helpers import from_text, ops, outputs, seeded
from rewrite_tools import all_ops, held, names

from baker.errors import ModelError
from baker.model.lower import lower
from baker.passes.fold import Fold

HEAD = '<ir_version: 8, opset_import: ["": 17]>'
X = ({"x": seeded(2, 4)}, {"x": seeded(1, 4, seed=1)})


@pytest.mark.parametrize(("k", "left"), [(True, ["Add", "Abs"]), (False, ["Mul", "Sub", "Abs"])])
def test_a_constant_condition_leaves_one_branch(k: bool, left: list[str]):
    text = f"""{HEAD} g (float[N,4] x) => (float[N,4] y) {{
      r = If (k) <
        then_branch = t () => (float[N,4] p) <float[4] w = {{1, 2, 3, 4}}> {{ p = Add (x, w) }},
        else_branch = f () => (float[N,4] q) <float[4] w = {{5, 6, 7, 8}}> {{ a = Mul (x, w) q = Sub (a, w) }}>
      y = Abs (r) }}"""
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array(k), "k"))
    model = lower(proto)
    held(model, Fold(), *X, error=0)
    assert ops(model) == left
    assert len(model.graph.initializers) == 1


def test_sibling_branches_with_the_same_names():
    branch = "<float[4] w = {{{0}, 2, 3, 4}}> {{ a = Add (x, w) {1} = Mul (a, w) }}"
    ifs = [
        f"{name} = If (k) <then_branch = t{n} () => (float[N,4] p{n}) {branch.format(n, f'p{n}')},"
        f" else_branch = e{n} () => (float[N,4] q{n}) {{ q{n} = Abs (x) }}>"
        for n, name in ((1, "r"), (5, "s"))
    ]
    proto = onnx.parser.parse_model(f"{HEAD} g (float[N,4] x) => (float[N,4] y) {{ {' '.join(ifs)} y = Sub (r, s) }}")
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array(True), "k"))
    model = lower(proto)
    held(model, Fold(), *X, error=0, growth=0.2)
    assert ops(model) == ["Add", "Mul", "Add", "Mul", "Sub"]
    assert len(model.graph.initializers) == 2


def test_an_output_of_the_graph_keeps_its_name():
    text = f"""{HEAD} g (float[N,4] x) => (float[N,4] y, float[4] z) <bool k = {{1}}> {{
      y, z = If (k) <
        then_branch = t () => (float[N,4] p, float[4] w) <float[4] w = {{1, 2, 3, 4}}> {{ p = Add (x, w) }},
        else_branch = f () => (float[N,4] q, float[4] v) <float[4] v = {{5, 6, 7, 8}}> {{ q = Abs (x) }}> }}"""
    model = lower(onnx.parser.parse_model(text))
    held(model, Fold(), *X, error=0)
    assert names(model.graph.outputs) == ["y", "z"]
    assert "If" not in ops(model)


def test_a_condition_that_depends_on_a_known_dim():
    text = f"""{HEAD} g (float[N,4] x) => (float[N,4] y) <int64 one = {{1}}, int64 four = {{4}}> {{
      s = Shape (x) d = Gather (s, one) k = Equal (d, four)
      y = If (k) <then_branch = t () => (float[N,4] p) {{ p = Exp (x) }},
                  else_branch = f () => (float[N,4] q) {{ q = Abs (x) }}> }}"""
    model = from_text(text)
    held(model, Fold(), *X, error=0)
    assert ops(model) == ["Exp"]


def test_nested_branches_and_outer_values():
    text = f"""{HEAD} g (bool c, float[N,4] x) => (float[N,4] y) <bool k = {{0}}> {{
      h = Exp (x)
      y = If (c) <
        then_branch = t () => (float[N,4] p) {{
          a = Abs (h)
          p = If (k) <then_branch = tt () => (float[N,4] pp) {{ pp = Add (a, h) }},
                      else_branch = ff () => (float[N,4] qq) {{ b = Mul (a, x) qq = Sub (b, h) }}> }},
        else_branch = f () => (float[N,4] q) {{ q = Neg (h) }}> }}"""
    model = from_text(text)
    held(model, Fold(), *({"c": np.array(c), **feed} for c in (True, False) for feed in X), error=0)
    assert all_ops(model) == ["Exp", "If", "Abs", "Mul", "Sub", "Neg"]


def test_loop_bodies_are_folded_but_keep_their_outputs():
    text = f"""{HEAD} g (float[4] x) => (float[4] y) <int64 n = {{3}}, bool go = {{1}}, float[4] w = {{1, 2, 3, 4}}> {{
      y = Loop (n, go, x) <body = b (int64 i, bool c, float[4] v) => (bool d, float[4] u) {{
        d = Identity (go) e = Exp (w) f = Neg (e) u = Add (v, f) }}> }}"""
    model = from_text(text)
    held(model, Fold(), {"x": seeded(4)}, error=0)
    assert all_ops(model) == ["Loop", "Identity", "Add"]


# ---- branches that can only fail --------------------------------------------------------------------------------

RANKS = f"""{HEAD} g (float[B,4,T] x) => (float[A,B2,C,D] y) <int64[1] last = {{-1}}, int64[1] one = {{1}},
      int64[1] zero = {{0}}> {{
  s = Shape (x) t = Gather (s, last) k = Equal (t, one)
  r = If (k) <then_branch = a () => (float[E,F] p) {{ p = Squeeze (x, last) }},
              else_branch = b () => (float[G,H,I] q) {{ q = Identity (x) }}>
  u = Unsqueeze (r, zero)
  y, h, c = LSTM <hidden_size = 3> (u, w, v) }}"""
LSTM = {"w": seeded(1, 12, 4), "v": seeded(1, 12, 3, seed=1)}


def test_an_lstm_decides_the_rank_of_what_it_reads():
    model = from_text(RANKS, LSTM)
    expected = outputs(model, {"x": seeded(2, 4, 1)})
    result = Fold()(model)
    assert ops(model) == ["Squeeze", "Unsqueeze", "LSTM"]
    assert [change.what for change in result.changes] == ["replaced by a branch: the other can only fail"]
    assert np.array_equal(outputs(model, {"x": seeded(2, 4, 1)})["y"], expected["y"])


def test_what_failed_before_still_fails():
    model = from_text(RANKS, LSTM)
    feed = {"x": seeded(2, 4, 5)}
    with pytest.raises(ModelError):
        outputs(model, feed)
    Fold()(model)
    with pytest.raises(ModelError):
        outputs(model, feed)


def test_a_reader_that_may_not_run_decides_nothing():
    text = RANKS.replace("(float[B,4,T] x)", "(float[B,4,T] x, bool m)").replace(
        "y, h, c = LSTM <hidden_size = 3> (u, w, v)",
        """y = If (m) <then_branch = d () => (float[A,B2,C,D] yy) { yy, h, c = LSTM <hidden_size = 3> (u, w, v) },
                       else_branch = e () => (float[A,B2,C,D] zz) { zz = Abs (u) }>""",
    )
    model = from_text(text, LSTM)
    feeds = [{"x": seeded(2, 4, 1), "m": np.array(True)}, {"x": seeded(2, 4, 5), "m": np.array(False)}]
    held(model, Fold(), *feeds, error=0)
    assert all_ops(model).count("If") == 2
