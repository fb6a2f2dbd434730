"""What the report says of each layer: the form it got, what that costs and saves. No timings are asserted."""

from __future__ import annotations

import json

import numpy as np
import onnx_ir as ir
import pytest
from correlated import inputs
from ternary_tools import Sketch, ternary

from baker.passes.ternary import account
from baker.pipeline.bake import bake
from baker.pipeline.pass_base import LayerRecord, PassContext
from baker.proof.budget import Budget
from baker.proof.verifier import Verifier
from baker.runtime.session import run, session

K, M = 192, 16


def mixed_model() -> ir.Model:
    """A ternary layer, Relu, and a float one."""
    rng = np.random.default_rng(0)
    sketch = Sketch((M, K))
    planted = (rng.integers(-1, 2, (K, K)) * 0.07).astype(np.float32)
    hidden = sketch.op("Relu", sketch.op("MatMul", sketch.x, sketch.weight(planted, "planted")))
    matrix = (rng.standard_normal((K, K)) * K**-0.5).astype(np.float32)
    return sketch.model(sketch.op("MatMul", hidden, sketch.weight(matrix, "trained")))


def context(model: ir.Model, budget: str | None) -> PassContext:
    feeds = [{"x": part} for part in inputs(M * 72, K, 0.5).reshape(72, M, K)]
    reference = model.clone()
    return PassContext(
        reference=reference,
        calibration=feeds[:64],
        verifier=Verifier(reference, feeds[64:], threads=1),
        budget=None if budget is None else Budget.parse(budget),
        threads=1,
    )


def outputs(model: ir.Model, x: np.ndarray) -> np.ndarray:
    """Of each M rows of x, together."""
    runner = session(model, threads=1)
    return np.concatenate([run(runner, {"x": part}, ["v2_0"])["v2_0"] for part in np.split(x, len(x) // M)])


def test_each_layer_is_told_of():
    model = mixed_model()
    planted, trained = ternary(model, context(model, None), fuse=False).layers
    assert planted.forms == ("float", "ternary") and planted.error == 0 and planted.error_of == "weight"
    assert planted.bytes == (4 * K * K, K * K // 4 + 4)  # one scale
    assert planted.micros is not None and min(planted.micros) > 0 and planted.rows == M
    assert trained == LayerRecord(trained.node, ("float", "float"), K, K, (4 * K * K, 4 * K * K), rows=M)
    assert not trained.changed


@pytest.mark.parametrize(("budget", "form"), [("sqnr=33dB", "int8"), ("sqnr=18dB", "int4"), ("sqnr=4dB", "ternary")])
def test_the_error_is_that_of_the_output(budget: str, form: str):
    model = mixed_model()
    ctx = context(model, budget)
    fallback = ("int4", "int8") if form == "ternary" else (form,)
    trained = ternary(model, ctx, fuse=False, fallback=fallback).layers[1]
    assert trained.forms == ("float", form) and trained.error_of == "output"
    assert ctx.reference is not None
    x = np.concatenate([feed["x"] for feed in ctx.calibration])
    before, after = (outputs(m, x) for m in (ctx.reference, model))
    seen = np.linalg.norm(after - before) / np.linalg.norm(before)
    assert abs(trained.error - seen) < 0.15 * seen + 0.006  # int8 activations of two layers count in what is seen
    assert trained.bytes[0] > 3.5 * trained.bytes[1]


def test_without_feeds_nothing_is_timed():
    model = mixed_model()
    assert [layer.micros for layer in ternary(model, PassContext(), fuse=False).layers] == [None, None]


def test_what_is_held_back_stays_what_it_was(monkeypatch):
    model = mixed_model()
    monkeypatch.setattr(PassContext, "admits", lambda self, rule, node: False)
    assert not any(layer.changed for layer in ternary(model, PassContext(), fuse=False).layers)


def test_few_shapes_are_timed(monkeypatch):
    monkeypatch.setattr(account, "_MAX_TIMED", 0)
    model = mixed_model()
    planted = ternary(model, context(model, None), fuse=False).layers[0]
    assert planted.changed and planted.micros is None


def test_json_and_table(tmp_path):
    report = bake(mixed_model(), "fuse,ternary").report
    (fuse, found) = json.loads(report.to_json())["passes"]
    assert fuse["layers"] == []
    assert [layer["forms"] for layer in found["layers"]] == [["float", "ternary"], ["float", "float"]]
    assert all(len(layer["micros"] or (0, 0)) == 2 for layer in found["layers"])
    short, long = report.table(), report.table(verbose=True)
    assert "float → ternary" in short and short.count("192 × 192") == 1
    assert long.count("192 × 192") == 2


@pytest.mark.parametrize("shape", [(16, 0), (0, 8)])
def test_a_layer_of_nothing_is_left_alone(shape: tuple[int, int]):
    sketch = Sketch((2, shape[0]))
    model = sketch.model(sketch.op("MatMul", sketch.x, sketch.weight(np.zeros(shape, np.float32), "w")))
    (record,) = bake(model, "ternary").report.passes
    assert record.status == "unchanged" and record.layers == () and "holds nothing" in record.declined[0].reason
