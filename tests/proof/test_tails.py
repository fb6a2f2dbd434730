"""A saturated Softmax or Sigmoid at the end hides nothing."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from helpers import from_text, outputs, seeded

from baker.proof.numerics import Fidelity
from baker.proof.tails import probed
from baker.proof.verifier import Verdict, Verifier

HEAD = '<ir_version: 8, opset_import: ["" : 17]>\n'
NET = "net (float[N, 8] x) => (float[N, 5] y) { h = MatMul(x, w)  b = Add(h, c)  y = %s(b) }"
FEEDS = [{"x": 300 * seeded(4, 8, seed=seed)} for seed in range(4)]
WEIGHTS = {"w": seeded(8, 5), "c": np.float32(0)}


def net(op: str, head: str = HEAD, **weights: np.ndarray) -> ir.Model:
    return from_text(head + NET % op, WEIGHTS | weights)


def judge(reference: ir.Model, candidate: ir.Model, fidelity: Fidelity = Fidelity.ROUNDING) -> Verdict:
    return Verifier(reference, FEEDS, threads=1).verify(candidate, fidelity)


@pytest.mark.parametrize("op", ["Softmax", "Sigmoid", "Softmax<axis = 0>"])
def test_a_changed_weight_shows_although_the_outputs_are_saturated(op: str):
    verdict = judge(net(op), net(op, w=WEIGHTS["w"] * np.float32(1.001)))
    assert verdict.status == "fail"
    assert list(verdict.outputs) == ["y"]
    assert verdict.outputs["y"].rel_l2 < 1e-2
    assert judge(net(op), net(op), Fidelity.EXACT).status == "pass"


def test_the_reason_says_where_it_was_seen():
    array = WEIGHTS["w"].copy()
    array[0, 0] *= 1.001
    for op in ("Softmax", "Sigmoid"):
        verdict = judge(net(op), net(op, w=array))
        assert f"'y before its {op}'" in verdict.reason


def test_a_softmax_does_not_see_a_shift_and_a_sigmoid_does():
    shifted = {"c": np.float32(64)}
    assert judge(net("Softmax"), net("Softmax", **shifted)).status == "pass"
    assert judge(net("Sigmoid"), net("Sigmoid", **shifted)).status == "fail"


def test_below_opset_13_a_softmax_runs_over_all_axes_to_the_end():
    text = "net (float[N, 2, 3] x) => (float[N, 2, 3] y) { r = Relu(x)  y = Softmax(r) }"
    old = from_text(HEAD.replace("17", "11") + text)
    x = {"x": seeded(2, 2, 3)}
    probe = probed(old)
    found = probe.outputs(outputs(probe.model, x))
    assert list(found) == ["y", "y before its Softmax"]
    np.testing.assert_allclose(np.exp(found["y before its Softmax"]), found["y"], rtol=1e-5)


def test_what_replaces_the_operator_is_judged_by_its_output():
    spelled = """net (float[N, 8] x) => (float[N, 5] y) {
        h = MatMul(x, w)  b = Add(h, c)  m = ReduceMax<axes = [1]>(b)  d = Sub(b, m)  e = Exp(d)
        s = ReduceSum<keepdims = 1>(e, axis)  y = Div(e, s) }"""
    assert judge(net("Softmax"), from_text(HEAD + spelled, WEIGHTS | {"axis": np.array([1])})).status == "pass"


def test_an_input_or_an_output_is_not_exposed_again():
    for text in (
        "net (float[N, 4] x) => (float[N, 4] y) { y = Softmax(x) }",
        "net (float[N, 4] x) => (float[N, 4] y, float[N, 4] h) { h = Relu(x)  y = Softmax(h) }",
    ):
        model = from_text(HEAD + text)
        assert probed(model).model is model


@pytest.mark.parametrize("call", ["Softmax<axis = 1>", "Sigmoid"])
def test_an_empty_output_is_no_crash(call: str):
    text = (
        "net (float[N, 0, 3] x, float[N] z) => (float[N, 0, 3] y, float[N] u) "
        f"{{ r = Relu(x)  y = {call}(r)  u = Relu(z) }}"
    )
    model = from_text(HEAD + text)
    feeds = [{"x": np.zeros((2, 0, 3), np.float32), "z": seeded(2, seed=seed)} for seed in range(3)]
    assert Verifier(model, feeds, threads=1).verify(model, Fidelity.ROUNDING).status == "pass"
