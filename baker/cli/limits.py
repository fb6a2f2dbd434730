"""--limit-seconds and --limit-memory: what a command may take before it is killed."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any, TypeVar

import click

from baker.runtime import supervise

F = TypeVar("F", bound=Callable[..., Any])

_UNITS = {"": 1, "B": 1}
_UNITS |= {letter: 1 << shift for letter, shift in zip("KMGT", (10, 20, 30, 40), strict=True)}
_UNITS |= {f"{letter}IB": _UNITS[letter] for letter in "KMGT"}
_UNITS |= {f"{letter}B": 1000**power for power, letter in enumerate("KMGT", 1)}
_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,6})?) ?([A-Za-z]{0,3})", re.ASCII)


class Size(click.ParamType):  # type: ignore[type-arg, unused-ignore]  # generic in newer clicks only
    """A number of bytes, such as 300MB or 2GiB."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Reads the text; a bare number is bytes."""
        match = _SIZE.fullmatch(str(value).strip())
        unit = None if match is None else _UNITS.get(match[2].upper())
        size = 0 if match is None or unit is None else int(float(match[1]) * unit)
        if size <= 0:
            self.fail(f"{value!r} is no size; write 300MB, 2GB or 1.5GiB.", param, ctx)
        return size


def limit_options(command: F) -> F:
    """The options, for every command that runs models; they act by themselves, and no command is handed them."""
    options = [
        click.option("--limit-seconds", metavar="N", type=click.FloatRange(min=0, min_open=True), callback=_seconds,
                     expose_value=False, help="Wall time of the whole command; default: none, 300 s for each run of a "
                     "model."),
        click.option("--limit-memory", metavar="SIZE", type=Size(), callback=_memory, expose_value=False,
                     help="Memory of the whole command, as in 2GB; default: 80 % of what there is."),
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


def _seconds(ctx: click.Context, param: click.Parameter, value: float | None) -> float | None:
    supervise.limit(seconds=value)
    _warn_unless_heeded(param, value)
    return value


def _memory(ctx: click.Context, param: click.Parameter, value: int | None) -> int | None:
    supervise.limit(memory=value)
    if value is not None and not os.path.exists("/proc/self/status"):
        click.echo(f"warning: {param.opts[0]} is not held to: this system does not tell what a process holds", err=True)
    _warn_unless_heeded(param, value)
    return value


def _warn_unless_heeded(param: click.Parameter, value: object) -> None:
    if value is not None and supervise.page() is None:
        click.echo(f"warning: {param.opts[0]} is not held to: no process can be forked here", err=True)
