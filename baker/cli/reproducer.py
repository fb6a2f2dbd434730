"""Keeps what is needed to see an internal error again."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from baker.cli.evidence import COPY_LIMIT, ERROR, FORMAT, MANIFEST
from baker.errors import BakerError, InternalError

if TYPE_CHECKING:
    from baker.pipeline.trace import Trace

PLACE = "BAKER_REPRODUCERS"
"""Environment variable: where folders go instead of the current one; `baker reduce` crashes a command many times."""


def reproduce(failure: InternalError, command: str, parameters: Mapping[str, Any], trace: Trace | None = None) -> Path:
    """Writes the folder of a failed command line; returns where it is.

    The folder is made in the current one, or in the system's temporary one where that cannot be written.

    Args:
        trace: of the run, if there was one: the pass that ran, and the model before it, are kept, too.
    """
    try:
        place = os.environ.get(PLACE) or Path.cwd()
        folder = Path(tempfile.mkdtemp(prefix="baker-reproducer-", dir=place))
    except OSError:
        folder = Path(tempfile.mkdtemp(prefix="baker-reproducer-"))
    error = "".join(traceback.format_exception(failure.__cause__ or failure))
    running = None if trace is None else _running(folder, trace)
    message = (str(failure).splitlines() or [""])[0]
    write_reproducer(folder, command=command, parameters=parameters, error=error, message=message, running=running)
    return folder


def write_reproducer(
    folder: Path,
    *,
    command: str,
    parameters: Mapping[str, Any],
    error: str,
    message: str = "",
    running: Mapping[str, str] | None = None,
) -> None:
    """Writes ``reproducer.json`` (command, all options, versions), ``error.txt``, and the files the options name.

    Args:
        folder: an existing folder.
        parameters: option values by name, defaults and the seed included. A file is copied as ``<option><suffix>``.
        error: the traceback.
        message: the first line of what was said; a replay is held to it. Empty: any will do.
        running: the pass that ran, and the file in the folder with the model before it.
    """
    from baker.pipeline.report import environment

    content = {
        "reproducer": FORMAT,
        "kind": "crash",
        "command": command,
        "parameters": {name: _plain(value) for name, value in parameters.items()},
        "files": {name: _copied(path, folder / name) for name, path in files_of(parameters)},
        "expected": {"exit_code": InternalError.exit_code, "message": message},
        "environment": environment(),
    }
    if running is not None:
        content["running"] = dict(running)
    (folder / ERROR).write_text(error, encoding="utf-8", errors="backslashreplace")
    (folder / MANIFEST).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def files_of(parameters: Mapping[str, Any]) -> Iterator[tuple[str, Path]]:
    """The existing files among option values, each with the name of its copy."""
    for name, value in parameters.items():
        values = value if isinstance(value, tuple) else (value,)
        for index, item in enumerate(values):
            path = Path(item) if isinstance(item, (str, Path)) and item else None
            if path is not None and len(str(path)) < 1024 and path.is_file():
                yield copy_name(name, index if len(values) > 1 else None, path), path


def _copied(path: Path, copy: Path) -> dict[str, object]:
    """Copies a file, unless it is large, and says what was done."""
    size = path.stat().st_size
    if size <= COPY_LIMIT:
        shutil.copyfile(path, copy)
        if path.suffix == ".onnx":
            _copy_data(path, copy.parent)
    return {"from": str(path.resolve()), "bytes": size, "copied": size <= COPY_LIMIT}


def _copy_data(model: Path, folder: Path) -> None:
    """Copies the weights that lie in files beside the model, as long as these are small and plainly named."""
    import onnx
    from onnx.external_data_helper import uses_external_data

    try:
        tensors = onnx.load_model(model, load_external_data=False).graph.initializer
    except Exception:  # noqa: BLE001  # a file that can't be read may be the very reason for the crash
        return
    stored = (entry for tensor in tensors if uses_external_data(tensor) for entry in tensor.external_data)
    left = COPY_LIMIT
    for name in dict.fromkeys(entry.value for entry in stored if entry.key == "location"):
        path = model.parent / name
        if Path(name).name != name or path.is_symlink() or not path.is_file() or (folder / name).exists():
            continue
        left -= path.stat().st_size
        if left >= 0 and name not in (MANIFEST, ERROR):
            shutil.copyfile(path, folder / name)


def copy_name(option: str, index: int | None, path: Path) -> str:
    """What the copy of an option's file is called."""
    return f"{option}{'' if index is None else index}{path.suffix}"


def _running(folder: Path, trace: Trace) -> dict[str, str] | None:
    """Saves the model that the running pass was given, where it can be."""
    if trace.running is None:
        return None
    from baker.model.save import saved_size
    from baker.pipeline.keep import save_as_it_is
    from baker.pipeline.text import PassItem

    pass_, state = trace.running
    found = {"pass": str(PassItem(pass_))}
    try:
        if saved_size(state.model) <= COPY_LIMIT:
            save_as_it_is(state.model, folder / "before.onnx")
            found["model"] = "before.onnx"
    except (BakerError, OSError, RuntimeError) as error:  # whatever it is, the crash itself is what has to be told
        found["model not saved"] = str(error)[:500]
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, (str, int, float, bool)) else str(value)
