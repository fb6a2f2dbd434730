"""The report as a table for a terminal. Imports rich, so it is loaded only when a table is shown.

Everything that may come from a model (names, reasons) goes through ``printable`` and into ``Text`` objects: neither
control characters nor rich's own markup reach the terminal.
"""

from __future__ import annotations

import io
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from baker.errors import printable
from baker.pipeline.layer_table import layer_table
from baker.pipeline.report import BudgetRecord
from baker.pipeline.units import arrow, bytes_arrow

if TYPE_CHECKING:
    from baker.pipeline.pass_base import Declined
    from baker.pipeline.report import PassRecord, Report
    from baker.proof.numerics import OutputError
    from baker.proof.verifier import Verdict

REASONS_SHOWN = 6
STYLES = {"pass": "green", "kept": "green", "fail": "bold red", "failed": "bold red", "rolled back": "bold red"}


def render(report: Report, *, width: int, verbose: bool, color: bool) -> str:
    """The whole report as text of at most ``width`` columns."""
    return _printed(report_view(report, verbose=verbose, narrow=width < 96), width, color)


def _printed(view: RenderableType, width: int, color: bool) -> str:
    buffer = io.StringIO()
    console = Console(file=buffer, width=width, force_terminal=color, color_system="standard" if color else None,
                      highlight=False, markup=False, emoji=False)  # fmt: skip
    console.print(view)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"


def report_view(report: Report, *, verbose: bool = False, narrow: bool = False) -> RenderableType:
    """Table per pass, then what was left alone and what went wrong, then the summary."""
    parts: list[RenderableType] = [pass_table(report.passes, narrow=narrow)] if report.passes else []
    for record in report.passes:
        parts += _notes(record, verbose)
    return Group(*parts, Text(), summary(report))


def pass_table(records: Iterable[PassRecord], *, narrow: bool = False) -> Table:
    """One row a pass; sizes before → after; ``did/left`` counts changes and what was left alone."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1 if narrow else 2, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("pass", overflow="fold", min_width=10)
    table.add_column("fidelity", no_wrap=True)
    for header in ("nodes", "size", "did/left"):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("verdict", overflow="fold", min_width=12)
    table.add_column("s", justify="right", no_wrap=True)
    for record in records:
        table.add_row(
            Text(printable(record.name + record.options)),
            record.fidelity,
            arrow(*(str(count) for count in record.nodes)),
            bytes_arrow(*record.bytes),
            f"{len(record.changes)}/{len(record.declined)}",
            _verdict(record),
            f"{record.seconds:.1f}" if record.seconds >= 10 else f"{record.seconds:.2f}",
        )
    return table


def summary(report: Report) -> Table:
    """Verdict, budget, kernels, what running it takes, and where it went; a label and a value a line."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    seen = report.verification
    verdict = Text(seen.verdict, style=STYLES.get(seen.verdict, "yellow"))
    if seen.samples:
        verdict.append(printable(f" on {_samples(seen.samples)}, {seen.feeds}"), style="default")
    if seen.outputs:
        verdict.append(f"; worst {worst(seen.outputs.values())}", style="default")
    table.add_row("verdict", verdict)
    if seen.reason:
        table.add_row("", Text(printable(seen.reason)))
    for failure in report.failures():
        table.add_row("failed", Text(printable(failure.partition(":")[0]), style="bold red"))
    for warning in (text for text in report.news() if text != seen.reason):
        table.add_row("warning", Text(printable(warning), style="yellow"))
    for text in (str(finding) for finding in seen.findings if finding.fatal and str(finding) != seen.reason):
        table.add_row("finding", Text(printable(text), style="bold red"))
    for label, text in _facts(report):
        table.add_row(label, Text(printable(text)))
    return table


def _facts(report: Report) -> Iterable[tuple[str, str]]:
    budget, kernels, needs = report.budget, report.kernels, report.requires
    if budget is not None:
        yield "budget", _budget(budget)
    if kernels is not None:
        yield "kernels", f"{kernels.integer} integer, {kernels.ternary} ternary, {kernels.float} float"
    if needs is not None:
        library = f", the custom-op library {needs.custom_ops_library}" if needs.custom_ops_library else ""
        yield "needs", f"onnxruntime {needs.onnxruntime}, opset {needs.opset}, IR {needs.ir_version}{library}"
    source, result = report.source, report.result
    if source is not None and result is not None:
        yield "nodes", arrow(str(source.nodes), str(result.nodes))
        ratio = result.bytes / source.bytes if source.bytes else 1.0
        yield "size", f"{bytes_arrow(source.bytes, result.bytes)} ({ratio:.2f}x)"
    if report.speed is not None:
        yield "speed", report.speed.line()
    if result is not None and result.path is not None:
        yield "written", str(result.path)


