"""Choosing how many layers to convert so that a budget holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from baker.proof.verifier import Measurement

T = TypeVar("T")

_MAX_MEASURED_ALONE = 64
"""Layers that are measured one by one; beyond it the given order stands."""

_MAX_MISSES = 8
"""Layers tried in vain, after the best prefix, before the search ends."""


@dataclass(frozen=True)
class Choice(Generic[T]):
    """What fits the budget.

    Attributes:
        chosen: candidates that together hold.
        measured: what the chosen ones together give; None when nothing was chosen.
        refused: every other candidate with what it would have given, alone or on top of the chosen ones; None: not
            measured.
    """

    chosen: Sequence[T] = ()
    measured: Measurement | None = None
    refused: Sequence[tuple[T, Measurement | None]] = ()


class Search(Generic[T]):
    """Chooses candidates that together hold, as many as a greedy search finds.

    All of them if that holds. Else each is measured alone, what fails alone is out, and the rest is ordered by it;
    the longest prefix that holds is found by bisection, and what follows is tried one at a time on top. Whatever is
    chosen was measured together. At most 2n + log2(n) + 1 measurements.

    Args:
        candidates: in the order in which they are preferred where nothing else tells.
        measure: what a set of candidates gives.
        holds: whether that is good enough.
    """

    def __init__(
        self,
        candidates: Sequence[T],
        measure: Callable[[Sequence[T]], Measurement],
        holds: Callable[[Measurement], bool],
    ) -> None:
        self.candidates, self.measure, self.holds = candidates, measure, holds
        self.refused: dict[int, Measurement | None] = {}

    def run(self) -> Choice[T]:
        """Searches."""
        everything = list(range(len(self.candidates)))
        if not everything:
            return Choice()
        whole = self._together(everything)
        if self.holds(whole):
            return self._choice(everything, whole)
        if len(everything) == 1:
            self.refused[0] = whole
            return self._choice([], None)
        order = self._ordered(everything)
        picked, measured = self._longest_prefix(order)
        return self._choice(*self._on_top(picked, order[len(picked) :], measured))

    def _together(self, indices: Sequence[int]) -> Measurement:
        return self.measure([self.candidates[index] for index in indices])

    def _choice(self, picked: Sequence[int], measured: Measurement | None) -> Choice[T]:
        refused = [(self.candidates[index], result) for index, result in sorted(self.refused.items())]
        return Choice([self.candidates[index] for index in picked], measured, refused)

    def _ordered(self, everything: list[int]) -> list[int]:
        """The candidates that hold alone, the least harmful first; the others are refused."""
        if len(everything) > _MAX_MEASURED_ALONE:
            return everything
        alone = {index: self._together([index]) for index in everything}
        self.refused.update({index: result for index, result in alone.items() if not self.holds(result)})
        holding = [index for index in everything if index not in self.refused]
        return sorted(holding, key=lambda index: harm(alone[index]))

    def _longest_prefix(self, order: list[int]) -> tuple[list[int], Measurement | None]:
        """The first candidates that hold together, and what they give."""
        low, high, measured = 0, len(order), None  # the first `low` hold; more than `high` were found not to
        while low < high:
            middle = (low + high + 1) // 2
            result = self._together(order[:middle])
            if self.holds(result):
                low, measured = middle, result
            else:
                high = middle - 1
        return order[:low], measured

    def _on_top(
        self, picked: list[int], rest: Sequence[int], measured: Measurement | None
    ) -> tuple[list[int], Measurement | None]:
        """Adds what still finds a place, one at a time."""
        misses = 0
        for index in rest:
            result = self._together([*picked, index]) if misses < _MAX_MISSES else None
            if result is not None and self.holds(result):
                picked, measured, misses = [*picked, index], result, 0
            else:
                self.refused[index] = result
                misses += 1
        return picked, measured


def harm(measurement: Measurement) -> float:
    """A number that grows as the result gets worse, whichever way the budget's own value runs."""
    value = float(measurement.value)
    return -value if measurement.kind in ("sqnr", "top1") else value


def describe(measurement: Measurement) -> str:
    """The measured value in the words of the budget."""
    if measurement.kind == "sqnr":
        return f"{measurement.value:.1f} dB"
    if measurement.kind == "metric":
        return f"a loss of {measurement.value:.2%}"
    return f"{measurement.kind} {measurement.value:.4g}"
