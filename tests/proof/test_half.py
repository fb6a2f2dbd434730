"""Float16's tolerance is wide; a float64 run tells a wrong constant from rounding inside of it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from helpers import from_text, seeded

from baker.proof.halves import same_where_all_is_rounded
from baker.proof.numerics import Fidelity
from baker.proof.verifier import Verdict, Verifier

NET = """<ir_version: 10, opset_import: ["" : 20]>
net (float16[N, 8] x) => (float16[N, 4] y) { a = MatMul(x, w)  t = Tanh(a)  m = Mul(t, c)  y = MatMul(m, v) }"""
APART = NET.replace("m = Mul(t, c)  y = MatMul(m, v)", "y = MatMul(t, u)")


def net(text: str, factor: float = 1.0) -> ir.Model:
    w, v = seeded(8, 6).astype(np.float16), seeded(6, 4, seed=1).astype(np.float16)
    c = np.float16(1.7 * factor)
    return from_text(text, {"w": w, "v": v, "c": c, "u": (v * c).astype(np.float16)})


def judged(candidate: ir.Model) -> Verdict:
    feeds = [{"x": seeded(3, 8, seed=seed).astype(np.float16)} for seed in range(4)]
    return Verifier(net(NET), feeds, threads=1).verify(candidate, Fidelity.ROUNDING)


def test_a_constant_that_is_folded_in_passes():
    assert judged(net(APART)).status == "pass"


@pytest.mark.parametrize("factor", [1.01, 0.99])
def test_a_constant_that_is_one_per_cent_off_fails(factor: float):
    verdict = judged(net(NET, factor))
    assert verdict.status == "fail"
    assert "inside the tolerance of float16" in verdict.reason


WHOLE = """<ir_version: 10, opset_import: ["" : 20]>
net (float16[N, 64] x) => (int64[N, 64] y) { a = Exp(x)  SLICE  m = Exp(b)  y = Cast<to = 7>(m) }"""


def whole(between: str) -> ir.Model:
    bounds = {"first": np.array([0]), "last": np.array([2**63 - 1])}
    return from_text(WHOLE.replace("SLICE", between), {"k": np.float16(1.01), **bounds})


@pytest.mark.parametrize(
    ("between", "same"),
    [("b = Identity(a)", True), ("b = Neg(a)", False), ("b = Mul(a, k)", False)],
    ids=["the same", "another sign", "one per cent off"],
)
def test_where_all_is_rounded_neighbours_do_not_matter(between: str, same: bool):
    """A Slice that takes everything is where ONNX Runtime may round; without it, a step behind may decide otherwise."""
    feeds = [{"x": seeded(3, 64, seed=seed).astype(np.float16)} for seed in range(4)]
    original, candidate = whole("b = Slice(a, first, last)"), whole(between)
    for node in [node for node in candidate.graph if node.op_type == "Identity"]:
        node.outputs[0].replace_all_uses_with(node.inputs[0])
        candidate.graph.remove(node)
    assert same_where_all_is_rounded(original, candidate, feeds) == same
