"""baker golden: what a pipeline makes of a model, recorded, and checked later."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from baker.cli.limits import Size, limit_options
from baker.cli.shell import FILE, Command, note, progress, proof_options, verbosity_options

if TYPE_CHECKING:
    from collections.abc import Iterator

    from baker.pipeline.golden import Check, Given

FOLDER = click.Path(file_okay=False, path_type=Path)


@click.group(short_help="Record what a pipeline makes of a model; check it later.")
def golden() -> None:
    """Keep what a pipeline makes of a model in a folder, and see later whether it still does.

    \b
    baker golden record goldens/net net.onnx -p fuse,quantize --calib samples/
    baker golden check goldens/net
    pytest goldens/                       # each recipe of each folder is a test

    A check takes the plugin files that were recorded, or those of --load. Checking a folder runs them, and the metric
    that it names: check only folders whose code you would run.
    """


@golden.command(cls=Command, short_help="Bake MODEL; keep in DIR how, and what came out.")
@click.argument("folder", metavar="DIR", type=FOLDER)
@click.argument("model", type=FILE)
@click.option("-p", "--pipeline", required=True, help="Passes in order, as for baker-opt.")
@click.option("--name", metavar="NAME", help="Of the recipe; default: made of the pipeline.")
@proof_options
@click.option("--load", metavar="FILE.py", multiple=True, type=FILE, help="Also take the passes of this file; stored.")
@click.option("--link", is_flag=True, help="Leave the model where it is; from 64 MiB on that is always so.")
@click.option("--limit-feeds", metavar="SIZE", type=Size(), default="64MiB", show_default=True,
              help="How much of feeds may be stored.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a summary.")
@verbosity_options
def record(folder: Path, as_json: bool, quiet: bool, verbose: int, **options: Any) -> None:
    """Bake MODEL and keep in DIR what it takes to do so again, and what came out.

    DIR is new, empty, or holds goldens of the same model. The feeds are stored, so that no check depends on data
    somewhere else. Models run on one thread unless told otherwise. A pipeline that fails is not recorded.
    """
    from baker.pipeline.golden_record import Order, record
    from baker.pipeline.report import plain

    threads = options.pop("threads") or 1
    with progress(not quiet) as show:
        show(f"recording {options['pipeline']}")
        done = record(folder, Order(**options, threads=threads))
    if as_json:
        content = {"name": done.name, "model": plain(done.model), "recipe": plain(done.recipe)}
        click.echo(json.dumps({**content, "expected": plain(done.expected)}, indent=2, allow_nan=False))
    elif not quiet:
        expected = done.expected
        click.echo(f"recorded  {done.name}  ({done.recipe.pipeline}) in {folder}")
        click.echo(f"  {expected.nodes} nodes, {expected.bytes:,} bytes, verdict {expected.verdict} on "
                   f"{expected.samples} samples, {done.recipe.feeds.source}")  # fmt: skip
        if done.model.linked:
            click.echo(f"  the model stays at {done.model.path}, relative to the folder")
    for warning in () if quiet else done.warnings:
        note(f"warning: {warning}")


@golden.command(cls=Command, short_help="Bake again what DIR holds, and compare.")
@click.argument("folder", metavar="DIR", type=FOLDER)
@click.option("--only", metavar="NAME", multiple=True, help="Check this recipe; default: all.")
@click.option("--load", metavar="FILE.py", multiple=True, type=FILE, help="Take this file for the stored one of its "
              "name: a pass that you are working on.")  # fmt: skip
@click.option("--update", is_flag=True, help="Take what came out as what is expected from now on.")
@click.option("--custom-ops", metavar="LIB", type=FILE, help="Library of custom operators that the model needs; never "
              "loaded because a folder names it.")  # fmt: skip
@limit_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@verbosity_options
def check(
    folder: Path,
    only: tuple[str, ...],
    load: tuple[Path, ...],
    update: bool,
    custom_ops: Path | None,
    as_json: bool,
    quiet: bool,
    verbose: int,
) -> None:
    """Bake the model in DIR again, by every recipe, and compare with what was recorded.

    Ends with 0 where nothing is worse, else with 1; what is better is told and never fails. A recipe that cannot be run
    ends with the exit code of its error. Operators, inputs, outputs, kernels and verdict must be as recorded. By how
    much a figure may be worse stands in DIR/golden.json, under slack, yours to edit:

    \b
    bytes                 growth of the file, as a fraction (0.0)
    bytes_other_versions  the same with another onnx, onnx-ir or onnxscript (0.005)
    rounding              relative L2 error that counts as none (0.0001)
    sqnr_db               loss of SQNR in dB; rel_l2 in proportion (0.5)
    max_abs               growth of the largest difference, as a fraction (0.5)
    top1                  loss of top-1 agreement (0.01)
    metric                loss of the score, as a fraction of it (0.005)

    --json prints recipes, a list of: name, pipeline, outcome (equal, better, different or error), error, differences
    (what, where, recorded, now, outcome, allowed), begins_at (a pass), versions, warnings, updated.
    """
    from baker.pipeline.golden import Given
    from baker.pipeline.golden_text import check_json, check_text

    checks, updated, given = [], [], Given(custom_ops, load)
    with progress(not quiet) as show:
        for name, one in _checks(folder, only, given, show):
            if update and _update(folder, one, given):
                updated.append(name)
            checks.append(one)
            if not (quiet or as_json):
                click.echo(check_text(one) + ("\n  updated" if name in updated else ""))
            for warning in one.run.warnings if verbose and one.run is not None else ():
                note(f"warning: {name}: {warning}")
    if as_json:
        rows = [check_json(one) | {"updated": one.name in updated} for one in checks]
        click.echo(json.dumps({"recipes": rows}, indent=2, ensure_ascii=False, allow_nan=False))
    _finish(folder, [one for one in checks if one.name not in updated], quiet=quiet)


def _checks(folder: Path, only: tuple[str, ...], given: Given, show: Any) -> Iterator[tuple[str, Check]]:
    from baker.errors import UsageError, suggest
    from baker.pipeline.golden import check
    from baker.pipeline.golden_folder import read_manifest

    if not folder.is_dir():
        raise UsageError(f"there is no folder '{folder}'. 'baker golden record' makes one.")
    manifest = read_manifest(folder)
    for name in only:
        if name not in manifest.recipes:
            raise UsageError(f"--only {name}: no such recipe in '{folder}'.{suggest(name, manifest.recipes)}")
    known = {file.path.rpartition("/")[2] for recipe in manifest.recipes.values() for file in recipe.load}
    for path in given.load:
        if path.name not in known:
            raise UsageError(
                f"--load {path}: no recipe in '{folder}' has a file of this name.{suggest(path.name, known)}"
            )
    for name in only or manifest.recipes:
        show(f"checking {name}")
        yield name, check(folder, manifest, name, given)


def _update(folder: Path, check: Check, given: Given) -> bool:
    """Writes what came out, where it is not what was expected and may be recorded at all."""
    from baker.pipeline.golden_record import update

    if check.run is None or check.run.failures or not (check.differences or check.versions or given.load):
        return False
    update(folder, check, given)
    return True


def _finish(folder: Path, checks: list[Check], *, quiet: bool) -> None:
    worse = [check for check in checks if check.exit_code]
    if not quiet and not worse and any(check.outcome == "better" for check in checks):
        note(f"some figures are better than recorded; 'baker golden check {folder} --update' keeps them")
    if worse:
        note(f"failed: {len(worse)} of the recipes in {folder}: {', '.join(check.name for check in worse)}")
        raise click.exceptions.Exit(max(check.exit_code for check in worse))
