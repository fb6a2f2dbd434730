"""A saturated Softmax or Sigmoid at the end hides nothing."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from helpers import from_text, outputs, seeded

from baker.proof.numerics import Fidelity
from baker.proof.tails import probed, squashing_outputs
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


DECISIONS = [
    "y = Greater(h, c)",
    "n = LessOrEqual(h, c)  y = Not(n)",
    "f = Floor(h)  y = Cast<to = 6>(f)",
    "z = Mul(h, zero)  b = Sub(h, c)  p = Concat<axis = 1>(z, b)  q = ArgMax<axis = 1>(p)  y = Cast<to = 9>(q)",
]


def decision(text: str, factor: float = 1.0, threshold: float = 3.0) -> ir.Model:
    dtype = "int32" if "to = 6" in text else "bool"
    return from_text(
        f"{HEAD}net (float[N, 1] x) => ({dtype}[N, 1] y) {{ h = MatMul(x, w)  {text} }}",
        {"w": np.full((1, 1), factor, np.float32), "c": np.full(1, threshold, np.float32), "zero": np.float32(0)},
    )


class TestDecisions:
    """Rounding may flip a decision that hangs on a last bit: few of them, and where nothing else moves."""

    @staticmethod
    def judge(reference: ir.Model, candidate: ir.Model, every: int, fidelity: Fidelity = Fidelity.ROUNDING) -> Verdict:
        feeds = [{"x": seeded(4000, 1, seed=seed) * 5} for seed in range(3)]
        for feed in feeds:
            feed["x"][::every] = 3.0  # on the threshold
        return Verifier(reference, feeds, threads=1).verify(candidate, fidelity)

    @pytest.mark.parametrize("text", DECISIONS)
    def test_a_few_flips_are_rounding(self, text: str):
        same, rounded = decision(text), decision(text, 1 - 1e-7 if "Floor" in text else 1 + 2e-7)
        assert self.judge(same, rounded, 2000).status == "pass"
        assert self.judge(same, rounded, 2000, Fidelity.EXACT).status == "fail"
        assert self.judge(same, rounded, 100).status == "fail"

    @pytest.mark.parametrize("text", DECISIONS[:2])
    def test_another_threshold_fails_even_where_it_flips_nothing(self, text: str):
        verdict = self.judge(decision(text), decision(text, threshold=3.001), 5000)
        assert verdict.status == "fail" and "before its" in verdict.reason


def test_a_copy_between_a_rounding_and_its_cast_may_go():
    body = "h = MatMul(x, w)  r = Round(h)  c = Cast<to = 1>(r)  i = Identity(c)  y = Cast<to = 7>(i)"
    text = f"net (float[N, 8] x) => (int64[N, 5] y) {{ {body} }}"
    reference = from_text(HEAD + text, {"w": seeded(8, 5)})
    candidate = from_text(HEAD + text.replace("(i)", "(r)"), {"w": seeded(8, 5)})
    assert judge(reference, candidate).status == "pass"
    without = from_text(HEAD + text.replace("(i)", "(h)"), {"w": seeded(8, 5)})
    assert list(probed(without).labels(["y"])) == ["y before its Cast"]
    assert list(probed(reference).labels(["y"])) == ["y before its Round and Cast"]


def test_the_smallest_results_of_a_sigmoid_are_multiples_of_its_step():
    weights = {"w": 0.05 * seeded(8, 5), "c": np.full(5, -15, np.float32), "k": np.float32(3)}
    head = HEAD + "net (float[N, 8] x) => (float[N, 5] y) { h = MatMul(x, w)  "
    reference = from_text(head + "b = Add(h, c)  y = Sigmoid(b) }", weights)
    split = weights | {"w": weights["w"] / 3, "c": weights["c"] / 3}
    candidate = from_text(head + "a = Add(h, c)  b = Mul(a, k)  y = Sigmoid(b) }", split)
    feeds = [{"x": seeded(500, 8, seed=seed)} for seed in range(4)]
    verdict = Verifier(reference, feeds, threads=1).verify(candidate, Fidelity.ROUNDING)
    assert verdict.status == "pass", verdict.reason
    assert verdict.outputs["y"].rel_l2 > 1e-3  # of outputs around 3e-7
    wrong = from_text(head + "a = Add(h, c)  b = Mul(a, k)  y = Sigmoid(b) }", split | {"k": np.float32(2.999)})
    assert Verifier(reference, feeds, threads=1).verify(wrong, Fidelity.ROUNDING).status == "fail"


def test_what_a_sigmoid_gave_is_known_through_branches_and_means():
    model = from_text(
        """<ir_version: 8, opset_import: ["" : 17]>
        net (float[N, 4] x, bool c) => (float[N, 1] y, float[N, 4] z) {
          i = If(c) <then_branch = a () => (float[N, 4] p) { p = Sigmoid(x) },
                     else_branch = b () => (float[N, 4] q) { n = Neg(x)  q = Softmax(n) }>
          y = ReduceMean<axes = [1]>(i)
          z = Mul(x, i)
        }"""
    )
    assert squashing_outputs(model) == {"y"}
