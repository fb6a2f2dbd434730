"""How made-up feeds are put together: a plan says the sizes of dynamic dims, a maker fills the arrays."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir

from baker.errors import ModelError
from baker.model.dims import Dim, ExpressionDim, evaluate
from baker.model.graph import Array
from baker.proof.draws import SAFE_RANGE, Kind, floats, integers
from baker.proof.hints import InputHint, hint_for, thresholds
from baker.proof.interface import Feed, dims_of, required_inputs

MAX_ELEMENTS = 2**21
"""No input is made larger than this."""


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
        self.inner = _inner_sizes(model)
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

    def elements(self, plan: Plan) -> int:
        """How many numbers a feed of this plan holds."""
        return sum(math.prod(_shape(item, plan)) for item in self.inputs)

    def fits(self, plan: Plan) -> bool:
        """False where an input would become too large to be tried."""
        return all(math.prod(_shape(item, plan)) <= MAX_ELEMENTS for item in self.inputs)

    def empties(self, plan: Plan) -> bool:
        """True where a dim inside the model is 0 at these sizes, or less: a picture smaller than a window over it."""
        return any((found := evaluate(size, plan.sizes)) is not None and found <= 0 for size in self.inner)

    def feed(self, index: int, plan: Plan, kind: Kind, *, style: int = SAFE_RANGE) -> Feed:
        """Makes feed number ``index``; ``style`` picks one of `draws.RANGES` for integers without a visible table."""
        rng = np.random.default_rng([self.seed, index])
        return {item.name: self._array(rng, item, plan, kind, style) for item in self.inputs}

    def _array(self, rng: np.random.Generator, item: _Input, plan: Plan, kind: Kind, style: int) -> Array:
        shape = _shape(item, plan)
        if item.dtype == ir.DataType.STRING:
            return np.asarray(rng.choice(np.array(["a", "b", "abc", ""], dtype=object), size=shape), dtype=object)
        dtype = item.dtype.numpy()
        if item.name in plan.pinned:
            return np.full(shape, plan.pinned[item.name]).astype(dtype)
        if item.dtype == ir.DataType.BOOL:
            return np.asarray(rng.random(shape) < 0.5)
        if dtype.kind in "iu":
            drawn = integers(rng, item.hint, shape, dtype, style)
            return np.asarray(np.maximum(drawn, 1), dtype) if plan.positive else drawn
        return np.asarray(floats(rng, shape, "uniform" if plan.positive else kind, self.bends)).astype(dtype)


def _describe(value: ir.Value) -> _Input:
    name, dims = value.name or "", dims_of(value.shape)
    if not isinstance(value.type, ir.TensorType) or dims is None:
        raise ModelError(f"input '{name}' has no declared tensor type and rank. Give real inputs through --calib.")
    dtype = value.type.dtype
    if dtype != ir.DataType.STRING and dtype.numpy().kind not in "fiub":
        raise ModelError(f"input '{name}' is {dtype.name.lower()}. Give real inputs through --calib.")
    named = (f"{name}.shape[{axis}]" if dim is None else dim for axis, dim in enumerate(dims))
    return _Input(name, dtype, tuple(named), hint_for(value))


def _inner_sizes(model: ir.Model) -> list[Dim]:
    """Sizes inside the main graph that are computed from those of the inputs, each once."""
    shapes = (value.shape or () for node in model.graph for value in node.outputs)
    return list({dim.size: None for shape in shapes for dim in shape if isinstance(dim, ExpressionDim)})


def _is_scalar(item: _Input) -> bool:
    return all(isinstance(dim, str) or dim == 1 for dim in item.dims) and len(item.dims) <= 1


def _shape(item: _Input, plan: Plan) -> tuple[int, ...]:
    return tuple(plan.sizes[dim] if isinstance(dim, str) else dim for dim in item.dims)
