"""Verdicts on approximations: budgets, metrics, the floor without either, and what ONNX Runtime's optimizer does."""

from __future__ import annotations

import math
import re
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from helpers import from_text, seeded

from baker.errors import UsageError
from baker.model.lower import lower
from baker.proof.budget import Budget
from baker.proof.feeds import load_feeds
from baker.proof.numerics import Fidelity
from baker.proof.verifier import Verdict, Verifier

HEAD = '<ir_version: 10, opset_import: ["" : 20]>\n'
LOSSY = Fidelity.LOSSY

NET = "net (float[N, 16] x) => (float[N, 8] y) { h = MatMul(x, w)  r = Relu(h)  y = MatMul(r, v) }"
WEIGHTS = {"w": seeded(16, 32), "v": seeded(32, 8, seed=1)}
FEEDS = [{"x": seeded(4, 16, seed=seed)} for seed in range(6)]


def net(text: str = NET, **weights: np.ndarray) -> ir.Model:
    return from_text(HEAD + text, WEIGHTS | weights if text == NET else weights)


def noisy(size: float) -> ir.Model:
    """The net with noise of this relative size on its last weight."""
    return net(v=WEIGHTS["v"] + np.float32(size) * seeded(32, 8, seed=9))


def verifier(**more: Any) -> Verifier:
    return Verifier(net(), FEEDS, threads=1, **more)


class TestWithoutABudget:
    def test_a_good_result_passes_in_silence(self):
        verdict = verifier().verify(noisy(0.01), LOSSY)
        assert (verdict.status, verdict.warnings, verdict.measurement) == ("pass", (), None)
        assert verdict.outputs["y"].sqnr_db > 20

    def test_a_doubtful_one_passes_with_a_warning(self):
        verdict = verifier().verify(noisy(0.25), LOSSY)
        assert 5 < verdict.outputs["y"].sqnr_db < 20
        assert verdict.status == "pass"
        assert "below 20 dB" in verdict.warnings[0]

    def test_a_useless_one_fails(self):
        verdict = verifier().verify(noisy(1.5), LOSSY)
        assert verdict.status == "fail"
        assert "5 dB is the least" in verdict.reason

    def test_a_constant_network_fails_even_where_the_outputs_hardly_move(self):
        text = "net (float[N, 16] x) => (float[N, 8] y) { h = MatMul(x, w)  s = Mul(h, tiny)  y = Add(s, big) }"
        constants = {"w": seeded(16, 8), "big": np.float32(100)}
        reference = net(text, tiny=np.float32(0.01), **constants)
        fake = net(text, tiny=np.float32(0), **constants)
        verdict = Verifier(reference, FEEDS, threads=1).verify(fake, LOSSY)
        assert verdict.outputs["y"].rel_l2 < 1e-3
        assert verdict.status == "fail"

    def test_nan_fails(self):
        broken = WEIGHTS["v"].copy()
        broken[0, 0] = np.nan
        verdict = verifier().verify(net(v=broken), LOSSY)
        assert verdict.status == "fail"
        place = r"output 'y' is NaN at \[0, 0\] where the reference is \S+ \(the first of \d+\), in sample 0"
        assert re.fullmatch(place, verdict.reason)

    def test_integers_are_counted(self):
        text = "net (float[N, 16] x) => (int64[N, 1] y) { h = MatMul(x, w)  y = ArgMax<axis = 1>(h) }"
        reference = net(text, w=seeded(16, 8))
        judge = Verifier(reference, FEEDS, threads=1)
        assert judge.verify(net(text, w=seeded(16, 8)), LOSSY).warnings == ()
        close = judge.verify(net(text, w=seeded(16, 8) + np.float32(0.3) * seeded(16, 8, seed=5)), LOSSY)
        assert (close.status, "are equal" in close.warnings[0]) == ("pass", True)
        assert judge.verify(net(text, w=seeded(16, 8, seed=7)), LOSSY).status == "fail"

    def test_feeds_that_prove_nothing(self):
        still = Verifier(net(), [FEEDS[0]] * 3, threads=1).verify(noisy(0.01), LOSSY)
        assert (still.status, "same for all 3" in still.reason) == ("inconclusive", True)
        single = Verifier(net(), FEEDS[:1], threads=1).verify(noisy(0.01), LOSSY)
        assert (single.status, single.samples) == ("inconclusive", 1)
        assert Verifier(net(), FEEDS[:1], threads=1).verify(noisy(3), LOSSY).status == "fail"
        assert Verifier(net(), (), threads=1).verify(noisy(0.01), LOSSY).status == "inconclusive"

    def test_a_candidate_that_does_not_load_fails(self):
        bad = net()
        next(node for node in bad.graph if node.op_type == "Relu").op_type = "Rellu"
        assert verifier().verify(bad, LOSSY).status == "fail"


