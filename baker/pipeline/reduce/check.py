"""Runs the command that tells whether a model still fails, each time in a process group that can be killed."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from baker.errors import UsageError

OUTPUT_BYTES = 4 << 20
"""Of the command's output, this much from its end is looked at."""
POLL_SECONDS = 0.005
GONE_SECONDS = 0.1
REPRODUCERS = "BAKER_REPRODUCERS"
"""Environment variable: where baker's own commands put reproducer folders instead of the current folder."""


@dataclass(frozen=True)
class Outcome:
    """How the command ended.

    Attributes:
        exit: what the shell ended with; None where the command was killed for taking too long.
        matched: its output has what is looked for.
        raised: the exception that a Python traceback in its output ends with. A script that meets an input of another
            name ends with the same exit code as one whose assertion fails.
        seconds: how long it took.
        tail: the last line of its output.
    """

    exit: int | None
    matched: bool
    seconds: float
    tail: str = ""
    raised: str = ""

    @property
    def verdict(self) -> tuple[int | None, bool, str]:
        """What two outcomes are compared by."""
        return self.exit, self.matched, self.raised

    def __str__(self) -> str:
        return "ran out of time" if self.exit is None else f"exit {self.exit}"


@dataclass
class _Running:
    process: subprocess.Popen[bytes]
    folder: Path
    stem: str
    log: Path
    start: float


