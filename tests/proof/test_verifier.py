"""Verdicts on candidates that claim to be the same function."""

from __future__ import annotations

import re

import numpy as np
import onnx_ir as ir
import pytest
from helpers import from_text, seeded

from baker.errors import ModelError
from baker.proof import recorder
from baker.proof.feeds import Feeds, load_feeds
from baker.proof.numerics import Fidelity
from baker.proof.synthetic import synthetic_feeds
from baker.proof.verifier import Verdict, Verifier

HEAD = '<ir_version: 10, opset_import: ["" : 20]>\n'
EXACT, ROUNDING = Fidelity.EXACT, Fidelity.ROUNDING

# One body and two heads: enough to be replaced, cut, and stripped of what looks like nothing.
NET = """net (float[N, 3, 8, 8] x) => (float[N, 4, 8, 8] y, float[N, 4] pooled) {
    c = Conv<pads = [1, 1, 1, 1]>(x, w)
    n = BatchNormalization(c, gamma, beta, mean, var)
    r = Relu(n)
    a = Abs(c)
    k = Clip(a, low, high)
    y = Add(r, k)
    p = GlobalAveragePool(y)
    pooled = Flatten(p)
}"""
WEIGHTS = {
    "w": seeded(4, 3, 3, 3),
    "gamma": seeded(4, seed=1) + 2,
    "beta": seeded(4, seed=2),
    "mean": seeded(4, seed=3),
    "var": np.abs(seeded(4, seed=4)) + 0.5,
    "low": np.float32(0.1),
    "high": np.float32(4.0),
}


def net(text: str = NET, **weights: np.ndarray) -> ir.Model:
    return from_text(HEAD + text, WEIGHTS | weights if text.startswith("net (float[N, 3, 8, 8] x)") else weights)


def edited(*edits: tuple[str, str], **weights: np.ndarray) -> ir.Model:
    text = NET
    for old, new in edits:
        assert old in text
        text = text.replace(old, new)
    return net(text, **weights)


def judge(reference: ir.Model, candidate: ir.Model, fidelity: Fidelity = ROUNDING) -> Verdict:
    """Judges on made-up inputs, as where no data is given."""
    return Verifier(reference, load_feeds(None, reference), threads=1).verify(candidate, fidelity)


def folded_batch_norm() -> ir.Model:
    scale = WEIGHTS["gamma"] / np.sqrt(WEIGHTS["var"] + np.float32(1e-5))
    text = NET.replace("n = BatchNormalization(c, gamma, beta, mean, var)", "n = Conv<pads = [1, 1, 1, 1]>(x, wn, bn)")
    bias = WEIGHTS["beta"] - WEIGHTS["mean"] * scale
    return net(text, wn=WEIGHTS["w"] * scale[:, None, None, None], bn=bias)


