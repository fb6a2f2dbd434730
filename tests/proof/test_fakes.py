"""Fake optimizations fail, each for what it is; real ones pass. Fakes are made in tests/fake_tools.py."""

from __future__ import annotations

from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from fake_bases import HEAD, TEXTS, base
from fake_tools import FAKES, Feed
from helpers import from_text, seeded

import baker
from baker.model.lower import lower
from baker.proof.budget import Budget
from baker.proof.fakes.columns import Columns
from baker.proof.fakes.gain import Gain
from baker.proof.fakes.parts import is_part
from baker.proof.fakes.probes import probes
from baker.proof.fakes.storage import on_grid
from baker.proof.fakes.structure import dependencies
from baker.proof.feeds import load_feeds
from baker.proof.numerics import Fidelity
from baker.proof.verdict import Verdict
from baker.proof.verifier import Verifier

DECLARED_LOSSES = {"scaled", "half_weights", "half_result", "short_mantissas"}
"""What a budget allows as long as it is met."""

KINDS = {
    "constant": "constant-output",
    "constant_of_the_right_shape": "constant-output",
    "dropped_output": "dropped-output",
    "copied_input": "copied-input",
    "ignored_input": "ignored-input",
    "scaled": "systematic-error",
    "half_weights": "undeclared-precision",
    "half_result": "undeclared-precision",
    "short_mantissas": "narrowed-weights",
    "both_copies": "stored-twice",
    "claimed_ternary": "empty-claim",
}
KINDS_IN_BUDGET = {
    "first_of_the_batch": "same-for-all",
    "float_behind_quantizers": "float-weights",
    "float_on_a_grid": "float-weights",
    "integers_that_run_in_float": "float-kernels",
    "swapped_classes": "swapped-classes",
}


@cache
def source(name: str) -> onnx.ModelProto:
    return base(name)


@cache
def judge(name: str, budget: str | None) -> Verifier:
    """What `baker verify` has without calibration data; the reference is run once for all fakes."""
    model = lower(source(name))
    feeds = load_feeds(None, model)
    return Verifier(model, feeds, budget=None if budget is None else Budget.parse(budget), threads=1)


def verdict_on(name: str, candidate: onnx.ModelProto, budget: str | None = None) -> Verdict:
    fidelity = Fidelity.ROUNDING if budget is None else Fidelity.LOSSY
    return judge(name, budget).verify(lower(candidate), fidelity)


@cache
def made(name: str, fake: str) -> onnx.ModelProto | None:
    """A fake, made with inputs that the verifier does not have."""
    feeds = list(load_feeds(None, lower(source(name)), seed=7).held_out)
    return FAKES[fake](source(name), feeds[:2])


CASES = [(name, fake) for name in TEXTS for fake in FAKES if made(name, fake) is not None]


def fatal(verdict: Verdict) -> list[str]:
    return [finding.kind for finding in verdict.findings if finding.fatal]


def test_there_are_cases_of_every_fake():
    assert len(CASES) >= 120
    assert {fake for _, fake in CASES} == set(FAKES)


@pytest.mark.parametrize(("name", "fake"), CASES)
def test_a_fake_fails(name: str, fake: str):
    candidate = made(name, fake)
    verdict = verdict_on(name, candidate)
    assert verdict.status == "fail", verdict
    found = KINDS.get(fake)
    if found is not None and not (fake == "copied_input" and "copied-input" not in fatal(verdict)):
        assert found in fatal(verdict), verdict


@pytest.mark.parametrize(("name", "fake"), [case for case in CASES if case[1] not in DECLARED_LOSSES])
def test_a_budget_does_not_excuse_it(name: str, fake: str):
    verdict = verdict_on(name, made(name, fake), "sqnr=10dB")
    assert verdict.status == "fail", verdict
    found = KINDS_IN_BUDGET.get(fake)
    assert found is None or found in fatal(verdict), verdict


@pytest.mark.parametrize("name", TEXTS)
def test_the_model_itself_and_what_baker_makes_of_it_pass_in_silence(name: str):
    assert verdict_on(name, source(name)).findings == ()
    fused = baker.bake(source(name), "@simplify", threads=1)
    assert (fused.report.verification.verdict, fused.report.verification.findings) == ("pass", ())


