"""The console scripts: a command runs in a child process, under limits that are held to.

The parent explains an end that the child could not explain itself, and ends with the exit code that stands for it.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from typing import Any

import click

from baker.errors import InternalError, printable
from baker.runtime import supervise, watchdog
from baker.runtime.watchdog import End

_ASKED = [getattr(signal, name, 0) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGPIPE")]

# What may be asked for besides the limit on memory that is held: more is refused at once, before any of it is filled.
# Address space that threads and allocators set aside is counted, too, hence the room.
_DATA_FACTOR, _DATA_ROOM = 2, 8 << 30


def launch(command: click.Command, name: str) -> None:
    """Runs a command under supervision; without where it only has to say what it can do, or can't be forked safely."""
    end = None
    if "--help" not in sys.argv and watchdog.can_fork():
        try:
            end = watchdog.split()
        except OSError as error:
            _tell(f"warning: no limits are held to, for no process can be started: {error.strerror}")
    if end is not None:
        _leave(end)
    try:
        command(prog_name=name)
    except KeyboardInterrupt:  # before the command had begun
        _tell("interrupted")
        sys.exit(130)


def prepare(command: str, parameters: Mapping[str, Any]) -> None:
    """In the child, before a command begins: tells the parent what is done, and has the system refuse the absurd."""
    page = supervise.page()
    if page is None:
        return
    import json
    import resource

    from baker.model import files

    supervise.stage("getting ready")
    supervise.call(json.dumps({"command": command, "parameters": parameters}, default=str))
    files.TEMPORARIES.listener = supervise.temporaries
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    limit = int(page.number("memory_limit")) or int(watchdog.MEMORY_SHARE * watchdog.memory_there_is())
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    wanted = _DATA_FACTOR * limit + _DATA_ROOM
    if limit and (hard == resource.RLIM_INFINITY or wanted < hard):
        resource.setrlimit(resource.RLIMIT_DATA, (wanted, hard))


# ---- the end of a child ----------------------------------------------------------------------------------------


def _leave(end: End) -> None:
    """Ends the parent as the child ended, or as its death has to be told."""
    code = end.code
    if code is None:
        _restore_terminal()
        code = _explain(end)
    os._exit(code)


def _die_of(number: int) -> None:
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _explain(end: End) -> int:
    asked = end.asked if end.cause == "interrupted" else end.signal
    if asked == signal.SIGINT:
        _tell("interrupted")
        return 130
    if asked in _ASKED:
        _die_of(asked)
    if end.cause or end.signal in (signal.SIGKILL, signal.SIGXCPU):
        _tell(f"error: {_exhausted(end)}")
        return 5
    _tell(f"error: {_crashed(end)}")
    return 6


def _exhausted(end: End) -> str:
    doing = _doing(end)
    if end.cause == "memory":
        return (
            f"out of memory{doing}: {_size(end.memory)} held, the limit is {_size(end.limit)}. "
            "Allow more with --limit-memory, or give smaller inputs through --calib."
        )
    if end.cause == "seconds":
        return f"not done after {end.limit:g} s{doing}. Allow more with --limit-seconds."
    if end.cause == "run":
        return (
            f"stopped after {end.limit:g} s{doing}. A model that runs this long is given more with --limit-seconds; "
            "one that never ends can't be baked."
        )
    return (
        f"killed by the system or by somebody, most likely for memory{doing}; {_size(end.memory)} were held. "
        "Set a lower --limit-memory to be told in time, or free some memory."
    )


def _crashed(end: End) -> str:
    """A reproducer is written by the parent: nothing that the child had in memory is left."""
    from baker.cli.reproducer import reproduce

    name = signal.Signals(end.signal).name
    text = f"the process crashed with {name}{_doing(end)}. Python code does not end like this: ONNX Runtime, or a "
    text += "library of custom operators, met something it can't do and did not say so."
    command, parameters = _call(end)
    try:
        folder = reproduce(InternalError(text), command, parameters)
    except OSError as error:  # a full disk must not hide what went wrong
        return f"{text}\nNo reproducer could be written: {error}"
    return str(InternalError(f"{text}\nPlease report it with that folder.", folder))


def _call(end: End) -> tuple[str, dict[str, Any]]:
    """What was called, as far as the child could say it."""
    import json

    try:
        said = json.loads(end.page.text("call"))
    except ValueError:  # it was never said, or is too long
        return os.path.basename(sys.argv[0]), {"arguments": tuple(sys.argv[1:])}
    parameters = {key: tuple(value) if isinstance(value, list) else value for key, value in said["parameters"].items()}
    return str(said["command"]), parameters


def _doing(end: End) -> str:
    """What was going on, to be put behind a word."""
    doing, stage = end.page.text("doing"), end.page.text("stage")
    return (f" while {doing}" if doing else "") + (f" ({stage})" if stage else "")


def _size(nbytes: float) -> str:
    return f"{nbytes / 1e9:.2f} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:.0f} MB"


def _restore_terminal() -> None:
    """A spinner that was killed has hidden the cursor and left its line."""
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K\x1b[?25h")


def _tell(message: str) -> None:
    try:
        click.echo("\n".join(printable(line) for line in message.splitlines()), err=True)
    except OSError:  # stderr is closed: the exit code has to do
        return
