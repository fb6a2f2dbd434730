"""Lossy verdicts where the feeds are few, or made up."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from helpers import from_text, seeded

from baker.proof.feeds import Feeds
from baker.proof.numerics import Fidelity
from baker.proof.verifier import Verifier


class TestFewSamples:
    """What is common to all outputs is no signal; calibration feeds show it where few are held out."""

    def test_one_held_out_sample_beside_calibration_feeds_is_enough(self):
        model, candidate = linear(), linear(scale=1.001)
        feeds = [{"x": seeded(4, 8, seed=seed)} for seed in range(6)]
        together = Feeds(feeds[:5], feeds[5:], "test", synthetic=False, notes=())
        assert Verifier(model, together, threads=1).verify(candidate, Fidelity.LOSSY).status == "pass"
        assert Verifier(model, feeds[5:], threads=1).verify(candidate, Fidelity.LOSSY).status == "inconclusive"

    def test_background_samples_add_no_signal_of_their_own(self):
        model = linear()
        feeds = [{"x": seeded(4, 8, seed=seed) * (100 if seed < 5 else 1)} for seed in range(8)]
        together = Feeds(feeds[:5], feeds[5:], "test", synthetic=False, notes=())
        plain = Verifier(model, feeds[5:], threads=1).verify(linear(scale=1.01), Fidelity.LOSSY).outputs["y"]
        wide = Verifier(model, together, threads=1).verify(linear(scale=1.01), Fidelity.LOSSY).outputs["y"]
        assert wide.max_abs == plain.max_abs and wide.rel_l2 == plain.rel_l2


class TestMadeUpFeeds:
    """Made-up inputs may be nothing like real ones: a bad figure on them proves little, a dead network much."""

    FEEDS = Feeds([], [{"x": seeded(4, 8, seed=seed)} for seed in range(4)], "synthetic", synthetic=True, notes=())

    def test_below_the_floor_is_inconclusive(self):
        steady = shifted(linear(), 30.0)
        verdict = Verifier(steady, self.FEEDS, threads=1).verify(shifted(linear(scale=0.2), 30.0), Fidelity.LOSSY)
        assert verdict.status == "inconclusive" and "made up" in verdict.reason

    def test_a_constant_network_fails_all_the_same(self):
        steady = shifted(linear(), 30.0)
        verdict = Verifier(steady, self.FEEDS, threads=1).verify(shifted(linear(scale=0.0), 30.0), Fidelity.LOSSY)
        assert verdict.status == "fail"

    def test_noise_fails_all_the_same(self):
        verdict = Verifier(linear(), self.FEEDS, threads=1).verify(linear(scale=-1.0), Fidelity.LOSSY)
        assert verdict.status == "fail"

    def test_the_same_on_given_feeds_fails(self):
        steady = shifted(linear(), 30.0)
        verifier = Verifier(steady, self.FEEDS.held_out, threads=1)
        assert verifier.verify(shifted(linear(scale=0.2), 30.0), Fidelity.LOSSY).status == "fail"
        assert verifier.floor is not None and Verifier(steady, self.FEEDS, threads=1).floor is None


def test_there_is_no_floor_where_nothing_can_be_compared():
    text = """<ir_version: 9, opset_import: ["": 18]>
    g (float[4,8] x) => (float[4,8] y) <float ratio = {0.5}, bool training = {1}> {
      y = Dropout (x, ratio, training)
    }"""
    feeds = [{"x": seeded(4, 8, seed=seed)} for seed in range(3)]
    verifier = Verifier(from_text(text), feeds, threads=1)
    assert verifier.floor is None
    assert verifier.verify(from_text(text), Fidelity.LOSSY).status == "inconclusive"
    assert Verifier(linear(), feeds, threads=1).floor is not None


def linear(scale: float = 1.0) -> ir.Model:
    """y = x W, (4, 8) to (4, 3), with W scaled."""
    text = '<ir_version: 9, opset_import: ["": 18]> g (float[4,8] x) => (float[4,3] y) { y = MatMul (x, w) }'
    return from_text(text, {"w": seeded(8, 3) * np.float32(scale)})


def shifted(model: ir.Model, by: float) -> ir.Model:
    """The same network with a large constant added to its output."""
    text = """<ir_version: 9, opset_import: ["": 18]>
    g (float[4,8] x) => (float[4,3] y) { h = MatMul (x, w) y = Add (h, c) }"""
    weight = model.graph.initializers["w"].const_value
    assert weight is not None
    return from_text(text, {"w": weight.numpy(), "c": np.float32([by] * 3)})
