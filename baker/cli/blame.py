"""What baker-opt says about who is to blame for a failure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from baker.cli.shell import note
from baker.errors import printable

if TYPE_CHECKING:
    from baker.cli.request import Request
    from baker.pipeline.report import Report


def print_blame(request: Request, report: Report) -> None:
    """Prints what --bisect found; without it, where a run failed, what it would find."""
    failed = bool(report.failures())
    if not request.bisect:
        if failed and not request.quiet and _to_blame(report):
            note(hint(report))
        return
    if report.blame is not None:
        lines = report.blame.lines()
    elif failed:
        lines = ["nothing to blame: no verdict is 'fail', so there is no error to look for"]
    else:
        lines = ["nothing to blame"]
    for line in lines:
        note(line) if request.as_json else click.echo(printable(line))


def _to_blame(report: Report) -> bool:
    """Whether --bisect would look: a verdict is 'fail', or a pass broke. What is inconclusive has no error to find."""
    broken = any(record.error and not record.excused and record.verdict != "inconclusive" for record in report.passes)
    return broken or report.verification.verdict == "fail"


def hint(report: Report) -> str:
    """What to do next; a result that fails although every pass kept its promise names those that changed it."""
    failing = [record for record in report.passes if record.error and not record.excused]
    changing = [record.name for record in report.passes if record.status == "kept"]
    text = "--bisect names the first bad rewrite in it, and the first tensor that differs."
    if failing or not changing:
        return f"hint: {text}"
    names = ", ".join(dict.fromkeys(changing))
    return f"hint: {names} changed the model, and each kept its own promise. --bisect names the one, and its rewrite."