class Checks:
    """Runs the command on candidates, and knows which of them fail as the original does.

    Use it as a context manager: at its end every process is gone and so is every temporary file.

    Args:
        command: a shell command line; ``{}`` in it is the candidate's path, which is appended where there is none.
        timeout: seconds for one run; the command is then killed with its process group.
        match: a regular expression that the output of a failure must have, standard error included.
        jobs: how many may run at a time.
    """

    def __init__(self, command: str, *, timeout: float, match: str | None = None, jobs: int = 2) -> None:
        self.command, self.timeout, self.jobs = command, timeout, jobs
        try:
            self.match = None if match is None else re.compile(match, re.MULTILINE)
        except re.error as error:
            raise UsageError(f"--match: {match!r} is no regular expression: {error}") from error
        self.count = 0
        self.expected: tuple[int | None, bool, str] | None = None
        self._known: dict[bytes, bool] = {}
        self._running: dict[int, _Running] = {}
        self._token = f"candidate-{secrets.token_hex(6)}"
        self._folder = Path(tempfile.mkdtemp(prefix="baker-reduce-"))

    def __enter__(self) -> Checks:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for key in list(self._running):
            self._stop(key)
        shutil.rmtree(self._folder, ignore_errors=True)
        _remove(self._token)  # what a process that was being killed still wrote

    # ---- what is asked ----

    def outcomes(self, data: bytes, times: int) -> list[Outcome]:
        """Runs the command several times on one model, as many at a time as there are jobs."""
        found: dict[int, Outcome] = {}
        try:
            while len(found) < times:
                for key in range(times):
                    if key not in found and key not in self._running and len(self._running) < self.jobs:
                        self._start(key, data)
                found |= self._ended()
        finally:
            for key in list(self._running):
                self._stop(key)
        return [found[key] for key in range(times)]

    def first_failing(self, candidates: Sequence[Callable[[], bytes | None]]) -> int | None:
        """Returns the index of the first candidate that fails as the original does, or None.

        A candidate is made when its turn comes, and is passed over where it makes None. Later ones run ahead, and are
        killed once an earlier one fails. The same bytes are never run twice.
        """
        assert self.expected is not None
        answers: dict[int, bool] = {}
        digests: dict[int, bytes] = {}
        following = 0
        try:
            while True:
                winner = next((key for key in range(len(candidates)) if answers.get(key, True)), None)
                if winner is None or answers.get(winner):
                    return winner
                hopeless = any(answers.values())  # a later one fails: only those before it matter
                while following < len(candidates) and len(self._running) < self.jobs and not hopeless:
                    self._offer(following, candidates[following](), answers, digests)
                    hopeless = answers.get(following, False)
                    following += 1
                for key, outcome in (self._ended() if self._running else {}).items():
                    answers[key] = self._known[digests[key]] = outcome.verdict == self.expected
                    for later in [other for other in self._running if answers[key] and other > key]:
                        self._stop(later)
        finally:
            for key in list(self._running):
                self._stop(key)

    def _offer(self, key: int, data: bytes | None, answers: dict[int, bool], digests: dict[int, bytes]) -> None:
        if data is None:
            answers[key] = False
            return
        digests[key] = hashlib.sha256(data).digest()
        if digests[key] in self._known:
            answers[key] = self._known[digests[key]]
        elif digests[key] in [digests[other] for other in self._running]:
            answers[key] = False  # the earlier one speaks for both
        else:
            self._start(key, data)

    # ---- processes ----

    def _start(self, key: int, data: bytes) -> None:
        self.count += 1
        stem = f"{self._token}-{self.count}-"
        folder = self._folder / stem
        folder.mkdir()
        path, log = folder / f"{stem}.onnx", folder / "output.log"
        path.write_bytes(data)
        name = shlex.quote(str(path))
        line = self.command.replace("{}", name) if "{}" in self.command else f"{self.command} {name}"
        with log.open("wb") as output:
            process = subprocess.Popen(
                line,
                shell=True,  # the command line is the caller's own, as in a makefile
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, "TMPDIR": str(folder), REPRODUCERS: str(folder)},
            )
        self._running[key] = _Running(process, folder, stem, log, time.monotonic())

    def _ended(self) -> dict[int, Outcome]:
        """Waits until something has ended."""
        found: dict[int, Outcome] = {}
        while not found:
            for key, running in list(self._running.items()):
                seconds = time.monotonic() - running.start
                code = running.process.poll()
                if code is None and seconds < self.timeout:
                    continue
                found[key] = self._outcome(running, None if code is None else _shell_code(code), seconds)
                self._stop(key)
            if not found:
                time.sleep(POLL_SECONDS)
        return found

    def _outcome(self, running: _Running, code: int | None, seconds: float) -> Outcome:
        with running.log.open("rb") as file:
            file.seek(max(0, running.log.stat().st_size - OUTPUT_BYTES))
            text = file.read().decode("utf-8", "replace")
        lines = text.strip().splitlines()
        matched = self.match is None or self.match.search(text) is not None
        return Outcome(code, matched, seconds, lines[-1] if lines else "", _raised(text))

    def _stop(self, key: int) -> None:
        """Ends a process with its group, and removes what it left behind under the candidate's name."""
        running = self._running.pop(key)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(running.process.pid, signal.SIGKILL)
        running.process.wait()
        _wait_for_group(running.process.pid)
        shutil.rmtree(running.folder, ignore_errors=True)
        _remove(running.stem)


def _wait_for_group(group: int) -> None:
    """Waits for what was killed to be gone, but not for zombies that nobody will collect."""
    end = time.monotonic() + GONE_SECONDS
    with contextlib.suppress(ProcessLookupError, PermissionError):
        while time.monotonic() < end:
            os.killpg(group, 0)
            time.sleep(POLL_SECONDS)


def _remove(stem: str) -> None:
    """Removes what is called after a candidate: baker-opt puts its result and report into the current folder."""
    for left in Path.cwd().glob(f"{stem}*"):
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def _raised(text: str) -> str:
    """The exception at the end of the last traceback."""
    _, found, trace = text.rpartition("Traceback (most recent call last):\n")
    names = re.findall(r"^([A-Za-z_][\w.]*)(?::|$)", trace, re.MULTILINE) if found else []
    return names[0] if names else ""


def _shell_code(code: int) -> int:
    """What a shell calls an exit by a signal."""
    return code if code >= 0 else 128 - code