class TestFakes:
    """What other tools' checks let through."""

    def test_a_net_replaced_by_a_constant(self):
        text = """net (float[N, 3, 8, 8] x) => (float[N, 4, 8, 8] y, float[N, 4] pooled) {
            s = Shape(x)  n = Gather(s, zero)  d = Concat<axis = 0>(n, rest)  y = Expand(mean_y, d)
            p = GlobalAveragePool(y)  pooled = Flatten(p) }"""
        constants = {
            "zero": np.array([0]),
            "rest": np.array([4, 8, 8]),
            "mean_y": np.full((1, 4, 1, 1), 0.7, np.float32),
        }
        verdict = judge(net(), from_text(HEAD + text, constants))
        assert verdict.status == "fail"
        assert "times what rounding may do" in verdict.reason

    def test_a_dropped_output(self):
        verdict = judge(
            net(), edited((", float[N, 4] pooled", ""), ("p = GlobalAveragePool(y)\n    pooled = Flatten(p)", ""))
        )
        assert (verdict.status, verdict.samples) == ("fail", 0)
        assert "outputs missing: ['pooled']" in verdict.reason

    def test_a_deleted_relu(self):
        assert judge(net(), edited(("r = Relu(n)", "r = Identity(n)"))).status == "fail"

    def test_a_deleted_abs_and_clip(self):
        fake = edited(("a = Abs(c)", "a = Identity(c)"), ("k = Clip(a, low, high)", "k = Identity(a)"))
        assert judge(net(), fake).status == "fail"

    def test_a_relu_put_where_a_clip_at_6_was(self):
        text = "net (float[N, 8] x) => (float[N, 8] y) { y = Clip(x, lo, hi) }"
        clip = net(text, lo=np.float32(0), hi=np.float32(6))
        assert judge(clip, net("net (float[N, 8] x) => (float[N, 8] y) { y = Relu(x) }")).status == "fail"

    @pytest.mark.parametrize("name", ["w", "gamma", "beta", "mean", "var"])
    def test_a_nudged_weight(self, name: str):
        array = WEIGHTS[name].copy()
        array.flat[-1] *= 1.01
        assert judge(net(), net(**{name: array})).status == "fail"

    def test_swapped_inputs_a_changed_attribute_and_another_epsilon(self):
        text = "net (float[N, 4] x) => (float[N, 4] y) { y = Sub(x, c) }"
        other = "net (float[N, 4] x) => (float[N, 4] y) { y = Sub(c, x) }"
        assert judge(net(text, c=seeded(4)), net(other, c=seeded(4))).status == "fail"
        assert judge(net(), edited(("(c, gamma", "<epsilon = 0.01>(c, gamma"))).status == "fail"


class TestSameFunction:
    def test_the_same_model_passes_at_every_fidelity(self):
        for fidelity in Fidelity:
            verdict = judge(net(), net(), fidelity)
            assert (verdict.status, verdict.reason, verdict.samples, verdict.runnable) == ("pass", "", 8, True)
            assert list(verdict.outputs) == ["y", "pooled"]

    def test_a_folded_batch_normalization_is_rounding_and_not_exact(self):
        assert judge(net(), folded_batch_norm()).status == "pass"
        verdict = judge(net(), folded_batch_norm(), EXACT)
        assert verdict.status == "fail"
        assert "every bit" in verdict.reason

    def test_a_removed_identity_is_exact(self):
        assert judge(edited(("r = Relu(n)", "i = Identity(n)\n r = Relu(i)")), net(), EXACT).status == "pass"

    def test_against_another_model_than_the_reference(self):
        coarse = net(w=np.round(WEIGHTS["w"], 1))
        verifier = Verifier(net(), synthetic_feeds(net()), threads=1)
        assert verifier.verify(coarse, ROUNDING).status == "fail"
        assert verifier.verify(coarse.clone(), EXACT, against=coarse).status == "pass"
        assert verifier.verify(net(), ROUNDING, against=coarse).status == "fail"

    def test_nan_must_be_on_both_sides(self):
        text = "net (float[N, 8] x) => (float[N, 8] y) { y = Sqrt(x) }"
        assert judge(net(text), net(text)).status == "pass"
        finite = "net (float[N, 8] x) => (float[N, 8] y) { a = Relu(x)  y = Sqrt(a) }"
        verdict = judge(net(text), net(finite))
        assert verdict.status == "fail"
        place = r"output 'y' is \S+ at \[0, \d\] where the reference is NaN \(the first of \d+\), in sample 2"
        assert re.fullmatch(place, verdict.reason)

    def test_another_shape_is_told(self):
        text = "net (float[N, 8] x) => (float[M, 8] y) { a = Relu(x)  y = Concat<axis = 0>(a%s) }"
        verdict = judge(net(text % ""), net(text % ", a"))
        assert verdict.status == "fail"
        assert re.fullmatch(
            r"output 'y' has shape \[\d+, 8\] where the reference has \[\d+, 8\], in sample 0", verdict.reason
        )

    def test_integers_and_booleans_must_be_equal(self):
        text = "net (float[N, 8] x) => (int64[N, 1] y, bool[N, 8] b) { y = ArgMax<axis = 1>(x)  b = Greater(x, zero) }"
        other = text.replace("ArgMax", "ArgMin")
        assert judge(net(text, zero=np.float32(0)), net(text, zero=np.float32(0))).status == "pass"
        verdict = judge(net(text, zero=np.float32(0)), net(other, zero=np.float32(0)))
        assert verdict.status == "fail"
        assert "must be equal" in verdict.reason

    def test_half_precision_has_half_precisions_tolerance(self):
        text = "net (float16[N, 16] x) => (float16[N, 4] y) { y = MatMul(x, w) }"
        half = seeded(16, 4, dtype=np.float16)
        nudged = half * np.float16(1.002)
        assert judge(net(text, w=half), net(text, w=nudged)).status == "pass"
        assert judge(net(text, w=half), net(text, w=half * np.float16(1.1))).status == "fail"
        single = text.replace("float16", "float")
        assert judge(net(single, w=seeded(16, 4)), net(single, w=seeded(16, 4) * np.float32(1.002))).status == "fail"