@pytest.mark.parametrize("fake", sorted(DECLARED_LOSSES))
def test_a_declared_loss_passes(fake: str):
    verdict = verdict_on("cnn", made("cnn", fake), "sqnr=10dB")
    assert verdict.status == "pass" and not fatal(verdict), verdict


def test_an_honest_int8_model_passes_in_silence():
    calib = [{"x": seeded(4, 3, 12, 12, seed=seed)} for seed in range(10)]
    baked = baker.bake(source("cnn"), "fuse,quantize", calib=calib, budget="sqnr=10dB", threads=1)
    assert baked.report.kernels.integer >= 2
    assert baked.report.verification.verdict == "pass" and baked.report.verification.findings == ()
    verdict = baker.verify(source("cnn"), baked.model, calib=calib, budget="sqnr=10dB", threads=1)
    assert (verdict.status, verdict.findings) == ("pass", ())


class TestOutputs:
    def test_a_constant_may_be_right_most_of_the_time(self):
        text = "net (float[N, 4] x) => (int64[N] y) { h = Add(x, c)  y = ArgMax<axis = 1, keepdims = 0>(h) }"
        reference = from_text(HEAD + text, {"c": np.array([3, 0, 0, 0], np.float32)})
        fake = """net (float[N, 4] x) => (int64[N] y) {
            s = Shape<end = 1>(x)  y = ConstantOfShape<value = int64[1] {0}>(s) }"""
        feeds = [{"x": seeded(64, 4, seed=seed)} for seed in range(4)]
        verifier = Verifier(reference, feeds, threads=1, budget=Budget.parse("top1=0.9"))
        verdict = verifier.verify(from_text(HEAD + fake), Fidelity.LOSSY)
        assert verdict.outputs and verdict.outputs["y"].top1_agreement > 0.9, verdict
        assert fatal(verdict) == ["constant-output"] and verdict.status == "fail"

    def test_saturation_hides_nothing(self):
        text = TEXTS["saturated_softmax"].replace("Mul(h, big)", "Add(h, big)")
        weights = {"w1": seeded(16, 32), "w2": seeded(32, 10, seed=1), "big": 3000 * np.eye(10, dtype=np.float32)[3]}
        feeds = [{"x": seeded(4, 16, seed=seed)} for seed in range(6)]
        verifier = Verifier(from_text(HEAD + text, weights), feeds, threads=1, budget=Budget.parse("sqnr=10dB"))
        plain = from_text(HEAD + text.replace("r = Relu(a)", "r = Identity(a)"), weights)
        assert fatal(verifier.verify(plain, Fidelity.LOSSY)) == ["hidden-change"]
        assert verifier.verify(from_text(HEAD + text, weights), Fidelity.LOSSY).status == "inconclusive"

    def test_a_copy_of_a_part_is_seen_where_the_numbers_are_near(self):
        text = "net (float[N, 8] x) => (float[N, 4] y) { a = Add(x, tiny)  y = Slice(a, start, end, axis) }"
        cut = {"start": np.array([0]), "end": np.array([4]), "axis": np.array([1])}
        reference = from_text(HEAD + text, {"tiny": seeded(8) * np.float32(0.01), **cut})
        copy = from_text(HEAD + text.replace("Add(x, tiny)", "Identity(x)"), cut)
        feeds = [{"x": seeded(4, 8, seed=seed)} for seed in range(3)]
        verdict = Verifier(reference, feeds, threads=1, budget=Budget.parse("sqnr=30dB")).verify(copy, Fidelity.LOSSY)
        assert verdict.measurement.met and fatal(verdict) == ["copied-input"]

    def test_a_model_that_copies_is_no_fake_of_itself(self):
        model = from_text(
            HEAD + "net (float[N, 8] x) => (float[N, 8] y, float[N, 8] z) { y = Identity(x)  z = Relu(x) }"
        )
        feeds = [{"x": seeded(4, 8, seed=seed)} for seed in range(3)]
        assert Verifier(model, feeds, threads=1).verify(model, Fidelity.LOSSY, budget=Budget("sqnr", 10)).findings == ()


