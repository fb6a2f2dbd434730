"""Runs a pipeline as a chain of transactions: each pass is proven, or undone and named."""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, Protocol, get_args

import onnx_ir as ir

from baker.errors import GateError, UsageError
from baker.model.shapes import forget_inference
from baker.pipeline import text
from baker.pipeline.foreign import wrap
from baker.pipeline.integrity import freeze_tensors
from baker.pipeline.judging import Judge, State, gate
from baker.pipeline.limit import RewriteLimit
from baker.pipeline.pass_base import Change, Pass, PassContext
from baker.pipeline.registry import Registry
from baker.pipeline.report import BudgetRecord, PassRecord, Report, Verification
from baker.pipeline.trace import Step, Trace
from baker.pipeline.trial import Snapshot, Trial

if TYPE_CHECKING:
    from baker.proof.verifier import Verifier

LARGE = 2**28
"""Bytes of a model whose remains are not left for Python to collect some time."""

OnFail = Literal["rollback", "stop", "keep"]


class Observer(Protocol):
    """Is told what a `PassManager` does, while it does it."""

    def before(self, pass_: Pass) -> None:
        """A pass is about to run."""

    def after(self, record: PassRecord, model: ir.Model) -> None:
        """A pass has run and was judged; the model is what goes on from here."""


class PassManager:
    """Runs passes over a model, each one a transaction.

    Args:
        pipeline: pipeline text, or passes (baker's, plain onnx-ir ones, or pipeline items) in order.
        on_fail: what becomes of a failed pass: ``rollback`` undoes it and runs the rest, ``stop`` undoes it and
            ends there, ``keep`` keeps what it did if that is still a valid model.
        verify: judge every pass that changed something; False judges nothing and the report says so.
        verify_each: judge after every rewrite, too.
        observers: told before and after each pass.
        trace: keeps what a reproducer of a failure takes.
        bisect: judges, where the run fails, which pass and which of its rewrites is the first bad one: the report's
            ``blame``. With ``verify=False`` it looks for one, too.
        provenance: write into the result's metadata what the report's ``provenance`` says.

    Raises:
        PipelineError, UnknownPassError, OptionError: the text is wrong.
        UsageError: another value of ``on_fail``.
    """

    def __init__(
        self,
        pipeline: str | Pass | ir.passes.PassBase | text.Sequence | Sequence[Pass | ir.passes.PassBase | text.Item],
        *,
        on_fail: OnFail = "rollback",
        verify: bool = True,
        verify_each: bool = False,
        observers: Sequence[Observer] = (),
        registry: Registry | None = None,
        trace: Trace | None = None,
        bisect: Verifier | None = None,
        provenance: bool = False,
    ) -> None:
        if on_fail not in get_args(OnFail):
            raise UsageError(f"on_fail is one of {', '.join(get_args(OnFail))}; found {on_fail!r}")
        self.pipeline = _as_pipeline(pipeline, registry)
        self.on_fail: OnFail = on_fail
        self.verify = verify
        self.verify_each = verify_each
        self.observers = tuple(observers)
        self.trace = trace
        self.bisect = bisect
        self.provenance = provenance

    def run(
        self, model: ir.Model, context: PassContext | None = None, *, start: State | None = None
    ) -> tuple[ir.Model, Report]:
        """Runs the pipeline on a copy of the model (tensors are shared, never written).

        Args:
            start: where a run stood that is to go on from there; ``model`` is what it was given.

        Returns:
            The resulting model and the report; ``report.failed`` tells whether a gate failed.

        Raises:
            UsageError, SecurityError, ResourceError: what a pass found is the caller's to mend.
        """
        return _Run(self, model, context or PassContext(), start=start).run()


def _as_pipeline(pipeline: object, registry: Registry | None) -> text.Sequence:
    if isinstance(pipeline, str):
        return text.parse(pipeline, registry)
    if isinstance(pipeline, text.Sequence):
        return pipeline
    parts = pipeline if isinstance(pipeline, Sequence) else [pipeline]
    return text.Sequence(tuple(_as_item(part) for part in parts))


def _as_item(part: object) -> text.Item:
    if isinstance(part, text.Item):
        return part
    if isinstance(part, ir.passes.PassBase):
        return text.PassItem(wrap(part))
    raise UsageError(
        f"a pipeline holds passes, found {type(part).__name__} {part!r}. Give pipeline text or Pass objects."
    )


