"""A rewritten node deep inside of a network, proven by itself where no input reaches its other side."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from helpers import from_text, seeded

from baker.proof.numerics import Fidelity
from baker.proof.verifier import Verifier

HEAD = '<ir_version: 10, opset_import: ["" : 20]>\n'
# Whatever x is, the Sigmoid keeps the Clip's input between 2.5 and 3.5.
BEFORE = """net (float[N, 8] x) => (float[N, 4] y)
<float three = {3.0}, float low = {0.0}, float high = {6.0}, float sixth = {0.16666667}, float half = {0.5}> {
  a = MatMul(x, w)  s = Sigmoid(a)  c = Sub(s, half)  p = Add(c, three)
  k = Clip(p, low, high)  h = Mul(k, sixth)  y = MatMul(h, v)
}"""
HARD_SIGMOID = "h = HardSigmoid<alpha = 0.16666667, beta = 0.5>(c)"
AFTER = BEFORE.replace("p = Add(c, three)\n  k = Clip(p, low, high)  h = Mul(k, sixth)", HARD_SIGMOID)


def net(text: str) -> ir.Model:
    return from_text(HEAD + text, {"w": seeded(8, 6), "v": seeded(6, 4, seed=1)})


def judged(candidate: str) -> str:
    feeds = [{"x": seeded(2, 8, seed=seed)} for seed in range(4)]
    return Verifier(net(BEFORE), feeds, threads=1).verify(net(candidate), Fidelity.ROUNDING).status


def test_a_right_rewrite_passes_though_no_input_reaches_its_bends():
    assert judged(AFTER) == "pass"


@pytest.mark.parametrize(
    "wrong",
    [
        AFTER.replace(HARD_SIGMOID, "q = Mul(c, sixth)  h = Add(q, half)"),  # no limits at all
        AFTER.replace(HARD_SIGMOID, "q = Mul(c, sixth)  r = Add(q, half)  h = Relu(r)"),  # the upper one is gone
        BEFORE.replace("{6.0}", "{5.5}"),  # a limit that nothing reaches
    ],
)
def test_a_wrong_one_that_no_input_shows_is_inconclusive(wrong: str):
    assert judged(wrong) == "inconclusive"


def test_a_name_that_means_something_else_is_no_landmark():
    renamed = AFTER.replace(
        "a = MatMul(x, w)  s = Sigmoid(a)  c = Sub(s, half)", "p = MatMul(x, w)  s = Sigmoid(p)"
    ).replace(HARD_SIGMOID, f"c = Sub(s, half)  {HARD_SIGMOID}")
    assert judged(renamed) == "pass"


def test_weights_that_are_not_finite_prove_nothing():
    broken = from_text(HEAD + AFTER, {"w": np.full((8, 6), np.nan, np.float32), "v": seeded(6, 4, seed=1)})
    verdict = Verifier(net(BEFORE), [{"x": seeded(2, 8)}], threads=1).verify(broken, Fidelity.ROUNDING)
    assert verdict.status == "fail"
