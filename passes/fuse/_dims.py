"""Which dims are surely equal: the shapes of a graph in symbols, followed through shape arithmetic.

ONNX's shape inference gives a fresh name to each dim that it can't tell, such as that of a broadcast between two named
dims or of a Reshape to a computed target. To fuse what an exporter wrote with dynamic dims, one has to know that they
are equal after all. Here a dim is the set of what is broadcast to it::

    {}              1
    {4}             4, also where a symbol is broadcast against 4: it is 1 or 4 wherever the model runs at all
    {'seq'}         a dim of a graph input
    {'seq', a}      the broadcast of two dims: each is 1, or the dim itself

So two equal sets are one dim, and a subset is that dim or 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir

from baker.model.graph import attribute, constant_value, is_constant, is_op, standard_domain, subgraphs
from baker.passes.fold.shapes import Elements, propagate
from baker.passes.fuse._rule import axes_of
from baker.passes.fuse._slices import cuts_of


@dataclass(frozen=True)
class Size:
    """The size of one axis of a value of which nothing is known."""

    value: ir.Value
    axis: int


@dataclass(frozen=True)
class First:
    """How much is left when the first ``wanted`` of ``length`` are asked for: the lesser of the two."""

    length: int
    wanted: Dim


Dim: TypeAlias = "frozenset[int | str | Size | First]"
Dims: TypeAlias = "tuple[Dim, ...]"

ONE: Dim = frozenset()

_SAME = frozenset(
    {
        *("Abs", "BatchNormalization", "Cast", "Ceil", "Clip", "Cos", "CumSum", "Dropout", "Elu", "Erf", "Exp"),
        *("Floor", "Gelu", "HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN", "LayerNormalization"),
        *("LeakyRelu", "Log", "LogSoftmax", "Mish", "Neg", "Not", "Reciprocal", "Relu", "RMSNormalization"),
        *("RotaryEmbedding", "Round", "Selu", "Sigmoid", "Sign", "Sin", "Softmax", "Softplus", "Sqrt", "Swish"),
        *("Tanh", "Trilu"),
    }
)
_BROADCAST = frozenset(
    {
        *("Add", "And", "BitwiseAnd", "BitwiseOr", "Div", "Equal", "Greater", "GreaterOrEqual", "Less"),
        *("LessOrEqual", "Max", "Mean", "Min", "Mod", "Mul", "Or", "Pow", "PRelu", "Sub", "Sum", "Where", "Xor"),
    }
)


def number(dim: Dim) -> int | None:
    """The dim as a number, None where it is symbolic."""
    if not dim:
        return 1
    (first, *more) = dim
    return first if not more and isinstance(first, int) else None


def as_dim(size: int) -> Dim:
    """A number as a dim."""
    return ONE if size == 1 else frozenset({size})


def broadcast(*dims: Dim) -> Dim:
    """What numpy's broadcasting makes of some dims, provided that it allows them."""
    union = frozenset[Any]().union(*dims)
    numbers = [atom for atom in union if isinstance(atom, int)]
    if numbers:  # each of the others is 1 or this number
        return frozenset(numbers)
    # with s among the dims, the first s of n are s: they are n where s > n, and then n has to be 1 or s
    return frozenset(atom for atom in union if not (isinstance(atom, First) and atom.wanted <= union - {atom}))


def broadcast_all(shapes: Sequence[Dims]) -> Dims:
    """Broadcasts shapes, aligned at their last axis."""
    rank = max(map(len, shapes))
    padded = [(ONE,) * (rank - len(shape)) + shape for shape in shapes]
    return tuple(broadcast(*column) for column in zip(*padded, strict=True))


