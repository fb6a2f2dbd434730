"""Outputs that a last bit of the input moves."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from helpers import from_text, seeded

from baker.proof.nudges import NUDGES, nudged_runs
from baker.proof.numerics import Fidelity
from baker.proof.verifier import Verdict, Verifier

HEAD = '<ir_version: 8, opset_import: ["" : 17]>\n'
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


def test_a_feed_without_floats_can_not_be_nudged():
    model = from_text(HEAD + "net (int64[N] x) => (float[N] y) { y = Cast<to = 1>(x) }")
    assert nudged_runs(model, {"x": np.arange(3)}) == []


def test_nudges_are_seeded_and_small():
    model = from_text(HEAD + "net (float[N] x) => (float[N] y) { y = Identity(x) }")
    x = seeded(5)
    runs = nudged_runs(model, {"x": x})
    again = nudged_runs(model, {"x": x})
    assert len(runs) == NUDGES
    assert all(np.array_equal(a["y"], b["y"]) for a, b in zip(runs, again, strict=True))
    assert all(0 < np.abs(outputs["y"] / x - 1).max() < 1e-6 for outputs in runs)
