"""baker-opt --run-reproducer: runs what a reproducer folder holds, and says whether it still ends in the same way."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from baker.cli.evidence import MANIFEST, Evidence, inside, read_manifest
from baker.cli.shell import note
from baker.errors import ModelError, UsageError, printable

if TYPE_CHECKING:
    import onnx_ir as ir

    from baker.cli.request import Request
    from baker.pipeline.bake import Settings
    from baker.proof.feeds import Feeds


def replay(request: Request, folder: Path) -> int:
    """Replays a folder; returns the exit code that it ends with now.

    Nothing in the folder is executed but its --load files, which are named first. What else the run called (a metric,
    a custom-op library, a function that yields feeds) has to be given again on the command line.

    Raises:
        UsageError, ModelError, SecurityError, ResourceError: the folder is no reproducer, or can't be replayed.
    """
    content = read_manifest(folder)
    if content.get("kind") == "crash":
        from baker.cli.recall import recall

        return recall(request, folder, content)
    from baker.pipeline.typed_json import read_as

    evidence = read_as(Evidence, content, str(folder / MANIFEST))
    if evidence.kind != "failure":
        raise ModelError(f"{folder / MANIFEST}: kind {evidence.kind[:40]!r} is not known.")
    failures = _run(request, folder, evidence)
    return told(evidence.expected.exit_code, evidence.expected.message, 1 if failures else 0, (*failures, "")[0])


def told(due_code: int, due: str, code: int, message: str) -> int:
    """Says whether a run ended as it was due, and returns how it did."""
    if code == due_code and plain(message) == plain(due):
        lines = [f"reproduced: exit {code}, {message}"]
    elif code == 0:
        lines = [f"not reproduced any more: exit 0 where exit {due_code} is due, {due}"]
    else:
        lines = [f"not reproduced: exit {code}, {message}", f"  where exit {due_code} is due, {due}"]
    for line in lines:
        click.echo(printable(line))
    return code


def plain(message: str) -> str:
    """A message without what differs from run to run: addresses and temporary folders."""
    return re.sub(r"0x[0-9a-f]{6,}|/[^\s'\"]*/", "", message).strip()


def _run(request: Request, folder: Path, evidence: Evidence) -> list[str]:
    """Runs the pipeline of the folder on its model; returns what failed."""
    from baker.model.lower import lower
    from baker.pipeline import bake
    from baker.pipeline.judging import State
    from baker.pipeline.registry import Registry
    from baker.pipeline.text import parse

    settings = _settings(request, evidence)
    start = lower(_model(folder, evidence))
    reference = start if evidence.reference is None else lower(inside(folder, evidence.reference))
    standing = evidence.standing
    state = State(start, standing.lossy, standing.rounded, _budget(evidence), broken=standing.broken)
    feeds = None if evidence.feeds is None else _feeds(folder, evidence, reference)
    registry = Registry()
    for path in [inside(folder, name) for name in evidence.load]:  # when all else is in order
        note(f"loads {path}: the code in it runs")
        registry.load_file(path)
    pipeline = parse(evidence.pipeline, registry)
    note(f"replays {evidence.pipeline} on {evidence.model} of {folder}")
    settings = replace(settings, registry=registry)
    _, report = bake.run(reference, pipeline.items, settings, start=state, feeds=feeds)
    return report.failures()


def _settings(request: Request, evidence: Evidence) -> Settings:
    from baker.pipeline.bake import Settings

    options = evidence.options
    for name in ("metric", "custom_ops"):
        if getattr(options, name) is not None and getattr(request, name) is None:
            raise _not_given(name, getattr(options, name))
    calib = request.calib or options.calib
    if evidence.feeds is None and request.calib is None and calib not in (None, "synthetic"):
        raise _not_given("calib", str(calib))
    if options.target not in ("auto", "cpu", "cuda"):
        raise ModelError(f"{MANIFEST}: target {options.target[:40]!r} is not known.")
    if options.seed < 0 or (options.threads or 1) < 1:
        raise ModelError(f"{MANIFEST}: seed {options.seed} and {options.threads} threads can't be.")
    whole = not evidence.options.verify  # then it was --bisect that found it
    return Settings(
        calib=None if evidence.feeds is not None else calib,
        metric=request.metric,
        budget=options.budget,
        target=options.target,  # type: ignore[arg-type]  # checked above
        verify=options.verify,
        verify_each=options.verify_each,
        on_fail="stop",
        strict=options.strict,
        seed=options.seed,
        threads=options.threads,
        custom_ops=request.custom_ops,
        bisect=whole,
    )


def _not_given(name: str, value: str) -> UsageError:
    option = f"--{name.replace('_', '-')}"
    return UsageError(
        f"this run had {option} {value[:200]}, which is code or lies elsewhere, and is not taken from a reproducer. "
        f"Give {option} again if you trust it."
    )


def _model(folder: Path, evidence: Evidence) -> Path:
    if evidence.sha256 is None:
        return inside(folder, evidence.model)
    path = Path(evidence.model)
    if not path.is_file():
        raise UsageError(f"the model was too large to be copied, and {evidence.model[:300]!r} is not there any more.")
    note(f"reads {path}")
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for chunk in iter(lambda: file.read(1 << 20), b""):
            digest.update(chunk)
    if digest.hexdigest() != evidence.sha256:
        raise UsageError(f"{path} is another model than the one that failed.")
    return path


def _budget(evidence: Evidence) -> Any:
    from baker.proof.budget import Budget

    limit = evidence.standing.budget
    if limit is None:
        return None
    if limit.kind not in ("metric", "sqnr", "top1", "rel"):
        raise ModelError(f"{MANIFEST}: budget kind {limit.kind[:40]!r} is not known.")
    return Budget(limit.kind, limit.limit)  # type: ignore[arg-type]  # checked above


def _feeds(folder: Path, evidence: Evidence, model: ir.Model) -> Feeds:
    from baker.proof.frozen import thaw

    frozen = evidence.feeds
    assert frozen is not None
    if not (0 <= frozen.calibration <= 100_000 and 0 <= frozen.held_out <= 100_000):
        raise ModelError(f"{folder / MANIFEST}: feeds: no such number of feeds can be in the file.")
    path = inside(folder, "feeds.npz")
    return thaw(
        path.read_bytes(),
        model,
        str(path),
        counts=(frozen.calibration, frozen.held_out),
        source=frozen.source,
        synthetic=frozen.synthetic,
        problem=frozen.problem,
    )
