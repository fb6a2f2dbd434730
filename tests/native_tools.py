"""Building and running the compiled code apart from Python, for the tests that do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def tool(*names: str) -> str:
    """The first of these programs, beside the interpreter or on PATH; skips the test where there is none."""
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    found = next((path for name in names if (path := shutil.which(name, path=places))), None)
    if found is None:
        pytest.skip(f"none of {', '.join(names)} is installed")
    return found


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """Runs a command and returns all that it printed; fails the test with it if the command fails."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, cwd=cwd, timeout=600)
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
    return done.stdout + done.stderr


def build(folder: Path, *options: str) -> Path:
    """Configures and builds the project's C++ in a folder."""
    run(tool("cmake"), "-S", ROOT, "-B", folder, "-DBAKER_PYTHON=OFF", *options)
    run(tool("cmake"), "--build", folder, "--parallel", "2")
    return folder
