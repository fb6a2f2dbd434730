"""Judges approximations: at the level that runs, by the budget or by SQNR."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import onnx_ir as ir
import onnxruntime as ort

from baker.errors import UsageError
from baker.model.graph import Array
from baker.proof.budget import Budget, Metric, score
from baker.proof.fakes.behaviour import Watch
from baker.proof.levels import MORE_SAMPLES, QUIET_DB, SAMPLES, first_wrong_layer, grown_error
from baker.proof.numerics import Meter, OutputError, is_float, moves
from baker.proof.recorder import Outputs, Recorder, Recording, run_all
from baker.proof.verdict import Measurement
from baker.runtime.session import optimized_graph, run

FAIL_DB = 5.0
"""Without a budget, a floating-point output below this fails."""
WARN_DB = 20.0
"""Without a budget, a floating-point output below this gets a warning."""
FAIL_AGREEMENT = 0.5
"""Without a budget, an output of integers, booleans or strings of which fewer are equal fails."""
WARN_AGREEMENT = 0.95
"""Without a budget, an output of integers, booleans or strings of which fewer are equal gets a warning."""


@dataclass(frozen=True)
class Trial:
    """A candidate's run at ONNX Runtime's default level.

    Attributes:
        recording: what it is compared with.
        errors: of each compared output.
        first: the candidate's outputs for the first samples.
        background: the reference's outputs for inputs that the candidate is not compared on.
        faults: of each compared output, what no error can be measured of, or "".
    """

    recording: Recording
    errors: Mapping[str, OutputError]
    first: list[Outputs]
    background: Sequence[Outputs] = ()
    faults: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def floating(self) -> list[str]:
        """Compared outputs that hold floating-point numbers."""
        return [name for name in self.errors if is_float(self.recording.outputs[0][name])]

    @cached_property
    def moving(self) -> list[str]:
        """Compared outputs that the reference varies from sample to sample."""
        return [name for name in self.errors if moves([*self.recording.column(name), *self._around(name)], None)]

    def _around(self, name: str) -> list[Array]:
        return [outputs[name] for outputs in self.background]


def try_out(
    runner: ort.InferenceSession, recording: Recording, watch: Watch, background: Sequence[Outputs] = ()
) -> Trial:
    """Runs a candidate on every sample of a recording.

    Args:
        watch: is shown the outputs, and knows which are compared.
        background: more of the reference's outputs: what it usually gives, which is no signal, shows over these, too.
    """
    meters = {name: Meter(recording.column(name), [outputs[name] for outputs in background]) for name in watch.names}
    first: list[Outputs] = []
    for index, outputs in enumerate(run_all(runner, recording.feeds)):
        for name, meter in meters.items():
            meter.add(index, outputs[name])
        watch.take(index, outputs)
        if index < SAMPLES:
            first.append(outputs)
    watch.react(runner, dict)
    errors = {name: meter.result() for name, meter in meters.items()}
    return Trial(recording, errors, first, background, {name: meter.fault for name, meter in meters.items()})


# ---- measuring -------------------------------------------------------------------------------------------------


def measure_metric(metric: Metric, runner: ort.InferenceSession, original: float, budget: Budget) -> Measurement:
    """Scores a candidate; the value is the loss relative to the original's score.

    Raises:
        UsageError: the metric raises or returns no finite number, or the original scores 0.
        ModelError: ONNX Runtime can't run the candidate on what the metric feeds it.
    """
    found = score(metric, lambda feed: run(runner, feed))
    if original == 0:
        raise UsageError("the original scores 0 on the metric, so that a relative budget means nothing.")
    loss = (original - found) / abs(original)
    return Measurement("metric", loss, budget.limit, budget.met(loss), f"{found:.6g}, the original {original:.6g}")


def measure_outputs(trial: Trial, budget: Budget) -> Measurement:
    """Measures SQNR, relative error or top-1 agreement; the worst output counts.

    Raises:
        UsageError: no output is of a kind that the budget speaks of.
    """
    values = {"sqnr": _sqnr, "rel": _relative, "top1": _agreement}[budget.kind](trial)
    if not values:
        raise UsageError(
            f"budget '{budget}' does not fit: no output has "
            f"{'two or more classes' if budget.kind == 'top1' else 'floating-point numbers'}."
        )
    pick = max if budget.kind == "rel" else min
    name = pick(values, key=lambda name: values[name])
    shown = {"sqnr": f"{values[name]:.1f} dB", "rel": f"{values[name]:.3g}", "top1": f"{values[name]:.4g}"}
    interval = trial.errors[name].top1_interval if budget.kind == "top1" else None
    width = "" if interval is None else f", 95 % interval {interval[0]:.4g} to {interval[1]:.4g}"
    detail = f"output '{name}': {shown[budget.kind]}{width}"
    return Measurement(budget.kind, values[name], budget.limit, budget.met(values[name]), detail)


def _sqnr(trial: Trial) -> dict[str, float]:
    """An output that stands still beside moving ones has no signal: its plain SQNR counts."""
    moving = trial.moving
    if not moving:
        return {name: trial.errors[name].sqnr_db for name in trial.floating}
    return {
        name: trial.errors[name].sqnr_db if name in moving else _plain_sqnr(trial.errors[name])
        for name in trial.floating
    }


def _plain_sqnr(error: OutputError) -> float:
    return -20 * math.log10(error.rel_l2) if error.rel_l2 else math.inf


def _relative(trial: Trial) -> dict[str, float]:
    return {name: trial.errors[name].rel_l2 for name in trial.floating}


def _agreement(trial: Trial) -> dict[str, float]:
    found = {name: error.top1_agreement for name, error in trial.errors.items()}
    known = {name: value for name, value in found.items() if value is not None}
    return {name: value for name, value in known.items() if name in trial.floating} or known


# ---- judging ---------------------------------------------------------------------------------------------------


def broken_output(trial: Trial) -> str | None:
    """Names an output that has another shape than the reference's, or is not finite where that is, and where."""
    for name, error in trial.errors.items():
        if name in trial.floating and math.isinf(error.max_abs):
            return f"output '{name}' {trial.faults.get(name) or 'is off by more than a number can say'}"
    return None