class TestOtherOutputs:
    """Sequences are compared by what they hold."""

    SEQUENCE = """net (float[N, 4] x) => (seq(float[?, ?]) y) { a = Relu(x)  b = %s(x)  c = Concat<axis = 0>(b, b)
        y = SequenceConstruct(a, c) }"""

    def test_equal_and_changed(self):
        head, text = '<ir_version: 10, opset_import: ["" : 20]>', self.SEQUENCE
        reference = ir.from_onnx_text(head + text % "Sigmoid")
        for other, due in (("Sigmoid", "pass"), ("Tanh", "fail")):
            for fidelity in (ROUNDING, Fidelity.LOSSY):
                assert judge(reference, ir.from_onnx_text(head + text % other), fidelity).status == due

    def test_another_length_fails(self):
        head = '<ir_version: 10, opset_import: ["" : 20]>'
        shorter = (self.SEQUENCE % "Tanh").replace("(a, c)", "(a)")
        verdict = judge(ir.from_onnx_text(head + self.SEQUENCE % "Tanh"), ir.from_onnx_text(head + shorter))
        assert verdict.status == "fail"


class TestOracle:
    """Where the plain tolerance is missed, a float64 run decides."""

    TEXT = "net (float[N, 64] x) => (float[N, 1] y) { b = Add(x, big)  s = ReduceSum(b, axes)  y = Sub(s, total) }"
    BIG = np.float32(2.0**10)

    def cancelling(self, text: str) -> ir.Model:
        """A sum of large numbers that mostly cancel: float32 loses all but a few digits, in any order of summation."""
        return net(
            text,
            big=self.BIG,
            axes=np.array([1]),
            total=self.BIG * np.float32(64),
            perm=np.random.default_rng(0).permutation(64),
        )

    def test_another_order_of_summation_is_no_worse_than_the_original(self):
        reordered = self.TEXT.replace(
            "b = Add(x, big)", "o = Gather<axis = 1>(x, perm)  h = Add(o, big)  b = Add(h, x0)"
        ).replace("h = Add(o, big)  b = Add(h, x0)", "b = Add(o, big)")
        feeds = [{"x": seeded(2, 64, seed=seed)} for seed in range(4)]
        verifier = Verifier(self.cancelling(self.TEXT), feeds, threads=1)
        verdict = verifier.verify(self.cancelling(reordered), ROUNDING)
        assert max(error.rel_l2 for error in verdict.outputs.values()) > 1e-4
        assert (verdict.status, verdict.reason) == ("pass", "")

    def test_an_error_beyond_the_originals_own_fails(self):
        feeds = [{"x": seeded(2, 64, seed=seed)} for seed in range(4)]
        off = net(self.TEXT, big=self.BIG, axes=np.array([1]), total=self.BIG * np.float32(64) - np.float32(2))
        verdict = Verifier(self.cancelling(self.TEXT), feeds, threads=1).verify(off, ROUNDING)
        assert verdict.status == "fail"
        assert "against a float64 run" in verdict.reason

    def test_batch_normalization_below_opset_14_is_run_in_inference_mode(self):
        old = HEAD.replace("20", "9")
        candidate = from_text(old + NET.replace("Clip(a, low, high)", "Clip<min = 0.1, max = 4.0>(a)"), WEIGHTS)
        candidate.graph.initializers["beta"].const_value = ir.tensor(WEIGHTS["beta"] + np.float32(0.01), name="beta")
        reference = from_text(old + NET.replace("Clip(a, low, high)", "Clip<min = 0.1, max = 4.0>(a)"), WEIGHTS)
        verdict = judge(reference, candidate)
        assert verdict.status == "fail"
        assert "against a float64 run" in verdict.reason


