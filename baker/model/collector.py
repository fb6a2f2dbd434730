"""Python's garbage collector while there are models about: each time it walks over every node of every model."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

THRESHOLD = 50_000
"""How many more objects there have to be before it looks; Python's own choice is 700."""


@contextmanager
def seldom_collecting() -> Iterator[None]:
    """Lets it look less often in here; where it is switched off, or looks less often anyway, that stays."""
    before = gc.get_threshold()
    if before[0]:
        gc.set_threshold(max(before[0], THRESHOLD), *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
