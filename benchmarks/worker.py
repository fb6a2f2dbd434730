"""A process that answers requests line by line, in JSON, and is started anew when a request kills or blocks it."""

from __future__ import annotations

import json
import select
import subprocess
from collections.abc import Sequence
from typing import Any


class Worker:
    """Runs a command; each request is one line to its stdin, each answer one line of JSON from its stdout."""

    def __init__(self, command: Sequence[str], seconds: float) -> None:
        self.command, self.seconds = list(command), seconds
        self.process: subprocess.Popen[str] | None = None

    def ask(self, request: str) -> dict[str, Any]:
        """The answer, or what went wrong as ``error``."""
        if self.process is None:
            self.process = subprocess.Popen(
                self.command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
        process = self.process
        assert process.stdin is not None
        assert process.stdout is not None
        print(request, file=process.stdin, flush=True)
        ready, _, _ = select.select([process.stdout], [], [], self.seconds)
        line = process.stdout.readline() if ready else ""
        if line:
            answer: dict[str, Any] = json.loads(line)
            return answer
        self.close()
        return {"error": "it killed its process" if ready else f"no result after {self.seconds:g} s"}

    def close(self) -> None:
        """Ends the process."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
