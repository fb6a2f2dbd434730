"""Writes the reproducer folder of a failed gate: the model before the failing pass, and all that judging it took."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from baker.cli.evidence import (
    COPY_LIMIT,
    ERROR,
    FORMAT,
    MANIFEST,
    OURS,
    Evidence,
    Expected,
    Frozen,
    Limit,
    Options,
    Standing,
)
from baker.errors import BakerError, ResourceError, UsageError

if TYPE_CHECKING:
    import onnx_ir as ir

    from baker.cli.request import Request
    from baker.pipeline.judging import State
    from baker.pipeline.report import Report
    from baker.pipeline.trace import Step, Trace
    from baker.proof.feeds import Feeds


def reproduce_failure(request: Request, report: Report, trace: Trace, beside: Path) -> list[str]:
    """Writes ``<beside's stem>.reproducer`` where a verdict was 'fail' or a pass broke; returns what to tell of it.

    Args:
        beside: the report's folder and the result's stem: an older folder of baker's own there is replaced.
    """
    if not _is_failure(report, trace):
        return []
    try:
        folder = _free(beside.parent / f"{beside.stem}.reproducer")
        with _replacing(folder) as draft:
            _write(draft, request, report, trace)
    except (OSError, BakerError) as error:  # what went wrong first must not be hidden
        return [f"no reproducer could be written: {error}"]
    return [f"reproducer: {folder}; baker-opt --run-reproducer {folder}"]


def _is_failure(report: Report, trace: Trace) -> bool:
    """An inconclusive verdict shows no fault that could be reproduced."""
    if trace.failed is not None:
        return trace.failed.verdict is None or trace.failed.verdict.status == "fail"
    return report.blame is not None or report.verification.verdict == "fail"


def _write(folder: Path, request: Request, report: Report, trace: Trace) -> None:
    step = _culprit(report, trace)
    model, reference, digest = _models(folder, request, trace, step)
    whole = step is None or digest is not None
    loaded = []
    for index, path in enumerate(request.load):
        loaded.append(f"load-{index}.py")
        shutil.copyfile(path, folder / loaded[-1])
    evidence = Evidence(
        reproducer=FORMAT,
        kind="failure",
        command="baker-opt",
        pipeline=report.pipeline if whole or step is None else _text(step),
        then="" if whole else report.pipeline,
        expected=Expected(1, report.failures()[0]),
        model=model,
        options=_options(request),
        standing=Standing() if whole or step is None else _standing(step.before),
        environment=report.environment,
        reference=reference,
        sha256=digest,
        feeds=_freeze(folder, trace.feeds),
        load=tuple(loaded),
    )
    (folder / ERROR).write_text("\n".join(report.failures()) + "\n", encoding="utf-8", errors="backslashreplace")
    content = json.dumps(asdict(evidence), indent=2)
    (folder / MANIFEST).write_text(content + "\n", encoding="utf-8")


def _culprit(report: Report, trace: Trace) -> Step | None:
    """The step that failed by itself; in a run that was not verified, the one that is to blame."""
    if trace.failed is not None or report.blame is None or report.verification.gate is not None:
        return trace.failed
    return next((step for step in trace.steps if step.number == report.blame.run), None)


def _models(folder: Path, request: Request, trace: Trace, step: Step | None) -> tuple[str, str | None, str | None]:
    """Saves the model to start from, and the original; else names the source and its hash."""
    from baker.model.save import saved_size
    from baker.pipeline.integrity import fingerprint
    from baker.pipeline.keep import save_as_it_is

    original = trace.reference
    if original is None:
        raise UsageError("the run ended before it had a model")
    start: ir.Model = original if step is None else step.before.model
    changed = step is not None and fingerprint(start) != fingerprint(original)
    if sum(saved_size(model) for model in ((start, original) if changed else (start,))) > COPY_LIMIT:
        from baker.model.lower import source_facts

        facts = source_facts(original)
        return str((facts.path or Path(request.model or "")).resolve()), None, facts.sha256
    save_as_it_is(start, folder / "model.onnx")
    if changed:
        save_as_it_is(original, folder / "reference.onnx")
    return "model.onnx", "reference.onnx" if changed else None, None


def _freeze(folder: Path, feeds: Feeds | None) -> Frozen | None:
    """Saves the feeds; None where they are too large, or no tensors: then they have to be given again."""
    from baker.proof.frozen import freeze

    if feeds is None:
        return None
    try:
        data = freeze(feeds, limit=COPY_LIMIT)
    except (ResourceError, UsageError):
        return None
    (folder / "feeds.npz").write_bytes(data)
    return Frozen(len(feeds.calibration), len(feeds.held_out), feeds.source, feeds.synthetic, feeds.problem)


def _options(request: Request) -> Options:
    return Options(
        seed=request.seed,
        target=request.target,
        verify=request.verify_each is not False,
        verify_each=bool(request.verify_each),
        strict=request.strict,
        threads=request.threads,
        budget=request.budget,
        metric=request.metric,
        custom_ops=None if request.custom_ops is None else str(request.custom_ops),
        calib=request.calib,
    )


def _standing(state: State) -> Standing:
    budget = None if state.budget is None else Limit(state.budget.kind, state.budget.limit)
    return Standing(state.lossy, state.rounded, state.broken, budget)


def _text(step: Step) -> str:
    from baker.pipeline.text import PassItem

    return str(PassItem(step.pass_))


# ---- the folder ----


def _free(wanted: Path) -> Path:
    """The folder, where there is none yet or an older one of baker's own, else the next number."""
    for number in range(1, 1000):
        folder = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        if not folder.exists() and not folder.is_symlink():
            return folder
        if is_ours(folder):
            return folder
    raise UsageError(f"{wanted} and 999 more of that name are taken")


def is_ours(folder: Path) -> bool:
    """True for a folder that holds a reproducer and nothing else."""
    if folder.is_symlink() or not folder.is_dir() or not (folder / MANIFEST).is_file():
        return False
    entries = list(os.scandir(folder))
    return all(OURS.fullmatch(entry.name) and entry.is_file(follow_symlinks=False) for entry in entries)


@contextmanager
def _replacing(folder: Path) -> Iterator[Path]:
    """A new folder that takes its name when the block ends; the older one goes then."""
    from baker.model.files import TEMPORARIES

    draft = folder.with_name(f".{folder.name}.{secrets.token_hex(6)}.tmp")
    TEMPORARIES.add(draft)
    try:
        draft.mkdir()
        yield draft
        old = None
        if folder.exists():
            old = folder.with_name(f".{folder.name}.{secrets.token_hex(6)}.old")
            TEMPORARIES.add(old)
            os.rename(folder, old)
        os.rename(draft, folder)
        if old is not None:
            shutil.rmtree(old)
            TEMPORARIES.discard(old)
    finally:
        shutil.rmtree(draft, ignore_errors=True)  # nothing is there any more where it got its name
        TEMPORARIES.discard(draft)