class _Stop(Exception):
    """Ends the run: --on-fail stop."""


class _Undo(Exception):
    """Ends a try(...) group: one of its passes failed."""


@dataclass
class _Run:
    manager: PassManager
    source: ir.Model
    context: PassContext
    records: list[PassRecord] = field(default_factory=list)
    groups: int = 0  # how many try(...) are open
    rounds: int = 0  # how many fix(...) are open
    settled: dict[Pass, str] = field(default_factory=dict)  # the fingerprint of what a pass made last
    start: State | None = None
    snapshot: Snapshot = field(init=False)
    spare: ir.Model | None = field(init=False)  # the same as the state's, with what passes that changed nothing added

    def __post_init__(self) -> None:
        model = (self.source if self.start is None else self.start.model).clone()
        frozen = freeze_tensors(model)
        if self.context.reference is None:
            self.context = replace(self.context, reference=self.source)
            forget_inference(model)  # whoever made it may have changed it since it was lowered
        if self.manager.bisect is not None and self.context.rewrites is None:
            self.context = replace(self.context, rewrites=RewriteLimit())
        if self.manager.bisect is not None and self.context.rewrites is not None:
            self.context.rewrites.remembers = True
        self.state = State(model) if self.start is None else replace(self.start, model=model)
        self.spare = None
        self.judge = Judge(self.context.verifier, self.context)
        self.trace = self.manager.trace or Trace()
        self.trace.every |= self.manager.bisect is not None
        if self.start is None and self.context.reference is self.source and not frozen and not self.trace.every:
            self.state, self.spare = State(self.source), model  # the source is not to be changed anyway
        self.snapshot = Snapshot(self.state.model)

    def run(self) -> tuple[ir.Model, Report]:
        stopped = False
        try:
            self.sequence(self.manager.pipeline)
        except _Stop:
            stopped = True  # the failed record is in the report, which makes the run a failed one
        if not stopped:
            self.judge_result()
        model = self.current if self.current is not self.source else self.source.clone()
        if any(record.status == "failed" for record in self.records):
            model.metadata_props["baker.unverified"] = "true"
        report = Report(
            pipeline=str(self.manager.pipeline),
            seed=self.context.seed,
            passes=self.records,
            verification=self.verification(),
            budget=self.held_to(),
            provenance=self.state.origins().report(model),
        )
        self.state.origins().mark(model, keep=self.manager.provenance)
        if self.manager.bisect is not None:
            from baker.pipeline.bisect import find_blame  # rarely needed

            judge = Judge(self.manager.bisect, self.context)
            report.blame = find_blame(self.trace, self.state, judge, self.manager.pipeline)
        return model, report

    @property
    def current(self) -> ir.Model:
        """The model as it is now, with whatever passes that changed nothing found out about it."""
        return self.state.model if self.spare is None else self.spare

    def verification(self) -> Verification:
        verdict = self.state.verdict
        if verdict is None:
            return Verification()
        return Verification(
            verdict=verdict.status,
            samples=verdict.samples,
            outputs=verdict.outputs,
            reason=verdict.reason,
            warnings=verdict.warnings,
            gate=gate(verdict, self.judge.strict),
            findings=verdict.findings,
        )

    def held_to(self) -> BudgetRecord | None:
        """The budget that the verdict on the result was reached with, and what was measured."""
        found = None if self.state.verdict is None else self.state.verdict.measurement
        return None if found is None else BudgetRecord.of(found)

    # ---- the tree ----

    def sequence(self, items: text.Sequence) -> bool:
        """Runs items in order; returns whether any changed the model."""
        changed = [self.item(item) for item in items.items]  # a list: every item runs, whatever came before it
        return any(changed)

    def item(self, item: text.Item) -> bool:
        if isinstance(item, text.PassItem):
            return self.one(item.pass_)
        if isinstance(item, text.Fix):
            return self.fix(item)
        if isinstance(item, text.Try):
            return self.attempt(item)
        return self.sequence(item.body)

    def fix(self, item: text.Fix) -> bool:
        rounds, self.rounds = 0, self.rounds + 1
        while rounds < item.max and self.sequence(item.body):
            rounds += 1
        self.rounds -= 1
        return rounds > 0

    def attempt(self, item: text.Try) -> bool:
        before, snapshot, first = replace(self.state), self.snapshot, len(self.records)
        self.groups += 1
        try:
            return self.sequence(item.body)
        except _Undo:
            self.state, self.snapshot, self.spare = before, snapshot, None
            self.records[first:] = [_undone(record) for record in self.records[first:]]
            self.trace.excuse(first + 1)
            return False
        finally:
            self.groups -= 1

    # ---- one pass ----

    def one(self, pass_: Pass) -> bool:
        if self.rounds and pass_.settles and self.settled.get(pass_) == self.snapshot.fingerprint:
            return False
        for observer in self.manager.observers:
            observer.before(pass_)
        with self.trace.watching(pass_, self.state):
            record, self.state = self.transact(pass_)
        self.records.append(record)
        for observer in self.manager.observers:
            observer.after(record, self.current)
        if record.error and self.groups:
            raise _Undo
        if record.error and self.manager.on_fail == "stop":
            raise _Stop
        limited = self.context.rewrites is not None and self.context.rewrites.limit is not None
        if pass_.settles and not record.error and not limited:
            self.settled[pass_] = self.snapshot.fingerprint
        return record.status in ("kept", "failed")

    def transact(self, pass_: Pass) -> tuple[PassRecord, State]:
        """Runs a pass on a copy, judges it, and decides which model goes on."""
        before, start = self.state, time.perf_counter()
        trial, rewrites = Trial(pass_, before.model, self.snapshot, self.spare), self.context.rewrites
        numbered = 0 if rewrites is None else len(rewrites.admitted)
        if rewrites is not None and rewrites.exhausted:
            trial.skip(f"not run: the {rewrites.limit} rewrites of --bisect-limit are used up")
        else:
            trial.run(self.context_for(pass_))
        if trial.fault is None and trial.changed and self.manager.verify:
            trial.verdict = self.judge.step(pass_, before, trial.model)
            trial.fault = gate(trial.verdict, self.judge.strict)
        keep = trial.fault is None or (self.manager.on_fail == "keep" and trial.sound and not self.groups)
        record = trial.record(time.perf_counter() - start, kept=keep)
        state = self.next_state(trial, keep)
        self.snapshot = trial.result if state.model is trial.model else trial.start
        if self.snapshot.bytes > LARGE:
            gc.collect()  # models are full of cycles, and what this pass left behind may hold weights
        step = Step(len(self.records) + 1, pass_, before, state, trial.model, trial.changed, trial.fault, trial.verdict)
        step.rewrites, step.refused, step.sound = numbered, trial.refused, trial.sound
        if rewrites is not None and (step.fault is not None or not self.manager.verify):
            step.admitted, step.snapshots = rewrites.admitted[numbered:], rewrites.snapshots
        self.trace.add(step, in_try=self.groups > 0)
        return record, state

    def next_state(self, trial: Trial, keep: bool) -> State:
        self.spare = None
        if not keep:
            return self.state
        if not trial.changed:  # what is not saved, such as inferred shapes, may have been added
            if self.trace.every or trial.model is trial.before:
                return replace(self.state, model=trial.model)
            self.spare = trial.model
            return self.state
        return self.judge.after(trial.pass_, self.state, trial.model, trial.verdict, failed=trial.fault is not None)

    # ---- judging ----

    def judge_result(self) -> None:
        """Fills in the verdict of the result against the original where no pass's own verdict says it already."""
        if self.manager.verify and self.state.verdict is None:
            self.state.verdict = self.judge.result(self.state)

    def context_for(self, pass_: Pass) -> PassContext:
        verifier = self.context.verifier
        if not self.manager.verify_each or verifier is None:
            return self.context

        def checkpoint(model: ir.Model, change: Change) -> None:
            verdict = self.judge.step(pass_, self.state, model)
            if verdict is not None and verdict.status == "fail":
                raise GateError(f"after rewrite '{change.rule}' at '{change.node}': {verdict.reason}")

        return replace(self.context, checkpoint=checkpoint)


def _undone(record: PassRecord) -> PassRecord:
    """The record of a pass in a try(...) group of which some pass failed."""
    if record.status == "unchanged":
        return replace(record, excused=True)
    error = record.error or "undone with its try(...) group"
    nodes, sizes = (record.nodes[0],) * 2, (record.bytes[0],) * 2
    return replace(record, status="rolled back", error=error, excused=True, nodes=nodes, bytes=sizes)