class Symbols:
    """The dims of values, each computed once: what computes a value may change, its dims do not."""

    def __init__(self) -> None:
        self._dims: dict[ir.Value, Dims | None] = {}
        self._elements: dict[ir.Value, Elements | None] = {}

    def dims(self, value: ir.Value | None) -> Dims | None:
        """The dims of a value, None where its rank is unknown."""
        if value is None:
            return None
        self._visit(value)
        return self._dims[value]

    def elements(self, value: ir.Value | None) -> Sequence[Any] | None:
        """What an integer vector or scalar holds: an int, a `Dim`, or None each; None where nothing is known."""
        if value is None:
            return None
        self._visit(value)
        found = self._elements[value]
        return None if found is None else list(found.reshape(-1).tolist())

    def input_with(self, dim: Dim) -> tuple[ir.Value, int] | None:
        """An input of the main graph, among the values seen so far, and which of its axes has this dim."""
        for value, dims in self._dims.items():
            main = value.is_graph_input() and isinstance(value.graph, ir.Graph) and value.graph.opset_imports
            if main and dims is not None and dim in dims:
                return value, dims.index(dim)
        return None

    def _visit(self, value: ir.Value) -> None:
        pending = [value]
        while pending:  # depth first, without recursion: graphs are deep
            current = pending[-1]
            missing = [] if current in self._dims else [each for each in _reads(current) if each not in self._dims]
            if missing:
                pending += missing
                continue
            pending.pop()
            if current not in self._dims:
                self._elements[current] = self._elements_of(current)
                self._dims[current] = self._dims_of(current)

    def _dims_of(self, value: ir.Value) -> Dims | None:
        node = value.producer()
        found = None if node is None else _rule(node, value, self)
        declared = value.shape
        if found is None and declared is not None:
            found = tuple(_declared(value, axis) for axis in range(len(declared)))
        if found is None or declared is None or len(declared) != len(found) or value.is_graph_output():
            return found
        return tuple(
            as_dim(known) if isinstance(known, int) else dim for known, dim in zip(declared, found, strict=True)
        )

    def _elements_of(self, value: ir.Value) -> Elements | None:
        if value.dtype not in (ir.DataType.INT64, ir.DataType.INT32):
            return None
        if is_constant(value):
            array = constant_value(value) if value.shape is not None and value.shape.rank() < 2 else None
            return None if array is None or array.size > 64 else array.astype(object)
        node = value.producer()
        if node is None or value is not node.outputs[0] or standard_domain(node.domain):
            return None
        if node.op_type == "Shape":
            return self._shape(node)
        inputs = {index: self._elements.get(each) for index, each in enumerate(node.inputs) if each is not None}
        known = {index: each for index, each in inputs.items() if each is not None}
        return self._where(node, known) if node.op_type == "Where" else propagate(node, known)

    def _shape(self, node: ir.Node) -> Elements | None:
        dims = self._dims.get(node.inputs[0]) if node.inputs[0] is not None else None
        if dims is None:
            return None
        cut = dims[attribute(node, "start", 0) : attribute(node, "end", None)]
        return _objects([dim if number(dim) is None else number(dim) for dim in cut])

    def _where(self, node: ir.Node, known: Mapping[int, Elements]) -> Elements | None:
        """``Where(c == -1, ones, c)``, as exporters write the target of an Expand."""
        test = None if node.inputs[0] is None else node.inputs[0].producer()
        if not is_op(test, "Equal") or not {1, 2} <= set(known) or known[1].shape != known[2].shape:
            return None
        left, right = (self._elements.get(each) if each is not None else None for each in test.inputs)
        if left is None or right is None or not left.shape == right.shape == known[1].shape:
            return None
        columns = (array.reshape(-1).tolist() for array in (left, right, known[1], known[2]))
        return _objects([_choice(*column) for column in zip(*columns, strict=True)]).reshape(left.shape)


def _choice(left: Any, right: Any, then: Any, other: Any) -> Any:
    if left is None or right is None:
        return None
    if isinstance(left, int) and isinstance(right, int):
        return then if left == right else other
    negative = [each for each in (left, right) if isinstance(each, int) and each < 0]
    return other if negative else then if then == other else None  # a dim is never negative


def _objects(items: Sequence[Any]) -> Elements:
    array = np.empty(len(items), dtype=object)
    for index, item in enumerate(items):
        array[index] = item
    return array


def _reads(value: ir.Value) -> list[ir.Value]:
    node = value.producer()
    if node is None or is_constant(value) or any(True for _ in subgraphs(node)):
        return []
    found = [each for each in node.inputs if each is not None]
    test = node.inputs[0].producer() if is_op(node, "Where") and node.inputs[0] is not None else None
    return found + [each for each in (test.inputs if is_op(test, "Equal") else ()) if each is not None]


