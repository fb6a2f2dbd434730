"""Runs the rest of the program in a child process, and kills that for real when it takes too much.

The parent does nothing but wait: it was forked off before anything heavy was imported, so that it holds a few
megabytes, no threads and no locks. It passes signals on, counts the child's memory, and removes what a killed child
leaves. The child is the leader of a process group of its own; should the parent be killed, the kernel kills that group.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Literal

from baker.runtime import supervise
from baker.runtime.supervise import RUN_SECONDS, Page

MEMORY_SHARE = 0.8
"""Of the memory there is, what a command may take where nobody said otherwise."""

PROGRAM = 128 << 20
"""Bytes of mapped files that a process is held to account for."""

TICK = 0.025
TICK_IN_RUN = 0.01
"""Seconds between two looks at the child; a run can fill memory at some GB/s."""

PATIENCE, PATIENCE_IN_RUN = 15.0, 2.0
"""Seconds that an interrupted child has to end by itself; code inside ONNX Runtime is never told of an interrupt."""

_LEFTOVER = re.compile(r"\..*\.[0-9a-f]{12}\.tmp|baker-[^/]*")
_PASSED_ON = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGTSTP") if hasattr(signal, name)
]

Cause = Literal["", "seconds", "run", "memory", "interrupted"]


@dataclass(frozen=True)
class End:
    """How a supervised process ended.

    Attributes:
        code: its exit status; None where a signal ended it.
        signal: the signal that ended it, else 0.
        cause: why the parent killed it, or "".
        limit: the limit it went over: seconds, or bytes.
        memory: bytes that it held when last looked at.
        asked: a signal that the parent was sent and passed on, else 0.
        page: what it said of its work.
    """

    code: int | None
    signal: int
    cause: Cause
    limit: float
    memory: int
    asked: int
    page: Page


def can_fork() -> bool:
    """False where there is no fork, or where threads exist already, whose locks a fork would copy."""
    if not hasattr(os, "fork") or not hasattr(os, "killpg"):
        return False
    threading = sys.modules.get("threading")
    if threading is not None and threading.active_count() > 1:
        return False
    try:
        return len(os.listdir("/proc/self/task")) == 1
    except OSError:
        return True


def split() -> End | None:
    """Forks. Returns None in the child, which goes on with the work, and in the parent how that ended.

    Raises:
        OSError: the system has no room for another process.
    """
    page, start = Page(), time.monotonic()
    lifeline = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        os.close(lifeline[1])
        _die_with(lifeline[0])
        if hasattr(signal, "SIGTTOU"):  # outside of the terminal's foreground group, writing to it must not stop us
            signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        supervise.join(page)
        return None
    with contextlib.suppress(OSError):  # the child did it first, or has ended
        os.setpgid(child, child)
    os.close(lifeline[0])
    return _Watch(child, page, start).wait()


def _die_with(lifeline: int) -> None:
    """Has this process group killed when the other end of a pipe is closed, which is when the parent ends."""
    import fcntl

    if hasattr(fcntl, "F_SETSIG"):  # Linux: the kernel sends SIGKILL to the group, whatever it is doing
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpid())
        fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
        return
    import threading

    def wait() -> None:
        os.read(lifeline, 1)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=wait, daemon=True).start()


class _Watch:
    """The parent's loop."""

    def __init__(self, child: int, page: Page, start: float) -> None:
        self.child = child
        self.page = page
        self.start = start
        self.cause: Cause = ""
        self.limit = 0.0
        self.memory = 0
        self.asked = 0
        self.killed_at = float("inf")
        self.default_memory = 0

    def wait(self) -> End:
        """Waits for the child's end, looking at it now and then."""
        with self._signals() as awake:
            while True:
                found, status = os.waitpid(self.child, os.WNOHANG)
                if found:
                    break
                self._look()
                select.select([awake], [], [], TICK_IN_RUN if self.page.number("run_deadline") else TICK)
                with contextlib.suppress(BlockingIOError):
                    os.read(awake, 64)
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        if number:
            self._clean_up()
        code = None if number else os.WEXITSTATUS(status)
        return End(code, number, self.cause if number else "", self.limit, self.memory, self.asked, self.page)

    def _look(self) -> None:
        now = time.monotonic()
        if self.cause or now >= self.killed_at:
            self._kill("interrupted", 0.0)
            return
        wall, deadline = self.page.number("wall_limit"), self.page.number("run_deadline")
        if wall and now - self.start > wall:
            self._kill("seconds", wall)
        elif deadline and now > deadline:
            self._kill("run", self.page.number("run_limit") or wall or RUN_SECONDS)
        else:
            self.memory = held(self.child)
            limit = self.page.number("memory_limit") or self._default_memory()
            if limit and self.memory > limit:
                self._kill("memory", limit)

    def _default_memory(self) -> int:
        if not self.default_memory:
            self.default_memory = int(MEMORY_SHARE * memory_there_is()) or 1 << 62
        return self.default_memory

    def _kill(self, cause: Cause, limit: float) -> None:
        if not self.cause:
            self.cause, self.limit = cause, limit
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.child, signal.SIGKILL)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[int]:
        """Has signals wake the loop; those that ask for an end are passed on."""
        read, write = os.pipe()
        os.set_blocking(read, False)
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        for number in _PASSED_ON:
            if signal.getsignal(number) != signal.SIG_IGN:  # nohup
                signal.signal(number, self._stop if number == getattr(signal, "SIGTSTP", 0) else self._pass_on)
        try:
            yield read
        finally:
            signal.set_wakeup_fd(-1)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.child, signal.SIGKILL if self.asked else number)
        if not self.asked:
            in_run = bool(self.page.number("run_deadline"))
            self.asked, self.killed_at = number, time.monotonic() + (PATIENCE_IN_RUN if in_run else PATIENCE)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        """Ctrl-Z: stops both, and goes on when the shell says so; the time in between does not count."""
        start = time.monotonic()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.child, signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)
        stopped = time.monotonic() - start
        self.start += stopped
        if self.page.number("run_deadline"):
            self.page.put_number("run_deadline", self.page.number("run_deadline") + stopped)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.child, signal.SIGCONT)

    def _clean_up(self) -> None:
        """Removes what the child said it would remove itself, where that bears a name that baker gives."""
        with contextlib.suppress(ProcessLookupError):  # children of the child
            os.killpg(self.child, signal.SIGKILL)
        for path in self.page.paths():
            if not _LEFTOVER.fullmatch(os.path.basename(path)):
                continue
            if os.path.isdir(path) and not os.path.islink(path):
                import shutil

                shutil.rmtree(path, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    os.unlink(path)


def held(process: int) -> int:
    """Bytes that a process and its children hold and could not give back; 0 where the system does not tell.

    Pages of mapped files are counted up to `PROGRAM` a process, which is what its libraries take: those of weights in
    external data the system takes back at will.
    """
    total, waiting = 0, [process]
    for number in waiting:  # grows while it is walked
        try:
            with open(f"/proc/{number}/status", "rb") as file:
                lines = file.read().split(b"\n")
        except OSError:  # it has ended, or this is no Linux
            continue
        with contextlib.suppress(OSError), open(f"/proc/{number}/task/{number}/children", "rb") as file:
            waiting += [int(child) for child in file.read().split()]  # not every kernel tells
        sizes = {field[0]: int(field[1]) << 10 for line in lines if (field := line.split())[2:] == [b"kB"]}
        total += sum(sizes.get(name, 0) for name in (b"RssAnon:", b"RssShmem:", b"VmSwap:"))
        total += min(sizes.get(b"RssFile:", 0), PROGRAM)
    return total


def memory_there_is() -> int:
    """Bytes of the machine, or of the control group that this process is held to; 0 where the system does not tell."""
    try:
        sizes = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    except (OSError, ValueError):
        return 0
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines():
            _, controllers, group = line.split(":", 2)
            if controllers in ("", "memory"):
                root = Path("/sys/fs/cgroup", controllers)
                sizes += _group_limits(root, group, "memory.max" if not controllers else "memory.limit_in_bytes")
    return min(sizes)


def _group_limits(root: Path, group: str, name: str) -> Iterator[int]:
    """The limits of a control group and all around it."""
    parts = [part for part in group.split("/") if part]
    for length in range(len(parts), -1, -1):
        file = root.joinpath(*parts[:length], name)
        with contextlib.suppress(OSError, ValueError):  # ValueError: "max"
            yield int(file.read_text(encoding="ascii"))
