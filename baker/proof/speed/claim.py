"""The answer: what the clock says, held against the outputs, the kernels that ran, and what the machine can do."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from baker.proof.speed.outputs import Agreement
from baker.proof.speed.profile import Ran, Share
from baker.proof.speed.sides import Pair
from baker.proof.speed.statistics import Answer, Finding, Interval

PEAK_SLACK = 2.0
"""The measured peak may be half the true one where the machine is shared."""

REMEMBERS = 1.2
"""A model this many times as fast on an input that it has just seen may be remembering answers."""


@dataclass(frozen=True)
class SideFacts:
    """One model.

    Attributes:
        seconds: of a run, the median; None where b is refused.
        flops: operations (two a product) of a run that are in its layers; the mean over the inputs.
        kernels: how many layers with constant weights ran, by kernel.
        top: the operators that most of the time went to.
    """

    path: str
    seconds: float | None
    flops: float
    flops_per_second: float | None
    kernels: Mapping[str, int]
    top: tuple[Share, ...]


@dataclass(frozen=True)
class Speed:
    """What was found.

    Attributes:
        answer: whether b is faster than a, slower, or neither can be said.
        claim: low and high end of how many times as fast (or slow) b is, at 95 %; None where nothing is claimed.
        reason: why nothing is claimed.
        refused: b may not be called faster or slower whatever the clock says: its outputs, or its implied speed.
        interval: time of a over time of b, at 95 %; None where refused.
        control: time of a over time of a, at 99 %.
        remarks: what has to be known besides.
        outputs: how what the timed runs gave out compares.
        inputs: where they came from, how many, of how many shapes, and for a and b how much slower a run is on
            another input than on the one before.
        peak: float32 operations a second of a matrix product on this machine.
    """

    answer: Answer
    claim: tuple[float, float] | None
    reason: str
    refused: bool
    interval: Interval | None
    control: Interval
    launches: int
    pairs: int
    threads: int
    took: float
    a: SideFacts
    b: SideFacts
    outputs: Agreement
    inputs: Mapping[str, Any]
    peak: float
    remarks: tuple[str, ...] = ()

    def line(self) -> str:
        """The answer in one line."""
        if self.claim is not None:
            low, high = (f"{end:.2f}x" for end in self.claim)
            return f"{self.answer} by [{low}, {high}], {self._basis()}"
        if self.refused:
            return f"no measurable change is claimed: {self.reason}"
        return f"{self.answer}: {self.reason}"

    def _basis(self) -> str:
        return f"{self.pairs} pairs in {self.launches} launches, {self.threads} thread{'s' * (self.threads > 1)}"


def withheld(speed: Speed, reason: str) -> Speed:
    """The same record without a claim, and without figures that one could be made of."""
    a, b = (replace(side, seconds=None, flops_per_second=None) for side in (speed.a, speed.b))
    return replace(
        speed, answer="no measurable change", claim=None, reason=reason, refused=True, interval=None, a=a, b=b
    )


def judge(
    finding: Finding,
    agreement: Agreement,
    pair: Pair,
    ran: Mapping[str, Ran],
    results: Sequence[Mapping[str, Any]],
    threads: int,
    took: float,
) -> Speed:
    """Makes the answer.

    Args:
        finding: what the clock says.
        agreement: how the outputs of the timed runs compare.
        ran: what ran of a and b, from their profiles.
        results: of the launches; see `baker.proof.speed.plan.Timed`.
        took: seconds, all in all.
    """
    paths = {"a": pair.a.shown, "b": pair.b.shown}
    peak = max(result["peak"] for result in results)
    problem = agreement.problem and f"{paths['b']}: {agreement.problem}"
    problem = problem or next(filter(None, (_impossible(paths[n], ran[n], n, results, peak) for n in paths)), "")
    reason = problem or finding.reason
    speedup = finding.speedup if finding.answer == "faster" else finding.speedup.inverse()
    again = {name: _again(name, results) for name in paths}
    a, b = (_facts(paths[name], ran[name], [] if problem else results, column) for column, name in enumerate(paths))
    return Speed(
        answer="no measurable change" if reason else finding.answer,
        claim=None if reason else (speedup.low, speedup.high),
        reason=reason,
        refused=bool(problem),
        interval=None if problem else finding.speedup,
        control=finding.control,
        launches=finding.launches,
        pairs=finding.pairs,
        threads=threads,
        took=took,
        a=a,
        b=b,
        outputs=agreement,
        inputs=pair.described() | {"other_over_same": again},
        peak=peak,
        remarks=tuple(_remarks(pair, agreement, a, b, again)),
    )


def _facts(path: str, ran: Ran, results: Sequence[Mapping[str, Any]], column: int) -> SideFacts:
    medians = [np.median([block[column] for part in result["rounds"] for block in part]) for result in results]
    seconds, flops = float(np.median(medians)) if medians else None, float(np.mean(ran.flops))
    return SideFacts(path, seconds, flops, flops / seconds if seconds else None, ran.kernels, ran.top)


def _impossible(path: str, ran: Ran, name: str, results: Sequence[Mapping[str, Any]], peak: float) -> str:
    """Work that was seen in the profile can't have been done faster than the machine multiplies."""
    for index, work in enumerate(ran.float_flops):
        fastest = min(result["fastest"][name].get(str(index), math.inf) for result in results)
        if peak and work / fastest > PEAK_SLACK * peak:
            return (
                f"{path} would have computed {work / fastest / 1e9:.0f} GFLOP/s, and the machine's peak is "
                f"{peak / 1e9:.0f}: the timed runs skipped work that the profiled one did"
            )
    return ""


def _again(name: str, results: Sequence[Mapping[str, Any]]) -> float | None:
    """Seconds on another input than before over seconds on the same one: the quarter of trials with the least."""
    logs = [value for result in results for value in result["again"][name]]
    return math.exp(float(np.quantile(logs, 0.25))) if logs else None


def _remarks(
    pair: Pair, agreement: Agreement, a: SideFacts, b: SideFacts, again: Mapping[str, float | None]
) -> list[str]:
    remarks = [agreement.remark] if agreement.remark else []
    for side, ratio in ((a, again["a"]), (b, again["b"])):
        if ratio is not None and ratio > REMEMBERS:
            remarks.append(f"{side.path} is {ratio:.2f}x as fast on an input that it has just seen: it may remember")
    if len(pair.feeds) == 1:
        remarks.append("a single input: a model that depends on what it is given may be faster or slower on others")
    if pair.quantized and not (b.kernels["integer"] or b.kernels["ternary"]):
        remarks.append(f"{b.path} is quantized, and none of its layers ran an integer or ternary kernel")
    if a.flops and b.flops < 0.5 * a.flops:
        remarks.append(f"{b.path} does {b.flops / a.flops:.2f} of the reference's multiplications")
    return remarks
