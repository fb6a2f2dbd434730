"""baker reduce: the smallest model that still makes a command fail."""

from __future__ import annotations

import json
import signal
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from baker.cli.limits import limit_options
from baker.cli.shell import MODEL, Command, note
from baker.errors import UsageError

if TYPE_CHECKING:
    from baker.pipeline.reduce import Reduced


@click.command(cls=Command, short_help="Shrink a model that makes a command fail.")
@click.argument("model", type=MODEL)
@click.option("--check", metavar="CMD", required=True, help="Shell command that fails on MODEL; {} is its path.")
@click.option("-o", "--out", type=click.Path(dir_okay=False, path_type=Path), help="Default: <stem>.reduced.onnx.")
@click.option("--match", metavar="REGEX", help="The command's output must have this, too.")
@click.option("--timeout", metavar="SECONDS", type=click.FloatRange(min=0, min_open=True), default=120.0,
              show_default=True, help="For one run of the command; then it is killed.")  # fmt: skip
@click.option("--jobs", type=click.IntRange(min=1), default=2, show_default=True, help="Runs of the command at a time.")
@limit_options
@click.option("--json", "as_json", is_flag=True, help="Print what came of it as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="No progress on stderr.")
@click.option("-v", "--verbose", count=True, help="-vv shows tracebacks.")
def reduce(
    model: Path,
    check: str,
    out: Path | None,
    match: str | None,
    timeout: float,
    jobs: int,
    as_json: bool,
    quiet: bool,
    verbose: int,
) -> None:
    """Shrink MODEL as long as CMD fails on what is left as it fails on MODEL.

    Failing is to end with the same exit code other than 0. CMD runs in the current folder on copies; Ctrl-C keeps the
    smallest model found so far.

    \b
    baker reduce model.onnx --check 'baker-opt {} -p my_pass --load my_pass.py'
    baker reduce model.onnx --check 'python check.py {}' --match 'AssertionError: outputs differ'
    """
    from baker.pipeline.reduce import reduce as run

    target = _target(model, out)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # temporary files go then, too
    show = (lambda text: None) if quiet else note
    found = run(model, check, match=match, timeout=timeout, jobs=jobs, show=show)
    _write(found, target)
    facts = summary(found, model, target, check)
    if not quiet:
        _tell(found, facts)
    click.echo(json.dumps(facts, indent=2) if as_json else str(target))
    if found.interrupted:
        note("interrupted: this is the smallest model found so far")
        raise click.exceptions.Exit(130)


def _target(model: Path, out: Path | None) -> Path:
    target = out or Path(f"{model.stem}.reduced.onnx")
    if target.exists() and target.samefile(model):
        raise UsageError(f"{target} is the model itself, which is never written to; give another file to -o.")
    if not target.parent.is_dir():
        raise UsageError(f"cannot write {target}: there is no folder {target.parent}. Make it first.")
    return target


def _write(found: Reduced, target: Path) -> None:
    from baker.model.save import write_bytes_atomically

    write_bytes_atomically(target, found.model.SerializeToString(deterministic=True))


def summary(found: Reduced, model: Path, target: Path, check: str) -> dict[str, Any]:
    """What came of it, for JSON."""
    from baker.pipeline.report import plain

    return {
        "schema": 1,
        "model": str(model),
        "result": str(target),
        "check": check,
        "exit": found.outcome.exit,
        "checks": found.checks,
        "seconds": round(found.seconds, 3),
        "interrupted": found.interrupted,
        "before": plain(found.before),
        "after": plain(found.after),
        "ops": dict(Counter(node.op_type for node in found.model.graph.node).most_common()),
        "notes": found.notes,
    }


def _tell(found: Reduced, facts: dict[str, Any]) -> None:
    for text in found.notes:
        note(f"note: {text}")
    before, after = found.before, found.after
    note(
        f"{before.nodes} nodes, {before.bytes} bytes -> {after.nodes} nodes, {after.bytes} bytes "
        f"({', '.join(facts['ops'])}) in {found.checks} checks, {found.seconds:.1f} s"
    )
