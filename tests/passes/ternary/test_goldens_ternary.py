"""The trained BitNet-style models, as two exporters write them, and every pipeline that ends with `ternary`."""

from __future__ import annotations

import golden_tools
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from ternary_tools import ops, weight_bytes

from baker.model.graph import index_names, label
from baker.model.lower import lower
from baker.passes.cleanup import Cleanup
from baker.passes.fuse import Fuse
from baker.passes.quantize import Quantize
from baker.passes.ternary import Ternary
from baker.pipeline.pass_base import Pass, PassContext, PassResult
from baker.proof.budget import Budget
from baker.proof.verifier import Verifier
from baker.runtime.audit import audit_kernels
from baker.runtime.session import run as run_session
from baker.runtime.session import session

MLPS = ["ternary_mlp", "ternary_mlp_dynamo"]
TRANSFORMERS = ["ternary_transformer", "ternary_transformer_dynamo"]
LAYERS = {**dict.fromkeys(MLPS, 3), **dict.fromkeys(TRANSFORMERS, 6)}
FLOAT_BYTES = {**dict.fromkeys(MLPS, 4 * 512 * (784 + 512 + 10)), **dict.fromkeys(TRANSFORMERS, 4 * 128 * 12 * 128)}


def apply(model: ir.Model, passes: list[Pass], calibration=()) -> list[PassResult]:
    results = []
    for pass_ in passes:
        index_names(model)
        results.append(pass_.run(model, PassContext(calibration=calibration, threads=1)))
    return results


def score(model: ir.Model, golden: golden_tools.Golden) -> float:
    assert golden.metric is not None
    running = session(model, threads=1)
    return golden.metric(lambda feed: run_session(running, feed))


def differences(model: ir.Model, golden: golden_tools.Golden) -> list[float]:
    """Relative L2 error of the outputs against the committed model, for feeds of several batch sizes."""
    original, changed = session(golden.proto(), threads=1), session(model, threads=1)
    errors = []
    for feed in golden.feeds:
        expected, found = (next(iter(run_session(running, feed).values())) for running in (original, changed))
        errors.append(float(np.linalg.norm(found - expected) / np.linalg.norm(expected)))
    return errors


def ternary_bytes(model: ir.Model) -> int:
    """Bytes of codes and scales."""
    nodes = [node for node in model.graph if node.op_type in ("TernaryMatMul", "MatMulNBits")]
    stored = {value for node in nodes for value in node.inputs[1:3] if value is not None}
    return sum(value.const_value.nbytes for value in stored if value.const_value)


PIPELINES: dict[str, list[Pass]] = {
    "ternary": [Ternary()],
    "fuse,ternary": [Fuse(), Ternary()],
    "fuse,quantize,ternary": [Fuse(), Quantize(), Ternary()],
    "fuse,quantize,ternary{kernel=ort}": [Fuse(), Quantize(), Ternary(kernel="ort")],
    "ternary{kernel=ort}": [Ternary(kernel="ort")],
}


RUNS = [(name, data) for name in PIPELINES for data in (False, True) if "quantize" in name or not data]


@pytest.mark.parametrize(("pipeline", "calibrated"), RUNS)
@pytest.mark.parametrize("name", MLPS + TRANSFORMERS)
def test_every_ternary_linear_is_converted(name: str, pipeline: str, calibrated: bool):
    golden = golden_tools.load(name)
    model = lower(golden.model)
    apply(model, PIPELINES[pipeline], golden.feeds if calibrated else ())
    op = "MatMulNBits" if "ort" in pipeline else "TernaryMatMul"
    assert ops(model).count(op) == LAYERS[name]
    audit = audit_kernels(model)
    assert audit.ternary == LAYERS[name]
    assert ternary_bytes(model) * (14 if op == "TernaryMatMul" else 12) <= FLOAT_BYTES[name]
    assert not any(value.const_value.dtype == ir.DataType.FLOAT and value.const_value.size == 512 * 784
                   for value in model.graph.initializers.values() if value.const_value)  # fmt: skip
    alone, exact = "quantize" not in pipeline, op == "TernaryMatMul"
    limit = 1e-3 if alone and exact else 0.01 if name in MLPS else 0.03
    assert max(differences(model, golden)) < limit


@pytest.mark.parametrize("pipeline", PIPELINES)
@pytest.mark.parametrize("name", MLPS)
def test_accuracy_stays_within_a_third_of_a_point(name: str, pipeline: str):
    golden = golden_tools.load(name)
    model = lower(golden.model)
    before = score(model, golden)
    apply(model, PIPELINES[pipeline], golden.feeds)
    assert abs(score(model, golden) - before) <= 0.003


