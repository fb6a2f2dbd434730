"""Finds the first bad rewrite of a pass: the pass is run again with a limit on its rewrites.

A binary search between 0 and all of them, as LLVM's ``-opt-bisect-limit`` does by hand.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import onnx_ir as ir

from baker.pipeline.blame import BadRewrite, Blame
from baker.pipeline.integrity import structural_fault
from baker.pipeline.judging import Judge
from baker.pipeline.limit import WHOLE, Admitted, RewriteLimit
from baker.pipeline.pass_base import Change, Pass
from baker.pipeline.trace import Step
from baker.pipeline.trial import Trial
from baker.proof.annotations import annotation_fault, inferred_anew
from baker.proof.divergence import first_divergence
from baker.proof.verifier import Verdict


@dataclass
class Attempt:
    """The pass, run again with a limit."""

    model: ir.Model
    admitted: list[Admitted]
    looking_at: tuple[str, str] | None
    fault: str | None
    whole: bool  # it never asked
    sound: bool  # a valid model came out
    changes: tuple[Change, ...] = ()  # as the pass tells them


@dataclass
class RewriteSearch:
    step: Step
    judge: Judge
    kind: str
    judge_pass: Pass | None = None

    def run(self, blame: Blame) -> Blame:
        full = self.attempt(None)
        if full.fault is None:
            return self.remembered(blame, full)
        if full.whole:
            blame = self.diverging(self.outside(blame, full, 0), self.step.before.model, full)
            return self.by_its_word(blame, full)
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

    def remembered(self, blame: Blame, harmless: Attempt) -> Blame:
        """The pass does not do the same every time, so the search is among what was kept of its first run."""
        detail = "run again, the pass does no harm: it does not do the same every time"
        if self.step.refused:
            detail = "the pass as a whole does no harm, but the model between its rewrites is wrong"
        entries, models = self.step.admitted, self.step.snapshots
        first = replace(harmless, model=self.step.made, sound=self.step.sound)
        if not entries or len(models) < len(entries) - 1:
            return self.diverging(replace(blame, detail=detail), self.step.before.model, first)
        low, high, good = 0, len(entries), self.step.before.model
        while high - low > 1:
            middle = (low + high) // 2
            model = models[middle - 1]
            if structural_fault(self.step.before.model, model) or self.fault_of(self.step.pass_, model):
                high, first = middle, replace(first, model=model, sound=True)
            else:
                low, good = middle, model
        rewrite = BadRewrite(
            high,
            len(entries),
            entries[high - 1].number,
            entries[high - 1].rule,
            entries[high - 1].node,
            _what(entries[high - 1]),
        )
        return self.diverging(replace(blame, rewrite=rewrite, detail=detail), good, first)

    def outside(self, blame: Blame, attempt: Attempt, rewrites: int) -> Blame:
        """No counted rewrite did it: a rule raised while it looked at a node, or the pass edits the graph itself."""
        if attempt.looking_at is not None:
            rule, node = attempt.looking_at
            return replace(blame, rewrite=BadRewrite(0, rewrites, self.step.rewrites, rule, node, "where it raises"))
        if not rewrites:
            return replace(blame, detail="the pass does not ask before each change")
        return replace(blame, detail=f"it goes wrong without any of its {rewrites} rewrites, in what it does besides")

    def by_its_word(self, blame: Blame, full: Attempt) -> Blame:
        """Names the change of a pass that does not ask, by what it says that it changed before the wrong tensor."""
        if blame.rewrite is not None or blame.divergence is None:
            return blame
        near = set(blame.divergence.between)
        found = [(number, change) for number, change in enumerate(full.changes, 1) if change.node in near]
        if len(found) != 1:
            several = ", ".join(f"{change.rule} at '{change.node}'" for _, change in found[:8])
            return replace(blame, detail=f"{blame.detail}; it may be {several}") if several else blame
        number, change = found[0]
        rewrite = BadRewrite(number, len(full.changes), 0, change.rule, change.node, change.what)
        detail = f"{blame.detail}, but says that this is what it changed between tensors that are right and a wrong one"
        return replace(blame, rewrite=rewrite, detail=detail)

    def without_annotations(self) -> str | None:
        """What is wrong when the pass is given the same model with types and shapes inferred anew."""
        trial = Trial(self.step.pass_, inferred_anew(self.step.before.model))
        trial.run(replace(self.judge.context, rewrites=None, checkpoint=None))
        return trial.fault or (self.fault_of(self.step.pass_, trial.model) if trial.changed else None)

    def narrow(self, good: Attempt, bad: Attempt) -> tuple[Attempt, Attempt]:
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

    def attempt(self, limit: int | None) -> Attempt:
        rewrites = RewriteLimit(limit)
        trial = Trial(self.step.pass_, self.step.before.model)
        trial.run(replace(self.judge.context, rewrites=rewrites, checkpoint=None))
        whole = (bool(rewrites.admitted) and rewrites.admitted[0].node == WHOLE) or not rewrites.asked
        fault = trial.fault
        if fault is None and (trial.changed or self.kind == "annotation"):  # which is no change that is saved
            fault = self.fault_of(self.step.pass_, trial.model)
        return Attempt(trial.model, rewrites.admitted, rewrites.looking_at, fault, whole, trial.sound, trial.changes)

    def fault_of(self, pass_: Pass, model: ir.Model) -> str | None:
        before = self.step.before
        if self.judge_pass is not None:
            return refusal(self.judge_pass, model, self.judge)
        if self.kind == "annotation":
            return annotated(model, self.judge)
        if self.kind == "promise":
            verdict = self.judge.step(pass_, before, model)
        else:
            verdict = self.judge.result(self.judge.after(pass_, before, model, None, failed=False))
        return f"verdict fail: {verdict.reason}" if verdict is not None and fails(verdict) else None

    def diverging(self, blame: Blame, good: ir.Model, bad: Attempt) -> Blame:
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


def annotated(model: ir.Model, judge: Judge) -> str | None:
    verifier, context = judge.verifier, judge.context
    if verifier is None or not verifier.feeds:
        return None
    return annotation_fault(model, verifier.feeds[0], threads=context.threads, custom_ops=context.custom_ops)


def refusal(pass_: Pass, model: ir.Model, judge: Judge) -> str | None:
    trial = Trial(pass_, model)
    trial.run(replace(judge.context, verifier=judge.verifier, rewrites=None, checkpoint=None))
    return trial.fault


def fails(verdict: Verdict | None) -> bool:
    return verdict is not None and verdict.status == "fail"
