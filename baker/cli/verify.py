"""baker verify: may one model stand in for another?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from baker.cli.shell import MODEL, Command, note, progress, proof_options, verbosity_options, width

if TYPE_CHECKING:
    from baker.proof.verifier import Verdict


@click.command(cls=Command)
@click.argument("reference", type=MODEL)
@click.argument("candidate", type=MODEL)
@proof_options
@click.option("--json", "as_json", is_flag=True, help="Print the verdict as JSON.")
@verbosity_options
def verify(reference: Path, candidate: Path, as_json: bool, quiet: bool, verbose: int, **options: Any) -> None:
    """Judge whether CANDIDATE may stand in for REFERENCE.

    Without --budget the two must be the same function up to rounding; with one, the loss must be inside it. A --metric
    alone allows a loss of 1 %. Ends with 0 for pass, 1 for fail. Where the inputs prove nothing the verdict is
    inconclusive, which fails under --strict only, or where the model can't be run at all.

    --json prints status, reason, outputs (of each: max_abs, rel_l2, sqnr_db, cosine, top1_agreement,
    top1_interval), samples, warnings, runnable, measurement (of the budget), findings (signs of a fake optimization).
    """
    from baker.pipeline import bake

    with progress(not quiet) as show:
        show(f"comparing {candidate.name} with {reference.name}")
        verdict = bake.verify(reference, candidate, **options)
    if as_json:
        from baker.pipeline.report import plain

        click.echo(json.dumps(plain(verdict), indent=2, ensure_ascii=False, allow_nan=False))
    elif not quiet:
        from baker.pipeline.tables import verdict_view

        click.echo(verdict_view(verdict, width=width()), nl=False)
    _finish(verdict, strict=options["strict"], budgeted=bool(options["budget"] or options["metric"]))


def _finish(verdict: Verdict, *, strict: bool, budgeted: bool) -> None:
    """Ends with 1 unless the verdict lets the candidate through; ``budgeted``: a loss was allowed."""
    if verdict.status == "pass":
        return
    why = " (which fails under --strict)" if verdict.status == "inconclusive" and strict else ""
    note(f"{verdict.status}{why}: {verdict.reason}")
    fatal = any(finding.fatal for finding in verdict.findings)
    measured = [error.rel_l2 for error in verdict.outputs.values()]
    if verdict.status == "fail" and not (budgeted or fatal) and measured and max(measured) < 1:
        note("If a loss is meant, say what it may cost: --budget sqnr=20dB, top1=0.99, rel=0.05, or 1% of a --metric.")
    if verdict.status == "fail" or strict or not verdict.runnable:
        raise click.exceptions.Exit(1)
