"""Finds who is to blame for a wrong result: the first bad pass, its first bad rewrite, the first tensor that differs.

The first bad pass is the first one that broke its promise, or, where every pass kept its own, the first after which the
model no longer stands for the original.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from baker.pipeline.blame import Blame
from baker.pipeline.judging import Judge, State, gate
from baker.pipeline.options import format_options
from baker.pipeline.pass_base import Pass
from baker.pipeline.rewrite_search import RewriteSearch, annotated, fails, refusal
from baker.pipeline.text import Pipeline
from baker.pipeline.trace import Step, Trace


def find_blame(trace: Trace, final: State, judge: Judge, pipeline: Pipeline) -> Blame | None:
    """Looks for the first bad pass and rewrite of a finished run whose steps were all kept; None: nothing is wrong.

    Args:
        trace: of the run.
        final: what the run ended with.
        judge: with a verifier, whatever the run had.
    """
    suspect = _first_fault(trace, judge) or _first_departure(trace, final, judge) or _excused(trace)
    if suspect is None:
        return None
    search = RewriteSearch(suspect.step, judge, suspect.kind, suspect.judge_pass)
    texts = list(pipeline.passes())
    position = next((i for i, pass_ in enumerate(texts) if pass_ is suspect.step.pass_), 0)
    blame = Blame(
        suspect.step.pass_.name,
        format_options(suspect.step.pass_),
        position + 1,
        len(texts),
        suspect.step.number,
        len(trace.steps),
        suspect.fault,
        excused=suspect.step.excused,
    )
    return search.run(blame)


# ---- the first bad pass ----


@dataclass(frozen=True)
class _Suspect:
    """A step after which something is wrong, and what tells so.

    ``promise``: the pass broke its own; ``original``: the model no longer stands for it; ``annotation``: a shape is
    not what the model says; ``refused``: a later pass does not accept it.
    """

    step: Step
    fault: str
    kind: str
    judge_pass: Pass | None = None  # the pass that did not accept the model


def _first_fault(trace: Trace, judge: Judge) -> _Suspect | None:
    """The first step that failed, or would have, had it been verified."""
    for step in trace.steps:
        if step.excused:
            continue
        fault, verdict = step.fault, step.verdict
        if fault is None and step.changed and verdict is None:
            verdict = judge.step(step.pass_, step.before, step.made)
            fault = gate(verdict, judge.strict)
        if fault is not None and (verdict is None or verdict.status == "fail"):  # else there is no error to look for
            found = _Suspect(step, fault, "promise")
            return _first_refused(trace, judge, found) if step.refused else _earlier_cause(trace, judge, found)
    return None


def _first_departure(trace: Trace, final: State, judge: Judge) -> _Suspect | None:
    """Every pass kept its promise; the first after which the model no longer stands for the original."""
    if not fails(final.verdict or judge.result(final)):
        return None
    for step in _kept(trace):
        verdict = judge.result(step.after)
        if verdict is not None and fails(verdict):
            found = _Suspect(step, f"verdict {verdict.status}: {verdict.reason}", "original")
            return _earlier_cause(trace, judge, found)
    return None


def _first_refused(trace: Trace, judge: Judge, found: _Suspect) -> _Suspect:
    """A pass that judges is not to blame: the first step whose model it does not accept is."""
    pass_ = found.step.pass_
    for step in _kept(trace):
        if step.number >= found.step.number:
            break
        fault = refusal(pass_, step.after.model, judge)
        if fault is not None:
            return _Suspect(step, fault, "refused", judge_pass=pass_)
    return found


def _excused(trace: Trace) -> _Suspect | None:
    step = next((step for step in trace.steps if step.excused and step.fault is not None), None)
    return None if step is None else _Suspect(step, step.fault or "", "promise")


def _earlier_cause(trace: Trace, judge: Judge, found: _Suspect) -> _Suspect:
    """A pass before may have left a wrong shape behind, which no run of the model shows but this pass trusted."""
    earlier = [step for step in trace.steps if step.number < found.step.number and not step.excused]
    if not earlier or annotated(found.step.before.model, judge) is None or annotated(earlier[0].before.model, judge):
        return found
    if RewriteSearch(found.step, judge, found.kind).without_annotations() is not None:
        return found  # it goes wrong all the same
    for step in earlier:
        fault = annotated(step.after.model, judge)
        if fault is not None:
            shown = f"{fault}, which pass {found.step.pass_.name} trusted: {found.fault}"
            return _Suspect(step, shown, "annotation")
    return found


def _kept(trace: Trace) -> Iterator[Step]:
    return (step for step in trace.steps if step.changed and not step.excused and step.after is not step.before)
