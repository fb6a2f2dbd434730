"""Made-up inputs that a model really runs on; the same seed gives the same ones on every machine."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from baker.errors import BakerError
from baker.model.graph import count_nodes
from baker.proof.draws import EXERCISE, FURTHER, Kind
from baker.proof.interface import Feed
from baker.proof.plans import Maker, Plan
from baker.proof.search import Search
from baker.proof.work import multiplications
from baker.runtime.session import session

FEWEST, MOST = 8, 32
WORK = 5 * 10**8
"""Multiplications that exercising a model may take: a small one is run on more feeds."""
WORK_OF_A_NODE = 10**4
"""What calling an operator costs beside its multiplications."""


@dataclass(frozen=True)
class Synthesis:
    """Made-up feeds, or the reason why there are none; and the plans that they follow."""

    feeds: list[Feed]
    problem: str = ""
    plans: Sequence[Plan] = ()


def synthetic_feeds(model: ir.Model, n: int = 8, seed: int = 0) -> list[Feed]:
    """Makes up ``n`` feeds that the model runs on; the same seed gives the same feeds.

    Floating-point inputs are N(0, 1), ten times that, negative, zero, uniform, around the constants that the model
    clips at, of many scales, sparse, and of another level in each channel; integers stay inside the tables that they
    index; dynamic dims are searched until the model runs, and two sizes are used where two run.

    Returns:
        The feeds; an empty list where no combination of sizes runs.
    """
    return synthesize(model, n, seed).feeds


def synthesize(
    model: ir.Model,
    n: int,
    seed: int,
    *,
    kinds: Sequence[Kind] = (),
    custom_ops: str | os.PathLike[str] | None = None,
    plans: Sequence[Plan] = (),
    start: int = 0,
) -> Synthesis:
    """Like `synthetic_feeds`; also says why there are none.

    Args:
        kinds: the kinds of floating-point input, taken in turn; none: each of `EXERCISE`, then those of `FURTHER`.
        custom_ops: a custom-op library that running the model takes.
        plans: those that an earlier call found.
        start: the number of the first feed.

    Raises:
        ResourceError: no made-up input runs, and for one there was not enough memory.
    """
    try:
        maker = Maker(model, seed)
        runner = session(model, optimize=False, custom_ops=custom_ops)
    except BakerError as error:
        return Synthesis([], f"no inputs can be made up: {error}")
    search = Search(model, maker, runner)
    plans = plans or search.plans()
    if not plans and search.exhausted is not None:
        raise search.exhausted
    if not plans:
        return Synthesis(
            [],
            f"no made-up input runs ({search.tried} combinations of sizes tried; {search.problem}). "
            "Give real inputs through --calib.",
        )
    numbers = range(start, n)
    feeds = (search.working(index, plans[index % len(plans)], _kind(index, kinds)) for index in numbers)
    return Synthesis([feed for feed in feeds if feed is not None], plans=plans)


class MadeUp:
    """Further inputs for verdicts that ask for the same function; made up when they are first asked for.

    Args:
        given: feeds that are there already: the user's, or made-up ones, the first of the same seed.
        plans: what made-up ones follow; empty for the user's.
    """

    def __init__(
        self,
        model: ir.Model,
        seed: int,
        custom_ops: str | os.PathLike[str] | None,
        given: Sequence[Feed],
        plans: Sequence[Plan] = (),
    ) -> None:
        self.model = model
        self.seed = seed
        self.custom_ops = custom_ops
        self.given = given
        self.plans = plans
        self._made: list[Feed] = []
        self._asked = 0
        self._affordable: int | None = None

    def feeds(self, least: int = 0) -> list[Feed]:
        """As many as the size of the model allows: none for a large one, unless ``least`` asks for some."""
        if not len(self.given):
            return []
        if self._affordable is None:
            self._affordable = _affordable(self.model, self.given[0]) - FEWEST
        wanted, known = max(least, self._affordable), FEWEST if self.plans else 0
        if wanted > self._asked:
            found = synthesize(
                self.model, known + wanted, self.seed, custom_ops=self.custom_ops, plans=self.plans, start=known
            )
            self._made, self._asked = found.feeds, wanted
        return self._made


def _affordable(model: ir.Model, feed: Feed) -> int:
    work = multiplications(model, feed) + WORK_OF_A_NODE * count_nodes(model)
    return max(FEWEST, min(MOST, WORK // max(1, work)))


def _kind(index: int, kinds: Sequence[Kind]) -> Kind:
    if kinds:
        return kinds[index % len(kinds)]
    return EXERCISE[index] if index < len(EXERCISE) else FURTHER[(index - len(EXERCISE)) % len(FURTHER)]
