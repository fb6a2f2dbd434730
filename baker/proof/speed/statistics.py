"""Whether one model is faster than another: the statistics, and the rule by which a claim is made or refused.

A *block* times A, B and a second session of A, called the control, in random order and next to each other, so that what
loads the machine meanwhile loads all three. A *round* is some blocks with the same three sessions; a *launch* is a
process with some rounds. Two sessions of one model differ by per cents for as long as they live (where their weights
lie in memory), so rounds and launches are what is resampled first, and blocks only within them.

    speed-ups of a block     A / B and control / B
    control of a block       A / control

Each of these ratios is as likely above as below the truth when load strikes at random, so their median is too; that
of (A + control) / 2 / B would not be.

The rule, fixed before anything is timed:
    faster    the 95 % interval of the median speed-up lies above 1.02 and the 99 % one above 1
    slower    the same for the inverse
    neither   otherwise; also where the 99 % interval of the control does not hold 1 (a 95 % one would throw away one
              true answer in twenty), or where there are fewer than 3 launches or 30 blocks
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

F64: TypeAlias = npt.NDArray[np.float64]

Round: TypeAlias = F64
"""Seconds, (blocks, 3): A, B, control."""

Launch: TypeAlias = Sequence[Round]

Answer = Literal["faster", "slower", "no measurable change"]

DEAD_ZONE = 1.02
"""A change of up to 2 % is not claimed, however sure it is: another machine or build moves it by more."""

LEVEL, STRICT_LEVEL = 0.95, 0.99
MIN_LAUNCHES, MIN_PAIRS = 3, 30
DRAWS = 2000
_BLOCKS_DRAWN = 200


@dataclass(frozen=True)
class Interval:
    """A ratio of times, and where it lies at ``level``."""

    ratio: float
    low: float
    high: float
    level: float

    @property
    def half_width(self) -> float:
        """Half the width of the logarithm: 0.02 is about ±2 %."""
        return (math.log(self.high) - math.log(self.low)) / 2

    def inverse(self) -> Interval:
        """The interval of the inverse ratio."""
        return Interval(1 / self.ratio, 1 / self.high, 1 / self.low, self.level)


@dataclass(frozen=True)
class Finding:
    """What the samples say.

    Attributes:
        answer: one of three.
        speedup: time of A over time of B, at 95 %.
        strict: the same at 99 %.
        control: time of A over time of A, at 99 %.
        launches, pairs: how many samples that rests on.
        reason: why nothing is claimed; empty where something is.
    """

    answer: Answer
    speedup: Interval
    strict: Interval
    control: Interval
    launches: int
    pairs: int
    reason: str = ""


def decide(launches: Sequence[Launch], *, seed: int = 0) -> Finding:
    """Applies the rule above to what was timed.

    Args:
        launches: for each launch its rounds, each (blocks, 3) seconds of A, B and control; no round is empty.
        seed: seeds the resampling.

    Raises:
        ValueError: fewer than two launches, or an empty one: no interval can be had.
    """
    speedup, strict = intervals([[_speedups(part) for part in launch] for launch in launches], seed=seed)
    _, control = intervals([[_controls(part) for part in launch] for launch in launches], seed=seed + 1)
    pairs = sum(len(part) for launch in launches for part in launch)
    reason = _doubt(speedup, strict, control, len(launches), pairs)
    answer: Answer = "no measurable change"
    if not reason:
        answer = "faster" if speedup.ratio > 1 else "slower"
    return Finding(answer, speedup, strict, control, len(launches), pairs, reason)


def _doubt(speedup: Interval, strict: Interval, control: Interval, launches: int, pairs: int) -> str:
    """Why nothing may be claimed, or an empty text."""
    if launches < MIN_LAUNCHES or pairs < MIN_PAIRS:
        return f"{pairs} pairs in {launches} launches; a claim takes {MIN_PAIRS} in {MIN_LAUNCHES}"
    if not control.low <= 1 <= control.high:
        return f"the same model timed against itself gave {_shown(control)}: the machine is too unsteady to tell"
    faster = speedup.low > DEAD_ZONE and strict.low > 1
    slower = speedup.high < 1 / DEAD_ZONE and strict.high < 1
    if faster or slower:
        return ""
    if strict.low <= 1 <= strict.high and speedup.half_width > math.log(1.05):
        return f"too noisy to tell: the 99 % interval is {_shown(strict)}. Give more --seconds or a calmer machine"
    return f"the interval, {_shown(speedup)}, does not lie beyond {DEAD_ZONE} or {1 / DEAD_ZONE:.3f}"


def _shown(interval: Interval) -> str:
    return f"[{interval.low:.3f}, {interval.high:.3f}]"


def _speedups(seconds: Round) -> F64:
    """log(A / B) and log(control / B) of each block, (blocks, 2)."""
    logs = np.log(seconds)
    return np.asarray(logs[:, [0, 2]] - logs[:, [1]])


def _controls(seconds: Round) -> F64:
    logs = np.log(seconds)
    return np.asarray(logs[:, [0]] - logs[:, [2]])


# ---- intervals -------------------------------------------------------------------------------------------------


def intervals(launches: Sequence[Sequence[F64]], *, seed: int = 0) -> tuple[Interval, Interval]:
    """Returns the mean over launches of each launch's median, as a ratio, at 95 % and at 99 %.

    Each is the wider of two intervals: the hierarchical bootstrap one (launches are resampled, then rounds within
    each, then blocks; percentiles), which is too narrow for a handful of launches, and Student's over the medians of
    the launches, which is right for a handful if these are about normal.

    Args:
        launches: for each launch its rounds, each the logarithms of its ratios, (blocks, ratios of a block).

    Raises:
        ValueError: fewer than two launches, or an empty one.
    """
    if len(launches) < 2 or not all(len(part) for launch in launches for part in launch) or not all(launches):
        raise ValueError(f"{len(launches)} launches; at least two are due, and none empty")
    rng = np.random.default_rng(seed)
    medians = np.array([np.median(np.concatenate(launch)) for launch in launches])
    drawn = _resampled_means(launches, rng)
    return _wider(medians, drawn, LEVEL), _wider(medians, drawn, STRICT_LEVEL)


def _resampled_means(launches: Sequence[Sequence[F64]], rng: np.random.Generator) -> F64:
    """(DRAWS,) means over resampled launches of the medians over resampled rounds and blocks."""
    medians = np.stack([_resampled_medians(launch, rng) for launch in launches])
    count = len(launches)
    chosen = rng.integers(count, size=(DRAWS, count))
    draws = rng.integers(DRAWS, size=(DRAWS, count))  # a launch that is chosen twice is drawn anew
    return np.asarray(medians[chosen, draws].mean(axis=1))


def _resampled_medians(rounds: Sequence[F64], rng: np.random.Generator) -> F64:
    """(DRAWS,) medians of one launch; of long rounds `_BLOCKS_DRAWN` blocks are drawn, which errs to the wide side."""
    size = max(1, min(_BLOCKS_DRAWN, min(len(part) for part in rounds)))
    chosen = rng.integers(len(rounds), size=(DRAWS, len(rounds), 1))
    lengths = np.array([len(part) for part in rounds])
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    blocks = (rng.random((DRAWS, len(rounds), size)) * lengths[chosen]).astype(np.int64)
    return np.asarray(np.median(np.concatenate(rounds)[starts[chosen] + blocks], axis=(1, 2, 3)))


def _wider(medians: F64, drawn: F64, level: float) -> Interval:
    tail = (1 - level) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    center = float(medians.mean())
    reach = t_quantile(1 - tail, len(medians) - 1) * float(medians.std(ddof=1)) / math.sqrt(len(medians))
    low, high = min(low, center - reach), max(high, center + reach)
    return Interval(math.exp(center), math.exp(low), math.exp(high), level)


def t_quantile(probability: float, freedom: int) -> float:
    """The quantile of Student's t for a whole number of degrees of freedom; ``probability`` at least 0.5.

    Source: Abramowitz and Stegun 1964, 26.7.3 and 26.7.4, inverted by bisection.
    """
    low, high = 0.0, 1.0
    while _t_cdf(high, freedom) < probability:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_cdf(middle, freedom) < probability else (low, middle)
    return high


def _t_cdf(t: float, freedom: int) -> float:
    angle = math.atan(t / math.sqrt(freedom))
    square, odd = math.cos(angle) ** 2, freedom % 2 == 1
    term, total = (math.cos(angle), 0.0) if odd else (1.0, 0.0)
    for index in range(freedom // 2):
        total += term
        step = 2 * index + (2 if odd else 1)
        term *= square * step / (step + 1)
    inside = 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total
    return 0.5 + inside / 2
