"""The best model inside a budget: as many int8 layers as it allows, the most harmful ones given up first."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from baker.errors import ModelError
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


def within_budget(
    build: Build,
    measure: Measure,
    harm: Mapping[str, float],
    excluded: Mapping[str, str],
    *,
    everything: Measurement | None = None,
    thorough: bool = True,
) -> Found:
    """Gives up layers, worst first, until the budget is met, then tries to take single ones back.

    The number to give up is guessed from the shares of the noise, and found from there by doubling and bisection (the
    error falls as layers are given up), so n layers cost at most about 2 log2 n + 12 measurements. The result is
    always one that was measured and met the budget.

    Args:
        build: makes the model without the given layers.
        measure: measures it against the budget.
        harm: the layers that may be given up, and the share of the noise that each is expected to make, in any unit.
        excluded: layers that are left in float anyway, and why.
        everything: what was measured with all of them in int8, outside of the budget.
        thorough: find the very fewest; otherwise one layer in 32 more is given up, if that saves a measurement.
    """
    ranked = sorted(harm, key=lambda name: harm[name], reverse=True)
    search = _Search(build, measure, dict(excluded))
    guess = 1 if everything is None else _guess(ranked, harm, everything)
    slack = 1 if thorough else 1 + len(ranked) // 32
    best, given_up = search.fewest(ranked, guess, slack, everything)
    if best is None:
        return Found(None, search.exclusions(ranked), search.tried)
    # The last one given up tipped the scale; others before it may be innocent.
    for name in list(reversed(given_up[:-1]))[: _READMISSIONS if thorough else 0]:
        fewer = [other for other in given_up if other != name]
        built = search.attempt(fewer)
        if built is not None:
            best, given_up = built, fewer
    return Found(best, search.exclusions(given_up), search.tried)


def _guess(ranked: Sequence[str], harm: Mapping[str, float], everything: Measurement) -> int:
    """How many to give up if noise adds up: until what is left makes no more of it than the limit allows."""
    allowed = None
    if everything.kind == "sqnr":
        allowed = _added(everything.limit) / max(_added(everything.value), 1e-30)
    elif everything.kind == "rel" and everything.value > 0:
        allowed = (everything.limit / everything.value) ** 2
    total = sum(harm.values())
    if allowed is None or not math.isfinite(allowed) or not math.isfinite(total):
        return 1
    left = total
    for count, name in enumerate(ranked):
        if left <= allowed * total:
            return max(1, count)
        left -= harm[name]
    return len(ranked)


def _added(sqnr: float) -> float:
    """The sum of the layers' noise-to-signal ratios behind an SQNR in dB.

    Where noise drowns the signal the two are uncorrelated, and the error is twice the signal, however much noise it is.
    """
    found = min(10 ** (-sqnr / 10), 1.9)
    return found / (1 - found / 2)


class _Search:
    def __init__(self, build: Build, measure: Measure, excluded: dict[str, str]) -> None:
        self.build, self.measure, self.excluded = build, measure, excluded
        self.tried = 0
        self.limit = ""

    def attempt(self, given_up: Sequence[str]) -> Built | None:
        """The model without these layers, if it is inside the budget."""
        built = self.build(self.exclusions(given_up))
        self.tried += 1
        try:
            result = self.measure(built)
        except ModelError:  # ONNX Runtime loads the model with all of them in int8, but not this one
            return None
        self.limit = f"{result.kind} {result.limit:.4g}"
        return built if result.met else None

    def exclusions(self, given_up: Sequence[str]) -> dict[str, str]:
        reason = f"int8 here does not fit into the budget ({self.limit})"
        return {**self.excluded, **dict.fromkeys(given_up, reason)}

    def fewest(
        self, ranked: Sequence[str], guess: int, slack: int, everything: Measurement | None
    ) -> tuple[Built | None, list[str]]:
        """The shortest prefix of the ranking that has to be given up, or one less than ``slack`` longer; the model."""
        most = len(ranked) - 1  # giving all up is no int8 model
        best = None
        if everything is None:
            best = self.attempt([])
        else:
            self.limit = f"{everything.kind} {everything.limit:.4g}"
        low, high = (0, min(guess, most)) if best is None else (-1, 0)  # prefix ``low`` fails
        while best is None and low < most:
            best = self.attempt(ranked[:high])
            if best is None:
                low, high = high, min(2 * high, most)
        if best is None:
            return None, list(ranked)
        step = 1  # the first hit is near a good guess
        while high - low > slack:
            middle = max((low + high) // 2, high - step)
            built = self.attempt(ranked[:middle])
            low, high, best = (middle, high, best) if built is None else (low, middle, built)
            step *= 2
        return best, list(ranked[:high])
