"""Outputs that a last bit of the input moves."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from helpers import from_text, seeded

from baker.proof.nudges import NUDGES, explains, nudged_runs
from baker.proof.numerics import FLOAT_TOLERANCE, Fidelity
from baker.proof.verifier import Verdict, Verifier

HEAD = '<ir_version: 8, opset_import: ["" : 17]>\n'
X = seeded(4, 8)
FEEDS = [{"x": seeded(16, 8, seed=seed)} for seed in range(4)]


def poles(body: str, k: float) -> ir.Model:
    """Tan of numbers up to 5e4, of which float32 knows two or three digits behind the point."""
    text = f"net (float[N, 8] x) => (float[N, 8] y) {{ h = {body}(x, k)  y = Tan(h) }}"
    return from_text(HEAD + text, {"k": np.float32(k)})


def judge(candidate: ir.Model) -> Verdict:
    return Verifier(poles("Div", 5e-5), FEEDS, threads=1).verify(candidate, Fidelity.ROUNDING)


def test_another_rounding_next_to_a_pole_passes():
    verdict = judge(poles("Mul", 1 / 5e-5))
    assert verdict.status == "pass"
    assert verdict.outputs["y"].rel_l2 > 1e-3  # the float64 run is as far off, and of no use


def test_another_function_next_to_a_pole_fails():
    for factor in (1.001, 1.00002):
        assert judge(poles("Mul", factor / 5e-5)).status == "fail"


def test_whole_numbers_are_not_nudged_and_weights_are():
    model = from_text(HEAD + "net (int64[N] x) => (float[N] y) { c = Cast<to = 1>(x)  y = Mul(c, k) }", {"k": X[0, 0]})
    runs = nudged_runs(model, {"x": np.arange(1, 4)})
    plain = np.arange(1, 4, dtype=np.float32) * X[0, 0]
    assert [bool(np.array_equal(outputs["y"], plain)) for outputs in runs] == [False, True] * (NUDGES // 2)


def test_nudges_are_seeded_and_small():
    model = from_text(HEAD + "net (float[N, 8] x) => (float[N, 8] y) { y = Mul(x, k) }", {"k": X[:1]})
    runs, again = (nudged_runs(model, {"x": X}) for _ in range(2))
    assert len(runs) == NUDGES
    assert all(np.array_equal(a["y"], b["y"]) for a, b in zip(runs, again, strict=True))
    assert all(0 < np.abs(outputs["y"] / (X * X[:1]) - 1).max() < 1e-6 for outputs in runs)


def test_one_element_that_nothing_moves_is_enough():
    reference, candidate = np.zeros(4), np.zeros(4)
    runs = [{"y": np.array([1.0, 1.0, 1.0, 0.0])}]
    candidate[:3] = 5.0
    assert explains(runs, "y", reference, candidate, FLOAT_TOLERANCE, 1.0)
    candidate[3] = 1e-3
    assert not explains(runs, "y", reference, candidate, FLOAT_TOLERANCE, 1.0)
    assert not explains([], "y", reference, reference, FLOAT_TOLERANCE, 1.0)