class TestBudgets:
    @pytest.mark.parametrize(
        ("text", "near", "far"),
        [("sqnr=30dB", 0.005, 0.1), ("rel=0.02", 0.005, 0.1), ("top1=0.99", 0.001, 0.5)],
    )
    def test_the_measured_value_decides(self, text: str, near: float, far: float):
        budget = Budget.parse(text)
        judge = verifier(budget=budget)
        good, bad = judge.verify(noisy(near), LOSSY), judge.verify(noisy(far), LOSSY)
        assert (good.status, good.warnings) == ("pass", ())
        assert bad.status == "fail"
        assert f"over the budget '{budget}'" in bad.reason
        assert good.measurement is not None
        assert bad.measurement is not None
        assert (good.measurement.met, bad.measurement.met) == (True, False)
        assert judge.measure(noisy(far), budget) == bad.measurement

    def test_a_budget_below_the_floor_is_the_users_word(self):
        verdict = verifier().verify(noisy(1.0), LOSSY, budget=Budget.parse("sqnr=-5dB"))
        assert verdict.outputs["y"].sqnr_db < 5
        assert verdict.status == "pass"

    def test_the_worst_output_counts(self):
        text = "net (float[N, 16] x) => (float[N, 8] a, float[N, 8] b) { a = MatMul(x, w)  b = MatMul(x, v) }"
        w, v = seeded(16, 8), seeded(16, 8, seed=1)
        judge = Verifier(net(text, w=w, v=v), FEEDS, threads=1)
        candidate = net(text, w=w, v=v + np.float32(0.1) * seeded(16, 8, seed=2))
        found = judge.measure(candidate, Budget.parse("sqnr=25dB"))
        assert (found.met, "'b'" in found.detail) == (False, True)
        assert found.value == judge.verify(candidate, LOSSY).outputs["b"].sqnr_db
        assert (
            judge.measure(candidate, Budget.parse("rel=1")).value == judge.verify(candidate, LOSSY).outputs["b"].rel_l2
        )

    def test_bit_equal_is_infinitely_good(self):
        assert verifier().measure(net(), Budget.parse("sqnr=100dB")).value > 100
        assert verifier().measure(net(), Budget.parse("top1=1")).value == 1.0

    def test_a_budget_that_no_output_fits_is_a_usage_error(self):
        text = "net (float[N, 16] x) => (int64[N, 1] y) { y = ArgMax<axis = 1>(x) }"
        judge = Verifier(net(text), FEEDS, threads=1)
        with pytest.raises(UsageError, match="sqnr=20dB"):
            judge.verify(net(text), LOSSY, budget=Budget.parse("sqnr=20dB"))
        assert judge.measure(net(text), Budget.parse("top1=1")).met

    def test_a_single_sample_is_inconclusive_whatever_the_budget(self):
        judge = Verifier(net(), FEEDS[:1], threads=1)
        verdict = judge.verify(noisy(0.01), LOSSY, budget=Budget.parse("sqnr=20dB"))
        assert verdict.status == "inconclusive"


