"""What a supervised process tells its supervisor, and what it may use: one page of memory that both see.

`baker.runtime.watchdog` forks the process that does the work and watches it from outside, because a run inside ONNX
Runtime can't be stopped from within. Without a supervisor everything here does nothing. Only the standard library is
imported: the console scripts load this before anything else.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import time
from collections.abc import Collection, Iterator

RUN_SECONDS = 300.0
"""What one run of a model, or getting it ready to run, may take where nobody said otherwise."""

_NUMBERS = ("wall_limit", "run_limit", "run_deadline", "memory_limit", "slot")
_TEXTS = {"stage": 512, "doing": 512, "call": 16384, "paths0": 16384, "paths1": 16384}
_LENGTH = 4  # bytes in front of a text


class Page:
    """Numbers and texts shared by two processes: written by the one that works, read by the one that watches.

    Attributes:
        wall_limit: seconds that the whole command may take; 0 is no limit.
        run_limit: seconds that one run may take; 0 stands for `RUN_SECONDS`, or ``wall_limit`` where that is set.
        run_deadline: when the run in progress has to end, on the monotonic clock; 0 outside of runs.
        memory_limit: bytes that the process and its children may hold; 0 leaves it to the watcher.
    """

    def __init__(self) -> None:
        size = 8 * len(_NUMBERS) + sum(_LENGTH + room for room in _TEXTS.values())
        self._map = mmap.mmap(-1, size)  # anonymous and shared: a fork inherits it
        # A cast view stores a number in one go, so that the other side never reads half of one.
        self._numbers = memoryview(self._map)[: 8 * len(_NUMBERS)].cast("d")

    def number(self, name: str) -> float:
        """Reads a number by name."""
        return self._numbers[_NUMBERS.index(name)]

    def put_number(self, name: str, value: float) -> None:
        """Writes a number by name."""
        self._numbers[_NUMBERS.index(name)] = value

    def text(self, name: str) -> str:
        """Reads a text; what was cut off in the middle of a character is replaced."""
        return self._bytes(name).decode("utf-8", errors="replace")

    def put_text(self, name: str, text: str) -> bool:
        """Writes a text, cut to what there is room for; returns whether all of it was written."""
        return self._put_bytes(name, text.encode("utf-8", errors="replace"))

    def paths(self) -> list[str]:
        """Temporary files and folders that exist as far as the working process said."""
        data = self._bytes(f"paths{int(self.number('slot')) & 1}")
        return [os.fsdecode(path) for path in data.split(b"\0") if path]

    def put_paths(self, paths: Collection[str]) -> None:
        """Replaces the list of temporary paths; it is complete whenever the writer is killed."""
        slot, kept = 1 - (int(self.number("slot")) & 1), b""
        for path in paths:
            more = os.fsencode(path) + b"\0"
            if len(kept) + len(more) <= _TEXTS["paths0"]:  # a path too many stays, but no half of one is removed
                kept += more
        self._put_bytes(f"paths{slot}", kept)
        self.put_number("slot", slot)

    def _bytes(self, name: str) -> bytes:
        start, room = self._place(name)
        length = min(int.from_bytes(self._map[start : start + _LENGTH], "little"), room)
        return self._map[start + _LENGTH : start + _LENGTH + length]

    def _put_bytes(self, name: str, data: bytes) -> bool:
        start, room = self._place(name)
        kept = data[:room]
        self._map[start : start + _LENGTH + len(kept)] = len(kept).to_bytes(_LENGTH, "little") + kept
        return len(kept) == len(data)

    def _place(self, name: str) -> tuple[int, int]:
        start = 8 * len(_NUMBERS)
        for other, room in _TEXTS.items():
            if other == name:
                return start, room
            start += _LENGTH + room
        raise KeyError(name)


class _Supervised:
    """This process' side: no page where nobody watches."""

    page: Page | None = None
    depth = 0  # runs inside runs count as one


def join(page: Page | None) -> None:
    """Says through which page this process is watched; None: by nobody."""
    _Supervised.page, _Supervised.depth = page, 0


def page() -> Page | None:
    """Through which page this process is watched; None where nobody holds it to limits."""
    return _Supervised.page


def limit(*, seconds: float | None = None, memory: int | None = None) -> None:
    """Sets what the whole command may take: seconds of wall time, bytes of memory. None leaves a limit as it is."""
    page = _Supervised.page
    if page is None:
        return
    if seconds is not None:
        page.put_number("wall_limit", seconds)
    if memory is not None:
        page.put_number("memory_limit", memory)


def stage(text: str) -> None:
    """Says what part of its work the process has come to, for a message should it not survive it."""
    if _Supervised.page is not None:
        _Supervised.page.put_text("stage", text)


def call(text: str) -> bool:
    """Says what was called, as JSON; returns whether it was taken down in full."""
    return _Supervised.page is not None and _Supervised.page.put_text("call", text)


def temporaries(paths: Collection[str]) -> None:
    """Says which temporary files and folders there are; the supervisor removes them should this process be killed."""
    if _Supervised.page is not None:
        _Supervised.page.put_paths(paths)


@contextlib.contextmanager
def running(what: str) -> Iterator[None]:
    """Around code of others that runs a model: it has to end in time, or the process is killed.

    Args:
        what: for the message, as in "loading the model".
    """
    page = _Supervised.page
    if page is None or _Supervised.depth:
        yield
        return
    seconds = page.number("run_limit") or page.number("wall_limit") or RUN_SECONDS
    page.put_text("doing", what)
    page.put_number("run_deadline", time.monotonic() + seconds)
    _Supervised.depth += 1
    try:
        yield
    finally:
        _Supervised.depth -= 1
        page.put_number("run_deadline", 0.0)
        page.put_text("doing", "")
