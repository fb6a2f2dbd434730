"""The search: what is taken out of a model, in which order.

Checks are what costs, so the search is made for few of them. Nodes go first, and by parts: a contiguous quarter or
half, the shortest prefix that still fails, and then, nearest first, the fewest nodes that its last one needs (Junker
2004, QuickXplain, with a galloping bound instead of halving). A model with k nodes to be kept out of n takes about
k·log2(n) checks, and a few where they stand together. What is left is then made smaller in every other way, and all
of it again until nothing goes any more.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from hashlib import sha256
from itertools import islice

import onnx

from baker.pipeline.reduce import bodies, shrink
from baker.pipeline.reduce.check import Checks
from baker.pipeline.reduce.net import Cut, Net, count, tidied
from baker.pipeline.reduce.probe import LEVELS, Level, Probe

SMALL = 12
"""Up to this many nodes, looking for a contiguous part is not worth a check."""
FEW = 8
"""With up to this many nodes, everything that may go is taken out at once before it is looked at one by one."""
ENOUGH = 4
"""Where more nodes than this seem to be needed, they may be needed for the numbers that they compute alone."""
OVERLAP = 2
"""Nodes that a part has more at either end, so that a failing pair is not cut in two."""

STEPS = (
    bodies.hoisted, bodies.inner, shrink.outputs, shrink.static, shrink.inputs, shrink.sizes, shrink.weights,
    shrink.attributes,
)  # fmt: skip

Candidate = Callable[[], onnx.ModelProto | None]


class Search:
    """The state of a search: the best model so far, and what is known of it."""

    def __init__(
        self, proto: onnx.ModelProto, checks: Checks, probe: Probe, show: Callable[[str], None], start: float
    ) -> None:
        self.best, self.checks, self.probe, self.show, self.start = proto, checks, probe, show, start
        self.notes: list[str] = []
        self.past = {sha256(proto.SerializeToString()).digest()}  # never again: there is no way in circles
        recording = probe.recording()
        self.net = Net(proto, shrink.facts(proto, recording))
        self.level: Level = recording.level
        if self.level != "runs":
            self.notes.append("the model could not be run on made-up inputs: candidates are only checked statically")

    # ---- candidates ----

    def accept(self, candidates: Sequence[Candidate]) -> int | None:
        """Makes the first candidate that fails the best model, and returns its index."""
        made: dict[int, onnx.ModelProto] = {}

        def data(index: int) -> bytes | None:
            found = self._valid(candidates[index])
            if found is None:
                return None
            made[index] = found
            content = bytes(found.SerializeToString())
            return None if sha256(content).digest() in self.past else content

        winner = self.checks.first_failing([partial(data, index) for index in range(len(candidates))])
        if winner is not None:
            self.best = made[winner]
            self.past.add(sha256(self.best.SerializeToString()).digest())
            self.net = Net(self.best, self.net.facts)
            seconds = time.monotonic() - self.start
            nodes = f"{count(self.best)} nodes, {self.best.ByteSize()} bytes"
            self.show(f"{self.checks.count} checks, {seconds:.0f} s: {nodes} left")
        return winner

    def _valid(self, candidate: Candidate) -> onnx.ModelProto | None:
        """The candidate, if it is a model that ONNX accepts and that runs as far as the original does."""
        made = candidate()
        if made is None:
            return None
        examined = self.probe.examine(tidied(made).SerializeToString())
        if examined.data is None or LEVELS.index(examined.level) < LEVELS.index(self.level):
            return None
        found = onnx.ModelProto()
        found.ParseFromString(examined.data)
        return found

    def refresh(self) -> None:
        """Learns types and values of the best model anew."""
        recording = self.probe.record(self.best.SerializeToString())
        self.net = Net(self.best, shrink.facts(self.best, recording))

    # ---- the order of things ----

    def run(self) -> None:
        """Everything, until nothing goes any more."""
        before = None
        while before != (now := self.best.SerializeToString()):
            self.nodes()
            if before is None and len(self.net.nodes) <= FEW:
                self.accept([partial(self.all_at_once, 1), partial(self.all_at_once, 2)])
            self.accept([partial(shrink.stripped, self.best), partial(shrink.without_texts, self.best)])
            self.accept([partial(shrink.lifted, self.best)])
            self.refresh()
            for step in STEPS:
                self.each(step)
            before = now

    def all_at_once(self, smallest: int) -> onnx.ModelProto | None:
        """Texts, dims and attributes taken away, one on top of the other as long as the result runs."""
        made = shrink.stripped(self.best)
        for step in (shrink.static, partial(shrink.sizes, smallest=smallest), shrink.attributes):
            offered = 0
            while (following := next(islice(step(Net(made, self.net.facts)), offered, None), None)) is not None:
                found = self._valid(following)
                if found is None or found == made:
                    offered += 1
                else:
                    made = found
        return made

    def each(self, step: Callable[[Net], Iterable[Candidate]]) -> None:
        """Accepts candidates of one kind as long as one fails; goes on behind the one that was accepted."""
        done = 0
        while (winner := self.accept(list(step(self.net))[done:])) is not None:
            done += winner
            self.refresh()

    # ---- nodes ----

    def nodes(self) -> None:
        """Leaves the fewest nodes that still fail."""
        self.halves()
        self.prefix()
        self.refresh()
        self.fewest()
        self.singles()

    def halves(self) -> None:
        """Takes a quarter of the nodes, in their order, or a half, as long as one fails."""
        while (size := len(self.net.nodes)) > SMALL:
            bounds = [(size * i // 4, size * (i + 1) // 4) for i in range(4)] if size > 4 * SMALL else []
            bounds += [(0, size // 2), (size // 2, size)]
            parts = [range(max(0, low - OVERLAP), min(size, high + OVERLAP)) for low, high in bounds]
            if self.accept([partial(self.net.part, part) for part in parts]) is None:
                return

    def prefix(self) -> None:
        """Finds the shortest beginning that fails, two lengths at a time; nothing in front of it is cut."""
        net, low, high = self.net, 0, len(self.net.nodes)  # low passes, high fails
        while high - low > 1:
            points = sorted({low + max(1, (high - low) // 3), low + max(1, 2 * (high - low) // 3)})
            found = self.accept([partial(net.part, range(point)) for point in points])
            if found is None:
                low = points[-1]
            else:
                low, high = points[found - 1] if found else low, points[found]

    def fewest(self) -> None:
        """Keeps the last node and, one after the other, those that are needed with it."""
        self.quickest("inputs")
        if len(self.net.nodes) > ENOUGH:
            self.refresh()
            self.quickest("constants")

    def quickest(self, how: Cut) -> None:
        """QuickXplain over the nodes in front of the last one, nearest first."""
        net = self.net
        last = len(net.nodes) - 1
        kept, rest = [last], nearest(net, last)
        while rest and (found := self.gallop(net, kept, rest, how)):
            kept, rest = [*kept, rest[found - 1]], rest[: found - 1]

    def gallop(self, net: Net, kept: list[int], rest: list[int], how: Cut) -> int:
        """How many of the rest are needed beside what is kept, at the least; all of them are enough."""
        low, high = -1, len(rest)  # low passes, high fails
        step = 1
        while high - low > 1:
            if low + step < high and high == len(rest):
                points = sorted({low + step, min(low + 3 * step, high - 1)})
                step *= 4
            else:
                points = sorted({low + max(1, (high - low) // 3), low + max(1, 2 * (high - low) // 3)})
            points = [point for point in points if low < point < high]
            trials = [(point, candidate) for point in points for candidate in variants(net, kept + rest[:point], how)]
            found = self.accept([candidate for _, candidate in trials])
            if found is None:
                low = points[-1]
            else:
                high = trials[found][0]
                low = max([low, *(point for point in points if point < high)])
        return high

    def singles(self) -> None:
        """Leaves out one node after the other, in every way."""

        def without(net: Net) -> Iterator[Candidate]:
            everything = range(len(net.nodes))
            for index in everything if len(everything) > 1 else ():
                rest = [other for other in everything if other != index]
                ways: list[tuple[Cut, bool]] = [("inputs", False), ("inputs", True), ("constants", False)]
                for how, bypass in ways:
                    yield partial(net.part, rest, how, bypass)

        self.each(without)


def variants(net: Net, keep: list[int], how: Cut) -> Iterator[Candidate]:
    """Ways to do without the other nodes."""
    yield partial(net.part, keep, how)
    yield partial(net.part, keep, how, bypass=True)


def nearest(net: Net, start: int) -> list[int]:
    """All other nodes, by their distance from one in the graph; what it depends on comes first."""
    seen, order = {start}, [start]
    for index in order:  # grows while it is walked
        for other in net.neighbours(index):
            if other not in seen:
                seen.add(other)
                order.append(other)
    order += [index for index in reversed(range(len(net.nodes))) if index not in seen]
    return order[1:]
