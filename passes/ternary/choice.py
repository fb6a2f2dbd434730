"""Choosing a form for each layer so that a budget holds: least bytes and time for the error it costs.

The steps from one form of a layer to a smaller one are ordered by what they save over what they add to the noise, and
the longest run of first steps that holds is found by bisection; then single steps are tried on top. What a layer adds
is learnt by measuring its smallest form alone, and scaled with the square of the errors for the others. Whatever is
chosen was measured as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from baker.errors import ModelError
from baker.passes.ternary.menu import Menu, Option
from baker.passes.ternary.plan import Plan

if TYPE_CHECKING:
    from baker.proof.verifier import Measurement

_MAX_MEASURED_ALONE = 64
"""Layers that are measured one by one; beyond it their own errors stand for what they add."""

_MAX_MISSES = 8
"""Steps tried in vain, after the best run, before the search ends."""

_LEAST = 1e-6
"""Share of a layer's squared error that counts as noise even where nothing was measured, so that ties are broken."""

Levels = tuple[int, ...]
"""Which of its options each layer has."""


@dataclass(frozen=True)
class Step:
    """One layer from one form to a smaller one."""

    layer: int
    before: int
    after: int
    worth: float


@dataclass(frozen=True)
class Mixture:
    """What the search ended with.

    Attributes:
        levels: which option of its menu each layer got; 0 is the layer as it was.
        measured: what they together give; None where no layer changed.
        alone: what the smallest form of a layer gives alone, by layer; of those that were measured alone.
    """

    levels: Levels
    measured: Measurement | None = None
    alone: dict[int, Measurement] = field(default_factory=dict)