def _declared(value: ir.Value, axis: int) -> Dim:
    """What is declared of a dim; a name says the same everywhere only at the inputs of the main graph."""
    assert value.shape is not None
    dim = value.shape[axis]
    if isinstance(dim, int) and not value.is_graph_output():
        return as_dim(dim)
    named = not isinstance(dim, int) and dim.value is not None and value.is_graph_input()
    main = named and isinstance(value.graph, ir.Graph) and bool(value.graph.opset_imports)  # subgraphs have none
    return frozenset({str(dim.value)}) if main and not isinstance(dim, int) else frozenset({Size(value, axis)})


# ---- operators ---------------------------------------------------------------------------------------------------


def _rule(node: ir.Node, value: ir.Value, symbols: Symbols) -> Dims | None:
    if standard_domain(node.domain):
        return None
    inputs = [symbols._dims.get(each) if each is not None else None for each in node.inputs]
    first = inputs[0] if inputs else None
    if node.op_type in _BROADCAST:
        return broadcast_all([each for each in inputs if each is not None]) if None not in inputs and inputs else None
    if node.op_type in _SAME:
        return first if value is node.outputs[0] else None
    rule = _RULES.get(node.op_type)
    return None if rule is None or first is None else rule(_Site(node, value, symbols, inputs, first))


@dataclass(frozen=True)
class _Site:
    node: ir.Node
    value: ir.Value
    symbols: Symbols
    inputs: Sequence[Dims | None]
    first: Dims

    def elements(self, index: int) -> Sequence[Any] | None:
        given = self.node.inputs[index] if index < len(self.node.inputs) else None
        found = None if given is None else self.symbols._elements.get(given)
        return None if found is None else list(found.reshape(-1).tolist())

    def unknown(self, axis: int) -> Dim:
        return frozenset({Size(self.value, axis)})


def _transpose(site: _Site) -> Dims | None:
    perm = attribute(site.node, "perm", tuple(reversed(range(len(site.first)))))
    return tuple(site.first[axis] for axis in perm)


def _matmul(site: _Site) -> Dims | None:
    right = site.inputs[1]
    if right is None or len(site.first) < 2 or len(right) < 2:
        return None
    return (*broadcast_all([site.first[:-2], right[:-2]]), site.first[-2], right[-1])


def _gemm(site: _Site) -> Dims | None:
    right = site.inputs[1]
    if right is None:
        return None
    rows = site.first[1 if attribute(site.node, "transA", 0) else 0]
    return rows, right[0 if attribute(site.node, "transB", 0) else 1]


def _gather(site: _Site) -> Dims | None:
    indices, axis = site.inputs[1], attribute(site.node, "axis", 0) % len(site.first)
    return None if indices is None else (*site.first[:axis], *indices, *site.first[axis + 1 :])


def _unsqueeze(site: _Site) -> Dims | None:
    axes = axes_of(site.node)
    if axes is None:
        return None
    rank, rest = len(site.first) + len(axes), iter(site.first)
    new = {axis % rank for axis in axes}
    return tuple(ONE if axis in new else next(rest) for axis in range(rank))


def _squeeze(site: _Site) -> Dims | None:
    axes = axes_of(site.node)
    if axes is None:
        return None
    gone = {axis % len(site.first) for axis in axes}
    return tuple(dim for axis, dim in enumerate(site.first) if axis not in gone)


def _concat(site: _Site) -> Dims | None:
    axis = attribute(site.node, "axis", 0) % len(site.first)
    sizes = [None if dims is None else number(dims[axis]) for dims in site.inputs]
    known = [size for size in sizes if size is not None]
    joined = as_dim(sum(known)) if len(known) == len(sizes) else site.unknown(axis)
    return (*site.first[:axis], joined, *site.first[axis + 1 :])


def _split(site: _Site) -> Dims | None:
    axis = attribute(site.node, "axis", 0) % len(site.first)
    return (*site.first[:axis], site.unknown(axis), *site.first[axis + 1 :])


def _slice(site: _Site) -> Dims | None:
    cuts, rank = cuts_of(site.node), len(site.first)
    if cuts is None:
        return _first(site)
    cut = {axis % rank: way for axis, way in cuts.items()}
    whole = {axis for axis, way in cut.items() if way.start == 0 and way.step == 1 and way.end >= 2**31 - 1}
    return tuple(
        site.unknown(axis) if axis in cut and axis not in whole else dim for axis, dim in enumerate(site.first)
    )