def test_the_mlp_becomes_three_nodes_and_a_fourteenth_of_the_bytes():
    golden = golden_tools.load("ternary_mlp")
    model = lower(golden.model)
    before = weight_bytes(model)
    (result,) = apply(model, [Ternary()])
    assert ops(model) == ["TernaryMatMul"] * 3
    assert [change.rule for change in result.changes] == ["lossless-per-tensor"] * 3 + ["ternary-activation"] * 2
    hidden = ["/fc1/Gemm", "/fc2/Gemm"]
    assert [change.node for change in result.changes] == [*hidden, "/head/Gemm", *hidden]
    assert not result.declined
    assert 14 * weight_bytes(model) <= before


def test_kernel_ort_needs_no_library():
    golden = golden_tools.load("ternary_mlp")
    model, ours = lower(golden.model), lower(golden.model)
    apply(model, [Ternary(kernel="ort")])
    apply(ours, [Ternary()])
    content = ir.to_proto(model)
    assert {entry.domain for entry in content.opset_import} == {"", "com.microsoft"}
    onnx.checker.check_model(content)
    stock = ort.InferenceSession(content.SerializeToString(), providers=["CPUExecutionProvider"])
    for feed in golden.feeds:
        found = stock.run(None, feed)[0]
        expected = run_session(session(ours, threads=1), feed)["logits"]
        assert np.linalg.norm(found - expected) < 0.01 * np.linalg.norm(expected)
        np.testing.assert_array_equal(found.argmax(axis=1), expected.argmax(axis=1))


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_a_float_head_is_declined_with_the_reason(name: str):
    model = lower(golden_tools.load(name).model)
    (result,) = apply(model, [Ternary()])
    table, declined, *merges = result.declined
    assert all(entry.rule.startswith("ternary-") for entry in merges)
    assert table.rule == "embedding" and "embedding=int8" in table.reason
    assert declined.reason == (
        "the weights are not ternary: 256 of 256 output channels hold more than one magnitude "
        "(channel 0: 0.001614 to 1.086); rounding it needs an explicit budget, such as sqnr=20dB"
    )


@pytest.mark.parametrize("quantized", [False, True])
def test_every_form_in_one_model(quantized: bool):
    golden = golden_tools.load("ternary_forms")
    model = lower(golden.model)
    apply(model, [*([Quantize()] if quantized else []), Ternary(fuse=False)], golden.feeds)
    found = {node.name for node in model.graph if node.op_type == "TernaryMatMul"}
    everything = {name for name in (node.name for node in golden.proto().graph.node) if name.startswith("linear_")}
    assert found == everything - {"linear_dense", "linear_almost"}
    assert max(differences(model, golden)) < 0.02
    apply(model, [Ternary()], golden.feeds)
    assert ops(model).count("TernaryMatMul") < len(found) == audit_kernels(model).ternary
    assert max(differences(model, golden)) < 0.02


def test_a_float_network_gets_no_ternary():
    golden = golden_tools.load("digits_cnn")
    model = lower(golden.model)
    results = apply(model, [Fuse(), Quantize(), Ternary()], golden.feeds)
    assert not results[-1].changes
    reasons = {declined.node: declined.reason for declined in results[-1].declined}
    layers = [node for node in model.graph if node.op_type in ("Conv", "Gemm", "MatMul")]
    assert len(reasons) == len(layers)
    assert "TernaryMatMul" not in ops(model)


@pytest.mark.parametrize("budget", ["sqnr=3dB", "sqnr=8dB", "sqnr=60dB", "top1=0.95"])
def test_a_float_network_under_a_budget(budget: str):
    golden = golden_tools.load("digits_cnn")
    model = lower(golden.model)
    verifier = Verifier(model.clone(), golden.feeds, threads=1)
    apply(model, [Fuse(), Quantize()], golden.feeds)
    layers = sorted(label(node) for node in model.graph if node.op_type in ("Conv", "Gemm", "MatMul"))
    met = verifier.measure(model, Budget.parse(budget)).met
    index_names(model)
    result = Ternary(budget=budget).run(model, PassContext(verifier=verifier))
    rounded = [change for change in result.changes if not change.rule.startswith("ternary-")]
    assert sorted([entry.node for entry in (*rounded, *result.declined)]) == layers
    assert verifier.measure(model, Budget.parse(budget)).met == met
    assert all(change.rule == "post-training" for change in rounded)
    assert bool(result.warnings) == bool(result.changes) == bool(rounded)
    assert ops(model).count("TernaryMatMul") == len(rounded)
    if budget == "sqnr=3dB":
        assert result.changes
    if budget == "sqnr=60dB":
        assert not result.changes


@pytest.mark.parametrize("name", MLPS + TRANSFORMERS)
def test_a_second_run_changes_nothing(name: str):
    model = lower(golden_tools.load(name).model)
    apply(model, [Ternary(), Cleanup()])
    before = ir.to_proto(model).SerializeToString()
    (again,) = apply(model, [Ternary()])
    assert not again.changes
    assert ir.to_proto(model).SerializeToString() == before
