"""What all commands share: streams, exit codes, common options.

Messages go to stderr, results to stdout. Nothing here imports more than click, so that ``--help`` answers at once.
"""

from __future__ import annotations

import errno
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from baker.cli.guard import prepare
from baker.cli.limits import limit_options
from baker.errors import BakerError, InternalError, ResourceError, UsageError, printable
from baker.runtime import supervise

F = TypeVar("F", bound=Callable[..., Any])

EXITS = (
    "Exit codes: 0 done; 1 a gate failed (verdict, budget); 2 usage; 3 bad or unsupported model; 4 refused for "
    "security; 5 resource limit; 6 internal error, with a reproducer folder named."
)

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
MODEL = click.Path(exists=True, path_type=Path)
"""A model file, or the folder of a checkpoint."""

TRACE = "baker.trace"
"""ctx.meta: the `Trace` of the run, for a reproducer of what ends it."""


class Command(click.Command):
    """Ends with the exit code of the error it met and one message on stderr; a traceback only at -vv."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **{"epilog": EXITS, **options})

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command; every exception ends here, but those that click itself knows."""
        try:
            prepare(ctx.info_name or "baker", ctx.params)
            with _log_shown(ctx.params.get("verbose", 0) >= 2):
                return super().invoke(ctx)
        except (click.exceptions.Exit, click.ClickException, click.Abort, BrokenPipeError):
            raise
        except KeyboardInterrupt:
            note("interrupted")
            ctx.exit(130)
        except Exception as error:  # noqa: BLE001  (not swallowed: whatever it is, its exit code is not 0)
            failure = as_baker_error(error)
        if isinstance(failure, InternalError) and failure.reproducer is None:
            failure = self.reproduced(failure, ctx)
        if ctx.params.get("verbose", 0) >= 2:
            note("".join(traceback.format_exception(failure)))
        note(f"error: {failure}")
        ctx.exit(failure.exit_code)

    def reproduced(self, failure: InternalError, ctx: click.Context) -> InternalError:
        """The same failure with a folder that holds what is needed to see it again."""
        from baker.cli.reproducer import reproduce

        try:
            folder = reproduce(failure, ctx.info_name or "baker", ctx.params, ctx.meta.get(TRACE))
        except OSError as error:  # a full disk must not hide what went wrong
            found = InternalError(f"{failure}\nThis is a fault of baker. No reproducer could be written: {error}")
        else:
            found = InternalError(f"{failure}\nThis is a fault of baker; please report it with that folder.", folder)
        found.__cause__ = failure.__cause__
        return found


def as_baker_error(error: Exception) -> BakerError:
    """What an exception means to the user: a full disk is a limit, a file that cannot be written is theirs to mend."""
    found: BakerError
    if isinstance(error, BakerError):
        return error
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.ENOMEM)):
        found = ResourceError(str(error) or "out of memory")
    elif isinstance(error, OSError) and error.filename is not None:
        found = UsageError(f"{error.filename}: {error.strerror}.")
    else:
        found = InternalError(f"internal error: {type(error).__name__}: {error}")
    found.__cause__ = error
    return found


@contextmanager
def _log_shown(enabled: bool) -> Iterator[None]:
    """-vv: where a pass raised, of which the report has one line, is told on stderr."""
    import logging

    class ToStderr(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            note(self.format(record))

    logger, handler, before = logging.getLogger("baker"), ToStderr(), logging.getLogger("baker").level
    if enabled:
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


def note(message: str) -> None:
    """Writes a message to stderr; control characters, which may come from a model's names, are made visible."""
    click.echo("\n".join(printable(line) for line in message.splitlines()), err=True)


def width(stream: Any = None) -> int:
    """Columns to fill: the terminal's, at least 80 and at most 120; 100 where there is no terminal."""
    import shutil

    if not (stream or sys.stdout).isatty():
        return 100
    return min(max(shutil.get_terminal_size().columns, 80), 120)


@contextmanager
def progress(enabled: bool) -> Iterator[Callable[[str], None]]:
    """Yields a function that says what is going on: to the supervisor, and on a terminal to the user."""
    if not (enabled and sys.stderr.isatty()):
        yield supervise.stage
        return
    from rich.console import Console
    from rich.text import Text

    with Console(stderr=True).status("") as status:

        def show(text: str) -> None:
            supervise.stage(text)
            status.update(Text(printable(text)))

        yield show


def proof_options(command: F) -> F:
    """Options about feeds and gates, the same in every command that runs models."""
    options = [
        click.option("--calib", metavar="DATA", help="Sample inputs: an .npz, a folder of .npz or test_data_set_*, "
                     "module:function yielding dicts, or the word 'synthetic'."),
        click.option("--metric", metavar="M", help="module:function; takes a runner, returns a float, higher is "
                     "better."),
        click.option("--budget", metavar="B", help="What a lossy result may cost: 1% (of the metric), sqnr=20dB, "
                     "top1=0.99 or rel=0.05."),
        click.option("--custom-ops", metavar="LIB", type=FILE, help="Library of custom operators the model needs; "
                     "loaded because you say so."),
        click.option("--strict", is_flag=True, help="An inconclusive verdict fails, too."),
        click.option("--seed", metavar="N", type=click.IntRange(min=0), default=0, show_default=True,
                     help="Seeds synthetic inputs and passes."),
        click.option("--threads", metavar="N", type=click.IntRange(min=1),
                     help="Threads of a session; default: ONNX Runtime's."),
    ]  # fmt: skip
    command = limit_options(command)
    for option in reversed(options):
        command = option(command)
    return command


def version_option(command: F) -> F:
    """--version, of the distribution."""
    import baker

    return click.version_option(baker.__version__, message="%(prog)s %(version)s")(command)


def verbosity_options(command: F) -> F:
    """-v and -q."""
    command = click.option("-q", "--quiet", is_flag=True, help="Errors only.")(command)
    text = "More detail, such as every node that a pass changed or left alone; -vv shows tracebacks."
    return click.option("-v", "--verbose", count=True, help=text)(command)
