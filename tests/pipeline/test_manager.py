"""A pass is a transaction: proven, or undone and named."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from helpers import from_text, ops, outputs, seeded

from baker.model.graph import all_nodes, constant_value, emit, replace_value, set_initializer
from baker.pipeline.manager import OnFail, PassManager
from baker.pipeline.pass_base import Change, LossyPass, Pass, PassContext, PassResult
from baker.pipeline.report import Report
from baker.proof.numerics import Fidelity
from baker.proof.recorder import Recorder
from baker.proof.verifier import Verifier

TEXT = """<ir_version: 9, opset_import: ["": 18]>
g (float[N,4] x) => (float[N,3] y) { h = MatMul (x, w) y = Relu (h) }"""


def model() -> ir.Model:
    return from_text(TEXT, {"w": seeded(4, 3)})


FEEDS = [{"x": seeded(2, 4, seed=seed)} for seed in range(3)]


def run(
    pipeline: Any, *, on_fail: OnFail = "rollback", verify: bool = True, each: bool = False, strict: bool = False
) -> tuple[ir.Model, Report]:
    source = model()
    context = PassContext(reference=source, verifier=Verifier(source, FEEDS, strict=strict, threads=1))
    return PassManager(pipeline, on_fail=on_fail, verify=verify, verify_each=each).run(source, context)


class AddAbs(Pass):
    """Puts Abs behind the Relu: a change that changes no number."""

    name = "addabs"
    fidelity = Fidelity.EXACT

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        relu = next(node for node in model.graph if node.op_type == "Relu")
        if any(node.op_type == "Abs" for node in model.graph):
            return PassResult(model)
        (before,) = relu.inputs
        assert before is not None
        twice = emit(relu, "Relu", [before])
        relu.op_type = "Abs"
        relu.replace_input_with(0, twice.outputs[0])
        return PassResult(model, [Change("addabs", "relu", "Abs(Relu)")])


class Doubles(AddAbs):
    """The same, as a pass that may round."""

    name = "doubles"
    fidelity = Fidelity.ROUNDING


class Still(Pass):
    """Changes nothing."""

    name = "still"
    fidelity = Fidelity.EXACT

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        return PassResult(model)


class RaisesHalfWay(Pass):
    """Breaks the model, then raises."""

    name = "raises"
    fidelity = Fidelity.EXACT

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        next(iter(model.graph)).op_type = "Nonsense"
        raise RuntimeError("half-way")


class Leaves(Pass):
    """Ends the process, were it let to."""

    name = "leaves"
    fidelity = Fidelity.EXACT

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        raise SystemExit(0)


class WrongType(Pass):
    """Returns something that is no result."""

    name = "wrongtype"
    fidelity = Fidelity.EXACT

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        return model  # type: ignore[return-value]  # what is tested


class Invalid(Pass):
    """Leaves an operator that does not exist."""

    name = "invalid"
    fidelity = Fidelity.EXACT

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        next(iter(model.graph)).op_type = "NoSuchOperator"
        return PassResult(model, [Change("invalid", "n", "op")])


class RenamesOutput(Pass):
    """Gives the output another name."""

    name = "renames"
    fidelity = Fidelity.EXACT

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        model.graph.outputs[0].name = "z"
        return PassResult(model, [Change("renames", "y", "z")])


class Nudges(Pass):
    """Says ROUNDING and moves a weight by 1 %."""

    name = "nudges"
    fidelity = Fidelity.ROUNDING
    by: float = 1.01

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        matmul = next(node for node in model.graph if node.op_type == "MatMul")
        weight = constant_value(matmul.inputs[1])
        assert weight is not None
        matmul.replace_input_with(1, set_initializer(model.graph, "w2", (weight * self.by).astype(np.float32)))
        return PassResult(model, [Change("nudges", "w", "w2")])


class Silent(Pass):
    """Changes a weight and does not say so."""

    name = "silent"
    fidelity = Fidelity.ROUNDING

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        Nudges(by=1.5).run(model, context)
        return PassResult(model)


class WritesInPlace(Pass):
    """Writes into the array of a tensor, which every clone shares."""

    name = "inplace"
    fidelity = Fidelity.EXACT

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        weight = next(iter(model.graph.initializers.values())).const_value
        assert weight is not None
        weight.numpy()[...] = 0
        return PassResult(model, [Change("inplace", "w", "zeros")])


BAD = [RaisesHalfWay(), Leaves(), WrongType(), Invalid(), RenamesOutput(), Nudges(), Silent(), WritesInPlace()]


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.name)
def test_a_bad_pass_is_undone_named_and_the_rest_runs(bad: Pass) -> None:
    result, report = run([bad, AddAbs()])
    first, second = report.passes
    assert (first.name, first.status) == (bad.name, "rolled back") and first.error
    assert second.status == "kept" and ops(result) == ["MatMul", "Relu", "Abs"]
    assert len(report.failures()) == 1 and report.failures()[0].startswith(bad.name)
    np.testing.assert_array_equal(outputs(result, FEEDS[0])["y"], outputs(model(), FEEDS[0])["y"])


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.name)
def test_stop_ends_at_the_first_failure(bad: Pass) -> None:
    result, report = run([bad, AddAbs()], on_fail="stop")
    assert [record.name for record in report.passes] == [bad.name]
    assert ops(result) == ["MatMul", "Relu"] and report.failures()


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (RaisesHalfWay(), "RuntimeError: half-way"),
        (WrongType(), "returned Model where a PassResult"),
        (Invalid(), "not a valid ONNX model.*NoSuchOperator"),
        (RenamesOutput(), "interface changed.*'z'"),
        (Nudges(), "verdict fail"),
        (WritesInPlace(), "read-only"),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_the_report_says_why(bad: Pass, said: str) -> None:
    _, report = run(bad)
    assert report.passes[0].error is not None

    assert re.search(said, report.passes[0].error), report.passes[0].error


def test_keep_writes_the_failed_model_and_marks_it() -> None:
    result, report = run(Nudges(), on_fail="keep")
    assert report.passes[0].status == "failed" and report.failures()
    assert result.metadata_props["baker.unverified"] == "true"
    assert not np.array_equal(outputs(result, FEEDS[0])["y"], outputs(model(), FEEDS[0])["y"])


def test_what_comes_after_a_kept_failure_is_not_to_blame() -> None:
    result, report = run([Nudges(), AddAbs()], on_fail="keep")
    assert [record.status for record in report.passes] == ["failed", "kept"]
    assert report.passes[1].verdict == "pass" and report.verification.verdict == "fail"
    assert [failure.split(":")[0] for failure in report.failures()] == ["nudges", "result"]
    assert ops(result) == ["MatMul", "Relu", "Abs"]


def test_keep_never_keeps_a_broken_model() -> None:
    result, report = run(RaisesHalfWay(), on_fail="keep")
    assert report.passes[0].status == "rolled back" and ops(result) == ["MatMul", "Relu"]


def test_the_callers_model_is_not_touched() -> None:
    source = model()
    before = ir.to_proto(source).SerializeToString()
    PassManager([AddAbs(), Nudges()], verify=False).run(source)
    assert ir.to_proto(source).SerializeToString() == before


def test_a_silent_change_is_found_and_said() -> None:
    _, report = run(Silent(), verify=False)
    assert [change.what for change in report.passes[0].changes] == ["changed; the pass did not say what"]


def test_an_aim_that_fits_no_name_is_told() -> None:
    class Aimed(LossyPass):
        """Changes nothing."""

        name = "aimed"

        def run(self, model: ir.Model, context: PassContext) -> PassResult:
            return PassResult(model)

    _, report = run(Aimed(only=("w",), skip=("/haed/*", "MatMul*")))
    (warning,) = report.passes[0].warnings
    assert "no node or weight is called '/haed/*'" in warning


def test_the_reference_runs_once_and_what_changed_nothing_is_not_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted by the sessions that are made: the original's, and one for each pass that changed something."""
    made: list[list[str]] = []
    real = Recorder.open

    def counted(self: Recorder, model: ir.Model, *, optimize: bool) -> Any:
        made.append(ops(model))
        return real(self, model, optimize=optimize)

    monkeypatch.setattr(Recorder, "open", counted)
    once, twice = ["MatMul", "Relu"], ["MatMul", "Relu", "Abs"]
    source = model()
    context = PassContext(reference=source, verifier=Verifier(source, FEEDS, threads=1))
    _, report = PassManager([Nudges(by=1.0), Still(), Still(), Doubles(), Still()]).run(source, context)
    assert [record.status for record in report.passes] == ["kept", *["unchanged"] * 2, "kept", "unchanged"]
    assert made == [once, once, twice]