class TestInputsAndSizes:
    """User data that holds an input, or a size, fast must not hide that the candidate can do no other."""

    def test_an_input_that_the_samples_never_change(self):
        fixed = seeded(3, 16, seed=77)
        calib = [{"x": seeded(3, 16, seed=seed), "z": fixed} for seed in range(12)]
        weak = onnx.ModelProto()
        weak.CopyFrom(source("two_inputs"))
        for tensor in weak.graph.initializer:
            if tensor.name == "w2":
                small = onnx.numpy_helper.to_array(tensor) * np.float32(0.1)
                tensor.CopyFrom(onnx.numpy_helper.from_array(small, "w2"))
        candidate = FAKES["ignored_input"](weak, calib)
        verdict = baker.verify(weak, candidate, calib=calib, budget="sqnr=10dB", threads=1)
        assert verdict.measurement.met and "ignored-input" in fatal(verdict)
        assert "input 'z'" in verdict.reason
        assert baker.verify(weak, weak, calib=calib, budget="sqnr=10dB", threads=1).findings == ()

    @pytest.mark.parametrize("budget", [None, "sqnr=10dB"])
    @pytest.mark.parametrize(
        ("fake", "kind"), [("first_of_the_batch", "same-for-all"), ("fixed_batch", "unsupported-size")]
    )
    def test_a_batch_size_that_the_samples_never_have(self, fake: str, kind: str, budget: str | None):
        calib = [{"x": seeded(1, 3, 12, 12, seed=seed)} for seed in range(12)]
        verdict = baker.verify(source("cnn"), FAKES[fake](source("cnn"), calib), calib=calib, budget=budget, threads=1)
        assert verdict.status == "fail" and kind in fatal(verdict)
        assert all(error.max_abs < 1e-3 for error in verdict.outputs.values())

    def test_only_the_sizes_of_the_test_data_run(self, tmp_path: Any):
        path = tmp_path / "model.onnx"
        onnx.save(source("sequence"), path)
        for index in range(2):
            folder = tmp_path / f"test_data_set_{index}"
            folder.mkdir()
            tensor = onnx.numpy_helper.from_array(seeded(1, 6, 16, seed=index), "x")
            (folder / "input_0.pb").write_bytes(tensor.SerializeToString())
        candidate = FAKES["fixed_batch"](source("sequence"), [{"x": seeded(1, 6, 16)}])
        verdict = baker.verify(path, candidate, threads=1)
        assert (verdict.status, fatal(verdict)) == ("fail", ["unsupported-size"] * 2)

    def test_probes_change_one_thing_each(self):
        model = lower(source("two_inputs"))
        feeds: list[Feed] = [{"x": seeded(3, 16, seed=seed), "z": seeded(3, 16)} for seed in range(3)]
        found = {probe.subject: probe.feed for probe in probes(model, feeds)}
        assert np.array_equal(found["x"]["x"], feeds[1]["x"]) and np.array_equal(found["x"]["z"], feeds[0]["z"])
        assert not np.array_equal(found["z"]["z"], feeds[0]["z"]) and np.array_equal(found["z"]["x"], feeds[0]["x"])
        sized = found["dim 'N' of size 4 (the samples have 3)"]
        assert sized["x"].shape == sized["z"].shape == (4, 16)
        assert np.array_equal(sized["x"][:3], feeds[0]["x"])


FEEDS = tuple({"x": seeded(4, 16, seed=seed)} for seed in range(5))
TWO = "net (float[N, 16] x) => (float[N, 8] y) { a = MatMul(x, w1)  r = Abs(a)  y = MatMul(r, w2) }"
WEIGHTS = {"w1": seeded(16, 128) * np.float32(0.3), "w2": seeded(128, 8, seed=1) * np.float32(0.1)}