class TestSteps:
    """Behind a quantizer the last bit may become a whole step: for single elements, not for all of them."""

    TEXT = "net (float[N, 16] x) => (float[N, 8] y) { m = Mul(x, seven)  r = Round(m)  y = MatMul(r, w) }"
    FEEDS = tuple({"x": seeded(8, 16, seed=seed)} for seed in range(4))

    def judge(self, text: str, scale: float = 1.0) -> Verdict:
        weights = {"seven": np.float32(7), "seventh": np.float32(1 / 7), "w": seeded(16, 8)}
        ties = [{"x": feed["x"].copy()} for feed in self.FEEDS]
        for feed in ties:
            feed["x"][0] = np.arange(-8, 8) / np.float32(7) + np.float32(0.5 / 7)
        candidate = net(text, **weights | {"w": weights["w"] * np.float32(scale)})
        return Verifier(net(self.TEXT, **weights), ties, threads=1).verify(candidate, ROUNDING)

    def test_flipped_steps_are_rounding(self):
        verdict = self.judge(self.TEXT.replace("Mul(x, seven)", "Div(x, seventh)"))
        assert verdict.outputs["y"].max_abs > 0.1
        assert verdict.status == "pass"

    def test_a_shift_of_everything_is_not(self):
        verdict = self.judge(self.TEXT, scale=1.002)
        assert verdict.status == "fail"
        assert "elements are inside" in verdict.reason


class TestFixedByConstruction:
    """Where no number of an input reaches an output, a constant is the right answer."""

    TEXT = "net (float[2, 3] x) => (int64[2] y) { y = Shape(x) }"

    def test_equal_constants_pass(self):
        model = from_text(HEAD + self.TEXT)
        assert Verifier(model, synthetic_feeds(model), threads=1).verify(model, Fidelity.EXACT).status == "pass"

    def test_another_constant_fails(self):
        model = from_text(HEAD + self.TEXT)
        wrong = from_text(HEAD + self.TEXT.replace("Shape(x)", "Add(w, w)"), {"w": np.array([1, 2])})
        assert Verifier(model, synthetic_feeds(model), threads=1).verify(wrong, ROUNDING).status == "fail"


