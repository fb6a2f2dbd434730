"""Runs console scripts many times over, each in a process of its own that was forked from one that has all imported.

As a program it reads one call a line from stdin, as JSON, and answers with one line: exit code, what was printed, peak
memory of the process and its children. `Console` is the other end.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import pkgutil
import resource
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

SCRIPTS = {"baker-opt": "baker.cli.opt", "baker": "baker.cli.group"}
HEAVY = (
    "baker.pipeline.bake",
    "baker.pipeline.tables",
    "baker.cli.observers",
    "baker.cli.reproducer",
    "importlib.metadata",
)
TIMEOUT = 120


@dataclass(frozen=True)
class Ended:
    """How a console script ended; ``megabytes`` is the peak of the process or its child, whichever is larger."""

    code: int
    stdout: str
    stderr: str
    seconds: float
    megabytes: float


class Console:
    """Runs console scripts in a warm process. Use as a context manager."""

    def __enter__(self) -> Console:
        environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "COLUMNS": "120"}
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        return self

    def __exit__(self, *error: object) -> None:
        self.process.stdin.close()  # type: ignore[union-attr]
        self.process.wait(TIMEOUT)
        self.process.stdout.close()  # type: ignore[union-attr]

    def run(self, script: str, *arguments: object, folder: Path, cold: bool = False) -> Ended:
        """Runs a script in a folder; ``cold``: as a user does, in a fresh interpreter."""
        call: dict[str, object] = {"script": script, "folder": str(folder), "cold": cold}
        call["arguments"] = [str(argument) for argument in arguments]
        self.process.stdin.write(json.dumps(call) + "\n")  # type: ignore[union-attr]
        self.process.stdin.flush()  # type: ignore[union-attr]
        line = self.process.stdout.readline()  # type: ignore[union-attr]
        assert line, "the driver died"
        return Ended(**json.loads(line))


def _ended(process: int, start: float, out: int, err: int) -> Ended:
    status, usage = os.wait4(process, 0)[1:]
    seconds = time.perf_counter() - start
    texts = []
    for descriptor in (out, err):
        os.lseek(descriptor, 0, os.SEEK_SET)
        texts.append(os.read(descriptor, 1 << 20).decode("utf-8", errors="replace"))
    peak = usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    return Ended(os.waitstatus_to_exitcode(status), *texts, seconds, peak)


def _child(call: dict[str, object], out: int, err: int) -> None:
    """Never returns."""
    os.dup2(out, 1)
    os.dup2(err, 2)
    os.chdir(str(call["folder"]))
    if call["cold"]:
        start = f"from {SCRIPTS[str(call['script'])]} import main; main()"
        os.execv(sys.executable, [sys.executable, "-c", start, *call["arguments"]])  # type: ignore[misc]
    sys.argv = [str(call["script"]), *call["arguments"]]  # type: ignore[misc]
    module = importlib.import_module(SCRIPTS[str(call["script"])])
    signal.alarm(TIMEOUT)
    code = 0
    try:
        module.main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _serve() -> None:
    for name in (*SCRIPTS.values(), *HEAVY):
        importlib.import_module(name)
    passes = importlib.import_module("baker.passes")
    for module in pkgutil.walk_packages(passes.__path__, "baker.passes."):
        importlib.import_module(module.name)
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        call = json.loads(line)
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            start = time.perf_counter()
            process = os.fork()
            if process == 0:
                _child(call, out.fileno(), err.fileno())
            ended = _ended(process, start, out.fileno(), err.fileno())
        answers.write(json.dumps(vars(ended)) + "\n")
        answers.flush()


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _serve()