class TestQuantizedClaims:
    def verify(self, text: str, weights: dict[str, Any], budget: str | None = "sqnr=10dB") -> Verdict:
        reference = from_text(HEAD + TWO, WEIGHTS)
        verifier = Verifier(reference, FEEDS, threads=1, budget=None if budget is None else Budget.parse(budget))
        return verifier.verify(from_text(HEAD + text, weights), Fidelity.ROUNDING if budget is None else Fidelity.LOSSY)

    def codes(self, name: str) -> tuple[np.ndarray, np.float32]:
        scale = np.float32(np.abs(WEIGHTS[name]).max() / 127)
        return np.rint(WEIGHTS[name] / scale).astype(np.int8), scale

    def test_a_partly_quantized_model_is_warned_of_by_name(self):
        (q1, s1), (q2, s2) = self.codes("w1"), self.codes("w2")
        text = """net (float[N, 16] x) => (float[N, 8] y) {
            xq = QuantizeLinear(x, sx, zx)  xd = DequantizeLinear(xq, sx, zx)  d1 = DequantizeLinear(q1, s1, z1)
            a = MatMul(xd, d1)  r = Abs(a)  c2 = Cast<to = 1>(q2)  d2 = Mul(c2, s2)  [second] y = MatMul(r, d2) }"""
        given = {"q1": q1, "s1": s1, "q2": q2, "s2": s2, "z1": np.int8(0), "sx": np.float32(0.04), "zx": np.uint8(128)}
        verdict = self.verify(text, given)
        assert verdict.status == "pass" and not fatal(verdict), verdict
        assert [finding.kind for finding in verdict.findings] == ["float-kernels"]
        assert "'second'" in verdict.warnings[0] and "1 of 2 run as claimed" in verdict.warnings[0]

    def test_weights_only_in_the_standard_form_say_no_more_than_they_are(self):
        net = "net (float[N, 2, 9] x) => (float[N, 4, 7] y) { %s y = Conv(x, w) }"
        weight = seeded(4, 2, 3)
        scale = np.float32(np.abs(weight).max() / 127)
        stored = {"q": np.rint(weight / scale).astype(np.int8), "s": scale, "z": np.int8(0)}
        reference = from_text(HEAD + net % "", {"w": weight})
        candidate = from_text(HEAD + net % "w = DequantizeLinear(q, s, z) ", stored)
        feeds = [{"x": seeded(2, 2, 9, seed=seed)} for seed in range(4)]
        verdict = Verifier(reference, feeds, threads=1).verify(candidate, Fidelity.LOSSY)
        assert verdict.status == "pass" and not fatal(verdict), verdict
        assert "a smaller file, not a faster one; 0 of 1 are fast" in verdict.warnings[0]

    def test_a_function_called_ternary_is_no_ternary_kernel(self):
        proto = onnx.parser.parse_model(HEAD + TWO)
        for key, array in WEIGHTS.items():
            proto.graph.initializer.append(onnx.numpy_helper.from_array(array, key))
        body = [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])]
        opset = onnx.helper.make_opsetid("", 20)
        proto.functions.append(onnx.helper.make_function("mine", "TernaryGemm", ["x", "w"], ["y"], body, [opset]))
        proto.opset_import.append(onnx.helper.make_opsetid("mine", 1))
        for node in proto.graph.node:
            if node.op_type == "MatMul":
                node.op_type, node.domain = "TernaryGemm", "mine"
        reference = from_text(HEAD + TWO, WEIGHTS)
        verdict = Verifier(reference, FEEDS, threads=1).verify(lower(proto), Fidelity.LOSSY)
        assert verdict.outputs["y"].max_abs < 1e-4
        assert "float-kernels" in fatal(verdict)

    def test_what_the_original_does_as_well_is_no_finding(self):
        q1, s1 = self.codes("w1")
        text = """net (float[N, 16] x) => (float[N, 8] y) { c = Cast<to = 1>(q1)  d = Mul(c, s1)  a = MatMul(x, d)
            i = Identity(a)  r = Abs(i)  y = MatMul(r, w2) }"""
        model = from_text(HEAD + text, {"q1": q1, "s1": s1, "w2": WEIGHTS["w2"]})
        model.metadata_props["quantized"] = "int8"
        cleaned = model.clone()
        for fidelity in (Fidelity.EXACT, Fidelity.ROUNDING, Fidelity.LOSSY):
            assert Verifier(model, FEEDS, threads=1).verify(cleaned, fidelity).findings == ()

    def test_lossless_storage_is_a_note_and_passes(self):
        trits = np.random.default_rng(0).integers(-1, 2, (64, 8))
        scale = np.full((2, 8), 0.25, np.float32)
        head = HEAD.replace("20", "25").replace("10,", "12,")
        reference = from_text(
            head + "net (float[N, 64] x) => (float[N, 8] y) { y = MatMul(x, w) }",
            {"w": (trits * np.float32(0.25)).astype(np.float32)},
        )
        text = """net (float[N, 64] x) => (float[N, 8] y) {
            w = DequantizeLinear<axis = 0, block_size = 32>(q, s)  y = MatMul(x, w) }"""
        candidate = from_text(head + text, {"q": trits.astype(ml_dtypes.int2), "s": scale})
        feeds = [{"x": seeded(4, 64, seed=seed)} for seed in range(4)]
        verdict = Verifier(reference, feeds, threads=1).verify(candidate, Fidelity.ROUNDING)
        assert verdict.status == "pass" and not fatal(verdict), verdict
        assert "undeclared-precision" in [item.kind for item in verdict.findings if item.severity == "note"]

    def test_ternary_weights_that_no_packed_kernel_takes_are_no_gain(self):
        """A block of 8 is none that ONNX Runtime has a kernel for."""
        trits = np.random.default_rng(0).integers(-1, 2, (64, 8))
        head = HEAD.replace("20", "25").replace("10,", "12,")
        plain = "net (float[N, 64] x) => (float[N, 8] y) { y = MatMul(x, w) }"
        reference = from_text(head + plain, {"w": (trits * np.float32(0.25)).astype(np.float32)})
        text = """net (float[N, 64] x) => (float[N, 8] y) {
            w = DequantizeLinear<axis = 0, block_size = 8>(q, s)  y = MatMul(x, w) }"""
        candidate = from_text(head + text, {"q": trits.astype(ml_dtypes.int2), "s": np.full((8, 8), 0.25, np.float32)})
        feeds = [{"x": seeded(4, 64, seed=seed)} for seed in range(4)]
        verdict = Verifier(reference, feeds, threads=1).verify(candidate, Fidelity.LOSSY)
        assert verdict.outputs["y"].max_abs < 1e-5 and fatal(verdict) == ["float-kernels"]
        assert "claim int2 weights" in verdict.reason

    def test_eight_bits_before_a_float_layer_are_a_smaller_file_and_a_warning(self):
        q1, s1 = self.codes("w1")
        text = """net (float[N, 16] x) => (float[N, 8] y) {
            d1 = DequantizeLinear(q1, s1)  u1 = Unsqueeze(d1, axes)  x1 = Unsqueeze(x, axes)  a1 = MatMul(x1, u1)
            a = Squeeze(a1, axes)  r = Abs(a)  y = MatMul(r, w2) }"""
        given = {"q1": q1, "s1": s1, "w2": WEIGHTS["w2"], "axes": np.array([0])}
        verdict = self.verify(text, given)
        assert verdict.status == "pass", verdict
        assert [(found.kind, found.severity) for found in verdict.findings] == [("float-kernels", "warning")]

    def test_quantizing_activations_is_undeclared(self):
        q1, s1 = self.codes("w1")
        text = """net (float[N, 16] x) => (float[N, 8] y) {
            xq = QuantizeLinear(x, sx, zx)  xd = DequantizeLinear(xq, sx, zx)  d1 = DequantizeLinear(q1, s1, z1)
            a = MatMul(xd, d1)  r = Abs(a)  y = MatMul(r, w2) }"""
        given = {"q1": q1, "s1": s1, "z1": np.int8(0), "sx": np.float32(0.04), "zx": np.uint8(128), "w2": WEIGHTS["w2"]}
        assert "undeclared-precision" in fatal(self.verify(text, given, None))
        found = self.verify(text, given)
        assert found.status == "pass", found


