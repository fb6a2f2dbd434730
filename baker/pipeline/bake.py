"""From a model and a pipeline to a proven result: what both `baker.bake` and ``baker-opt`` do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import onnx_ir as ir
import onnxruntime

from baker.errors import GateError, ModelError, PipelineError, UsageError
from baker.model.collector import seldom_collecting
from baker.model.lower import SourceFacts, lower, source_facts
from baker.model.marks import NOTES
from baker.model.operators import BAKER_DOMAIN
from baker.pipeline.judging import State
from baker.pipeline.limit import RewriteLimit
from baker.pipeline.manager import Observer, OnFail, PassManager
from baker.pipeline.pass_base import LossyPass, PassContext
from baker.pipeline.registry import Registry
from baker.pipeline.report import BudgetRecord, Report, Requires, Verification
from baker.pipeline.text import PassItem, Pipeline
from baker.pipeline.trace import Trace
from baker.proof.budget import DEFAULT_METRIC_BUDGET, Budget, Metric, load_metric
from baker.proof.feeds import Feeds, load_feeds, no_feeds
from baker.proof.numerics import Fidelity
from baker.runtime import supervise
from baker.runtime.kernels import custom_ops_library

if TYPE_CHECKING:
    from baker.proof.verifier import Verdict, Verifier

DEFAULT_PIPELINE = "@simplify"

Target = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class Baked:
    """A result that met every gate.

    Attributes:
        model: the optimized model; `baker.save` writes it, `baker.session` runs it.
        report: what every pass did and what it cost.
    """

    model: ir.Model
    report: Report


@dataclass(frozen=True)
class Settings:
    """How a model is baked, besides the pipeline.

    Attributes:
        calib: feeds; see `baker.proof.feeds.load_feeds` for all forms.
        metric: ``module:function`` or a callable: a runner in, a float out, higher is better.
        budget: what a lossy result may cost: ``1%`` of the metric, ``sqnr=20dB``, ``top1=0.99``, ``rel=0.05``; a
            metric without one is held to 1 %.
        target: the machine the result is for; whatever it is, models are run, and kernels counted, on the CPU.
        verify: False verifies nothing, and the report says so.
        verify_each: verify after every rewrite, too.
        on_fail: what becomes of a pass that fails; see `PassManager`.
        strict: an inconclusive verdict fails the run.
        seed: seeds synthetic feeds and every pass.
        threads: threads of each session; None is ONNX Runtime's choice.
        custom_ops: a library of custom operators that the model needs; loaded because the caller says so.
        bisect: where something fails, find the first bad pass and rewrite; with ``verify=False``, too.
        rewrites: counts the rewrites, and admits only so many.
        provenance: nodes and weights of the result say, in their metadata, where they come from.
        trace: keeps what a reproducer of a failure takes.
    """

    calib: Any = None
    metric: str | Metric | None = None
    budget: str | Budget | None = None
    target: Target = "auto"
    verify: bool = True
    verify_each: bool = False
    on_fail: OnFail = "rollback"
    strict: bool = False
    seed: int = 0
    threads: int | None = None
    custom_ops: str | Path | None = None
    bisect: bool = False
    rewrites: RewriteLimit | None = field(default=None, repr=False)
    provenance: bool = False
    trace: Trace | None = field(default=None, repr=False)
    observers: Sequence[Observer] = field(default=(), repr=False)
    registry: Registry | None = field(default=None, repr=False)


def bake(
    source: Any,
    pipeline: str | Sequence[Any] = DEFAULT_PIPELINE,
    *,
    calib: Any = None,
    metric: str | Metric | None = None,
    budget: str | Budget | None = None,
    target: Target = "auto",
    verify: bool = True,
    seed: int = 0,
    **more: Any,
) -> Baked:
    """Optimizes a model and proves the result.

    Args:
        source: what `baker.lower` takes: a path, a ModelProto, an onnx_ir.Model, an onnxscript function.
        pipeline: ``-p`` text, or a sequence of passes.
        calib, metric, budget, target, verify, seed: see `Settings`; ``more`` takes its other fields.

    Raises:
        GateError: a pass failed or the result misses a gate; ``error.report`` has the whole story.
        UsageError, ModelError, SecurityError, ResourceError: as on the command line.
    """
    settings = Settings(calib, metric, budget, target, verify, seed=seed, **more)
    model, report = run(source, pipeline, settings)
    failures = report.failures()
    if failures:
        raise GateFailed(failures, report)
    return Baked(model, report)


class GateFailed(GateError):
    """A gate failed. ``report`` is the run's report; the model is not handed out."""

    def __init__(self, failures: Sequence[str], report: Report) -> None:
        self.report = report
        super().__init__("\n".join(failures))