def accuracy(runner: Any) -> float:
    """How often the largest output is where the original net has it, over 200 inputs."""
    x = seeded(200, 16, seed=77)
    labels = (np.maximum(x @ WEIGHTS["w"], 0) @ WEIGHTS["v"]).argmax(axis=1)
    return float((runner({"x": x})["y"].argmax(axis=1) == labels).mean())


class TestMetrics:
    def test_the_loss_is_relative_to_the_originals_score(self):
        judge = verifier(metric=lambda runner: 0.8 * accuracy(runner), budget=Budget.parse("5%"))
        good, bad = judge.verify(noisy(0.01), LOSSY), judge.verify(noisy(1.0), LOSSY)
        assert (good.status, bad.status) == ("pass", "fail")
        assert bad.measurement is not None
        assert bad.measurement.value == pytest.approx(1 - accuracy_of(noisy(1.0)), abs=1e-6)
        assert "the original 0.8" in bad.reason

    def test_a_metric_without_a_budget_is_held_to_one_percent(self):
        judge = verifier(metric=accuracy)
        assert judge.verify(noisy(0.001), LOSSY).status == "pass"
        verdict = judge.verify(noisy(0.2), LOSSY)
        assert (verdict.status, "over the budget '1%'" in verdict.reason) == ("fail", True)

    def test_a_metric_speaks_where_feeds_are_silent(self):
        judge = Verifier(net(), (), metric=accuracy, budget=Budget.parse("1%"), threads=1)
        assert judge.verify(noisy(0.001), LOSSY).status == "pass"
        assert judge.verify(noisy(1.0), LOSSY).status == "fail"

    def test_the_original_is_scored_once(self):
        calls = []

        def counting(runner: Any) -> float:
            calls.append(1)
            return accuracy(runner)

        judge = verifier(metric=counting, budget=Budget.parse("1%"))
        for _ in range(3):
            judge.measure(noisy(0.01), Budget.parse("1%"))
        assert len(calls) == 4

    def test_usage_errors_name_the_metric(self):
        def broken(runner: Any) -> float:
            raise KeyError("label")

        def misfed(runner: Any) -> float:
            return float(runner({"nothing": np.zeros(3)})["y"])

        for metric, says in (
            (broken, "broken.*KeyError"),
            (lambda runner: math.nan, "finite"),
            (misfed, "feeds the model"),
        ):
            with pytest.raises(UsageError, match=says):
                verifier(metric=metric).verify(noisy(0.01), LOSSY)
        with pytest.raises(UsageError, match="scores 0"):
            verifier(metric=lambda runner: 0.0).verify(noisy(0.01), LOSSY)
        with pytest.raises(UsageError, match="--metric"):
            verifier(budget=Budget.parse("1%")).verify(noisy(0.01), LOSSY)


def accuracy_of(model: ir.Model) -> float:
    from baker.runtime.session import run, session

    runner = session(model, threads=1)
    return accuracy(lambda feed: run(runner, feed))


