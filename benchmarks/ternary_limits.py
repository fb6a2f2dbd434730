"""What the machine could do at best: bytes a second from memory and multiplications a second, measured in process."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import numpy as np

_SOURCE = Path(__file__).with_name("ternary_limits.cc")
_BUFFER_BYTES = 512 << 20  # far beyond any last-level cache here
_AHEAD = (0, 1 << 10, 4 << 10, 8 << 10)
"""Bytes that are prefetched ahead; which is best depends on the size of pages and on who else reads."""
_PEAK_ROUNDS = 500_000


@cache
def _library() -> ctypes.CDLL:
    compiler = next((path for name in ("c++", "g++", "clang++") if (path := shutil.which(name))), None)
    if compiler is None:
        raise SystemExit("ternary.py: a C++ compiler is needed to measure the machine's limits; found none")
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "limits.so"
        flags = ["-O2", "-march=native", "-std=c++17", "-shared", "-fPIC"]
        subprocess.run([compiler, *flags, _SOURCE, "-o", target], check=True)
        library = ctypes.CDLL(str(target))
    library.read_rate.restype = library.vnni_peak.restype = ctypes.c_double
    library.read_rate.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]
    library.vnni_peak.argtypes = [ctypes.c_long]
    return library


@cache
def _cold_memory() -> np.ndarray:
    return np.ones(_BUFFER_BYTES, np.uint8)


def read_rate() -> float:
    """GB/s that one thread reads from DRAM, over a buffer that no cache holds, in the fastest of several ways."""
    memory, rate = _cold_memory(), _library().read_rate
    return max(float(rate(memory.ctypes.data, memory.size, ahead)) for ahead in _AHEAD)


def vnni_peak() -> float:
    """GOPS of 512-bit vpdpbusd, one thread; 0 where the CPU has none."""
    return float(_library().vnni_peak(_PEAK_ROUNDS))