def test_verify_each_names_the_rewrite() -> None:
    class ByRule(Pass):
        """Calls the checkpoint as apply_rewrites does."""

        name = "byrule"
        fidelity = Fidelity.ROUNDING

        def run(self, model: ir.Model, context: PassContext) -> PassResult:
            result = Nudges().run(model, context)
            assert context.checkpoint is not None
            context.checkpoint(model, result.changes[0])
            return result

    _, report = run(ByRule(), each=True)
    assert report.passes[0].error is not None and "after rewrite 'nudges' at 'w'" in report.passes[0].error


def test_without_verification_nothing_is_judged_and_the_report_says_so() -> None:
    _, report = run(Nudges(), verify=False)
    assert report.passes[0].verdict == report.verification.verdict == "not verified" and not report.failures()


class Coarse(LossyPass):
    """Moves a weight a lot, and may have a budget of its own."""

    name = "coarse"

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        return Nudges(by=1.4).run(model, context)


def test_a_result_is_held_to_the_budget_of_the_lossy_pass_in_it() -> None:
    _, report = run([Coarse(), AddAbs()])
    assert report.passes[0].error is not None and "5 dB is the least" in report.passes[0].error
    _, report = run([Coarse(budget="sqnr=1dB"), AddAbs()])
    assert not report.failures() and [record.status for record in report.passes] == ["kept", "kept"]


class Relabels(Pass):
    """Replaces a value by itself under another node: for the interplay with onnx-ir."""

    name = "relabels"
    fidelity = Fidelity.EXACT

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        relu = next(node for node in all_nodes(model) if node.op_type == "Relu")
        (before,) = relu.inputs
        copy = emit(relu, "Identity", [before])
        relu.replace_input_with(0, copy.outputs[0])
        return PassResult(model, [Change("relabels", "h", "Identity")])


def test_an_onnx_ir_pass_stands_in_a_baker_pipeline() -> None:
    from onnx_ir.passes.common import IdentityEliminationPass

    result, report = run([Relabels(), IdentityEliminationPass()])
    assert ops(result) == ["MatMul", "Relu"] and not report.failures()
    assert [record.status for record in report.passes] == ["kept", "kept"]


def test_a_baker_pass_stands_in_an_onnx_ir_pipeline() -> None:
    from onnx_ir.passes.common import IdentityEliminationPass

    done = ir.passes.Sequential(Relabels(), IdentityEliminationPass(), AddAbs())(model())
    assert done.modified and ops(done.model) == ["MatMul", "Relu", "Abs"]


def test_replaced_values_keep_the_interface() -> None:
    source = model()
    relu = source.graph[1]
    new = emit(relu, "Relu", [relu.inputs[0]])
    replace_value(relu.outputs[0], new.outputs[0])
    assert source.graph.outputs[0].name == "y"