class Mixer:
    """Searches for the best mixture of forms inside a budget.

    At most n + 2 log2(3 n) + 20 measurements for n layers; one where the smallest forms of all hold together.

    Args:
        menus: the layers and their forms.
        measure: what a set of plans gives.
        holds: whether that is good enough.
        before: what the model gives as it is.
        clock: microseconds that an option of a layer takes on this machine.
    """

    def __init__(
        self,
        menus: Sequence[Menu],
        measure: Callable[[Sequence[Plan]], Measurement],
        holds: Callable[[Measurement], bool],
        before: Measurement,
        clock: Callable[[Menu, Option], float],
    ) -> None:
        self.menus, self.measure, self.holds, self.clock = menus, measure, holds, clock
        self.known: dict[Levels, Measurement | None] = {(0,) * len(menus): before}
        self.before = before
        self.alone: dict[int, Measurement] = {}
        self.gains: list[float] = []
        self.bytes = max(1, sum(menu.options[0].nbytes for menu in menus))
        self.micros = sum(menu.options[0].micros for menu in menus) or 1.0

    def run(self) -> Mixture:
        """Searches; with ternary, and where that is part of the result but not all of it, without, too."""
        best = self._climb([len(menu.options) for menu in self.menus])
        rounded = [menu.options[level].ternary for menu, level in zip(self.menus, best, strict=True)]
        if any(rounded) and not all(rounded):
            other = self._climb([len(menu.without_ternary().options) for menu in self.menus])
            if self.dominates(other, best):
                best = other
        measured = self.known[best] if any(best) else None
        return Mixture(best, measured, self.alone)

    def cost(self, levels: Levels) -> tuple[int, float]:
        """Bytes and expected microseconds."""
        options = self._options(levels)
        return sum(option.nbytes for option in options), sum(option.micros for option in options)

    def dominates(self, levels: Levels, other: Levels) -> bool:
        """True where the first mixture is smaller, and as fast: is expected to be or, else, is by the clock."""
        (nbytes, micros), (their_bytes, their_micros) = self.cost(levels), self.cost(other)
        return nbytes < their_bytes and (micros <= their_micros or self._slowness(levels) <= self._slowness(other))

    def _slowness(self, levels: Levels) -> float:
        """Measured microseconds."""
        return sum(self.clock(menu, menu.options[level]) for menu, level in zip(self.menus, levels, strict=True))

    def _options(self, levels: Levels) -> list[Option]:
        return [menu.options[level] for menu, level in zip(self.menus, levels, strict=True)]

    def _at(self, levels: Levels) -> bool:
        """Whether a mixture holds; measured once."""
        if levels not in self.known:
            plans = [option.plan for option in self._options(levels) if option.plan is not None]
            try:
                self.known[levels] = self.measure(plans)
            except ModelError:  # ONNX Runtime runs the model as it is, but not with these forms
                self.known[levels] = None
        found = self.known[levels]
        return found is not None and self.holds(found)

    def _climb(self, counts: Sequence[int]) -> Levels:
        """The best mixture found with so many options of each layer."""
        smallest = tuple(count - 1 for count in counts)
        if self._at(smallest):
            return smallest
        self._listen()
        steps = self._steps(counts)
        start: Levels = (0,) * len(self.menus)
        low, high, levels = 0, len(steps), start
        while low < high:
            middle = (low + high + 1) // 2
            tried = _taken(start, steps[:middle])
            if self._at(tried):
                low, levels = middle, tried
            else:
                high = middle - 1
        return self._on_top(levels, steps[low:])

    def _on_top(self, levels: Levels, steps: Sequence[Step]) -> Levels:
        """Takes single steps more, or the part of one to a form in between, while not too many are in vain."""
        misses = 0
        for step in steps:
            if levels[step.layer] != step.before:
                continue
            for after in range(step.after, step.before, -1):
                if misses >= _MAX_MISSES:
                    return levels
                tried = _moved(levels, step.layer, after)
                if self._at(tried):
                    levels, misses = tried, 0
                    break
                misses += 1
        return levels

    def _listen(self) -> None:
        """Learns what a layer's squared error adds to the noise, once."""
        if self.gains:
            return
        base = noise(self.before)
        for index, menu in enumerate(self.menus):
            squared = max(menu.options[-1].error ** 2, 1e-12)
            added = squared
            if len(self.menus) <= _MAX_MEASURED_ALONE:
                levels = _moved((0,) * len(self.menus), index, len(menu.options) - 1)
                self._at(levels)
                found = self.known[levels]
                if found is None:
                    added = float("inf")
                else:
                    self.alone[index] = found
                    added = max(noise(found) - base, 0.0)
            self.gains.append(added / squared + _LEAST)

    def _steps(self, counts: Sequence[int]) -> list[Step]:
        """The steps of all layers, the one that saves most for its noise first."""
        steps: list[Step] = []
        for index, (menu, count) in enumerate(zip(self.menus, counts, strict=True)):
            level = 0
            while level < count - 1:
                worth = [self._worth(index, menu.options[level], option) for option in menu.options[level + 1 : count]]
                best = max(range(len(worth)), key=lambda at: (worth[at], at))
                steps.append(Step(index, level, level + 1 + best, worth[best]))
                level += 1 + best
        return sorted(steps, key=lambda step: -step.worth)

    def _worth(self, layer: int, before: Option, after: Option) -> float:
        saved = (before.nbytes - after.nbytes) / self.bytes + (before.micros - after.micros) / self.micros
        added = self.gains[layer] * (after.error**2 - before.error**2)
        return saved / max(added, 1e-12)


def noise(measurement: Measurement) -> float:
    """What a measurement says about noise, on a scale on which the noise of independent layers adds up."""
    value = float(measurement.value)
    if measurement.kind == "sqnr":
        return float(10 ** (-value / 10))
    if measurement.kind == "rel":
        return value**2
    return 1.0 - value if measurement.kind == "top1" else value


def _moved(levels: Levels, layer: int, level: int) -> Levels:
    return (*levels[:layer], level, *levels[layer + 1 :])


def _taken(levels: Levels, steps: Sequence[Step]) -> Levels:
    for step in steps:
        levels = _moved(levels, step.layer, step.after)
    return levels
