"""The verify pass judges the model as it stands."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from helpers import bake, from_text, seeded

from baker.errors import GateError, OptionError
from baker.passes.verify import Verify
from baker.pipeline.pass_base import PassContext
from baker.proof.verifier import Verifier

TEXT = (
    """<ir_version: 8, opset_import: ["": 17]> g (float[N,4] x) => (float[N,3] y) { h = MatMul (x, w) y = Tanh (h) }"""
)
FEEDS = [{"x": seeded(2, 4, seed=seed)} for seed in range(8)]


def models(change: float) -> tuple[ir.Model, ir.Model]:
    """A model, and one whose weight is a little larger."""
    weight = seeded(4, 3)
    return from_text(TEXT, {"w": weight}), from_text(TEXT, {"w": (weight * (1 + change)).astype(np.float32)})


def context(reference: ir.Model) -> PassContext:
    return PassContext(reference=reference, verifier=Verifier(reference, FEEDS, threads=1))


@pytest.mark.parametrize(
    ("options", "change"),
    [
        ({}, 1e-7),
        ({"against": "exact"}, 0.0),
        ({"against": "lossy"}, 1e-3),
        ({"against": "lossy", "budget": "rel=0.1"}, 0.05),
    ],
)
def test_it_lets_pass_what_was_promised(options: dict[str, str], change: float):
    reference, candidate = models(change)
    result = Verify(**options).run(candidate, context(reference))
    assert not result.modified
    assert not result.changes


@pytest.mark.parametrize(
    ("options", "change"),
    [
        ({}, 1e-2),
        ({"against": "exact"}, 1e-6),
        ({"against": "lossy", "budget": "rel=0.001"}, 0.05),
        ({"against": "lossy", "budget": "sqnr=60dB"}, 0.05),
    ],
)
def test_it_stops_what_was_not(options: dict[str, str], change: float):
    reference, candidate = models(change)
    with pytest.raises(GateError, match="verdict fail"):
        Verify(**options).run(candidate, context(reference))


def test_without_a_verifier_it_says_so():
    reference, _ = models(0)
    assert Verify().run(reference, PassContext()).warnings == ("nothing was verified: the run has no verifier",)


def test_inputs_that_prove_nothing_are_inconclusive():
    reference, candidate = models(0)
    still = [{"x": np.zeros((2, 4), np.float32)}] * 2
    judged = PassContext(reference=reference, verifier=Verifier(reference, still, threads=1))
    result = Verify().run(candidate, judged)
    assert result.warnings
    assert "inconclusive" in result.warnings[-1]
    with pytest.raises(GateError, match="inconclusive"):
        Verify(strict=True).run(candidate, judged)


def test_a_budget_that_is_none_is_an_option_error():
    with pytest.raises(OptionError):
        Verify(budget="much")


def test_in_a_pipeline_it_names_itself():
    reference, candidate = models(1e-2)
    _, report = bake(candidate, "verify", reference=reference, verifier=context(reference).verifier)
    (record,) = report.passes
    assert record.name == "verify"
    assert "verdict fail" in (record.error or "")
    assert report.failures()