class TestParts:
    def test_is_part(self):
        whole = seeded(4, 6, 8)
        for part in (whole, whole[:2, :3, :4], whole.reshape(4, -1)[:, :5], whole.ravel()[7:20], whole[1]):
            assert is_part(np.ascontiguousarray(part), whole)
        for other in (
            whole + np.float32(1e-6),
            np.zeros((4, 6, 8), np.float32),
            whole.astype(np.float64),
            whole[:1, :1, 0],
        ):
            assert not is_part(other, whole)

    def test_on_grid(self):
        weights = seeded(64, 32)
        scale = np.float32(np.abs(weights).max() / 127)
        assert on_grid((np.rint(weights / scale) * scale).ravel())
        assert on_grid(np.sign(weights[0]) * np.float32(0.3))
        assert not on_grid(weights.ravel()) and not on_grid(weights[0]) and not on_grid(np.ones(64, np.float32))
        assert not on_grid(weights[0, :8])

    CHANGES = (
        (lambda x: x * np.float32(1.0001), True),
        (lambda x: x + np.float32(1e-4), True),
        (lambda x: x * np.float32(1.00001), False),
        (lambda x: x + np.float32(1e-4) * seeded(64, 8, seed=5), False),
    )

    @pytest.mark.parametrize(("change", "found"), CHANGES)
    def test_patterns_of_errors(self, change: Any, found: bool):
        gain, reference = Gain(), seeded(64, 8)
        gain.add(reference, change(reference))
        assert (gain.pattern() is not None) is found

    def test_one_huge_number_is_no_pattern(self):
        gain, reference = Gain(), seeded(64, 8)
        reference[3, 3] = 1e6
        changed = reference.copy()
        changed[3, 3] *= np.float32(1.0001)
        gain.add(reference, changed)
        assert gain.pattern() is None and Gain().pattern() is None

    def test_columns_in_each_others_place(self):
        reference = seeded(64, 100)
        swapped = reference + np.float32(0.05) * seeded(64, 100, seed=1)
        honest = Columns()
        honest.add(reference, swapped.copy())
        assert honest.finding("y") is None
        swapped[:, [3, 70]] = swapped[:, [70, 3]]
        columns = Columns()
        columns.add(reference, swapped)
        finding = columns.finding("y")
        assert finding is not None and "3 holds 70, 70 holds 3" in finding.what
        empty = Columns()
        empty.add(np.zeros((4, 0), np.float32), np.zeros((4, 0), np.float32))
        assert empty.finding("y") is None

    def test_dependencies(self):
        text = """net (float[N, 4] x, float[N, 4] z, bool b) => (float[N, 4] y, float[N, 4] s, int64[2] n) {
            y = If(b) <then_branch = t () => (float[N, 4] a) { a = Relu(z) },
                       else_branch = e () => (float[N, 4] c) { c = Neg(z) }>
            s = Add(x, z)  n = Shape(x) }"""
        model = ir.from_onnx_text(HEAD + text)
        assert dependencies(model) == {"y": {"z", "b"}, "s": {"x", "z"}, "n": set()}