class TestInconclusive:
    def test_a_model_whose_weights_silence_its_inputs(self):
        silent = {"w": np.zeros((4, 3, 3, 3), np.float32)}
        verdict = judge(net(**silent), net(**silent))
        assert (verdict.status, verdict.runnable) == ("inconclusive", True)
        assert "--calib" in verdict.reason

    def test_feeds_that_are_all_the_same(self):
        feed = {"x": seeded(1, 3, 8, 8)}
        verdict = Verifier(net(), [feed, feed, feed]).verify(net(), ROUNDING)
        assert verdict.status == "inconclusive"
        assert "same for all 3 inputs" in verdict.reason

    def test_an_unmoved_output_beside_a_moving_one_is_a_warning(self):
        text = "net (float[N, 4] x) => (float[N, 4] y, float[N, 4] z) { y = Relu(x)  d = Sub(x, x)  z = Add(d, c) }"
        verdict = judge(net(text, c=seeded(4)), net(text, c=seeded(4)))
        assert verdict.status == "pass"
        assert any("'z'" in warning for warning in verdict.warnings)
        assert judge(net(text, c=seeded(4)), net(text, c=seeded(4) + np.float32(1))).status == "fail"

    def test_a_wrong_model_fails_though_the_reference_stands_still(self):
        feed = {"x": seeded(1, 3, 8, 8)}
        assert Verifier(net(), [feed, feed]).verify(edited(("r = Relu(n)", "r = Abs(n)")), ROUNDING).status == "fail"

    def test_a_single_input_is_joined_by_a_shuffled_copy(self):
        verdict = Verifier(net(), [{"x": seeded(1, 3, 8, 8)}]).verify(net(), ROUNDING)
        assert (verdict.status, verdict.samples) == ("pass", 2)

    def test_a_single_scalar_input_stays_alone(self):
        text = "net (float x) => (float y) { y = Relu(x) }"
        verdict = Verifier(net(text), [{"x": np.float32(1)}]).verify(net(text), ROUNDING)
        assert verdict.status == "inconclusive"

    def test_a_foreign_operator(self):
        foreign = ir.from_onnx_text(
            '<ir_version: 10, opset_import: ["" : 20, "foreign" : 1]>'
            "net (float[4] x) => (float[4] y) { y = foreign.Magic(x) }"
        )
        for feeds in ([{"x": seeded(4)}], load_feeds(None, foreign)):
            verdict = Verifier(foreign, feeds).verify(foreign.clone(), ROUNDING)
            assert (verdict.status, verdict.runnable) == ("inconclusive", False)
            assert "foreign.Magic" in verdict.reason
            assert "--custom-ops" in verdict.reason

    def test_a_reference_that_fails_while_running(self):
        text = "net (float[N, 4] x) => (float[M, 2] y) { y = Reshape(x, s) }"
        verdict = Verifier(net(text, s=np.array([3, 2])), [{"x": seeded(1, 4)}] * 2).verify(
            net(text, s=np.array([3, 2])), ROUNDING
        )
        assert (verdict.status, verdict.runnable) == ("inconclusive", False)
        assert "Reshape" in verdict.reason

    def test_no_feeds(self):
        verdict = Verifier(net(), ()).verify(net(), ROUNDING)
        assert (verdict.status, verdict.runnable, verdict.samples) == ("inconclusive", True, 0)
        assert "--calib" in verdict.reason

    def test_no_feeds_found_tells_what_was_tried(self):
        text = "net (float[N, 3, 4] x) => (float[N, 4] y) { y = Reshape(x, s) }"
        model = net(text, s=np.array([7, 4]))
        verdict = Verifier(model, load_feeds(None, model)).verify(model.clone(), ROUNDING)
        assert (verdict.status, verdict.runnable) == ("inconclusive", True)
        assert "Reshape" in verdict.reason
        assert "sizes tried" in verdict.reason

    def test_a_model_without_inputs_needs_none(self):
        text = "net () => (float[4] y) { y = Relu(c) }"
        assert judge(net(text, c=seeded(4)), net(text, c=seeded(4))).status == "pass"
        assert judge(net(text, c=seeded(4)), net(text, c=seeded(4, seed=1))).status == "fail"


