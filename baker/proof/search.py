"""Finds sizes of dynamic dims that a model runs with, by running it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from baker.errors import ModelError, ResourceError
from baker.proof.draws import RANGES, SAFE_RANGE, Kind
from baker.proof.interface import Feed
from baker.proof.numerics import is_finite
from baker.proof.plans import Maker, Plan
from baker.proof.work import multiplications
from baker.runtime.session import run

SIZES = (1, 2, 3, 4, 8, 16, 32, 64, 128, 256, 512, 576)

# The search ends at what it counted, not at a time, so that it finds the same sizes on every machine.
MAX_TRIES = 2000
"""How many combinations are tried, shared among the ways to pin inputs."""
MAX_TRIED_ELEMENTS = 2**26
"""How many numbers these may hold together."""
MAX_WORK = 2 * 10**10
"""A second size is only used where a run takes no more multiplications than this."""


class Search:
    """Finds plans that run.

    Attributes:
        tried: how many combinations of sizes were run.
        problem: why the last one of those that did not run did not.
        exhausted: the first one that there was no memory for, if any.
    """

    def __init__(self, model: ir.Model, maker: Maker, runner: ort.InferenceSession) -> None:
        self.model = model
        self.maker = maker
        self.runner = runner
        self.elements = MAX_TRIED_ELEMENTS
        self.work = 0.0  # multiplications for each number of the first feed that runs
        self.tried = 0
        self.problem = ""
        self.exhausted: ResourceError | None = None
        self.finite = True  # what the last feed that ran gave
        self.some_empty = False  # inputs may leave some tensors empty, but not all outputs

    def plans(self) -> list[Plan]:
        """Returns plans that run, for each way to pin inputs and with second sizes; empty where none runs.

        Positive inputs are tried where no others run, and then inputs that leave some tensors empty.
        """
        for self.some_empty, positive in ((False, False), (False, True), (True, False), (True, True)):
            families = self._families(positive)
            if families:
                rounds = itertools.zip_longest(*families)
                return [plan for turn in rounds for plan in turn if plan is not None]
        return []

    def _families(self, positive: bool) -> list[list[Plan]]:
        pins = list(self.maker.pins())
        bases = [self._first(Plan({}, pinned, positive), MAX_TRIES // (4 * len(pins))) for pinned in pins]
        return [self._variants(base) for base in bases if base is not None]

    def _first(self, start: Plan, tries: int) -> Plan | None:
        fitting = (plan for plan in (replace(start, sizes=sizes) for sizes in self._sizes()) if self._fits(plan))
        return next((plan for plan in itertools.islice(fitting, tries) if self._runs(plan)), None)

    def _variants(self, base: Plan) -> list[Plan]:
        """The larger ones more often: a network run on one pixel or one token shows little."""
        larger = self._second(base, self.maker.others, (64, 32, 16, 8, 4, 3, 2, 128, 256, 512, 576))
        both = self._second(larger or base, self.maker.batch, (2, 3))
        variants = [both, larger, both, base] if larger else [both, base]
        return [plan for plan in variants if plan is not None]

    def _sizes(self) -> Iterator[dict[str, int]]:
        """Combinations to try, cheap ones first: one dim large, batch small, all alike, then everything."""
        batch, others = self.maker.batch, self.maker.others
        if not self.maker.symbols:
            yield {}
            return
        ones = dict.fromkeys(self.maker.symbols, 1)
        for size in SIZES:
            yield ones | dict.fromkeys(others or batch, size)
        for size, symbol in itertools.product(SIZES, others):
            yield ones | {symbol: size}
        for size in SIZES:
            yield dict.fromkeys(self.maker.symbols, size)
        free = self.maker.symbols if len(self.maker.symbols) <= 3 else others
        combinations = itertools.product(SIZES, repeat=len(free))
        for combination in sorted(combinations, key=math.prod) if len(free) <= 3 else combinations:
            yield ones | dict(zip(free, combination, strict=True))

    def _second(self, base: Plan, symbols: Sequence[str], sizes: Sequence[int]) -> Plan | None:
        """Another size for some dims, all together."""
        if not symbols:
            return None
        if not self.work:
            work = multiplications(self.model, self.maker.feed(0, base, "zeros"))
            self.work = work / max(1, self.maker.elements(base))
        for plan in (base.resized(symbols, size) for size in sizes):
            if plan == base or not self._fits(plan):
                continue
            if self.work * self.maker.elements(plan) <= MAX_WORK and self._runs(plan):
                return plan
        return None

    def _fits(self, plan: Plan) -> bool:
        """Not too large, and not so small that a tensor inside is empty: that shows little, and ends some kernels."""
        return self.maker.fits(plan) and (self.some_empty or not self.maker.empties(plan))

    def _runs(self, plan: Plan) -> bool:
        self.elements -= self.maker.elements(plan)
        return self.elements >= 0 and self._try(self.maker.feed(0, plan, "normal"))

    def _try(self, feed: Feed) -> bool:
        self.tried += 1
        try:
            outputs = run(self.runner, feed)
        except ResourceError as error:  # made-up numbers may be absurd sizes; others may do
            self.exhausted = self.exhausted or error
            self.problem = str(error)
            return False
        except ModelError as error:
            self.problem = str(error)
            return False
        self.finite = all(is_finite(array) for array in outputs.values())
        full = [not isinstance(array, np.ndarray) or array.size > 0 for array in outputs.values()]
        if all(full) or (self.some_empty and any(full)):
            return True
        self.problem = "an output is empty" if any(full) else "every output is empty"
        return False

    def working(self, index: int, plan: Plan, kind: Kind) -> Feed | None:
        """Returns feed ``index`` as planned, or a tamer one where the model does not run on that.

        A tamer one is preferred, too, to one that gives NaN or infinity: a division by a length of zero shows nothing.
        Negative numbers stay: whoever makes a number of their root or logarithm is not the same function.
        """
        tamer, style = replace(plan, positive=True), index % len(RANGES)
        tries: tuple[tuple[Plan, Kind, int], ...] = (
            (plan, kind, style),
            (plan, kind, SAFE_RANGE),
            (plan, "normal", SAFE_RANGE),
            (tamer, "normal", SAFE_RANGE),
        )
        first = None
        for tried, tamed, drawn in tries:
            feed = self.maker.feed(index, tried, tamed, style=drawn)
            if self._try(feed):
                if self.finite or kind == "negative":
                    return feed
                first = feed if first is None else first
        return first
