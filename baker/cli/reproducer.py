"""Keeps what is needed to see an internal error again."""

from __future__ import annotations

import json
import shutil
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from baker.errors import InternalError

COPY_LIMIT = 256 * 2**20
"""Larger input files are named, not copied; bytes."""


def reproduce(failure: InternalError, command: str, parameters: Mapping[str, Any]) -> Path:
    """Writes the folder of a failed command line; returns where it is.

    The folder is made in the current one, or in the system's temporary one where that cannot be written.
    """
    try:
        folder = Path(tempfile.mkdtemp(prefix="baker-reproducer-", dir=Path.cwd()))
    except OSError:
        folder = Path(tempfile.mkdtemp(prefix="baker-reproducer-"))
    error = "".join(traceback.format_exception(failure.__cause__ or failure))
    write_reproducer(folder, command=command, parameters=parameters, error=error)
    return folder


def write_reproducer(folder: Path, *, command: str, parameters: Mapping[str, Any], error: str) -> None:
    """Writes ``reproducer.json`` (command, all options, versions), ``error.txt``, and the files the options name.

    Args:
        folder: an existing folder.
        parameters: option values by name, defaults and the seed included. A file is copied as ``<option><suffix>``.
        error: the traceback.
    """
    from baker.pipeline.report import environment

    files = {}
    for name, path in _files(parameters):
        size = path.stat().st_size
        files[name] = {"from": str(path), "bytes": size, "copied": size <= COPY_LIMIT}
        if size <= COPY_LIMIT:
            shutil.copyfile(path, folder / name)
    content = {
        "command": command,
        "parameters": {name: _plain(value) for name, value in parameters.items()},
        "files": files,
        "environment": environment(),
    }
    (folder / "reproducer.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    (folder / "error.txt").write_text(error, encoding="utf-8", errors="backslashreplace")


def _files(parameters: Mapping[str, Any]) -> Iterator[tuple[str, Path]]:
    """The existing files among option values, each with the name of its copy."""
    for name, value in parameters.items():
        values = value if isinstance(value, tuple) else (value,)
        for index, item in enumerate(values):
            path = Path(item) if isinstance(item, (str, Path)) and item else None
            if path is not None and len(str(path)) < 1024 and path.is_file():
                yield f"{name}{index if len(values) > 1 else ''}{path.suffix}", path


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, (str, int, float, bool)) else str(value)
