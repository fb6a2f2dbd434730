"""Golden folders: records what a pipeline makes of a model, and makes it again to see whether that still holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

import onnx_ir as ir

from baker.errors import BakerError, GateError, UsageError
from baker.model.graph import all_nodes, count_nodes
from baker.model.lower import lower
from baker.model.save import saved_size
from baker.pipeline import bake
from baker.pipeline.golden_diff import Difference, compare, first_pass, other_versions
from baker.pipeline.golden_folder import (
    Expected,
    FrozenFeeds,
    Manifest,
    OutputFigures,
    PassFigures,
    StoredFile,
    read_expected,
    stored,
)
from baker.pipeline.registry import Registry
from baker.pipeline.report import PassRecord, Report, environment
from baker.proof.budget import load_metric, score
from baker.proof.feeds import Feeds
from baker.proof.frozen import thaw
from baker.proof.interface import signature
from baker.runtime.session import run, session

_VERSIONS = ("baker-opt", "onnx", "onnx-ir", "onnxscript", "onnxruntime", "onnxruntime-gpu", "numpy", "platform")


@dataclass(frozen=True)
class Given:
    """What a check is handed besides the folder, because somebody says so.

    Attributes:
        custom_ops: the library that a recipe names.
        load: plugin files that take the place of the stored ones of the same name: a pass that is being worked on.
    """

    custom_ops: Path | None = None
    load: tuple[Path, ...] = ()

    def plugin(self, folder: Path, file: StoredFile) -> Path:
        """The file to load."""
        name = PurePosixPath(file.path).name
        return next((path for path in self.load if path.name == name), None) or stored(folder, file)


NOTHING = Given()


@dataclass(frozen=True)
class Run:
    """What a recipe came to.

    Attributes:
        found: its figures.
        failures: why the result would not have been written, one line each.
        warnings: what must be heard although nothing failed.
    """

    found: Expected
    failures: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def accepted(self) -> Expected:
        """What may be recorded: the figures of a run that passed.

        Raises:
            GateError: a gate failed.
        """
        if self.failures:
            why = "nothing is recorded: what is expected must come from a run that passes, and this one fails."
            raise GateError("\n".join((why, *self.failures)))
        return self.found


@dataclass(frozen=True)
class Check:
    """What became of one recipe.

    Attributes:
        name, pipeline: which one.
        differences: what is not as recorded, better things included.
        first: the first pass whose figures are others, in words.
        versions: what has another version now: recorded, now.
        error: why nothing could be compared, with its exit code.
        run: what came out.
    """

    name: str
    pipeline: str
    differences: tuple[Difference, ...] = ()
    first: str = ""
    versions: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    error: BakerError | None = None
    run: Run | None = None

    @property
    def outcome(self) -> str:
        """``equal``, ``better`` (not worse anywhere), ``different``, or ``error``."""
        if self.error is not None:
            return "error"
        if any(difference.outcome != "better" for difference in self.differences):
            return "different"
        return "better" if self.differences else "equal"

    @property
    def exit_code(self) -> int:
        """0 where nothing is worse, 1 where something is, else that of the error."""
        if self.error is not None:
            return self.error.exit_code
        return 1 if self.outcome == "different" else 0


def check(folder: Path, manifest: Manifest, name: str, given: Given = NOTHING) -> Check:
    """Runs a recipe again and compares; what keeps it from running is in the result, not raised."""
    recipe = manifest.recipes[name]
    try:
        expected = read_expected(folder, name)
        run = measure(folder, manifest, name, given)
    except BakerError as error:
        return Check(name, recipe.pipeline, error=error)
    differences = compare(expected, run.found, recipe.slack)
    differences += [Difference("gate", "", "held", failure, "worse") for failure in run.failures]
    return Check(
        name,
        recipe.pipeline,
        tuple(differences),
        first_pass(expected, run.found, recipe.slack) if differences else "",
        other_versions(expected, run.found),
        run=run,
    )


def measure(folder: Path, manifest: Manifest, name: str, given: Given = NOTHING) -> Run:
    """Bakes the stored model by a recipe.

    Raises:
        ModelError: a stored file is missing or was changed.
        UsageError: the pipeline, a plugin file or the metric is not what it was, or the library was not given.
        BakerError: as `baker.bake`.
    """
    recipe = manifest.recipes[name]
    if recipe.custom_ops is not None and given.custom_ops is None:
        raise UsageError(
            f"'{name}' needs the custom-op library {recipe.custom_ops}. Give it with --custom-ops, or to pytest as "
            "baker_custom_ops in its ini file."
        )
    model = stored(folder, manifest.model)
    registry = Registry()
    for file in recipe.load:
        registry.load_file(given.plugin(folder, file))
    settings = bake.Settings(
        calib=_feeds(folder, model, recipe.feeds),
        metric=recipe.metric,
        budget=recipe.budget,
        strict=recipe.strict,
        seed=recipe.seed,
        threads=recipe.threads,
        custom_ops=given.custom_ops,
        registry=registry,
    )
    result, report = bake.run(model, recipe.pipeline, settings)
    failures, found = tuple(report.failures()), describe(result, report)
    if recipe.metric is not None and not failures:
        runner = session(result, threads=recipe.threads, custom_ops=given.custom_ops)
        found = replace(found, metric=_figure(score(load_metric(recipe.metric), lambda feed: run(runner, feed))))
    reason = report.verification.reason
    return Run(found, failures, tuple(dict.fromkeys([*report.warnings(), *([reason] if reason else [])])))


def _feeds(folder: Path, model: Path, file: FrozenFeeds) -> Feeds:
    return thaw(
        stored(folder, file).read_bytes(),
        lower(model),
        str(folder / file.path),
        counts=(file.calibration, file.held_out),
        source=file.source,
        synthetic=file.synthetic,
        problem=file.problem,
    )


def describe(model: ir.Model, report: Report) -> Expected:
    """The figures of a result; errors with four significant digits."""
    seen, kernels = report.verification, report.kernels
    ops = Counter(_operator(node) for node in all_nodes(model) if node.op_type != "Constant")
    return Expected(
        verdict=seen.verdict,
        samples=seen.samples,
        nodes=count_nodes(model),
        bytes=saved_size(model),
        operators=dict(sorted(ops.items())),
        inputs=signature(model.graph.inputs),
        outputs=signature(model.graph.outputs),
        errors={
            name: OutputFigures(
                _figure(error.max_abs),
                _figure(error.rel_l2),
                _figure(error.sqnr_db),
                None if error.top1_agreement is None else _figure(error.top1_agreement),
            )
            for name, error in seen.outputs.items()
        },
        kernels={} if kernels is None else {kind: getattr(kernels, kind) for kind in ("integer", "ternary", "float")},
        passes=tuple(_pass_figures(record) for record in report.passes),
        versions={key: value for key, value in environment().items() if key in _VERSIONS},
    )


def _pass_figures(record: PassRecord) -> PassFigures:
    errors = [error.rel_l2 for error in record.outputs.values()]
    return PassFigures(
        name=record.name + record.options,
        nodes=record.nodes,
        bytes=record.bytes,
        changes=len(record.changes),
        declined=len(record.declined),
        verdict=record.verdict if record.status == "kept" else record.status,
        rel_l2=_figure(max(errors)) if errors else None,
    )


def _operator(node: ir.Node) -> str:
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}::{node.op_type}"


def _figure(value: float) -> float:
    return float(f"{value:.4g}")