def run(
    source: Any,
    pipeline: str | Sequence[Any],
    settings: Settings,
    *,
    start: State | None = None,
    feeds: Feeds | None = None,
) -> tuple[ir.Model, Report]:
    """Lowers, runs the pipeline and fills in the report; the caller looks at ``report.failures()``.

    Args:
        start: go on from here, where a run stood in the middle of its pipeline; the source is what it started from.
        feeds: instead of those that the settings name.
    """
    with seldom_collecting():  # `PassManager` sees to it that what large models leave behind goes at once
        return _run(source, pipeline, settings, start, feeds)


def _run(
    source: Any, pipeline: str | Sequence[Any], settings: Settings, start: State | None, feeds: Feeds | None
) -> tuple[ir.Model, Report]:
    manager = _manager(pipeline, settings)
    if settings.target not in get_args(Target):
        raise UsageError(f"target is one of {', '.join(get_args(Target))}; found {settings.target!r}")
    budget, metric = _goals(settings)
    if metric is None:
        _check_own_budgets(manager.pipeline)
    reference = lower(source)
    facts = source_facts(reference)
    judging = bool(settings.verify or settings.bisect or budget or metric)
    feeds = feeds or _feeds(reference, facts, settings, judging=judging)
    if settings.trace is not None:
        settings.trace.reference = reference
        settings.trace.feeds = feeds if judging or settings.calib is not None else None
    verifier = _verifier(reference, feeds, budget, metric, settings) if judging else None
    context = PassContext(
        reference=reference,
        calibration=feeds.calibration,
        verifier=verifier if settings.verify or budget or metric else None,  # --bisect alone judges at the end
        budget=budget,
        target=settings.target,
        seed=settings.seed,
        threads=settings.threads,
        custom_ops=None if settings.custom_ops is None else str(settings.custom_ops),
        rewrites=settings.rewrites,
    )
    manager.bisect = verifier if settings.bisect else None
    model, report = manager.run(reference, context, start=start)
    _complete(report, model, facts, feeds, reference.meta[NOTES], verifier, budget, settings)
    return model, report


def _feeds(reference: ir.Model, facts: SourceFacts, settings: Settings, *, judging: bool) -> Feeds:
    """The inputs that passes learn from and verdicts are reached on; none where nobody asks for any."""
    if settings.calib is None and not judging:
        return no_feeds(reference, seed=settings.seed)
    supervise.stage("looking for inputs that the model runs on")
    return load_feeds(
        settings.calib, reference, seed=settings.seed, model_path=facts.path, custom_ops=settings.custom_ops
    )


def _manager(pipeline: str | Sequence[Any], settings: Settings) -> PassManager:
    manager = PassManager(
        pipeline,
        on_fail=settings.on_fail,
        verify=settings.verify,
        verify_each=settings.verify_each,
        observers=settings.observers,
        registry=settings.registry,
        trace=settings.trace,
    )
    manager.provenance = settings.provenance
    return manager


def verify(
    reference: Any, candidate: Any, *, calib: Any = None, budget: str | Budget | None = None, **more: Any
) -> Verdict:
    """Judges whether one model may stand in for another: as ROUNDING, or by the budget or metric that is given.

    Args:
        reference, candidate: what `baker.lower` takes.
        calib, budget: see `Settings`; ``more`` takes its other fields.
    """
    settings = Settings(calib, budget=budget, **more)
    goal, metric = _goals(settings)
    original, other = lower(reference), lower(candidate)
    path = source_facts(original).path
    supervise.stage("looking for inputs that the model runs on")
    feeds = load_feeds(settings.calib, original, seed=settings.seed, model_path=path, custom_ops=settings.custom_ops)
    verifier = _verifier(original, feeds, goal, metric, settings)
    return verifier.verify(other, Fidelity.ROUNDING if goal is None else Fidelity.LOSSY)