def level_fault(recorder: Recorder, candidate: ir.Model, trial: Trial) -> str | None:
    """Says where ONNX Runtime's optimizer gets the candidate wrong: see `baker.proof.levels`."""
    doubtful = [name for name in trial.floating if trial.errors[name].sqnr_db < QUIET_DB]
    suspects = _grown(recorder, candidate, trial, trial.first, doubtful) if doubtful else {}
    if suspects and len(trial.recording.feeds) > SAMPLES:
        more = trial.recording.first(MORE_SAMPLES)
        default = list(run_all(recorder.open(candidate, optimize=True), more.feeds))
        suspects = _grown(recorder, candidate, trial, default, list(suspects))
    if not suspects:
        return None
    name, (fused, unfused) = next(iter(suspects.items()))
    optimized = optimized_graph(candidate, custom_ops=recorder.custom_ops)
    feed = trial.recording.feeds[0]
    layer = first_wrong_layer(candidate, optimized, feed, threads=recorder.threads, custom_ops=recorder.custom_ops)
    where = f" The first layer that it changes is {layer}." if layer else ""
    return (
        f"ONNX Runtime's optimizer gets it wrong: output '{name}' has a relative error of {fused:.3g} at the "
        f"default level and {unfused:.3g} with the optimizer off.{where}"
    )


def _grown(
    recorder: Recorder, candidate: ir.Model, trial: Trial, default: list[Outputs], names: list[str]
) -> dict[str, tuple[float, float]]:
    """Returns those outputs whose error the optimizer makes grow on the samples of ``default``, with both errors."""
    reference = trial.recording.first(len(default))
    plain_reference = recorder.recorded(optimize=False).first(len(default))
    plain = list(run_all(recorder.open(candidate, optimize=False), reference.feeds))
    found = {}
    for name in names:
        grown = grown_error(
            reference.column(name),
            [outputs[name] for outputs in default],
            plain_reference.column(name),
            [outputs[name] for outputs in plain],
        )
        if grown is not None:
            found[name] = grown
    return found


def below_floor(trial: Trial) -> str | None:
    """Without a budget: says which output is too far off to be of use."""
    moving = trial.moving
    for name, error in trial.errors.items():
        if name not in trial.floating:
            if error.top1_agreement is not None and error.top1_agreement < FAIL_AGREEMENT:
                return f"of output '{name}' {error.top1_agreement:.1%} are equal; {FAIL_AGREEMENT:.0%} are the least"
            continue
        quality = error.sqnr_db if name in moving else _plain_sqnr(error)
        if quality < FAIL_DB:
            return f"output '{name}' has an SQNR of {quality:.1f} dB; {FAIL_DB:g} dB is the least without a budget"
    return None


def useless(trial: Trial) -> bool:
    """True when a result is too far off whatever the inputs are like: noise, or the same for all of them."""
    for name in trial.floating:
        if _plain_sqnr(trial.errors[name]) < FAIL_DB:
            return True
        found = [outputs[name] for outputs in trial.first]
        if moves(trial.recording.column(name)[: len(found)], None) and not moves(found, None):
            return True
    return False


def doubts(trial: Trial) -> tuple[str, ...]:
    """Without a budget: outputs that are usable but far off."""
    moving, found = trial.moving, []
    for name, error in trial.errors.items():
        agreement = error.top1_agreement
        if name in trial.floating and name in moving and error.sqnr_db < WARN_DB:
            found.append(
                f"output '{name}' has an SQNR of {error.sqnr_db:.1f} dB, below {WARN_DB:g} dB. "
                "Check the result on labelled data (--metric), or set a --budget."
            )
        elif name not in trial.floating and agreement is not None and agreement < WARN_AGREEMENT:
            found.append(f"of output '{name}' {agreement:.1%} are equal")
    return tuple(found)
