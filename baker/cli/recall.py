"""Calls a command again that crashed, from the reproducer folder that it left."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from baker.cli.evidence import MANIFEST
from baker.cli.reproducer import copy_name
from baker.cli.shell import note
from baker.errors import ModelError, UsageError

if TYPE_CHECKING:
    from baker.cli.request import Request

_OUTPUTS = frozenset({"out", "report", "save_each"})
"""Options that say where to write: a replay writes into a folder of its own, which goes afterwards."""

_CODE = ("metric", "custom_ops")

_COPY = re.compile(r"[a-z_]{1,32}\d{0,3}(\.\w{1,16})?")


def recall(request: Request, folder: Path, content: Mapping[str, object]) -> int:
    """Runs the command of a crash's folder in a process of its own; returns the exit code that it ends with now.

    Raises:
        UsageError, ModelError: the folder does not say what to run, or asks for code that it must not bring.
    """
    from baker.cli.replay import told

    parameters, files, expected = (_mapping(content, key) for key in ("parameters", "files", "expected"))
    command, module, words = _command(str(content.get("command")))
    if not parameters or "arguments" in parameters:
        raise UsageError(f"{folder}: the crash came before the command line was read; see {MANIFEST} for what it was.")
    arguments = list(_arguments(request, folder, command, parameters, files))
    if any(re.search(r"[\x00\ud800-\udfff]", word) for word in arguments):
        raise ModelError(f"{folder / MANIFEST}: an option holds characters that no command line can.")
    code, said = _called(module, [*words, *arguments])
    due_code, due = expected.get("exit_code"), expected.get("message")
    if not isinstance(due_code, int) or not isinstance(due, str):
        raise ModelError(f"{folder / MANIFEST}: 'expected' must hold exit_code and message.")
    message = next((line.removeprefix("error: ") for line in said.splitlines() if line.startswith("error: ")), "")
    return told(due_code, due or message, code, message)


def _mapping(content: Mapping[str, object], key: str) -> Mapping[str, Any]:
    found = content.get(key)
    if not isinstance(found, dict):
        raise ModelError(f"{MANIFEST}: '{key}' must be an object.")
    return found


def _command(name: str) -> tuple[click.Command, str, list[str]]:
    """The command, the module that runs it, and the words before its arguments."""
    if name in ("baker-opt", "opt"):
        from baker.cli.opt import opt

        return opt, "baker.cli.opt", []
    if name in ("verify", "inspect"):
        from baker.cli.group import group

        return group.commands[name], "baker.cli.group", [name]
    raise UsageError(f"{name[:80]!r} is no command that can be replayed. {MANIFEST} has its options.")


def _arguments(
    request: Request, folder: Path, command: click.Command, parameters: Mapping[str, Any], files: Mapping[str, Any]
) -> Iterator[str]:
    """The command line, in words; values are checked by click, as anybody's."""
    for parameter in command.params:
        name = parameter.name or ""
        if name in _OUTPUTS or name == "run_reproducer" or parameters.get(name) in (None, False, [], ""):
            if name == "verify_each" and parameters.get(name) is False:
                yield "--no-verify"
            continue
        value = parameters[name]
        values = value if isinstance(value, list) else [value]
        for index, item in enumerate(values):
            text = _value(request, folder, name, item, index if len(values) > 1 else None, files)
            yield from _words(parameter, item, text)


def _words(parameter: click.Parameter, item: object, text: str) -> Iterator[str]:
    if not isinstance(parameter, click.Option):
        yield text if not text.startswith("-") else f"./{text}"
    elif parameter.count:
        yield from [parameter.opts[-1]] * (item if isinstance(item, int) and 0 <= item <= 9 else 1)
    elif parameter.is_flag:
        yield parameter.opts[0]
    else:
        yield f"{max(parameter.opts, key=len)}={text}"


def _value(request: Request, folder: Path, name: str, item: object, index: int | None, files: Mapping[str, Any]) -> str:
    text = str(item)
    given = getattr(request, name, None) if name in (*_CODE, "calib") else None
    if given is not None:
        return os.path.abspath(given) if os.path.exists(given) else str(given)
    copy = copy_name(name, index, Path(text))
    if name in _CODE or (name == "calib" and copy not in files and text != "synthetic"):
        option = f"--{name.replace('_', '-')}"
        raise UsageError(
            f"this run had {option} {text[:200]}, which is code or lies elsewhere, and is not taken from a reproducer. "
            f"Give {option} again if you trust it."
        )
    if copy not in files and name != "load":  # that is code, which comes from the folder or not at all
        return text
    path = folder.resolve() / copy
    entry = files.get(copy)
    if isinstance(entry, dict) and entry.get("copied") is False and name != "load":
        note(f"reads {entry.get('from')}, which was too large to be copied")
        return str(entry.get("from"))
    if _COPY.fullmatch(copy) is None or path.is_symlink() or not path.is_file():
        raise ModelError(f"{folder / MANIFEST}: {copy[:80]!r} is no file of a reproducer's, or not there.")
    if name == "load":
        note(f"loads {path}: the code in it runs")
    return str(path)


def _called(module: str, arguments: list[str]) -> tuple[int, str]:
    """Runs a command in a folder of its own; returns its exit code and what it said on stderr."""
    from baker.model.files import ScratchFolder

    paths = os.pathsep.join([os.getcwd(), *(path for path in sys.path if path)])
    with ScratchFolder() as scratch:
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=scratch,
            env={**os.environ, "PYTHONPATH": paths},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            check=False,
        )
    return done.returncode, done.stderr.decode("utf-8", "replace")
