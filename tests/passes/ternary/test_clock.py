"""The clock: what it times is the same product in every form, bounded, and measured once. No timings are asserted."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
import pytest
from helpers import seeded

from baker.passes.ternary import clock, contenders
from baker.passes.ternary.clock import FORMS, Shape, Timing, measure, sample_of
from baker.runtime.session import run, session

SMALL = Shape(2, 160, 24)


@pytest.mark.parametrize("group", [0, 32, 64, 96, 128, 256])
@pytest.mark.parametrize(("depth", "channels"), [(128, 32), (160, 24), (300, 7), (20, 1)])
def test_the_forms_compute_the_same_product(depth: int, channels: int, group: int):
    shape = Shape(3, depth, channels, group)
    layers = contenders.weights(shape, 2)
    x = seeded(3, depth)
    for form in FORMS:
        if form == "int8" and group:
            continue  # one scale a channel there: as fast, but another product
        got = run(session(contenders.model(form, layers), threads=1), {"x": x})
        for index, layer in enumerate(layers):
            expected = x @ layer.dequantized().T
            bound = np.abs(layer.dequantized()).sum(axis=1).max() * np.abs(x).max() / 100
            assert np.abs(got[f"y{index}"] - expected).max() <= bound, form


def test_the_layers_of_a_session_have_weights_of_their_own():
    layers = contenders.weights(Shape(1, 64, 8), 3)
    assert all((a.codes != b.codes).any() for a in layers for b in layers if a is not b)
    for form in FORMS:
        model = contenders.model(form, layers)
        assert len(model.graph) == len(model.graph.outputs) == 3
        read = [value for node in model.graph for value in node.inputs[1:]]
        assert len(set(read)) == len(read)


def test_every_form_of_a_shape_is_timed():
    timing = measure(SMALL)
    assert list(timing.micros) == list(FORMS)
    assert all(np.isfinite(value) and value > 0 for value in timing.micros.values())
    assert timing.unavailable == {} and timing.shape == SMALL


def test_a_shape_is_timed_once(monkeypatch: pytest.MonkeyPatch):
    first = measure(dataclasses.replace(SMALL, channels=25))
    monkeypatch.setattr(clock, "session", None)  # making another would fail
    assert measure(Shape(2, 160, 25)) is first
    with pytest.raises(TypeError):
        measure(Shape(2, 160, 26))


def test_a_form_that_can_not_be_had_says_why():
    timing = measure(Shape(1, 96, 8, group=48), forms=("ort", "baker"))
    assert list(timing.micros) == ["baker"]
    assert "multiple of 32 weights, this weight has 48" in timing.unavailable["ort"]
    assert "scale groups of a multiple of 16" in str(contenders.hindrance("baker", Shape(1, 96, 8, group=24)))
    assert "sums up to 524288" in str(contenders.hindrance("baker", Shape(1, 2**19 + 1, 8)))
    assert [contenders.hindrance(form, Shape(1, 96, 8, group=48)) for form in ("float", "int8", "int4")] == [None] * 3


def test_without_the_library_its_form_is_missing_and_says_so(monkeypatch: pytest.MonkeyPatch):
    def missing() -> str:
        raise clock.BakerError("the custom-op library was not built")

    monkeypatch.setattr("baker.runtime.session.custom_ops_library", missing)
    timing = measure(Shape(1, 64, 40), forms=("float", "baker"))
    assert list(timing.micros) == ["float"]
    assert timing.unavailable == {"baker": "the custom-op library was not built"}


@pytest.mark.parametrize("rows", [1, 8, 32, 128, 100_000])
@pytest.mark.parametrize("depth", [1, 64, 768, 4096, 11008, 2**16, 2**19])
@pytest.mark.parametrize("channels", [1, 64, 1000, 4096, 152_064])
def test_what_is_timed_is_bounded(rows: int, depth: int, channels: int):
    shape = Shape(rows, depth, channels, 64)
    part, nodes = sample_of(shape)
    assert 1 <= part.rows <= rows and 1 <= part.channels <= channels and part.depth == depth and part.group == 64
    assert 1 <= nodes <= 16
    weights = part.depth * part.channels * nodes
    assert weights <= max(clock.MAX_WEIGHTS, 64 * depth)
    assert part.rows * weights <= max(2**28, 64 * depth * part.rows)
    assert part.channels == channels or part.channels % 64 == 0  # whole panels stand for the others


def test_large_layers_are_timed_by_a_part_and_scaled_up(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(clock, "_interleaved", lambda calls, one_thread: {form: [3e-6, 2e-6, 9e-6] for form in calls})
    timing = measure(Shape(256, 4096, 1024), forms=("baker",))
    assert timing.timed == Shape(128, 4096, 512) and timing.nodes == 1
    assert timing.micros["baker"] == pytest.approx(3.0 * 2 * 2)


def test_the_fastest_of_what_can_be_had():
    timing = Timing(SMALL, {"ort": 2.0, "baker": 1.0, "float": 2.0}, {"int8": "not here"}, SMALL, 4)
    assert timing.fastest(("ort", "baker")) == "baker"
    assert timing.fastest(("int8", "ort", "float")) == "ort"
    assert timing.fastest(("int8",)) is None


@pytest.mark.parametrize("dims", [(0, 1, 1), (1, 0, 1), (1, 1, 0), (1, 1, 1, -1)])
def test_shapes_that_are_none(dims: tuple[int, ...]):
    with pytest.raises(ValueError, match="must be positive"):
        Shape(*dims)


def test_models_of_forms_are_valid():
    for form in FORMS:
        model = contenders.model(form, contenders.weights(SMALL, 2))
        assert isinstance(model, ir.Model) and [value.name for value in model.graph.inputs] == ["x"]
        assert {node.op_type for node in model.graph} == {
            {"float": "MatMul", "int8": "DynamicQuantizeMatMul", "baker": "TernaryMatMul"}.get(form, "MatMulNBits")
        }
