"""Made-up inputs that a model really runs on."""

from __future__ import annotations

import itertools
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from baker.errors import BakerError, ModelError
from baker.model.graph import Array
from baker.proof.hints import InputHint, hint_for, thresholds
from baker.proof.interface import Feed, dims_of, required_inputs
from baker.runtime.session import run, session

Kind = Literal["normal", "small", "large", "zeros", "negative", "boundary", "uniform"]

EXERCISE: tuple[Kind, ...] = ("normal", "large", "negative", "normal", "boundary", "uniform", "zeros", "small")
"""What shows a change in the function: both signs, saturation, the constants that the model clips at."""

CALIBRATION: tuple[Kind, ...] = ("normal",)
"""What ranges may be taken from."""

SIZES = (1, 2, 3, 4, 8, 16, 32, 64, 128, 256, 512, 576)
SEARCH_SECONDS = 10.0
SLOW_RUN_SECONDS = 0.5
"""A second size is only used where a run takes no longer than this."""
MAX_ELEMENTS = 2**21
"""No input is made larger than this."""


@dataclass(frozen=True)
class Synthesis:
    """Made-up feeds, or the reason why there are none."""

    feeds: list[Feed]
    problem: str = ""


def synthetic_feeds(model: ir.Model, n: int = 8, seed: int = 0) -> list[Feed]:
    """Makes up ``n`` feeds that the model runs on; the same seed gives the same feeds.

    Floating-point inputs are N(0, 1), ten times that, negative, zero, uniform, and around the constants that the model
    clips at; integers stay inside the tables that they index; dynamic dims are searched until the model runs, and
    two sizes are used where two run.

    Returns:
        The feeds; an empty list where no combination of sizes runs.
    """
    return synthesize(model, n, seed).feeds


def synthesize(
    model: ir.Model,
    n: int,
    seed: int,
    *,
    kinds: Sequence[Kind] = EXERCISE,
    custom_ops: str | os.PathLike[str] | None = None,
) -> Synthesis:
    """Like `synthetic_feeds`; also says why there are none.

    Args:
        kinds: the kinds of floating-point input, taken in turn.
        custom_ops: a custom-op library that running the model takes.
    """
    try:
        maker = Maker(model, seed)
        runner = session(model, optimize=False, custom_ops=custom_ops)
    except BakerError as error:
        return Synthesis([], f"no inputs can be made up: {error}")
    search = _Search(maker, runner)
    plans = search.plans()
    if not plans:
        return Synthesis(
            [],
            f"no made-up input runs ({search.tried} combinations of sizes tried; {search.problem}). "
            "Give real inputs through --calib.",
        )
    feeds = (search.working(index, plans[index % len(plans)], kinds[index % len(kinds)]) for index in range(n))
    return Synthesis([feed for feed in feeds if feed is not None])


@dataclass(frozen=True)
class Plan:
    """What is common to some feeds: a size for each dynamic dim, and inputs that get one fixed number."""

    sizes: Mapping[str, int]
    pinned: Mapping[str, float] = field(default_factory=dict)
    positive: bool = False  # floats in [0, 1), integers from 1: divisors, scales, thresholds

    def resized(self, symbols: Sequence[str], size: int) -> Plan:
        return replace(self, sizes={**self.sizes, **dict.fromkeys(symbols, size)})


@dataclass(frozen=True)
class _Input:
    name: str
    dtype: ir.DataType
    dims: tuple[int | str, ...]
    hint: InputHint


class Maker:
    """Makes up feeds for a model.

    Raises:
        ModelError: an input is no tensor, has no declared rank, or is of a type that can't be made up.
    """

    def __init__(self, model: ir.Model, seed: int) -> None:
        self.seed = seed
        self.inputs = [_describe(value) for value in required_inputs(model)]
        self.bends = thresholds(model)
        self.symbols = list(dict.fromkeys(dim for item in self.inputs for dim in item.dims if isinstance(dim, str)))
        first = {item.dims[0] for item in self.inputs if item.dims}
        self.batch = [symbol for symbol in self.symbols if symbol in first]
        self.others = [symbol for symbol in self.symbols if symbol not in first]

    def pins(self) -> Iterator[dict[str, float]]:
        """Ways to fix the one-element inputs that the model compares with constants; no pin at all comes last."""
        choices = {item.name: item.hint.compared for item in self.inputs if item.hint.compared and _is_scalar(item)}
        for numbers in itertools.islice(itertools.product(*choices.values()), 4):
            yield dict(zip(choices, numbers, strict=True))
        if choices:
            yield {}

    def fits(self, plan: Plan) -> bool:
        """False where an input would become too large to be tried."""
        return all(math.prod(_shape(item, plan)) <= MAX_ELEMENTS for item in self.inputs)

    def feed(self, index: int, plan: Plan, kind: Kind, *, wide: bool = False) -> Feed:
        """Makes feed number ``index``. ``wide``: integers without a visible table go up to 99, else 0 and 1."""
        rng = np.random.default_rng([self.seed, index])
        return {item.name: self._array(rng, item, plan, kind, wide) for item in self.inputs}

    def _array(self, rng: np.random.Generator, item: _Input, plan: Plan, kind: Kind, wide: bool) -> Array:
        shape = _shape(item, plan)
        if item.dtype == ir.DataType.STRING:
            return np.asarray(rng.choice(np.array(["a", "b", "abc", ""], dtype=object), size=shape), dtype=object)
        dtype = item.dtype.numpy()
        if item.name in plan.pinned:
            return np.full(shape, plan.pinned[item.name]).astype(dtype)
        if item.dtype == ir.DataType.BOOL:
            return np.asarray(rng.random(shape) < 0.5)
        if dtype.kind in "iu":
            drawn = _integers(rng, item, shape, dtype, wide)
            return np.asarray(np.maximum(drawn, 1), dtype) if plan.positive else drawn
        return np.asarray(_floats(rng, shape, "uniform" if plan.positive else kind, self.bends)).astype(dtype)


