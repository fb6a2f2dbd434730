"""`baker.bake` and `baker.verify`: goals, and what the report tells of them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from helpers import seeded

import baker
from baker.errors import GateError, UsageError

TEXT = """<ir_version: 8, opset_import: ["": 17]>
g (float[N,16] x) => (float[N,8] y) { i = Identity(x)  y = MatMul(i, w) }"""
X = seeded(64, 16, seed=1)
CALIB = [{"x": X[start : start + 8]} for start in range(0, 64, 8)]


def proto(factor: float = 1.0) -> onnx.ModelProto:
    model = onnx.parser.parse_model(TEXT)
    model.graph.initializer.append(onnx.numpy_helper.from_array(seeded(16, 8) * np.float32(factor), "w"))
    return model


def closeness(run) -> float:
    """1 for the model as it is, less by the relative error of its outputs."""
    wanted = X @ seeded(16, 8)
    (found,) = run({"x": X}).values()
    return 1.0 - float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def test_a_metric_without_a_budget_is_held_to_one_per_cent_and_reported():
    budget = baker.bake(proto(), "fuse", calib=CALIB, metric=closeness).report.budget
    assert budget is not None
    assert (budget.kind, budget.limit, budget.met) == ("metric", 0.01, True)
    assert budget.value == pytest.approx(0, abs=1e-5)


def test_the_reported_budget_is_the_one_that_the_result_was_held_to():
    report = baker.bake(proto(), "quantize{budget=sqnr=5dB},fuse", calib=CALIB, budget="sqnr=90dB").report
    assert report.budget is not None
    assert (report.budget.kind, report.budget.limit, report.budget.met) == ("sqnr", 5.0, True)
    worst = report.verification.outputs["y"].sqnr_db
    assert report.budget.value == pytest.approx(worst)
    assert 5 < worst < 90


@pytest.mark.parametrize(("option", "value"), [("target", "gpu"), ("on_fail", "ignore")])
def test_an_unknown_word_is_refused(option: str, value: str):
    with pytest.raises(UsageError, match=f"{option} is one of .*; found '{value}'"):
        baker.bake(proto(), "fuse", **{option: value})


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("budget", 20, "found int 20"),
        ("metric", 0.5, "found float 0.5"),
        ("seed", -1, "0 or more; found -1"),
        ("seed", "one", "found 'one'"),
        ("calib", {"x": X[:0]}, r"holds no sample: input 'x' is empty, found \(0, 16\)"),
        ("calib", "", "an empty path"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused(option: str, value: object, says: str):
    with pytest.raises(UsageError, match=says):
        baker.bake(proto(), "fuse", **{option: value})


def test_what_is_no_model_is_not_saved(tmp_path):
    for wrong in (proto(), baker.bake(proto(), "fuse", calib=CALIB)):
        with pytest.raises(UsageError, match=r"found (ModelProto|Baked)\. Give baker\.lower\(\.\.\.\) or baked\.model"):
            baker.save(wrong, tmp_path / "out.onnx")
    assert not [*tmp_path.iterdir()]


def test_a_target_that_nothing_runs_on_is_said():
    report = baker.bake(proto(), "fuse", calib=CALIB, target="cuda").report
    assert any("are the CPU's" in warning for warning in report.warnings())


@pytest.mark.parametrize(("factor", "status"), [(1.005, "pass"), (1.02, "fail")])
def test_verify_by_a_metric_alone(factor: float, status: str):
    verdict = baker.verify(proto(), proto(factor), calib=CALIB, metric=closeness)
    assert verdict.status == status
    assert verdict.measurement is not None
    assert verdict.measurement.value == pytest.approx(factor - 1, abs=1e-4)


def test_verify_without_a_goal_is_held_to_rounding():
    assert baker.verify(proto(), proto(1.005), calib=CALIB).status == "fail"
    assert baker.verify(proto(), proto(1 + 1e-7), calib=CALIB).status == "pass"


def test_a_budget_on_a_metric_needs_one():
    with pytest.raises(UsageError, match="no metric was given"):
        baker.bake(proto(), "fuse", budget="1%")


@pytest.mark.parametrize("verify", [True, False])
def test_what_lower_could_not_do_is_reported(verify: bool):
    old = proto()
    old.ir_version = 3
    old.graph.input.append(onnx.helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [16, 8]))
    report = baker.bake(old, "cleanup", calib=CALIB, verify=verify).report
    assert any("IR version 4" in warning for warning in report.warnings())


def test_a_gate_that_fails_hands_out_the_report_and_no_model():
    with pytest.raises(GateError) as caught:
        baker.bake(proto(), "quantize,verify{against=exact}", calib=CALIB)
    assert [record.status for record in caught.value.report.passes] == ["kept", "rolled back"]
    assert "verify: " in str(caught.value)


@pytest.mark.parametrize(
    ("pipeline", "character"),
    [("quantize{budget=9%}", 1), ("fuse,try(quantize{budget=9%})", 10), ("ternary{budget=1%}", 1)],
)
def test_a_budget_of_a_pass_that_needs_a_metric_is_refused_where_it_stands(tmp_path, pipeline, character):
    with pytest.raises(UsageError, match=f"character {character}: .*: budget '.%' is relative to a metric") as caught:
        baker.bake(tmp_path / "is never opened.onnx", pipeline)
    assert "--metric module:function" in str(caught.value)
