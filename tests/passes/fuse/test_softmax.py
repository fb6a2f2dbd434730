"""Decomposed Softmax and LogSoftmax become one operator."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from helpers import from_text, ops, seeded
from rewrite_tools import all_ops, applied, fuse, held, reasons

from baker.passes.fuse import Fuse

X = ({"x": 4 * seeded(2, 3, 8)}, {"x": 50 * seeded(1, 5, 8)})
EXP = "m = ReduceMax <axes = [-1]> (x) d = Sub (x, m) e = Exp (d) s = ReduceSum (e, ax) "
SOFTMAX = EXP + "y = Div (e, s)"
LOG_SOFTMAX = EXP + "l = Log (s) y = Sub (d, l)"


def model_of(body: str, opset: int = 17, kind: str = "float", axis: int = -1, shape: str = "N,S,8") -> ir.Model:
    if opset >= 18:
        body = body.replace("ReduceMax <axes = [-1]> (x)", "ReduceMax (x, ax)")
    body = body.replace("[-1]", f"[{axis}]")
    head = f'<ir_version: 9, opset_import: ["": {opset}]> g ({kind}[{shape}] x) => ({kind}[{shape}] y) '
    return from_text(f"{head} {{ {body} }}", {"ax": np.array([axis])} if "ax)" in body else {})


@pytest.mark.parametrize("opset", [13, 17, 18, 21])
@pytest.mark.parametrize(("body", "found"), [(SOFTMAX, "Softmax"), (LOG_SOFTMAX, "LogSoftmax")])
def test_the_parts_become_one(opset, body, found):
    model = model_of(body, opset, axis=2 if opset == 17 else -1)
    held(model, fuse(), *X)
    assert ops(model) == [found]


def test_the_quotient_may_be_a_product_with_a_reciprocal():
    model = model_of(EXP + "r = Reciprocal (s) y = Mul (r, e)")
    result = held(model, fuse(), *X)
    assert (ops(model), applied(result)) == (["Softmax"], ["softmax"])


def test_half_precision():
    model = model_of(SOFTMAX, kind="float16")
    held(model, fuse(), {"x": X[0]["x"].astype(np.float16)}, error=2e-3)
    assert ops(model) == ["Softmax"]


def test_an_older_model_is_raised_where_that_was_accepted():
    body = SOFTMAX.replace("ReduceSum (e, ax)", "ReduceSum <axes = [-1]> (e)")
    model = model_of(body, 11)
    held(model, Fuse(opset=13), *X)
    assert (ops(model), model.opset_imports[""]) == (["Softmax"], 13)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("[-1]> (x)", "[0]> (x)"), "the reductions run over different axes"),
        (("(e, ax)", "(e, both)"), "the reductions run over different axes"),
        (("y = Div (e, s)", "z = Div (e, s) y = Mul (z, s)"), "the output of ReduceSum_0 is read elsewhere"),
        (("[-1]> (x)", "[-1], keepdims = 0> (x)"), "the maximum does not keep the axes that it reduces"),
    ],
)
def test_a_near_miss_is_declined(change, reason):
    body = SOFTMAX.replace(*change)
    head = '<ir_version: 9, opset_import: ["": 17]> g (float[8,8] x) => (float[8,8] y) '
    model = from_text(f"{head} {{ {body} }}", {"both": np.array([0, 1])} if "both" in body else {"ax": np.array([1])})
    result = held(model, fuse("softmax"), {"x": seeded(8, 8)})
    assert [found.partition(" of ")[0] for found in reasons(result)] == [reason.partition(" of ")[0]]


def test_without_the_maximum_exp_overflows_where_softmax_does_not():
    model = model_of("e = Exp (x) s = ReduceSum (e, ax) y = Div (e, s)")
    result = held(model, fuse(), X[0])
    assert reasons(result, "softmax") == ["the maximum is not subtracted: Exp overflows where Softmax does not"]


def test_another_axis_than_the_last_and_float64_would_be_slower():
    result = held(model_of(SOFTMAX, axis=1), fuse(), X[0])
    assert reasons(result, "softmax") == ["the axes [-2] are not the last ones"]
    result = held(model_of(SOFTMAX, kind="double"), fuse(), {"x": seeded(2, 3, 8, dtype=np.float64)})
    assert reasons(result, "softmax") == ["ONNX Runtime is slower at Softmax in DOUBLE than at its parts"]


def test_the_logarithm_of_a_softmax_stays():
    """It is -inf where Softmax underflows; LogSoftmax is not."""
    model = model_of("s = Softmax (x) y = Log (s)")
    held(model, fuse(), X[0])
    assert ops(model) == ["Softmax", "Log"]


def test_a_branch_is_no_different():
    text = f"""<ir_version: 9, opset_import: ["": 17]> g (bool k, float[N,8] x) => (float[N,8] y) {{
      y = If (k) < then_branch = t () => (float[N,8] p) {{ {SOFTMAX.replace("y = ", "p = ")} }},
                   else_branch = f () => (float[N,8] o) {{ o = Relu (x) }}> }}"""
    model = from_text(text, {"ax": np.array([-1])})
    held(model, fuse(), *({"k": np.array(k), "x": seeded(2, 8)} for k in (True, False)))
    assert all_ops(model) == ["If", "Softmax", "Relu"]