def _first(site: _Site) -> Dims | None:
    """The first so many of a table, as models take the positions of a sequence."""
    starts, ends, axes, steps = (site.elements(index) for index in range(1, 5))
    if starts is None or ends is None or axes is None or not len(starts) == len(ends) == len(axes) == 1:
        return None
    if starts != [0] or not isinstance(ends[0], frozenset) or (len(site.node.inputs) > 4 and steps != [1]):
        return None
    axis = axes[0] % len(site.first) if isinstance(axes[0], int) else None
    length = None if axis is None else number(site.first[axis])
    if axis is None or length is None:
        return None
    return (*site.first[:axis], frozenset({First(length, ends[0])}), *site.first[axis + 1 :])


def _expand(site: _Site) -> Dims | None:
    target = site.elements(1)
    if target is None:
        return None
    wanted = [_target(item, site.value, axis) for axis, item in enumerate(target)]
    return broadcast_all([site.first, tuple(wanted)])


def _filled(site: _Site) -> Dims | None:
    target = site.elements(0)
    return None if target is None else tuple(_target(item, site.value, axis) for axis, item in enumerate(target))


def _target(item: Any, value: ir.Value, axis: int) -> Dim:
    if isinstance(item, int) and item >= 0:
        return as_dim(item)
    return item if isinstance(item, frozenset) else frozenset({Size(value, axis)})


def _reshape(site: _Site) -> Dims | None:
    target = site.elements(1)
    if target is None:
        return None
    copies = not attribute(site.node, "allowzero", 0)
    if copies and any(item == 0 and axis >= len(site.first) for axis, item in enumerate(target)):
        return None
    items = [site.first[axis] if item == 0 and copies else item for axis, item in enumerate(target)]
    given = [_target(item, site.value, axis) for axis, item in enumerate(items)]
    if -1 not in items:
        return tuple(given)
    axis = items.index(-1)
    given[axis] = _rest(site.first, given[:axis] + given[axis + 1 :]) or site.unknown(axis)
    return tuple(given)


def _rest(whole: Sequence[Dim], parts: Sequence[Dim]) -> Dim | None:
    """The dim that is left of a shape's size when other dims are divided out; None where it can't be told."""
    left = [dim for dim in whole if number(dim) is None]
    for part in parts:
        if number(part) is None:
            if part not in left:
                return None
            left.remove(part)
    have, gone = (math.prod(number(dim) or 0 for dim in dims if number(dim) is not None) for dims in (whole, parts))
    if not gone or have % gone or (left and have != gone):
        return None
    return as_dim(have // gone) if not left else left[0] if len(left) == 1 else None


def _range(site: _Site) -> Dims | None:
    start, limit, delta = (site.elements(index) for index in range(3))
    if start != [0] or delta != [1] or limit is None or len(limit) != 1:
        return None
    return (_target(limit[0], site.value, 0),)


def _reduce(site: _Site) -> Dims | None:
    axes = attribute(site.node, "axes", None)
    axes = site.elements(1) if axes is None else axes
    if axes is None or not attribute(site.node, "keepdims", 1) or not all(isinstance(axis, int) for axis in axes):
        return None
    gone = {axis % len(site.first) for axis in axes}
    return tuple(ONE if axis in gone else dim for axis, dim in enumerate(site.first)) if gone else None


def _attention(site: _Site) -> Dims | None:
    values, rank = site.inputs[2], len(site.first)
    if values is None or site.value is not site.node.outputs[0]:
        return None
    if rank == 4:
        return (*site.first[:3], values[3])
    heads, groups = (attribute(site.node, name, 0) for name in ("q_num_heads", "kv_num_heads"))
    width = number(values[2])
    last = values[2] if heads == groups else as_dim(width // groups * heads) if width and groups else site.unknown(2)
    return (*site.first[:2], last)


_RULES: Mapping[str, Callable[[_Site], Dims | None]] = {
    "Attention": _attention,
    "Concat": _concat,
    "ConstantOfShape": _filled,
    "Expand": _expand,
    "Gather": _gather,
    "GatherElements": lambda site: site.inputs[1],
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Range": _range,
    "ReduceMax": _reduce,
    "ReduceMean": _reduce,
    "ReduceSum": _reduce,
    "Reshape": _reshape,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
