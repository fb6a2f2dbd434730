"""One launch of a benchmark: blocks of timed runs, in rounds of fresh sessions."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import onnxruntime as ort

from baker.proof.speed.clock import READ_FROM, no_waiting, waiting_time
from baker.proof.speed.plan import ARMS, Feed, Outputs, Plan, Timed, blamed, load_feed, open_arm

# A turn of an arm: 12 runs, 6 on each of two inputs, of which the fastest on each counts. On two cores shared with nine
# busy processes that took an eighth of the time that single runs need for an interval of the same width. Slow models
# get fewer runs (up to TURN_SECONDS), fast ones more (at least FAST_SECONDS).
TURN_RUNS, TURN_SECONDS = 12, 0.02
MAX_RUNS, FAST_SECONDS = 64, 0.0025

WALL_FACTOR = 5.0
"""Where others load the machine, timing for some seconds of processor time may take so many times as long."""

TICK = 1e-9  # no run takes less, however the two clocks are rounded
_COLD_RUN = 0.02  # below this many seconds a run, each turn starts with one that is not counted: caches are refilled
_WARM_UP, _WARM_ENOUGH = 0.01, 1.0  # seconds each session is warmed up for: at least 3 runs, unless they take as long


class Launch:
    """Times blocks of runs in rounds of fresh sessions."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.random = random.Random(plan.seed)
        self.feeds = {index: load_feed(plan, index) for group in plan.groups for index in group}
        self.order = self._feed_order()
        self.timed = Timed()
        self.outputs: dict[tuple[str, int], Outputs] = {}
        self.sessions: dict[str, ort.InferenceSession] = {}
        self.runs = 1
        # Of several threads only this one's waiting could be told.
        self.waiting = waiting_time() if plan.threads == 1 else no_waiting

    def run(self) -> Timed:
        """Does what the plan asks for."""
        rounds, spent = self.plan.rounds, 0.0
        done = 0
        while done < rounds:
            if self._open_all() > self.plan.seconds:
                rounds = done + 1  # sessions that take longer to make and to warm up than to time are made once
            missing = self.plan.blocks - sum(map(len, self.timed.rounds))
            blocks = max(1, -(-missing // (rounds - done)))
            start = self._busy()
            self.timed.rounds.append(self._blocks(blocks, (self.plan.seconds - spent) / (rounds - done)))
            spent += self._busy() - start
            done += 1
        self._same_again()
        self.sessions.clear()
        return self.timed

    def _open_all(self) -> float:
        """Makes the three sessions in random order and warms them up; returns the seconds of processor time spent."""
        self.sessions.clear()
        order = self.random.sample(ARMS, len(ARMS))
        start = self._busy()
        self.sessions = {arm: open_arm(arm, self.plan) for arm in order}
        slowest = max(self._warm_up(arm) for arm in order)
        self.runs = runs_of(slowest)
        self.cold = slowest < _COLD_RUN
        self.waited = self.waiting if slowest >= READ_FROM else no_waiting
        return self._busy() - start

    def _warm_up(self, arm: str) -> float:
        """Runs a session for a while; returns the seconds of its fastest run."""
        run, took = self.sessions[arm].run, []
        for index in itertools.islice(itertools.cycle(self.feeds), 1000):
            feed = self.feeds[index]
            start, delay = time.perf_counter(), self.waiting()
            blamed("b" if arm == "b" else "a", partial(run, self.plan.names, feed))
            delay -= self.waiting()
            took.append(time.perf_counter() - start + delay)
            if sum(took) > _WARM_UP and (len(took) >= 3 or sum(took) > _WARM_ENOUGH):
                break
        return min(took)

    def _blocks(self, least: int, seconds: float) -> list[list[float]]:
        """Times blocks until there are enough and the time is up; all orders of the three arms come equally often.

        Args:
            seconds: of processor time, so that a loaded machine does not mean fewer blocks.
        """
        found: list[list[float]] = []
        orders: list[tuple[str, ...]] = []
        end = time.perf_counter() + WALL_FACTOR * seconds
        busy = self._busy() + seconds
        while len(found) < least or (self._busy() < busy and time.perf_counter() < end):
            orders = orders or self.random.sample(list(itertools.permutations(ARMS)), 6)
            found.append(self._block(orders.pop()))
        return found

    def _busy(self) -> float:
        """Seconds of processor time, those of several threads at once counted once."""
        return time.process_time() / self.plan.threads

    def _block(self, order: Sequence[str]) -> list[float]:
        feeds = self._next_feeds()
        repeats = max(1, self.runs // len(feeds))
        seconds = {arm: self._turn(arm, feeds, repeats) for arm in order}
        return [seconds[arm] for arm in ARMS]

    def _turn(self, arm: str, feeds: Sequence[int], repeats: int) -> float:
        """Times one arm: the mean over the feeds of the fastest run on each; runs in a row never share an input."""
        run, names, clock, kept = self.sessions[arm].run, self.plan.names, time.perf_counter, []
        waited, took = self.waited, np.empty((repeats, len(feeds)))
        if self.cold:
            run(self.plan.names, self.feeds[feeds[-1]])
        for repeat in range(repeats):
            for place, index in enumerate(feeds):
                feed = self.feeds[index]
                start = clock()
                before = waited()  # looked at inside the two looks at the clock: what is subtracted was timed
                outputs = run(names, feed)
                after = waited()
                took[repeat, place] = max(clock() - start - (after - before), TICK)
                kept.append((index, outputs))
        for index, outputs in kept[-len(feeds) :]:
            self._keep(arm, index, outputs)
        fastest = took.min(axis=0)
        if arm != "control":
            best = self.timed.fastest[arm]
            best.update({i: min(best.get(i, np.inf), float(t)) for i, t in zip(feeds, fastest, strict=True)})
        return float(fastest.mean())

    def _keep(self, arm: str, index: int, outputs: Outputs) -> None:
        """Keeps what an input gave out the first time, and counts what differs from it later."""
        known = self.outputs.setdefault((arm, index), outputs)
        self.timed.unsteady[arm] += not all(map(_same, known, outputs))

    def _feed_order(self) -> Iterator[list[int]]:
        """Yields feeds for ever: a shape's feeds shuffled, then the next shape's."""
        for group in itertools.cycle(self.plan.groups):
            yield self.random.sample(group, len(group))

    def _next_feeds(self) -> list[int]:
        """The distinct feeds of a block: few, so that each is run more than once."""
        wanted = 1 if self.runs < 4 else 2 if self.runs < 2 * TURN_RUNS else 4
        return next(self.order)[:wanted]

    def _same_again(self) -> None:
        """Times a run on the input of the run before against one on another input: a network must not remember."""
        group = max(self.plan.groups, key=len)
        if len(group) < 2:
            return
        for _ in range(3 if self.runs > TURN_RUNS else 1):
            one, other = (self.feeds[index] for index in self.random.sample(group, 2))
            for arm in ("a", "b"):
                fresh, same = self._pair_times(self.sessions[arm].run, one, other)
                self.timed.again[arm].append(float(np.log(fresh / same)))

    def _pair_times(self, run: Callable[..., Outputs], one: Feed, other: Feed) -> tuple[float, float]:
        names, clock = self.plan.names, time.perf_counter
        fresh: list[float] = []
        same: list[float] = []
        for _ in range(min(self.runs, 4)):
            for times, before in ((fresh, other), (same, one)):
                run(names, before)
                start, delay = clock(), self.waited()
                run(names, one)
                delay -= self.waited()
                times.append(clock() - start + delay)
        return min(fresh), min(same)


def runs_of(seconds: float) -> int:
    """How many runs of so many seconds a turn has."""
    return max(1, min(TURN_RUNS, round(TURN_SECONDS / seconds)), min(MAX_RUNS, round(FAST_SECONDS / seconds)))


def _same(before: Any, after: Any) -> bool:
    """Equal, or as near as the order of a sum may move it."""
    if not (isinstance(before, np.ndarray) and isinstance(after, np.ndarray)):
        return str(before) == str(after)
    if before.shape != after.shape or before.dtype.kind != "f":
        return bool(np.array_equal(before, after))
    if np.array_equal(before, after, equal_nan=True):
        return True
    room = 1e-4 * float(np.abs(np.where(np.isfinite(before), before, 0)).max(initial=0))
    return bool(np.allclose(before, after, rtol=1e-3, atol=room, equal_nan=True))
