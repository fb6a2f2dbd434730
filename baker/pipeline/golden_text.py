"""Checks of golden folders in words and as JSON. Names come from models: they are escaped, as everywhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

from baker.errors import printable
from baker.pipeline.golden import Check
from baker.pipeline.golden_diff import Difference
from baker.pipeline.report import plain

_HEADER = ("what", "recorded", "now", "")


def check_text(check: Check) -> str:
    """One line for what is equal; else a table of the figures, the operators as a diff, and where it begins."""
    head = f"{check.outcome:9}  {check.name}  ({check.pipeline})"
    lines = [head]
    if check.error is not None:
        lines += [f"  {line}" for line in str(check.error).splitlines()]
    lines += [f"  {line}" for line in _table([row for row in check.differences if row.what != "operator"])]
    lines += [f"  {line}" for line in _operators(check.differences)]
    if check.first:
        lines.append(f"  begins at {check.first}")
    if check.versions and check.differences:
        pairs = (f"{name} {one}, now {other}" for name, (one, other) in check.versions.items())
        lines.append(f"  recorded with {'; '.join(pairs)}")
    return "\n".join(printable(line) for line in lines)


def _table(differences: Sequence[Difference]) -> Iterator[str]:
    if not differences:
        return
    rows = [_HEADER, *(_row(difference) for difference in differences)]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for what, recorded, now, rest in rows:
        yield f"{what:<{widths[0]}}  {recorded:>{widths[1]}}  {now:>{widths[2]}}  {rest}".rstrip()


def _row(one: Difference) -> tuple[str, str, str, str]:
    what = f"{one.what} '{one.where}'" if one.where else one.what
    rest: str = one.outcome
    if isinstance(one.recorded, (int, float)) and isinstance(one.now, (int, float)) and one.recorded:
        change = one.now - one.recorded
        share = f" {change / abs(one.recorded):+.2%}" if one.what == "bytes" else f" {change:+.4g}"
        rest += f":{share}" + (f", allowed {one.allowed}" if one.outcome == "worse" and one.allowed else "")
    return what, _shown(one.recorded), _shown(one.now), rest


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _operators(differences: Sequence[Difference]) -> Iterator[str]:
    rows = [row for row in differences if row.what == "operator"]
    if rows:
        yield "operators"
    for row in rows:
        for sign, count in (("-", row.recorded), ("+", row.now)):
            if count:
                yield f"{sign} {count} {row.where}"


def check_json(check: Check) -> dict[str, Any]:
    """The same as plain data: ``name, pipeline, outcome, error, differences, begins_at, versions, warnings``."""
    return {
        "name": check.name,
        "pipeline": check.pipeline,
        "outcome": check.outcome,
        "error": None if check.error is None else str(check.error),
        "differences": [
            {field.name: plain(getattr(row, field.name)) for field in fields(row)} for row in check.differences
        ],
        "begins_at": check.first,
        "versions": plain(check.versions),
        "warnings": [] if check.run is None else list(check.run.warnings),
    }
