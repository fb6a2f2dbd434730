"""Judges whether one model may stand in for another, and measures what a lossy one costs."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from baker.errors import InternalError, ModelError, UsageError
from baker.model.pages import trim
from baker.model.size import is_large
from baker.proof.budget import DEFAULT_METRIC_BUDGET, Budget, Metric, score
from baker.proof.fakes.behaviour import Watch
from baker.proof.fakes.detect import in_approximation, in_same_function
from baker.proof.fakes.structure import changed_interface
from baker.proof.feeds import Feeds
from baker.proof.further import Further
from baker.proof.interface import Feed, compare_interfaces, required_inputs
from baker.proof.judge import Comparison
from baker.proof.lossy import (
    FAIL_DB,
    Trial,
    below_floor,
    broken_output,
    doubts,
    level_fault,
    measure_metric,
    measure_outputs,
    try_out,
    useless,
)
from baker.proof.numerics import FLOAT_TOLERANCE, HALF_TOLERANCE, Fidelity, moves
from baker.proof.recorder import NotRunnable, Recorder, run_all
from baker.proof.tails import probed
from baker.proof.traits import fixed_outputs, uses_half
from baker.proof.verdict import Measurement as Measurement
from baker.proof.verdict import Verdict as Verdict
from baker.runtime.audit import KernelAudit
from baker.runtime.session import run

FLOOR = Budget("sqnr", FAIL_DB)
"""What a lossy result is held to where nobody gave a budget or a metric."""


@dataclass(frozen=True)
class _Tried:
    """A candidate's run, compared, measured, or both."""

    trial: Trial | None
    measurement: Measurement | None
    watch: Watch | None = None

    @property
    def measured(self) -> Measurement:
        if self.measurement is None:
            raise InternalError("a candidate was measured without a budget")
        return self.measurement


def _within_budget(verdict: Verdict, budget: Budget | None) -> Verdict:
    measured = verdict.measurement
    if measured is None or measured.met:
        return verdict
    return replace(verdict, status="fail", reason=f"over the budget '{budget}': {measured.detail}")


