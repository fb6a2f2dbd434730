"""Keeps what is needed to see an internal error again."""

from __future__ import annotations

import json
import shutil
import tempfile
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from baker.errors import InternalError

COPY_LIMIT = 256 * 2**20
"""Larger inputs are named, not copied: bytes."""


def reproduce(failure: InternalError, command: str, parameters: Mapping[str, Any]) -> Path:
    """Writes the folder of a failed command line; returns where it is.

    The folder is made in the current one, or in the system's temporary one where that cannot be written.
    """
    try:
        folder = Path(tempfile.mkdtemp(prefix="baker-reproducer-", dir=Path.cwd()))
    except OSError:
        folder = Path(tempfile.mkdtemp(prefix="baker-reproducer-"))
    inputs = [value for value in parameters.values() if isinstance(value, Path) and value.is_file()]
    error = "".join(traceback.format_exception(failure.__cause__ or failure))
    write_reproducer(folder, command=command, parameters=parameters, inputs=inputs, error=error)
    return folder


def write_reproducer(
    folder: Path, *, command: str, parameters: Mapping[str, Any], inputs: list[Path], error: str
) -> None:
    """Writes ``reproducer.json`` (command, all of its options, versions, seed), ``error.txt`` and the input files.

    Args:
        folder: an existing folder.
        parameters: option values by name, defaults included.
        inputs: files to copy; one above COPY_LIMIT is only named.
        error: the traceback.
    """
    from baker.pipeline.report import environment

    copied = {}
    for path in inputs:
        size = path.stat().st_size
        if size <= COPY_LIMIT:
            shutil.copyfile(path, folder / path.name)
        copied[path.name] = {"bytes": size, "copied": size <= COPY_LIMIT}
    content = {
        "command": command,
        "parameters": {name: _plain(value) for name, value in parameters.items()},
        "inputs": copied,
        "environment": environment(),
    }
    (folder / "reproducer.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    (folder / "error.txt").write_text(error, encoding="utf-8", errors="backslashreplace")


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, (str, int, float, bool)) else str(value)
