"""Finds who is to blame for a wrong result: the first bad pass, its first bad rewrite, the first tensor that differs.

The first bad pass is the first one that broke its promise, or, where every pass kept its own, the first after which the
model no longer stands for the original. Within it, the pass is run again with a limit on its rewrites, as LLVM's
``-opt-bisect-limit`` does: a binary search between 0 and all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import onnx_ir as ir

from baker.model.graph import all_nodes
from baker.model.shapes import infer_shapes
from baker.pipeline.judging import Judge, State, gate
from baker.pipeline.limit import Admitted, RewriteLimit
from baker.pipeline.options import format_options
from baker.pipeline.pass_base import Pass
from baker.pipeline.text import Pipeline
from baker.pipeline.trace import Step, Trace
from baker.pipeline.trial import Trial
from baker.proof.divergence import Divergence, annotation_fault, first_divergence
from baker.proof.verifier import Verdict


@dataclass(frozen=True)
class BadRewrite:
    """The first rewrite that makes the result wrong.

    Attributes:
        number, of: which of the rewrites of its pass, and how many there are; 0 where a rule raised while it only
            looked at a node.
        in_pipeline: which of the whole pipeline's: ``--bisect-limit`` with one less is still right.
        rule, node: as the pass asked for it.
        what: what it says of itself; empty where it raised.
    """

    number: int
    of: int
    in_pipeline: int
    rule: str
    node: str
    what: str = ""

    def __str__(self) -> str:
        told = f": {self.what}" if self.what else ""
        return f"{self.number} of {self.of}, {self.rule} at node '{self.node}'{told}"

    def lines(self) -> list[str]:
        """The finding, and how to see it by hand."""
        if not self.number:
            return [f"first bad rewrite: {self.rule} at node '{self.node}', {self.what}"]
        last = self.in_pipeline
        hint = f"  --bisect-limit {last - 1} is still right, --bisect-limit {last} is wrong"
        return [f"first bad rewrite: {self}", hint]


@dataclass(frozen=True)
class Blame:
    """Where a run first went wrong.

    Attributes:
        name, options: the pass.
        position, passes: which of the passes in the pipeline's text, and how many these are.
        run, runs: which run of a pass, for ``fix`` may repeat it, and how many there were; as in the report's passes.
        fault: what is wrong after it.
        rewrite: the first bad rewrite, None where only the pass as a whole can be named; ``detail`` says why.
        divergence: the first tensor that differs; None where none does or can be compared; ``compared`` says why.
        excused: it stood in a ``try(...)`` that was undone, so it does not fail the run.
    """

    name: str
    options: str
    position: int
    passes: int
    run: int
    runs: int
    fault: str
    rewrite: BadRewrite | None = None
    detail: str = ""
    divergence: Divergence | None = None
    compared: str = ""
    excused: bool = False

    def lines(self) -> list[str]:
        """The finding, for people."""
        where = f"{self.position} of {self.passes}"
        if self.runs != self.passes:
            where += f"; run {self.run} of {self.runs}"
        lines = [f"first bad pass: {self.name}{self.options} ({where}): {self.fault}"]
        if self.excused:
            lines.append("  it stands in a try(...) that was undone, so it does not fail the run")
        if self.rewrite is not None:
            lines += self.rewrite.lines()
        if self.detail:
            lines.append(f"{'  ' if self.rewrite else 'first bad rewrite: none to name; '}{self.detail}")
        found = self.divergence.text() if self.divergence is not None else f"none; {self.compared}"
        return [*lines, f"first diverging tensor: {found}"]


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
    search = _Search(suspect.step, judge, suspect.kind)
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
    if suspect.undecided:
        detail = "an inconclusive verdict shows no error to look for"
        return replace(blame, detail=detail, compared="nothing is known to be wrong")
    return search.run(blame)


# ---- the first bad pass ----


@dataclass(frozen=True)
class _Suspect:
    """A step after which something is wrong, and what tells so: ``promise``, ``original`` or ``annotation``."""

    step: Step
    fault: str
    kind: str
    undecided: bool = False


def _first_fault(trace: Trace, judge: Judge) -> _Suspect | None:
    """The first step that failed, or would have, had it been verified."""
    for step in trace.steps:
        if step.excused:
            continue
        fault, verdict = step.fault, step.verdict
        if fault is None and step.changed and verdict is None:
            verdict = judge.step(step.pass_, step.before, step.made)
            fault = gate(verdict, judge.strict)
        if fault is not None:
            found = _Suspect(step, fault, "promise", verdict is not None and verdict.status == "inconclusive")
            return _earlier_cause(trace, judge, found)
    return None


def _first_departure(trace: Trace, final: State, judge: Judge) -> _Suspect | None:
    """Every pass kept its promise; the first after which the model no longer stands for the original."""
    if not _fails(final.verdict or judge.result(final)):
        return None
    for step in _kept(trace):
        verdict = judge.result(step.after)
        if verdict is not None and _fails(verdict):
            found = _Suspect(step, f"verdict {verdict.status}: {verdict.reason}", "original")
            return _earlier_cause(trace, judge, found)
    return None


def _excused(trace: Trace) -> _Suspect | None:
    step = next((step for step in trace.steps if step.excused and step.fault is not None), None)
    return None if step is None else _Suspect(step, step.fault or "", "promise")


def _earlier_cause(trace: Trace, judge: Judge, found: _Suspect) -> _Suspect:
    """A pass before may have left a wrong shape behind, which no run of the model shows but this pass trusted."""
    earlier = [step for step in _kept(trace) if step.number < found.step.number]
    if not earlier or _annotated(found.step.before.model, judge) is None or _annotated(earlier[0].before.model, judge):
        return found
    if _Search(found.step, judge, found.kind).without_annotations() is not None:
        return found  # it goes wrong all the same
    for step in earlier:
        fault = _annotated(step.after.model, judge)
        if fault is not None:
            shown = f"{fault}, which pass {found.step.pass_.name} trusted: {found.fault}"
            return _Suspect(step, shown, "annotation")
    return found


def _annotated(model: ir.Model, judge: Judge) -> str | None:
    verifier, context = judge.verifier, judge.context
    if verifier is None or not verifier.feeds:
        return None
    return annotation_fault(model, verifier.feeds[0], threads=context.threads, custom_ops=context.custom_ops)


def _kept(trace: Trace) -> Iterator[Step]:
    return (step for step in trace.steps if step.changed and not step.excused and step.after is not step.before)


def _fails(verdict: Verdict | None) -> bool:
    return verdict is not None and verdict.status == "fail"


# ---- the first bad rewrite in it ----


@dataclass
class _Attempt:
    """The pass, run again with a limit."""

    model: ir.Model
    admitted: list[Admitted]
    looking_at: tuple[str, str] | None
    fault: str | None
    whole: bool  # it never asked
    sound: bool  # a valid model came out


@dataclass
class _Search:
    step: Step
    judge: Judge
    kind: str

    def run(self, blame: Blame) -> Blame:
        full = self.attempt(None)
        if full.fault is None:
            detail = "run again, the pass does no harm: it does not do the same every time"
            full.model = self.step.made
            return self.diverging(replace(blame, detail=detail), self.step.before.model, full)
        if full.whole:
            return self.diverging(self.outside(blame, full, 0), self.step.before.model, full)
        none = self.attempt(0)
        if none.fault is not None:
            blame = self.outside(blame, none, len(full.admitted))
            return self.diverging(blame, self.step.before.model, none)
        good, bad = self.narrow(none, full)
        entry = bad.admitted[-1]
        rewrite = BadRewrite(
            number=len(bad.admitted),
            of=len(full.admitted),
            in_pipeline=self.step.rewrites + len(bad.admitted),
            rule=entry.rule,
            node=entry.node,
            what=_what(entry),
        )
        return self.diverging(replace(blame, rewrite=rewrite), good.model, bad)

    def outside(self, blame: Blame, attempt: _Attempt, rewrites: int) -> Blame:
        """No counted rewrite did it: a rule raised while it looked at a node, or the pass edits the graph itself."""
        if attempt.looking_at is not None:
            rule, node = attempt.looking_at
            return replace(blame, rewrite=BadRewrite(0, rewrites, self.step.rewrites, rule, node, "where it raises"))
        if not rewrites:
            return replace(blame, detail="the pass does not ask before each change")
        return replace(blame, detail=f"it goes wrong without any of its {rewrites} rewrites, in what it does besides")

    def without_annotations(self) -> str | None:
        """What is wrong when the pass is given the same model with types and shapes inferred anew."""
        model = self.step.before.model.clone()
        for node in all_nodes(model):
            for value in node.outputs:
                if not value.is_graph_output():
                    value.type = value.shape = None
        infer_shapes(model)
        trial = Trial(self.step.pass_, model)
        trial.run(replace(self.judge.context, rewrites=None, checkpoint=None))
        return trial.fault or (self.fault_of(self.step.pass_, trial.model) if trial.changed else None)

    def narrow(self, good: _Attempt, bad: _Attempt) -> tuple[_Attempt, _Attempt]:
        """Two runs that differ by one rewrite, of which the first does no harm."""
        low, high = 0, len(bad.admitted)
        while high - low > 1:
            middle = (low + high) // 2
            tried = self.attempt(middle)
            if tried.fault is None:
                low, good = middle, tried
            else:
                high, bad = middle, tried
        return good, bad if len(bad.admitted) == high else self.attempt(high)

    def attempt(self, limit: int | None) -> _Attempt:
        rewrites = RewriteLimit(limit)
        trial = Trial(self.step.pass_, self.step.before.model)
        trial.run(replace(self.judge.context, rewrites=rewrites, checkpoint=None))
        whole = not rewrites.asked
        fault = trial.fault
        if fault is None and trial.changed:
            fault = self.fault_of(self.step.pass_, trial.model)
        return _Attempt(trial.model, rewrites.admitted, rewrites.looking_at, fault, whole, trial.sound)

    def fault_of(self, pass_: Pass, model: ir.Model) -> str | None:
        before = self.step.before
        if self.kind == "annotation":
            return _annotated(model, self.judge)
        if self.kind == "promise":
            verdict = self.judge.step(pass_, before, model)
        else:
            verdict = self.judge.result(self.judge.after(pass_, before, model, None, failed=False))
        return f"verdict fail: {verdict.reason}" if verdict is not None and _fails(verdict) else None

    def diverging(self, blame: Blame, good: ir.Model, bad: _Attempt) -> Blame:
        if not bad.sound:
            return replace(blame, compared="no valid model came out, so there is nothing to compare")
        verifier, context = self.judge.verifier, self.judge.context
        feeds = () if verifier is None else verifier.feeds
        found = first_divergence(
            good, bad.model, feeds, self.step.pass_.fidelity, threads=context.threads, custom_ops=context.custom_ops
        )
        return replace(blame, compared=found) if isinstance(found, str) else replace(blame, divergence=found)


def _what(entry: Admitted) -> str:
    if entry.change is None:
        return ""
    other = "" if entry.change.node in ("", entry.node) else f" (at '{entry.change.node}')"
    return entry.change.what + other
