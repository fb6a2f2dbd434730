"""What every benchmark shares: a ratio with its interval, the machine's name, a table."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np

from baker.proof.speed.statistics import DEAD_ZONE


def interval(
    values: Sequence[float] | np.ndarray, level: float = 0.95, draws: int = 2000
) -> tuple[float, float, float]:
    """The median and its bootstrap interval (percentile method, seeded)."""
    data = np.asarray(values, dtype=float)
    rng = np.random.default_rng(0)
    medians = np.median(rng.choice(data, size=(draws, data.size)), axis=1)
    low, high = np.quantile(medians, [(1 - level) / 2, (1 + level) / 2])
    return float(np.median(data)), float(low), float(high)


def speedup(values: Sequence[float] | np.ndarray) -> str:
    """How many times as fast, with its interval; no figure where that does not lie beyond 2 %, as in baker bench."""
    ratio, low, high = interval(values)
    if low <= DEAD_ZONE and high >= 1 / DEAD_ZONE:
        return "no measurable change"
    return f"{ratio:.2f} [{low:.2f}, {high:.2f}]"


def machine() -> str:
    """The processor, how many cores are in use, and the versions that matter."""
    names = [line for line in _cpuinfo() if line.startswith("model name")]
    cpu = names[0].partition(":")[2].strip() if names else platform.processor() or platform.machine()
    return f"{cpu}, {os.cpu_count()} cores, onnxruntime {version('onnxruntime')}, Python {platform.python_version()}"


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table that README can quote."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