@pytest.mark.parametrize("ends", [(2, 0), (0, 2)])
def test_an_empty_sample_is_no_constant(ends: tuple[int, int]):
    text = "net (float[4] x, int64[1] e) => (float[N] y) <int64[1] z = {0}> { y = Slice(x, z, e) }"
    model = from_text('<ir_version: 8, opset_import: ["" : 17]>\n' + text)
    feeds = [{"x": seeded(4), "e": np.array([end])} for end in ends]
    assert Verifier(model, feeds, threads=1).verify(model.clone(), Fidelity.ROUNDING).status == "pass"


def columns_of(due: np.ndarray, found: np.ndarray) -> Columns:
    collected = Columns()
    for row in range(len(due)):
        collected.add(due[row : row + 1].astype(np.float32), found[row : row + 1].astype(np.float32))
    return collected


def test_one_large_row_swaps_no_classes():
    """Eight samples, one a hundred times as large, and noise of 6 dB: some class is near another in that row."""
    fooled = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        due = rng.standard_normal((8, 60)) * np.where(np.arange(8) == 3, 100, 1)[:, None]
        noisy = due + rng.standard_normal(due.shape) * 0.5 * np.abs(due).mean(axis=1, keepdims=True)
        fooled += columns_of(due, noisy).finding("y") is not None
        swapped = due.copy()
        swapped[:, [5, 9]] = swapped[:, [9, 5]]
        found = columns_of(due, swapped).finding("y")
        assert found is not None and "5 holds 9" in found.what
    assert not fooled