def _goals(settings: Settings) -> tuple[Budget | None, Metric | None]:
    budget = Budget.parse(settings.budget) if isinstance(settings.budget, str) else settings.budget
    metric = load_metric(settings.metric) if isinstance(settings.metric, str) else settings.metric
    if not (budget is None or isinstance(budget, Budget)):
        raise UsageError(f"budget: text such as sqnr=20dB is due, found {type(budget).__name__} {budget!r}")
    if not (metric is None or callable(metric)):
        raise UsageError(f"metric: module:function or a function is due, found {type(metric).__name__} {metric!r}")
    if budget is not None and budget.kind == "metric" and metric is None:
        raise UsageError(f"budget '{budget}' {_NO_METRIC}")
    return DEFAULT_METRIC_BUDGET if budget is None and metric is not None else budget, metric


_NO_METRIC = (
    "is relative to a metric, and no metric was given. "
    "Add --metric module:function, or give a fidelity budget such as sqnr=20dB, top1=0.99 or rel=0.05."
)


def _check_own_budgets(pipeline: Pipeline) -> None:
    """Refuses a pass whose own budget needs a metric, before anything is read or run."""
    for pass_ in pipeline.passes():
        budget = Budget.parse(pass_.budget) if isinstance(pass_, LossyPass) and pass_.budget is not None else None
        if budget is not None and budget.kind == "metric":
            shown = str(pipeline)
            raise PipelineError(
                shown, shown.find(str(PassItem(pass_))), f"{pass_.name}: budget '{budget}' {_NO_METRIC}"
            )


def _verifier(
    reference: ir.Model, feeds: Feeds, budget: Budget | None, metric: Metric | None, settings: Settings
) -> Verifier:
    from baker.proof.verifier import Verifier  # brings most of `baker.proof`, which a run that judges nothing can spare

    return Verifier(
        reference,
        feeds,
        budget=budget,
        metric=metric,
        threads=settings.threads,
        custom_ops=settings.custom_ops,
        strict=settings.strict,
    )


def _complete(
    report: Report,
    model: ir.Model,
    facts: SourceFacts,
    feeds: Feeds,
    notes: Sequence[str],
    verifier: Verifier | None,
    budget: Budget | None,
    settings: Settings,
) -> None:
    """Fills in what the manager can't know: where the model came from, what the result runs on, the budget."""
    report.source = facts
    notes = (*notes, *feeds.notes)
    if settings.target == "cuda":
        notes = (*notes, "target cuda: verdicts, figures and kernels are the CPU's, as for every built-in pass.")
    warnings = (*report.verification.warnings, *notes)
    report.verification = replace(report.verification, feeds=feeds.source, warnings=warnings)
    report.requires = _requires(model)
    if not settings.verify:
        if budget is not None and verifier is not None:
            report.budget, more = _unjudged(model, verifier, budget)
            notes = (*notes, *more)
        report.verification = Verification(feeds=feeds.source, reason="not verified, as asked for", warnings=notes)
        return
    assert verifier is not None  # it verified
    runnable = report.verification.verdict in ("pass", "fail") or not report.verification.gate
    if runnable:
        try:
            report.kernels = verifier.audit(model)
        except ModelError:
            if report.verification.verdict != "fail":  # one that failed, and was kept all the same, need not load
                raise
            return
    if budget is not None and report.budget is None and runnable:
        report.budget = BudgetRecord.of(verifier.measure(model, budget))


def _unjudged(model: ir.Model, verifier: Verifier, budget: Budget) -> tuple[BudgetRecord, tuple[str, ...]]:
    """What a result costs that nobody verifies: the budget is measured and told, and is no gate."""
    try:
        measured = verifier.measure(model, budget)
    except ModelError as error:
        return BudgetRecord(budget.kind, budget.limit), (f"the budget '{budget}' could not be measured: {error}",)
    if measured.met:
        return BudgetRecord.of(measured), ()
    return BudgetRecord.of(measured), (f"over the budget '{budget}': {measured.detail}; --no-verify lets it pass",)


def _requires(model: ir.Model) -> Requires:
    """What the result was proven to run on: the ONNX Runtime at hand, no claim about older ones."""
    imports = (model.opset_imports, *(function.opset_imports for function in model.functions.values()))
    library = Path(custom_ops_library()).name if any(BAKER_DOMAIN in one for one in imports) else None
    return Requires(onnxruntime.__version__, model.opset_imports.get("", 0), model.ir_version or 0, library)
