"""The best model inside a budget: as many int8 layers as it allows, the most harmful ones given up first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from baker.passes.quantize.built import Built
from baker.proof.verifier import Measurement

Build = Callable[[Mapping[str, str]], Built]
Measure = Callable[[Built], Measurement]

_READMISSIONS = 12


@dataclass(frozen=True)
class Found:
    """What a search ended with.

    Attributes:
        built: the best model inside the budget; None when even one int8 layer is too much.
        excluded: the layers given up, and why, by name.
        tried: how many models were measured.
    """

    built: Built | None
    excluded: dict[str, str]
    tried: int


def within_budget(build: Build, measure: Measure, ranked: Sequence[str], excluded: Mapping[str, str]) -> Found:
    """Gives up layers, worst first, until the budget is met, then tries to take single ones back.

    The number to give up is found by doubling and bisection (the error falls as layers are given up), so n layers
    cost about 2 log2 n + 12 measurements. The result is always one that was measured and met the budget.

    Args:
        build: makes the model without the given layers.
        measure: measures it against the budget.
        ranked: names of the layers that may be given up, the most harmful first.
        excluded: layers that are left in float anyway, and why.
    """
    search = _Search(build, measure, dict(excluded))
    best, given_up = search.fewest(ranked)
    if best is None:
        return Found(None, search.exclusions(ranked), search.tried)
    # The last one given up tipped the scale; others before it may be innocent.
    for name in list(reversed(given_up[:-1]))[:_READMISSIONS]:
        fewer = [other for other in given_up if other != name]
        built = search.attempt(fewer)
        if built is not None:
            best, given_up = built, fewer
    return Found(best, search.exclusions(given_up), search.tried)


class _Search:
    def __init__(self, build: Build, measure: Measure, excluded: dict[str, str]) -> None:
        self.build, self.measure, self.excluded = build, measure, excluded
        self.tried = 0
        self.limit = ""

    def attempt(self, given_up: Sequence[str]) -> Built | None:
        """The model without these layers, if it is inside the budget."""
        built = self.build(self.exclusions(given_up))
        result = self.measure(built)
        self.tried += 1
        self.limit = f"{result.kind} {result.limit:.4g}"
        return built if result.met else None

    def exclusions(self, given_up: Sequence[str]) -> dict[str, str]:
        reason = f"int8 here does not fit into the budget ({self.limit})"
        return {**self.excluded, **dict.fromkeys(given_up, reason)}

    def fewest(self, ranked: Sequence[str]) -> tuple[Built | None, list[str]]:
        """The shortest prefix of the ranking that has to be given up, and the model without it."""
        most = len(ranked) - 1  # giving all up is no int8 model
        low, high, best = -1, 0, self.attempt([])  # prefix ``low`` fails
        while best is None and high < most:
            low, high = high, min(max(1, 2 * high), most)
            best = self.attempt(ranked[:high])
        if best is None:
            return None, list(ranked)
        while high - low > 1:
            middle = (low + high) // 2
            built = self.attempt(ranked[:middle])
            low, high, best = (middle, high, best) if built is None else (low, middle, built)
        return best, list(ranked[:high])