class TestRandomNumbers:
    TEXT = (
        "net (float[N, 4] x) => (float[N, 4] y, float[N, 4] z) { n = RandomNormalLike(x)  y = Add(x, n)  z = Relu(x) }"
    )

    def test_outputs_they_flow_into_are_not_compared(self):
        verdict = judge(net(self.TEXT), net(self.TEXT))
        assert (verdict.status, list(verdict.outputs)) == ("pass", ["z"])
        assert any("RandomNormalLike" in warning and "'y'" in warning for warning in verdict.warnings)

    def test_where_nothing_is_left_the_verdict_is_inconclusive(self):
        text = "net (float[N, 4] x) => (float[N, 4] y) { n = RandomUniformLike(x)  y = Add(x, n) }"
        verdict = judge(net(text), net(text))
        assert (verdict.status, verdict.runnable) == ("inconclusive", True)
        assert "seed" in verdict.reason

    def test_seeded_ones_are_compared(self):
        text = self.TEXT.replace("RandomNormalLike(x)", "RandomNormalLike<seed = 3.0>(x)")
        assert list(judge(net(text), net(text)).outputs) == ["y", "z"]

    def test_dropout_counts_in_training_mode_only(self):
        text = "net (float[N, 4] x) => (float[N, 4] y) { y = Dropout(x, ratio, train) }"
        ratio = np.float32(0.5)
        assert (
            judge(net(text, ratio=ratio, train=np.array(False)), net(text, ratio=ratio, train=np.array(False))).status
            == "pass"
        )
        verdict = judge(net(text, ratio=ratio, train=np.array(True)), net(text, ratio=ratio, train=np.array(True)))
        assert verdict.status == "inconclusive"


class TestCandidatesThatDoNotRun:
    def test_one_that_does_not_load_fails(self):
        bad = net()
        next(node for node in bad.graph if node.op_type == "Relu").op_type = "Rellu"
        verdict = judge(net(), bad)
        assert verdict.status == "fail"
        assert "Rellu" in verdict.reason

    def test_one_that_does_not_run_on_a_size_that_the_reference_runs_on_fails(self):
        text = "net (float[N, 4] x) => (float[N, 4] y) { y = Reshape(x, s) }"
        verdict = judge(net(text, s=np.array([-1, 4])), net(text, s=np.array([1, 4])))
        assert verdict.status == "fail"
        assert "Reshape" in verdict.reason


class TestCost:
    def test_the_reference_is_run_once(self, monkeypatch: pytest.MonkeyPatch):
        opened: list[bool] = []
        real = recorder.session

        def counting(model: ir.Model, *, optimize: bool, **more: object) -> object:
            opened.append(optimize)
            return real(model, optimize=optimize, **more)

        monkeypatch.setattr(recorder, "session", counting)
        verifier = Verifier(net(), [{"x": seeded(1, 3, 8, 8, seed=seed)} for seed in range(3)])
        for fidelity in (ROUNDING, EXACT, Fidelity.LOSSY, Fidelity.LOSSY):
            verifier.verify(net(), fidelity)
        # The reference, then each candidate once: a float model's outputs serve both levels. (A candidate that is to be
        # the same function is also audited at the default level, in a session of another kind.)
        assert opened == [False, False, False, True, True]

    def test_outputs_beyond_the_limit_are_not_kept_and_the_verdict_says_so(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(recorder, "MAX_RECORDED_BYTES", 3 * (4 * 64 + 4) * 4)
        feeds = [{"x": seeded(1, 3, 8, 8, seed=seed)} for seed in range(9)]
        verdict = Verifier(net(), feeds).verify(net(), ROUNDING)
        assert (verdict.status, verdict.samples) == ("pass", 4)
        assert any("4 of 9 samples" in warning for warning in verdict.warnings)

    def test_feeds_are_taken_as_feeds_or_as_a_sequence(self):
        feeds = load_feeds(None, net())
        assert isinstance(feeds, Feeds)
        assert Verifier(net(), feeds).feeds is Verifier(net(), feeds.held_out).feeds


def test_measuring_without_feeds_or_a_model_that_runs():
    from baker.proof.budget import Budget

    assert not Verifier(net(), ()).measure(net(), Budget.parse("sqnr=1dB")).met
    bad = net()
    next(node for node in bad.graph if node.op_type == "Relu").op_type = "Rellu"
    with pytest.raises(ModelError, match="Rellu"):
        Verifier(net(), synthetic_feeds(net())).measure(bad, Budget.parse("sqnr=1dB"))
