"""baker bench: is one model faster than another?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from baker.cli.limits import limit_options
from baker.cli.shell import FILE, MODEL, Command, note, progress, verbosity_options, width
from baker.errors import printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from baker.cli.request import Request
    from baker.pipeline.report import Report
    from baker.proof.speed.claim import SideFacts, Speed


@click.command(cls=Command, short_help="Tell whether one model is faster than another.")
@click.argument("a", type=MODEL)
@click.argument("b", type=MODEL)
@click.option("--calib", "--feeds", metavar="DATA", help="Inputs: an .npz, a folder of .npz or test_data_set_*, "
              "module:function yielding dicts, or the word 'synthetic'.")  # fmt: skip
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Threads, for both models.")
@click.option(
    "--launches", type=click.IntRange(min=3), default=3, show_default=True, help="Processes to start at least."
)
@click.option("--pairs", type=click.IntRange(min=30), default=30, show_default=True, help="Pairs to time at least.")
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), default=15.0, show_default=True,
              help="How long it may take; the least that a claim takes is timed even so.")  # fmt: skip
@click.option("--custom-ops", metavar="LIB", type=FILE, help="Library of custom operators that a model needs.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seeds orders and inputs.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
@limit_options
@verbosity_options
def bench(a: Path, b: Path, calib: str | None, as_json: bool, quiet: bool, verbose: int, **options: Any) -> None:
    """Time model B against model A: faster by [low, high], slower by [low, high], or no measurable change.

    Both run side by side in several processes, in random order, at ONNX Runtime's default level, with a second session
    of A as the control. Ends with 1 where B's outputs are broken.
    """
    from baker.proof.speed.bench import Settings, compare_speed

    custom_ops = options.pop("custom_ops")
    with progress(not quiet) as show:
        library = None if custom_ops is None else str(custom_ops)
        settings = Settings(**options, custom_ops=library, progress=show)
        speed = compare_speed(a, b, calib=calib, settings=settings)
    if as_json:
        from baker.pipeline.report import plain

        click.echo(json.dumps(plain(speed), indent=2, ensure_ascii=False, allow_nan=False))
    elif not quiet:
        from baker.pipeline.tables import facts_view

        click.echo(printable(speed.line()))
        click.echo(facts_view(facts(speed, verbose=verbose > 0), width=width()), nl=False)
    if speed.refused:
        note(f"refused: {speed.reason}")
        raise click.exceptions.Exit(1)


def bench_result(request: Request, model: Path, report: Report, out: Path, show: Callable[[str], None]) -> None:
    """``baker-opt --bench``: times what was written against what was read, and puts the answer in the report.

    A result that failed a gate is not timed; for one that nothing was proven of, a claim takes equal outputs.
    """
    from baker.errors import BakerError
    from baker.proof.speed.bench import Settings, compare_speed
    from baker.proof.speed.claim import withheld

    if report.failures():
        note("not timed: the result failed a gate")
        return
    library = None if request.custom_ops is None else str(request.custom_ops)
    settings = Settings(threads=request.threads or 1, seed=request.seed, custom_ops=library, progress=show)
    try:
        speed = compare_speed(model, out, calib=request.calib, settings=settings)
    except BakerError as error:  # the result stands without it
        note(f"warning: not timed: {error}")
        return
    verdict = report.verification.verdict
    if verdict != "pass" and speed.outputs.kind not in ("bit-equal", "equal up to rounding"):
        speed = withheld(speed, f"the verdict is '{verdict}', and the outputs are {speed.outputs.kind}")
    report.speed = speed


def facts(speed: Speed, *, verbose: bool = False) -> dict[str, Any]:
    """What the answer rests on, as lines of a label and a value; times only beside a claim, for people divide them."""
    found: dict[str, Any] = {}
    if speed.interval is not None:
        found["interval"] = f"[{speed.interval.low:.3f}, {speed.interval.high:.3f}] at 95 %, time of A over time of B"
    found["control"] = f"[{speed.control.low:.3f}, {speed.control.high:.3f}] at 99 %, time of A over time of A"
    found["timed"] = (
        f"{speed.pairs} pairs in {speed.launches} launches, {_plural(speed.threads, 'thread')}, {speed.took:.1f} s"
    )
    found["outputs"] = f"{speed.outputs.kind} on {_plural(speed.outputs.samples, 'input')}"
    inputs = speed.inputs
    found["inputs"] = f"{inputs['distinct']} of {_plural(inputs['shapes'], 'shape')}, {inputs['source']}"
    for label, side in (("A", speed.a), ("B", speed.b)):
        found[f"{label}  {Path(side.path).name}"] = _side(
            side, claimed=speed.claim is not None, ops=6 if verbose else 3
        )
    found["machine"] = f"float32 peak {speed.peak / 1e9:.0f} GFLOP/s"
    return found | {f"remark {number}": text for number, text in enumerate(speed.remarks, 1)}


def _side(side: SideFacts, *, claimed: bool, ops: int) -> str:
    parts = []
    if claimed and side.seconds is not None and side.flops_per_second is not None:
        parts.append(f"{side.seconds * 1e3:.3g} ms, {side.flops_per_second / 1e9:.0f} GFLOP/s")
    parts.append("layers run: " + ", ".join(f"{count} {kind}" for kind, count in side.kernels.items()))
    parts.append(", ".join(f"{share.op} {share.share:.0%}" for share in side.top[:ops]))
    return "; ".join(part for part in parts if part)


def _plural(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"