def _notes(record: PassRecord, verbose: bool) -> Iterable[RenderableType]:
    """Below the table: why a pass was undone, each change (verbose), and what it left alone."""
    name = printable(record.name)
    if record.error:
        yield Text(printable(f"{name} {record.status}: {record.error}"), style=STYLES.get(record.status, "yellow"))
    for warning in record.warnings:
        yield Text(f"{name} warning: {printable(warning)}", style="yellow")
    if verbose and record.changes:
        yield Text(f"{name} changed:")
        yield _indented(f"{change.node}: {change.what} ({change.rule})" for change in record.changes)
    if any(layer.changed for layer in record.layers):
        yield Text(f"{name} by layer:")
        yield Padding(layer_table(record.layers, each=verbose), (0, 0, 0, 2))
    if not record.declined:
        return
    yield Text(f"{name} left alone:")
    if verbose:
        yield _indented(f"{declined.node}: {declined.reason}" for declined in record.declined)
        return
    groups = grouped(record.declined)
    yield _indented(f"{count}× {reason}" for reason, count in groups[:REASONS_SHOWN])
    if len(groups) > REASONS_SHOWN:
        yield _indented([f"… {len(groups) - REASONS_SHOWN} more reasons in the report, or with -v"])


def grouped(declined: Sequence[Declined]) -> list[tuple[str, int]]:
    """Reasons with how often each was given, most frequent first.

    Reasons that differ only in names and numbers count as one, shown by its first example.
    """
    shapes = [re.sub(r"'[^']*'|\d+(\.\d+)?", "…", item.reason) for item in declined]
    counts, firsts, texts = Counter(shapes), {}, {}  # type: Counter[str], dict[str, str], dict[str, set[str]]
    for shape, item in zip(shapes, declined, strict=True):
        firsts.setdefault(shape, item.reason)
        texts.setdefault(shape, set()).add(item.reason)
    return [(firsts[s] + (" (and alike)" if len(texts[s]) > 1 else ""), n) for s, n in counts.most_common()]


def worst(outputs: Iterable[OutputError], *, lossy: bool = True) -> str:
    """The largest error over the outputs: SQNR where signal was traded away, else the largest difference."""
    errors = list(outputs)
    peak = max((error.max_abs for error in errors), default=0.0)
    if peak == 0:
        return "bit-equal"
    if lossy and not any(math.isnan(error.sqnr_db) for error in errors):
        return f"{min(error.sqnr_db for error in errors):.1f} dB"
    return f"max {peak:.1e}"


def _verdict(record: PassRecord) -> Text:
    if record.status == "unchanged":
        return Text("unchanged", style="dim")
    if record.status == "rolled back" and record.verdict == "not verified":
        return Text("undone", style="bold red")
    text = Text(record.verdict, style=STYLES.get(record.verdict, "yellow"))
    if record.outputs:
        text.append(f" {worst(record.outputs.values(), lossy=record.fidelity == 'lossy')}", style="default")
    if record.status == "rolled back":
        text.append(" (undone)", style="bold red")
    return text


def _budget(budget: BudgetRecord) -> str:
    measured = "nothing measured" if budget.value is None else f"measured {budget.value:.4g}"
    held = {True: "met", False: "NOT met", None: "not judged"}[budget.met]
    return f"{budget.kind} {budget.limit:g}: {measured}, {held}"


def _samples(count: int) -> str:
    return f"{count} sample{'' if count == 1 else 's'}"


def _indented(lines: Iterable[str]) -> RenderableType:
    return Padding(Text("\n".join(printable(line) for line in lines)), (0, 0, 0, 2))


def verdict_view(verdict: Verdict, *, width: int) -> str:
    """A verdict with the error of each output."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False, show_edge=False)
    table.add_column("output", overflow="fold")
    for header in ("max |d|", "rel L2", "SQNR dB", "cosine", "top-1 [95 %]"):
        table.add_column(header, justify="right", no_wrap=True)
    for name, error in verdict.outputs.items():
        top1 = "" if error.top1_agreement is None else f"{error.top1_agreement:.4f}"
        if error.top1_interval is not None:
            top1 += " [{:.3f}, {:.3f}]".format(*error.top1_interval)
        figures = f"{error.max_abs:.2e}", f"{error.rel_l2:.2e}", f"{error.sqnr_db:.1f}", f"{error.cosine:.6f}", top1
        table.add_row(Text(printable(name)), *figures)
    seen = f" on {_samples(verdict.samples)}" if verdict.samples else ""
    lines = [Text(printable(f"{verdict.status}{seen}"))]
    if verdict.measurement is not None:
        lines.append(Text(f"budget {_budget(BudgetRecord.of(verdict.measurement))}"))
    lines += [Text(printable(f"warning: {warning}")) for warning in verdict.warnings]
    lines += [Text(printable(f"finding: {finding}")) for finding in verdict.findings if finding.fatal]
    lines += [Text(printable(f"note: {finding}")) for finding in verdict.findings if finding.severity == "note"]
    shown = (table, Text()) if verdict.outputs else ()
    return _printed(Group(*shown, *lines), width, color=False)


def facts_view(facts: Mapping[str, Any], *, width: int) -> str:
    """Nested facts as lines of a label and a value."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for label, value in facts.items():
        if isinstance(value, Mapping):
            rows = [(str(key), str(item)) for key, item in value.items()]
        else:
            rows = [("", str(value))]
        for index, (key, item) in enumerate(rows):
            table.add_row(label if index == 0 else "", Text(printable(f"{key}  {item}".strip())))
    return _printed(table, width, color=False)
