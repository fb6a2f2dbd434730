"""--bisect-limit: every built-in pass does its first N rewrites, and the model stays right after each."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from helpers import from_text, outputs, peak, seeded

from baker.pipeline.limit import WHOLE, RewriteLimit
from baker.pipeline.manager import PassManager
from baker.pipeline.pass_base import Change, Pass, PassContext, PassResult
from baker.pipeline.report import Report
from baker.proof.numerics import Fidelity
from baker.proof.verifier import Verifier

TEXT = """<ir_version: 9, opset_import: ["": 18, "nobody": 1]>
g (float[2,3,8,8] x) => (float[2,4] y) {
  k = Constant <value_floats: floats = [1.0, 2.0, 3.0, 4.0]> ()
  [twice] k2 = Mul (k, k)  [thrice] k3 = Add (k2, k)
  [conv] c = Conv (x, w)  [bn] n = BatchNormalization (c, s, b, m, v)
  [copy] i = Identity (n)  [relu] r = Relu (i)  [again] rr = Relu (n)
  [sum] t = Add (r, rr)  [conv2] e = Conv (t, w2)  [pool] p = GlobalAveragePool (e)
  [dims] d = Shape (p)  [head] h = Gather (d, zero)  [row] hh = Unsqueeze (h, axis)
  [shape] target = Concat <axis = 0> (hh, rest)  [flat] f = Reshape (p, target)
  [scaled] q = Mul (f, k3)  [fc] o = MatMul (q, fc_w)  [bias] y = Add (o, fc_b)
  [dead] z = Exp (x)
}"""
WEIGHTS = {
    "w": seeded(4, 3, 3, 3) / 5,
    "w2": seeded(4, 4, 3, 3, seed=7) / 5,
    "s": 1 + np.abs(seeded(4, seed=1)),
    "b": seeded(4, seed=2),
    "m": seeded(4, seed=3),
    "v": 1 + np.abs(seeded(4, seed=4)),
    "zero": np.array(0),
    "axis": np.array([0]),
    "rest": np.array([4]),
    "fc_w": seeded(4, 4, seed=5),
    "fc_b": seeded(4, seed=6),
    "unread": seeded(2),
}
FEEDS = [{"x": seeded(2, 3, 8, 8, seed=seed)} for seed in range(4)]
PIPELINES = ["fold", "fuse", "cleanup", "@simplify", "quantize", "@ternary"]


def limited(pipeline: Any, limit: int | None) -> tuple[ir.Model, Report, RewriteLimit]:
    source, rewrites = from_text(TEXT, WEIGHTS), RewriteLimit(limit)
    verifier = Verifier(source, FEEDS[2:], threads=1)
    context = PassContext(source, calibration=FEEDS[:2], verifier=verifier, threads=1, rewrites=rewrites)
    result, report = PassManager(pipeline).run(source, context)
    return result, report, rewrites


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_any_number_of_rewrites_gives_a_right_model(pipeline: str) -> None:
    _, report, full = limited(pipeline, None)
    total = len(full.admitted)
    assert not report.failures() and total >= 2, [str(entry) for entry in full.admitted]
    assert all(entry.change is not None for entry in full.admitted)
    wanted = outputs(from_text(TEXT, WEIGHTS), FEEDS[0])
    lossy = any(record.fidelity == "lossy" and record.changes for record in report.passes)
    for limit in sorted({0, 1, total - 1, *range(0, total + 1, 1 + total // 4)}):
        result, report, rewrites = limited(pipeline, limit)
        assert not report.failures(), (limit, report.failures())
        assert [str(entry) for entry in rewrites.admitted] == [str(entry) for entry in full.admitted[:limit]]
        difference = np.abs(outputs(result, FEEDS[0])["y"] - wanted["y"]).max()
        assert difference <= (0.3 if lossy else 2e-6) * peak(wanted), limit


def test_nothing_is_admitted_at_all() -> None:
    result, report, _ = limited("@ternary,fuse", 0)
    assert all(record.status == "unchanged" for record in report.passes)
    assert any("--bisect-limit" in warning for warning in report.warnings())
    assert len(list(result.graph)) == len(list(from_text(TEXT, WEIGHTS).graph))


def test_each_rewrite_is_numbered_and_says_what_it_did() -> None:
    _, _, rewrites = limited("@simplify", None)
    lines = [str(entry) for entry in rewrites.admitted]
    assert lines[0].startswith("rewrite 1: pass fold, evaluate at ")
    assert [entry.number for entry in rewrites.admitted] == list(range(1, len(lines) + 1))
    assert any("conv-batch-norm at 'bn'" in line for line in lines)
    assert all(entry.change is not None for entry in rewrites.admitted)


class Drops(Pass):
    """Removes the dead Exp without asking."""

    name = "drops"
    fidelity = Fidelity.EXACT

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        dead = next((node for node in model.graph if node.op_type == "Exp"), None)
        if dead is None:
            return PassResult(model)
        model.graph.remove(dead, safe=True)
        return PassResult(model, [Change("drops", "dead", "gone")])


def test_a_pass_that_does_not_ask_is_one_rewrite() -> None:
    _, report, rewrites = limited([Drops(), Drops()], None)
    assert [(entry.pass_name, entry.node) for entry in rewrites.admitted] == [("drops", WHOLE)]
    assert [record.status for record in report.passes] == ["kept", "unchanged"]
    _, report, _ = limited([Drops()], 0)
    assert report.passes[0].status == "unchanged"


def test_verify_each_looks_inside_passes_that_use_no_rules() -> None:
    seen: list[Change] = []
    source = from_text(TEXT, WEIGHTS)
    context = replace(PassContext(source), checkpoint=lambda model, change: seen.append(change))
    _, report = PassManager("fold,cleanup,fuse").run(source, context)
    told = [change for record in report.passes for change in record.changes if change.rule != "unused-opset-import"]
    assert seen == told and {"evaluate", "dead-code", "conv-batch-norm"} <= {change.rule for change in seen}
