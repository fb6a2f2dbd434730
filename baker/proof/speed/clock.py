"""A clock that stops while others have the processor."""

from __future__ import annotations

import os
from collections.abc import Callable

READ_FROM = 1e-4
"""Runs of fewer seconds are timed by the wall clock alone: a look at the waiting time costs a microsecond, and of many
short runs some are not interrupted."""

_SCHEDULER = "/proc/thread-self/schedstat"


def waiting_time() -> Callable[[], float]:
    """Returns a function that tells how many seconds this thread has been ready to run and had to wait for a processor.

    Linux counts that for each thread (second number of ``schedstat``, in nanoseconds; Documentation/scheduler in the
    kernel). It is no part of the model's time: on two cores shared with ten busy processes a run of 7 ms takes 20 to 40
    by the wall clock, and 7.1 to 7.5 without the waiting. Waiting that is the model's own doing (for a disk, a lock)
    is not in it. Where the kernel does not count, the time told is always 0.
    """
    try:
        file = os.open(_SCHEDULER, os.O_RDONLY)
        os.pread(file, 64, 0).split()[1]
    except (OSError, IndexError):
        return no_waiting
    return lambda: int(os.pread(file, 64, 0).split()[1]) * 1e-9


def no_waiting() -> float:
    """Stands in where waiting is not looked at."""
    return 0.0