def ternary_net(*, quantized: tuple[str, ...], n: int, k: int = 64) -> ir.Model:
    """Two layers with ternary weights in blocks of 32, as float MatMul or as INT2 DequantizeLinear and MatMul."""
    rng = np.random.default_rng(0)
    proto = onnx.parser.parse_model(
        f'<ir_version: 12, opset_import: ["" : 25]> net (float[N, {k}] x) => (float[N, {n}] y) {{}}'
    )
    source = "x"
    for name, width, target in (("first", k, "h"), ("second", n, "y")):
        trits, scale = rng.integers(-1, 2, (k, width)), rng.random((k // 32, width)).astype(np.float32) * 0.2
        arrays: dict[str, np.ndarray] = {f"{name}.s": scale}
        weight = f"{name}.w"
        if name in quantized:
            arrays[f"{name}.q"] = trits.astype(ml_dtypes.int2)
            dequantize = onnx.helper.make_node(
                "DequantizeLinear", [f"{name}.q", f"{name}.s"], [weight], axis=0, block_size=32
            )
            proto.graph.node.append(dequantize)
        else:
            arrays = {weight: (trits * np.repeat(scale, 32, axis=0)).astype(np.float32)}
        for label, array in arrays.items():
            proto.graph.initializer.append(onnx.numpy_helper.from_array(array, label))
        proto.graph.node.append(onnx.helper.make_node("MatMul", [source, weight], [target], name=name))
        source = "r"
        if target == "h":
            proto.graph.node.append(onnx.helper.make_node("Relu", ["h"], ["r"], name="act"))
    return lower(proto)


class TestOptimizerFaults:
    """ONNX Runtime 1.32 fuses INT2 DequantizeLinear and MatMul wrongly unless N is a multiple of 4."""

    FEEDS = tuple({"x": seeded(3, 64, seed=seed)} for seed in range(4))

    def judge(self, n: int, *quantized: str, budget: str | None = None) -> Verdict:
        reference = ternary_net(quantized=(), n=n)
        limit = None if budget is None else Budget.parse(budget)
        candidate = ternary_net(quantized=quantized, n=n)
        judge = Verifier(reference, self.FEEDS, threads=1)
        plain = judge.verify(candidate, Fidelity.ROUNDING)  # with the optimizer off all is well
        assert plain.outputs["y"].rel_l2 < 1e-6
        assert [item.kind for item in plain.findings if item.fatal] == (["level-change"] if n % 4 else [])
        return judge.verify(candidate, LOSSY, budget=limit)

    def test_the_sound_fusion_passes(self):
        assert self.judge(8, "first", "second").status == "pass"

    @pytest.mark.parametrize("n", [5, 10, 67])
    def test_the_faulty_one_fails_and_the_layer_is_named(self, n: int):
        verdict = self.judge(n, "first", "second")
        assert verdict.status == "fail"
        assert "ONNX Runtime's optimizer" in verdict.reason
        assert "MatMul 'second' (run as com.microsoft.MatMulNBits)" in verdict.reason

    def test_no_budget_excuses_it(self):
        assert self.judge(10, "second", budget="sqnr=-30dB").status == "fail"

    def test_int8_layers_whose_error_is_the_same_at_both_levels_pass(self):
        text = (
            HEAD
            + """net (float[N, 16] x) => (float[N, 8] y) {
            q = QuantizeLinear(x, sx, zx)  d = DequantizeLinear(q, sx, zx)
            wd = DequantizeLinear<axis = 1>(w, sw)
            h = MatMul(d, wd)
            hq = QuantizeLinear(h, sy, zx)  y = DequantizeLinear(hq, sy, zx) }"""
        )
        w = seeded(16, 8)
        scale = np.abs(w).max(axis=0) / np.float32(7)  # coarse on purpose: 4 bits in an int8
        weights = {
            "sx": np.float32(0.3),
            "sy": np.float32(0.5),
            "zx": np.uint8(128),
            "sw": scale,
            "w": np.round(w / scale).astype(np.int8),
        }
        reference = net("net (float[N, 16] x) => (float[N, 8] y) { y = MatMul(x, w) }", w=w)
        verdict = Verifier(reference, FEEDS, threads=1).verify(from_text(text, weights), LOSSY)
        assert verdict.outputs["y"].sqnr_db < 25
        assert verdict.status == "pass"

    def test_a_quantized_reference_is_recorded_at_both_levels(self):
        quantized = ternary_net(quantized=("first",), n=8)
        assert Verifier(quantized, self.FEEDS, threads=1).verify(quantized.clone(), LOSSY).status == "pass"
        faulty = ternary_net(quantized=("first", "second"), n=10)
        verdict = Verifier(ternary_net(quantized=("first",), n=10), self.FEEDS, threads=1).verify(faulty, LOSSY)
        assert verdict.status == "fail"


def test_made_up_feeds_serve_lossy_verdicts_too():
    reference = net()
    judge = Verifier(reference, load_feeds(None, reference), threads=1)
    assert judge.verify(noisy(0.01), LOSSY).status == "pass"
    assert judge.verify(noisy(2.0), LOSSY).status == "fail"