class Verifier:
    """Judges candidates against one reference on the same feeds; what the reference computes is kept.

    Args:
        reference: the model as it was before any pass. It must not be changed afterwards.
        feeds: held-out inputs, or `Feeds`: candidates are compared on the held-out part; what is common to the
            outputs whatever the input, and so no signal, is seen on some of the others, too.
        budget: what a lossy candidate may cost, where `verify` is not given another.
        metric: scores a model; needed for a budget on a metric.
        threads: threads of each session; None is ONNX Runtime's choice.
        custom_ops: a custom-op library that running the models takes.
        strict: for those who turn verdicts into exit codes: an inconclusive one fails.
    """

    def __init__(
        self,
        reference: ir.Model,
        feeds: Sequence[Feed] | Feeds,
        *,
        budget: Budget | None = None,
        metric: Metric | None = None,
        threads: int | None = None,
        custom_ops: str | os.PathLike[str] | None = None,
        strict: bool = False,
    ) -> None:
        held_out, calibration = (feeds.held_out, feeds.calibration) if isinstance(feeds, Feeds) else (feeds, ())
        library = None if custom_ops is None else os.fspath(custom_ops)
        self.reference = reference
        self.budget = budget
        self.metric = metric
        self.strict = strict
        self.made_up = isinstance(feeds, Feeds) and feeds.synthetic
        self._recorder = Recorder(reference, held_out, calibration=calibration, threads=threads, custom_ops=library)
        self._further = Further(self._recorder, feeds.further if isinstance(feeds, Feeds) else None)
        self._reference_score: float | None = None

    @property
    def floor(self) -> Budget | None:
        """What a result is held to without a budget: None where the feeds are made up or no float can be compared."""
        compared = set(self._recorder.names(self.reference))
        floating = any(
            value.name in compared and value.dtype is not None and value.dtype.is_floating_point()
            for value in self.reference.graph.outputs
        )
        return FLOOR if floating and self.feeds and not self.made_up else None

    @property
    def feeds(self) -> Sequence[Feed]:
        """What verdicts are reached on."""
        return self._recorder.feeds

    def verify(
        self,
        candidate: ir.Model,
        fidelity: Fidelity,
        *,
        against: ir.Model | None = None,
        budget: Budget | None = None,
    ) -> Verdict:
        """Judges a candidate.

        Args:
            fidelity: EXACT and ROUNDING are judged with ONNX Runtime's optimizer off on both sides, LOSSY at its
                default level, for that is what runs.
            against: judge EXACT or ROUNDING relative to this model instead of the reference (an exact pass after a
                lossy one). It must not be changed afterwards.
            budget: instead of the verifier's own.

        Raises:
            UsageError: the metric raises or returns no finite number, or the budget does not fit the outputs.
        """
        self._recorder.forget_audit()  # the same model may have been changed in place since (--verify-each)
        difference = compare_interfaces(self.reference, candidate)
        if difference is not None:
            findings = tuple(changed_interface(self.reference, candidate))
            return Verdict("fail", f"the interface changed: {difference}", findings=findings)
        try:
            if fidelity is not Fidelity.LOSSY:
                return self._judge_same(candidate, fidelity, self.reference if against is None else against)
            return self._judge_lossy(candidate, self._effective(budget))
        except NotRunnable as error:
            return Verdict("inconclusive", str(error), runnable=False)
        except ModelError as error:
            return Verdict("fail", str(error))

    def measure(self, candidate: ir.Model, budget: Budget) -> Measurement:
        """Measures what a candidate costs at ONNX Runtime's default level.

        Raises:
            ModelError: the candidate or the reference can't be run.
            UsageError: the metric is missing, raises, or returns no finite number; the budget does not fit the outputs.
        """
        return self._try_out(candidate, budget, compare=budget.kind != "metric" and bool(self.feeds)).measured

    def audit(self, model: ir.Model) -> KernelAudit:
        """Which kernels a model runs at ONNX Runtime's default level; what was verified last is not loaded again.

        Raises:
            ModelError: ONNX Runtime can't load the model.
        """
        return self._recorder.audit(model)

    # ---- the same function ----

    def _judge_same(self, candidate: ir.Model, fidelity: Fidelity, original: ir.Model) -> Verdict:
        nothing = self._nothing_to_compare(original)
        if nothing is not None:
            return nothing
        recording = self._recorder.original(original)
        tolerance = HALF_TOLERANCE if uses_half(original) else FLOAT_TOLERANCE
        names = self._recorder.names(original)
        probe = probed(candidate)
        hidden = [label for label in probe.labels(names) if label in recording.outputs[0]]
        decided = [name for name, label in probe.decided(names).items() if label in hidden]
        exact = fidelity is Fidelity.EXACT
        comparison = Comparison(recording, [*names, *hidden], None if exact else tolerance, decided)
        runner = self._recorder.open(probe.model, optimize=False)
        watch = Watch(recording, names, tolerance)
        for index, outputs in enumerate(run_all(runner, recording.feeds)):
            found = probe.outputs(outputs)
            comparison.take(index, found)
            watch.take(index, found)
        watch.react(runner, probe.outputs)
        del runner  # its memory is free for the float64 run
        if is_large(candidate):
            trim()
        caveats = self._recorder.caveats(original, recording, len(self.feeds))
        errors = comparison.errors()
        shown = {name: errors[name] for name in names}
        verdict = Verdict("pass", "", shown, len(recording.feeds), caveats)
        fault = comparison.fault(original, candidate)
        if fault is not None:
            verdict = replace(verdict, status="fail", reason=fault)
        else:
            fixed = fixed_outputs(original)
            doubtful = [name for name in names if name not in fixed]
            columns = {name: [*recording.column(name), *self._further.column(original, name)] for name in doubtful}
            still = [name for name, column in columns.items() if not moves(column, comparison.tolerance)]
            verdict = self._unless_still(verdict, doubtful, still)
            verdict = self._further.settle(verdict, original, candidate, comparison.tolerance)
        findings = in_same_function(self._recorder, watch, original, candidate, verdict, errors)
        return verdict.with_findings(one for one in findings if not comparison.explains(one))

    def _nothing_to_compare(self, original: ir.Model) -> Verdict | None:
        if not self.feeds:
            self._recorder.open_original(self.reference, optimize=False)
            reason = (
                getattr(self.feeds, "problem", "") or "there are no inputs to run it on. Give some through --calib."
            )
            return Verdict("inconclusive", reason)
        if not self._recorder.names(original):
            caveats = self._recorder.caveats(original, self._recorder.original(original), 0)
            return Verdict("inconclusive", "no output can be compared: " + " ".join(caveats), warnings=caveats)
        return None

    def _unless_still(self, verdict: Verdict, names: Sequence[str], still: Sequence[str]) -> Verdict:
        """Feeds that don't move an output prove nothing about it; without inputs there is nothing to move it."""
        if not still or not required_inputs(self.reference):
            return verdict
        if len(still) < len(names):
            shown = ", ".join(f"'{name}'" for name in still)
            note = f"nothing is proven about output {shown}: it does not change from one input to the next."
            return replace(verdict, warnings=(*verdict.warnings, note))
        if verdict.samples < 2:
            why = "a single input can't tell the model from a constant. Give two or more through --calib."
        else:
            why = (
                f"the outputs are the same for all {verdict.samples} inputs, so that a constant would pass, too. "
                "Give inputs that make a difference through --calib."
            )
        return replace(verdict, status="inconclusive", reason=why)

    # ---- an approximation ----

    def _effective(self, budget: Budget | None) -> Budget | None:
        if budget is None and self.budget is None and self.metric is not None:
            return DEFAULT_METRIC_BUDGET
        return budget or self.budget

    def _judge_lossy(self, candidate: ir.Model, budget: Budget | None) -> Verdict:
        by_metric = budget is not None and budget.kind == "metric"
        nothing = self._nothing_to_compare(self.reference)
        if nothing is not None and not by_metric:
            return nothing
        tried = self._try_out(candidate, budget, compare=nothing is None)
        if tried.trial is None:
            remark = nothing.reason if nothing is not None else ""
            verdict = _within_budget(Verdict("pass", warnings=(remark,), measurement=tried.measured), budget)
            return verdict.with_findings(in_approximation(self._recorder, None, self.reference, candidate))
        recording = tried.trial.recording
        caveats = self._recorder.caveats(self.reference, recording, len(self.feeds))
        verdict = Verdict("pass", "", tried.trial.errors, len(recording.feeds), caveats, measurement=tried.measurement)
        verdict = self._settle(candidate, verdict, tried.trial, budget)
        return verdict.with_findings(in_approximation(self._recorder, tried.watch, self.reference, candidate))

    def _settle(self, candidate: ir.Model, verdict: Verdict, trial: Trial, budget: Budget | None) -> Verdict:
        still = [name for name in trial.errors if name not in trial.moving]
        fault = broken_output(trial) or level_fault(self._recorder, candidate, trial)
        low = None
        if budget is None or (budget.kind != "metric" and len(still) == len(trial.errors)):
            low = below_floor(trial)
        if fault is None and low is not None and self.made_up and not useless(trial):
            reason = (
                f"{low}, but these inputs are made up and may be nothing like real ones. Give some through --calib."
            )
            return replace(verdict, status="inconclusive", reason=reason)
        if fault is not None or low is not None:
            return replace(verdict, status="fail", reason=fault or low or "")
        if budget is not None and budget.kind == "metric":
            return _within_budget(verdict, budget)
        if budget is None:
            verdict = replace(verdict, warnings=(*verdict.warnings, *doubts(trial)))
        verdict = self._unless_still(verdict, list(trial.errors), still)
        return _within_budget(verdict, budget) if verdict.status == "pass" else verdict

    def _try_out(self, candidate: ir.Model, budget: Budget | None, *, compare: bool) -> _Tried:
        """Runs a candidate at the default level, one session at a time: the reference's come first, and are kept."""
        original = self._original_score() if budget is not None and budget.kind == "metric" else None
        recording = self._recorder.recorded(optimize=True) if compare else None
        background = self._recorder.background() if compare else ()
        runner = self._recorder.open(candidate, optimize=True)
        trial = watch = None
        if recording is not None:
            watch = Watch(recording, self._recorder.names(self.reference), None)
            trial = try_out(runner, recording, watch, background)
        if budget is None:
            return _Tried(trial, None, watch)
        if original is not None:
            return _Tried(trial, measure_metric(self._metric(), runner, original, budget), watch)
        if trial is None:
            nothing = Measurement(budget.kind, math.nan, budget.limit, met=False, detail="no inputs to measure on")
            return _Tried(None, nothing)
        return _Tried(trial, measure_outputs(trial, budget), watch)

    # ---- the metric ----

    def _metric(self) -> Metric:
        if self.metric is None:
            raise UsageError("a budget on a metric needs one. Add --metric module:function.")
        return self.metric

    def _original_score(self) -> float:
        if self._reference_score is None:
            metric = self._metric()
            runner = self._recorder.open_original(self.reference, optimize=True)
            try:
                self._reference_score = score(metric, lambda feed: run(runner, feed))
            except ModelError as error:
                raise UsageError(f"the metric feeds the model something that it can't run: {error}") from error
        return self._reference_score
