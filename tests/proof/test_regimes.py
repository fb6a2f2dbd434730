"""Rewritten nodes that saw one regime only, and inputs that are made up beside the user's."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from helpers import bake, from_text, seeded

from baker.proof.feeds import load_feeds
from baker.proof.numerics import Fidelity
from baker.proof.recorder import Recorder
from baker.proof.regimes import bends, unseen
from baker.proof.verifier import Verifier

HEAD = '<ir_version: 10, opset_import: ["" : 20]>\n'
RELU = "net (float[N, 8] x) => (float[N, 4] y) { a = MatMul(x, w)  r = Relu(a)  y = MatMul(r, v) }"
NO_RELU = RELU.replace("r = Relu(a)  y = MatMul(r, v)", "y = MatMul(a, v)")


def net(text: str, **weights: np.ndarray) -> ir.Model:
    return from_text(HEAD + text, weights)


def positive(text: str) -> ir.Model:
    """Its weights are positive, so that positive inputs never reach the other side of the Relu."""
    return net(text, w=np.abs(seeded(8, 6)), v=seeded(6, 4, seed=1))


def one_sided(count: int = 4) -> list[dict[str, np.ndarray]]:
    return [{"x": np.abs(seeded(2, 8, seed=seed))} for seed in range(count)]


class TestARemovedRelu:
    def test_on_one_sided_inputs_alone_it_is_inconclusive_and_named(self):
        verdict = Verifier(positive(RELU), one_sided(), threads=1).verify(positive(NO_RELU), Fidelity.ROUNDING)
        assert verdict.status == "inconclusive"
        assert all(word in verdict.reason for word in ("Relu", "bends at 0", "--calib"))

    def test_beside_one_sided_inputs_made_up_ones_fail_it(self):
        feeds = load_feeds(one_sided(10), positive(RELU))
        verdict = Verifier(positive(RELU), feeds, threads=1).verify(positive(NO_RELU), Fidelity.ROUNDING)
        assert verdict.status == "fail"
        assert verdict.reason.startswith("on made-up inputs")

    def test_it_is_kept_and_the_rest_is_right(self):
        model = positive(RELU)
        feeds = load_feeds(one_sided(10), model)
        assert Verifier(model, feeds, threads=1).verify(positive(RELU), Fidelity.ROUNDING).status == "pass"

    def test_a_large_model_is_given_a_few_inputs_for_it(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr("baker.proof.synthetic.WORK", 1)
        feeds = load_feeds(one_sided(10), positive(RELU))
        assert feeds.further is not None and feeds.further.feeds() == []
        verifier = Verifier(positive(RELU), feeds, threads=1)
        assert verifier.verify(positive(RELU), Fidelity.ROUNDING).status == "pass"
        assert feeds.further.feeds() == []
        assert verifier.verify(positive(NO_RELU), Fidelity.ROUNDING).status == "fail"


BENDS = {
    "Clip": ("y = Clip(x, low, high)", {"low": np.float32(-9), "high": np.float32(9)}, (-9.0, 9.0)),
    "HardSigmoid": ("y = HardSigmoid<alpha = 0.5, beta = 0.5>(x)", {}, (-1.0, 1.0)),
    "HardSwish": ("y = HardSwish(x)", {}, (-3.0, 3.0)),
    "Max": ("y = Max(x, c)", {"c": seeded(4)}, (0.0,)),
    "Where": ("b = Greater(x, c)  y = Where(b, x, c)", {"c": np.float32(50)}, (0.5,)),
    "If": (
        """s = ReduceMax<keepdims = 0>(x)  b = Greater(s, c)
        y = If (b) <then_branch = t () => (float[N, 4] p) { p = Relu(x) },
                    else_branch = e () => (float[N, 4] q) { q = Neg(x) }>""",
        {"c": np.float32(50)},
        (0.5,),
    ),
    "Abs": ("y = Abs(x)", {}, (0.0,)),
}


@pytest.mark.parametrize("op", BENDS)
def test_what_bends_and_where(op: str):
    body, weights, at = BENDS[op]
    model = net(f"net (float[N, 4] x) => (float[N, 4] y) {{ {body} }}", **weights)
    (bend,) = (bend for bend in bends(model, net("net (float[N, 4] x) => (float[N, 4] y) { y = Neg(x) }")))
    assert bend.node.startswith(op) and bend.at == pytest.approx(at)
    feeds = [{"x": np.abs(seeded(3, 4)) + 0.1}]
    (left,) = unseen(Recorder(model, feeds, threads=1), model, [bend], feeds)
    assert left.node == bend.node and left.low > -0.5
    both = [{"x": 100 * seeded(3, 4)}, {"x": -100 * seeded(3, 4)}, {"x": 0 * seeded(3, 4)}]
    assert unseen(Recorder(model, both, threads=1), model, [bend], both) == []


QUIET = {
    "the node is still there": ("r = Relu(x)  y = Neg(r)", "r = Relu(x)  y = Mul(r, m)"),
    "under another name": ("r = Relu(x)  y = Neg(r)", "s = Relu(x)  y = Neg(s)"),
    "it saw a Relu": ("a = Relu(x)  y = Relu(a)", "y = Relu(x)"),
    "it saw a Softmax through a Reshape": ("a = Softmax(x)  b = Identity(a)  y = Abs(b)", "y = Softmax(x)"),
}


@pytest.mark.parametrize("why", QUIET)
def test_nothing_is_asked_of_nodes_that_are_kept_or_can_see_one_side_only(why: str):
    before, after = (
        net(f"net (float[N, 4] x) => (float[N, 4] y) {{ {body} }}", m=np.float32(-1)) for body in QUIET[why]
    )
    assert bends(before, after) == []


def test_what_depends_on_sizes_only_is_no_regime():
    text = """net (float[N, 4] x) => (float[N, 4] y) {
        s = Shape(x)  f = Cast<to = 1>(s)  r = Relu(f)  t = ReduceSum<keepdims = 0>(r)  y = Mul(x, t) }"""
    assert bends(net(text), net("net (float[N, 4] x) => (float[N, 4] y) { y = Mul(x, x) }")) == []


def test_correct_passes_stay_conclusive_on_one_sided_inputs():
    text = """net (float[N, 3, 6, 6] x) => (float[N, 4, 6, 6] y) {
        c = Conv<pads = [1, 1, 1, 1]>(x, w)  b = BatchNormalization(c, s, t, m, v)  y = Relu(b) }"""
    model = net(
        text, w=seeded(4, 3, 3, 3), s=seeded(4, seed=1), t=seeded(4, seed=2) + 9, m=seeded(4, seed=3), v=np.ones(4, "f")
    )
    feeds = [{"x": np.abs(seeded(2, 3, 6, 6, seed=seed))} for seed in range(5)]
    fused, _ = bake(model.clone(), "fuse")
    assert Verifier(model, feeds, threads=1).verify(fused, Fidelity.ROUNDING).status == "pass"