def _describe(value: ir.Value) -> _Input:
    name, dims = value.name or "", dims_of(value.shape)
    if not isinstance(value.type, ir.TensorType) or dims is None:
        raise ModelError(f"input '{name}' has no declared tensor type and rank. Give real inputs through --calib.")
    dtype = value.type.dtype
    if dtype != ir.DataType.STRING and dtype.numpy().kind not in "fiub":
        raise ModelError(f"input '{name}' is {dtype.name.lower()}. Give real inputs through --calib.")
    named = (f"{name}[{axis}]" if dim is None else dim for axis, dim in enumerate(dims))
    return _Input(name, dtype, tuple(named), hint_for(value))


def _is_scalar(item: _Input) -> bool:
    return all(isinstance(dim, str) or dim == 1 for dim in item.dims) and len(item.dims) <= 1


def _shape(item: _Input, plan: Plan) -> tuple[int, ...]:
    return tuple(plan.sizes[dim] if isinstance(dim, str) else dim for dim in item.dims)


def _integers(
    rng: np.random.Generator, item: _Input, shape: tuple[int, ...], dtype: np.dtype[np.integer], wide: bool
) -> Array:
    limits = np.iinfo(dtype)
    if item.hint.below is not None:
        low, high = 0, max(1, min(item.hint.below, int(limits.max) + 1))
    elif limits.bits == 8:
        low, high = int(limits.min), int(limits.max) + 1
    else:
        low, high = 0, 100 if wide else 2
    drawn = rng.integers(low, high, size=shape)
    inside = [number for number in item.hint.compared if limits.min <= number <= limits.max]
    if inside:
        drawn = np.where(rng.random(shape) < 0.2, rng.choice(inside, size=shape), drawn)
    return np.asarray(drawn).astype(dtype)


def _floats(rng: np.random.Generator, shape: tuple[int, ...], kind: Kind, bends: Sequence[float]) -> Array:
    normal = np.asarray(rng.standard_normal(shape))
    match kind:
        case "normal":
            return normal
        case "small":
            return 0.1 * normal
        case "large":
            return 10 * normal
        case "zeros":
            return np.zeros(shape)
        case "negative":
            return -np.abs(normal)
        case "uniform":
            return np.asarray(rng.random(shape))
        case "boundary":
            return np.asarray(rng.choice(bends, size=shape) + rng.choice([-1e-3, 0.0, 1e-3], size=shape))


class _Search:
    """Finds sizes of dynamic dims that a model runs with, by running it."""

    def __init__(self, maker: Maker, runner: ort.InferenceSession) -> None:
        self.maker = maker
        self.runner = runner
        self.deadline = time.monotonic() + SEARCH_SECONDS
        self.tried = 0
        self.problem = ""
        self.some_empty = False  # inputs may leave some outputs empty

    def plans(self) -> list[Plan]:
        """Returns plans that run, for each way to pin inputs and with second sizes; empty where none runs.

        Positive inputs are tried where no others run, and then inputs that leave some outputs empty.
        """
        for self.some_empty, positive in ((False, False), (False, True), (True, False), (True, True)):
            families = self._families(positive)
            if families:
                rounds = itertools.zip_longest(*families)
                return [plan for turn in rounds for plan in turn if plan is not None]
        return []

    def _families(self, positive: bool) -> list[list[Plan]]:
        pins = list(self.maker.pins())
        families = []
        for index, pinned in enumerate(pins):
            share = (self.deadline - time.monotonic()) / (len(pins) - index)
            base = self._first(Plan({}, pinned, positive), time.monotonic() + share)
            if base is not None:
                families.append(self._variants(base))
        return families

    def _first(self, start: Plan, deadline: float) -> Plan | None:
        for sizes in self._sizes():
            if time.monotonic() > deadline:
                return None
            plan = replace(start, sizes=sizes)
            if self.maker.fits(plan) and self._runs(plan):
                return plan
        return None

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
        if not symbols or time.monotonic() > self.deadline:
            return None
        for size in sizes:
            plan = base.resized(symbols, size)
            if plan == base or not self.maker.fits(plan) or time.monotonic() > self.deadline:
                continue
            start = time.monotonic()
            if self._runs(plan) and time.monotonic() - start <= SLOW_RUN_SECONDS:
                return plan
        return None

    def _runs(self, plan: Plan) -> bool:
        return self._try(self.maker.feed(0, plan, "normal"))

    def _try(self, feed: Feed) -> bool:
        self.tried += 1
        try:
            outputs = run(self.runner, feed)
        except ModelError as error:
            self.problem = str(error)
            return False
        full = [not isinstance(array, np.ndarray) or array.size > 0 for array in outputs.values()]
        if all(full) or (self.some_empty and any(full)):
            return True
        self.problem = "an output is empty" if any(full) else "every output is empty"
        return False

    def working(self, index: int, plan: Plan, kind: Kind) -> Feed | None:
        """Returns feed ``index`` as planned, or a tamer one where the model does not run on that."""
        tamer = replace(plan, positive=True)
        tries: tuple[tuple[Plan, Kind, bool], ...] = (
            (plan, kind, index % 4 == 3),
            (plan, kind, False),
            (plan, "normal", False),
            (tamer, "normal", False),
        )
        for tried, tamed, wide in tries:
            feed = self.maker.feed(index, tried, tamed, wide=wide)
            if self._try(feed):
                return feed
        return None
