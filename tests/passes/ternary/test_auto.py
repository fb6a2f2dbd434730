"""kernel=auto: the rule by which a lowering is picked, the rows it is picked for, and that what is picked is right."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
import pytest
from helpers import seeded
from ternary_tools import Sketch, activation_bound, codes, outputs

from baker.model.graph import all_nodes
from baker.passes.ternary import Ternary, auto, clock
from baker.passes.ternary.auto import lowering
from baker.passes.ternary.clock import Form, Shape, Timing
from baker.passes.ternary.rows import Use, Uses
from baker.pipeline.pass_base import PassContext, PassResult


def told(monkeypatch: pytest.MonkeyPatch, times: Mapping[Form, float], missing: Mapping[Form, str] | None = None):
    """Makes the clock say these times of every shape; returns the questions that it was asked."""
    asked: list[tuple[Shape, int | None]] = []

    def measure(shape: Shape, *, forms: tuple[Form, ...], threads: int | None) -> Timing:
        asked.append((shape, threads))
        return Timing(shape, {form: times[form] for form in forms if form in times}, missing or {}, shape, 4)

    monkeypatch.setattr(clock, "measure", measure)
    return asked


def layer(k: int = 128, n: int = 48, x_shape: tuple[object, ...] = ("batch", 128), group: int = 0) -> ir.Model:
    sketch = Sketch(x_shape)
    s = np.float32(0.1)
    if group:
        s = np.repeat(np.random.default_rng(0).uniform(0.1, 1, (-(-k // group), n)), group, axis=0)[:k]
    return sketch.model(sketch.op("MatMul", sketch.x, sketch.weight((codes(k, n) * s).astype(np.float32))))


def bake(model: ir.Model, context: PassContext | None = None, **options: object) -> PassResult:
    return Ternary(kernel="auto", **options).run(model, context or PassContext(threads=1))


def kinds(model: ir.Model) -> list[str]:
    return [node.op_type for node in all_nodes(model)]


class TestTheRule:
    @pytest.mark.parametrize(
        ("times", "kernel", "op_type"),
        [
            ({"baker": 5.0, "ort": 9.81}, "baker", "TernaryMatMul"),
            ({"baker": 12.0, "ort": 9.81}, "ort", "MatMulNBits"),
            ({"baker": 9.81, "ort": 9.81}, "baker", "TernaryMatMul"),
        ],
    )
    def test_the_faster_one(self, monkeypatch, times, kernel, op_type):
        asked = told(monkeypatch, times)
        found = lowering("auto", 128, 48, 0, Use(7, "as declared", 1))
        assert isinstance(found, auto.Lowering) and found.kernel == kernel
        assert asked == [(Shape(7, 128, 48, 0), 1)]
        model = layer()
        (change,) = bake(model).changes
        assert kinds(model) == [op_type] and f"-> {op_type}:" in change.what

    def test_the_report_holds_both_times_and_the_rows(self, monkeypatch):
        told(monkeypatch, {"baker": 12.0, "ort": 9.81})
        (change,) = bake(layer(x_shape=(4, 8, 128))).changes
        assert "measured here at M = 32 (as declared): MatMulNBits 9.81 us, TernaryMatMul 12 us" in change.what

    def test_where_one_can_not_be_had_the_other_is_taken(self, monkeypatch):
        told(monkeypatch, {"ort": 9.0}, {"baker": "the custom-op library was not built"})
        model = layer()
        (change,) = bake(model).changes
        assert kinds(model) == ["MatMulNBits"]
        assert "TernaryMatMul is not to be had: the custom-op library was not built" in change.what

    def test_where_none_can_be_had_the_layer_is_declined(self, monkeypatch):
        told(monkeypatch, {}, {"baker": "no library", "ort": "no operator"})
        model = layer()
        (declined,) = bake(model).declined
        assert declined.reason.startswith("no library; no operator")
        assert kinds(model) == ["MatMul"]

    @pytest.mark.parametrize("kernel", ["baker", "ort"])
    def test_a_kernel_that_was_asked_for_is_not_measured(self, monkeypatch, kernel):
        asked = told(monkeypatch, {"baker": 1.0, "ort": 1.0})
        (change,) = Ternary(kernel=kernel).run(layer(), PassContext()).changes
        assert not asked and "measured" not in change.what

    def test_each_layer_gets_its_own(self, monkeypatch):
        def measure(shape: Shape, *, forms: tuple[Form, ...], threads: int | None) -> Timing:
            return Timing(shape, {"baker": shape.channels / 40, "ort": 1.0}, {}, shape, 4)

        monkeypatch.setattr(clock, "measure", measure)
        sketch = Sketch(("batch", 96))
        hidden = sketch.op("MatMul", sketch.x, sketch.weight(codes(96, 128) * np.float32(0.1)))
        y = sketch.op("MatMul", sketch.op("Relu", hidden), sketch.weight(codes(128, 32, 1) * np.float32(0.1)))
        model = sketch.model(y)
        x = seeded(3, 96)
        before = outputs(model, x)[0]
        bake(model)
        assert kinds(model) == ["MatMulNBits", "Relu", "TernaryMatMul"]
        assert {"ai.baker", "com.microsoft"} <= set(model.opset_imports)
        after = outputs(model, x)[0]
        assert np.linalg.norm(after - before) <= 0.03 * np.linalg.norm(before)


class TestRows:
    def test_declared(self):
        model = layer(x_shape=(2, 3, 5, 128))
        assert Uses(model).find(model.graph.inputs[0]) == Use(30, "as declared")
        vector = layer(x_shape=(128,))
        assert Uses(vector).find(vector.graph.inputs[0]) == Use(1, "as declared")

    def test_assumed_where_nothing_tells(self):
        model = layer()
        assert Uses(model).find(model.graph.inputs[0]) == Use(1, "assumed")

    def test_seen_on_a_sample_inside_the_model(self):
        sketch = Sketch(("batch", "time", 128))
        hidden = sketch.op("MatMul", sketch.x, sketch.weight(codes(128, 48) * np.float32(0.1)))
        flat = sketch.op("Reshape", hidden, sketch.constant((-1, 96), np.int64))
        model = sketch.model(sketch.op("MatMul", flat, sketch.weight(codes(96, 8) * np.float32(0.1))))
        uses = Uses.of(model, PassContext(calibration=[{"x": seeded(2, 6, 128)}, {"x": seeded(1, 2, 128)}], threads=1))
        assert uses.find(model.graph.inputs[0]) == Use(12, "as on the first sample", 1)
        assert uses.find(flat) == Use(6, "as on the first sample", 1)
        assert [node.op_type for node in model.graph].count("Shape") == 0

    def test_a_model_that_can_not_be_run_has_rows_all_the_same(self):
        model = layer()
        uses = Uses(model, {"x": np.zeros((5, 127), np.float32)}, 1)
        assert uses.find(model.graph.inputs[0]) == Use(5, "as on the first sample", 1)
        assert uses.find(model.graph.outputs[0]) == Use(1, "assumed", 1)

    def test_a_layer_is_timed_at_the_rows_of_the_sample(self, monkeypatch):
        asked = told(monkeypatch, {"baker": 1.0, "ort": 2.0})
        bake(layer(), PassContext(calibration=[{"x": seeded(9, 128)}], threads=1))
        assert asked == [(Shape(9, 128, 48, 0), 1)]


class TestForReal:
    @pytest.mark.parametrize(("group", "x_shape"), [(0, ("batch", 128)), (32, (3, 128)), (16, ("batch", 128))])
    def test_what_is_picked_computes_the_layer(self, group, x_shape):
        model = layer(x_shape=x_shape, group=group)
        matrix = model.graph.node(0).inputs[1].const_value.numpy().copy()
        x = seeded(3, 128)
        before = outputs(model, x)[0]
        (change,) = bake(model).changes
        if group == 16:
            assert kinds(model) == ["TernaryMatMul"]
            assert "MatMulNBits is not to be had: kernel=ort needs scale groups of a multiple of 32" in change.what
        else:
            assert "measured here at M = " in change.what and change.what.count(" us") == 2
        assert (np.abs(outputs(model, x)[0] - before) <= activation_bound(x, matrix)).all()

    def test_a_gemm_with_all_its_attributes(self):
        sketch = Sketch(("batch", 128))
        weight = (codes(128, 24) * np.float32(0.1)).T.copy()
        y = sketch.op("Gemm", sketch.x, sketch.weight(weight), sketch.weight(seeded(24)), transB=1, alpha=0.5, beta=2.0)
        model = sketch.model(y)
        x = seeded(4, 128)
        before = outputs(model, x)[0]
        assert len(bake(model).changes) == 1
        assert (np.abs(outputs(model, x)[0] - before) <= activation_bound(x, 0.5 * weight.T)).all()

    def test_the_same_process_picks_the_same(self):
        first, second = layer(), layer()
        assert bake(first).changes == bake(second).changes
