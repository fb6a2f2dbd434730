"""baker-opt: optimize a model and prove the result."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from baker.cli.blame import print_blame
from baker.cli.guard import launch
from baker.cli.request import Paths, Request
from baker.cli.shell import (
    EXITS,
    FILE,
    MODEL,
    TRACE,
    Command,
    note,
    progress,
    proof_options,
    verbosity_options,
    version_option,
    width,
)
from baker.errors import UsageError

if TYPE_CHECKING:
    import onnx_ir as ir

    from baker.pipeline.registry import Registry
    from baker.pipeline.report import Report
    from baker.pipeline.text import Pipeline

WRITABLE = click.Path(dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)
PIPELINE_HELP = (
    "Passes in order: fold,fuse · fix(fold,fuse) to a fixpoint · try(...) undone on failure · name{key=value,...} · "
    "presets @simplify, @int8, @ternary."
)


@click.command(cls=Command, epilog=EXITS, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("model", type=MODEL, required=False)
@click.option("-p", "--pipeline", default="@simplify", show_default=True, help=PIPELINE_HELP)
@click.option("-o", "--out", type=WRITABLE, help="Result; default: <stem>.baked.onnx in the current folder.")
@proof_options
@click.option(
    "--target",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="The machine the result is for; models are run on the CPU.",
)
@click.option("--verify-each/--no-verify", default=None, help="Also verify after every rewrite / verify nothing.")
@click.option(
    "--on-fail",
    type=click.Choice(["rollback", "stop", "keep"]),
    default="rollback",
    show_default=True,
    help="A failed pass is undone and the rest runs / undone and the run ends / kept, and the result is marked.",
)
@click.option("--report", type=WRITABLE, help="Report (JSON); default: <out stem>.report.json beside the result.")
@click.option("--print-after", metavar="PASS", multiple=True, help="Print the graph after this pass, to stderr.")
@click.option("--save-each", metavar="DIR", type=FOLDER, help="Save the model after every pass there.")
@click.option("--timing", is_flag=True, help="Print where the time went, to stderr.")
@click.option("--provenance", is_flag=True, help="Note in the result which source nodes and passes made each node.")
@click.option("--bench", is_flag=True, help="Time the result against MODEL, as baker bench does, for the report.")
@click.option("--bisect", is_flag=True, help="Where something fails, name the first bad pass, rewrite and tensor.")
@click.option("--bisect-limit", metavar="N", type=click.IntRange(min=0), help="Do the first N rewrites; -v lists them.")
@click.option("--run-reproducer", metavar="DIR", type=FOLDER, help="Replay the folder that a failure left.")
@click.option("--list-passes", is_flag=True, help="Name every pass that can be had, and end.")
@click.option("--describe", metavar="PASS", help="Tell what a pass (or fuse:RULE) does, and end.")
@click.option("--load", metavar="FILE.py", multiple=True, type=FILE, help="Also take the passes of this file.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON instead of a table.")
@verbosity_options
@version_option
def opt(**options: Any) -> None:
    """Run a pipeline of passes over MODEL, check every step's numbers, and write the result with its evidence.

    \b
    baker-opt model.onnx                                      # @simplify: constant folding, fusions, clean-up
    baker-opt model.onnx -p fuse,quantize --calib samples/    # int8 with calibration data
    baker-opt model.onnx -p 'quantize{skip=[/head/*]}' --budget sqnr=20dB
    """
    request = Request(**options)
    registry = request.registry()
    if request.list_passes or request.describe is not None:
        from baker.cli.passes import print_passes

        print_passes(registry, request.describe, as_json=request.as_json)
        return
    if request.run_reproducer is not None:
        if request.model is not None:
            raise click.UsageError("--run-reproducer brings its own model; leave MODEL out.")
        from baker.cli.replay import replay

        raise click.exceptions.Exit(replay(request, request.run_reproducer))
    if request.model is None:
        raise click.UsageError("Missing argument 'MODEL'.")
    run(request, request.model, registry)


def run(request: Request, model: Path, registry: Registry) -> None:
    """Bakes, writes what may be written, prints, and ends with 1 where a gate failed."""
    from baker.cli.observers import observers
    from baker.pipeline.text import parse

    pipeline = parse(request.pipeline, registry)
    _check_print_after(request, pipeline)
    paths = request.paths(model)
    from baker.model.pages import spill_into
    from baker.pipeline import bake  # brings ONNX Runtime, which a misspelt pass should not wait for
    from baker.pipeline.trace import Trace

    spill_into(paths.out.parent)
    with progress(not request.quiet) as show:
        rewrites, trace = request.rewrites(), Trace()
        click.get_current_context().meta[TRACE] = trace
        watch = observers(request, show, rewrites)
        show(f"reading {model}")
        baked, report = bake.run(model, pipeline.items, request.settings(watch.all, registry, rewrites, trace))
        failures = report.failures()
        written = not failures or request.on_fail == "keep"
        if written:
            show(f"writing {paths.out}")
            _write_model(baked, report, paths, unverified=bool(failures))
        if request.bench:
            from baker.cli.bench import bench_result

            bench_result(request, model, report, paths.out, show)
        report.write(paths.report)
    _print(request, report, paths, written=written)
    watch.finish()
    for failure in failures:
        note(f"failed: {failure}")
    print_blame(request, report)
    if failures:
        from baker.cli.failure import reproduce_failure

        for line in reproduce_failure(request, report, trace, paths.report.parent / paths.out.name):
            note(line)
        raise click.exceptions.Exit(1)


def _write_model(model: ir.Model, report: Report, paths: Paths, *, unverified: bool) -> None:
    from baker.model.save import save

    if unverified:
        model.metadata_props["baker.unverified"] = "true"
    report.result = save(model, paths.out)


def _check_print_after(request: Request, pipeline: Pipeline) -> None:
    from baker.errors import suggest

    names = [pass_.name for pass_ in pipeline.passes()]
    for name in request.print_after:
        if name not in names:
            raise UsageError(f"--print-after: no pass '{name}' in the pipeline {pipeline}.{suggest(name, names)}")


def _print(request: Request, report: Report, paths: Paths, *, written: bool) -> None:
    if request.as_json:
        click.echo(report.to_json(), nl=False)
        for warning in () if request.quiet else report.warnings():  # the table would have shown them
            note(f"warning: {warning}")
    elif not request.quiet:
        colored = sys.stdout.isatty()
        click.echo(report.table(width=width(), verbose=request.verbose > 0, color=colored), nl=False)
    if not request.quiet:
        note(f"report: {paths.report}" if written else f"nothing written but the report: {paths.report}")


def main() -> None:
    """The console script."""
    launch(opt, "baker-opt")


if __name__ == "__main__":
    main()
