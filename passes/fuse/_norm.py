"""What decomposed normalizations have in common: division by a root, then a scale and a shift."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from baker.model.graph import attribute, constant_before, constant_value, is_constant, is_op, shape_of, sole_reader
from baker.passes.fuse._match import Found, Number, OneOf, Op, Pattern, Product, reduced_axes
from baker.passes.fuse._rule import SMALL_COPY, Facts, finite_in

EXPONENT = Number("the exponent")
EPSILON = Number("epsilon")
NUMBERS = {
    "the exponent": 2.0,
    "the numerator": 1.0,
    "the exponent of the variance": 0.5,
    "the exponent of the variance, inverted": -0.5,
}
"""What a pattern's numbers have to be, but for epsilon."""


def over_root(dividend: Pattern, variance: Pattern, scale: Pattern | None = None) -> Pattern:
    """dividend / sqrt(variance + epsilon), by Div, Reciprocal or Pow; with a scale: times (scale / sqrt(...))."""
    sum_ = Op("Add", variance, EPSILON)
    root = OneOf(Op("Sqrt", sum_), Op("Pow", sum_, Number("the exponent of the variance")))
    inverse = OneOf(
        Op("Reciprocal", root),
        Op("Div", Number("the numerator"), root),
        Op("Pow", sum_, Number("the exponent of the variance, inverted")),
    )
    if scale is not None:
        return Op("Mul", dividend, OneOf(Op("Mul", inverse, scale), Op("Div", scale, root)))
    return OneOf(Op("Div", dividend, root), Product(dividend, inverse))


def axes_fault(found: Found, *reductions: str, single: bool = False) -> str | None:
    """Why the reductions, by their names, don't run over the same last axes of x, or axis, and keep them; or None."""
    axes: set[tuple[int, ...] | None] = set()
    for name in reductions:
        node = found.values[name].producer()
        if node is None or not attribute(node, "keepdims", 1):
            return f"{name} does not keep the axes that it reduces"
        axes.add(last_axes(node))
    if len(axes) != 1:
        return "the reductions run over different axes"
    (common,) = axes
    if not common:
        return "the axes are unknown, or all there are"
    if common != tuple(range(-len(common), 0)):
        return f"the axes {list(common)} are not the last ones"
    if single and len(common) != 1:
        return f"there are {len(common)} axes, not 1"
    return None


def last_axes(node: ir.Node) -> tuple[int, ...] | None:
    """The axes of a reduction, counted from the end; None where they are absent or unknown."""
    axes, dims = reduced_axes(node), shape_of(node.inputs[0])
    if axes is None:
        return None
    if dims is not None:
        axes = [axis % len(dims) - len(dims) for axis in axes]
    return None if any(axis >= 0 for axis in axes) else tuple(sorted(axes))


def last_dims(found: Found, reduction: str) -> tuple[int, ...] | None:
    """The dims of the axes that a reduction runs over, None where they are unknown."""
    node = found.values[reduction].producer()
    axes = None if node is None else last_axes(node)
    dims = shape_of(found.values["x"])
    if axes is None or dims is None or len(axes) > len(dims):
        return None
    known = [dim for dim in dims[len(dims) - len(axes) :] if dim is not None]
    return tuple(known) if len(known) == len(axes) else None


@dataclass
class Tail:
    """The scale, shift and Cast behind a normalization.

    Attributes:
        source: what is normalized; of the result's type.
        nodes: the normalization's last node and those of the tail, in order.
        scale, bias: operands, None where there is none.
    """

    source: ir.Value
    nodes: list[ir.Node]
    scale: ir.Value | None = None
    bias: ir.Value | None = None
    dims: tuple[int, ...] = field(default=())

    @property
    def last(self) -> ir.Node:
        """The node in whose place the operator comes."""
        return self.nodes[-1]

    def operand(self, value: ir.Value | None, hint: str) -> ir.Value:
        """A scale or bias as the operator wants it: of the dims it normalizes and the type of its source; or ones."""
        dtype = (self.source.dtype or ir.DataType.FLOAT).numpy()
        if value is None:
            return constant_before(self.last, hint, np.ones(self.dims, dtype))
        if shape_of(value) == self.dims and value.dtype == self.source.dtype:
            return value
        array = constant_value(value)
        if array is None:
            raise ValueError(f"'{value.name}' is no constant of dims {self.dims}")
        return constant_before(self.last, value.name or hint, array.reshape(self.dims).astype(dtype))


def tail_of(found: Found, dims: tuple[int, ...], *, shifts: bool) -> Tail:
    """Follows what reads a normalization, as far as the operator can do it, too: Mul, then Add, a Cast anywhere.

    The Cast must undo the one in front, as exports of half-precision models have it for their statistics.
    """
    x = found.values["x"]
    tail = Tail(x, [found.nodes[0]], found.values.get("scale"), found.values.get("bias"), dims)
    while True:
        reader = sole_reader(tail.last.outputs[0])
        if reader is None or reader.graph is not found.nodes[0].graph or not _take(tail, reader, shifts):
            return tail
        tail.nodes.append(reader)


def _take(tail: Tail, reader: ir.Node, shifts: bool) -> bool:
    """Adds one node to the tail if it belongs there."""
    if is_op(reader, "Cast"):
        return _cast(tail, reader)
    if is_op(reader, "Mul") and tail.scale is None and tail.bias is None:
        tail.scale = _operand(tail, reader)
        return tail.scale is not None
    if shifts and is_op(reader, "Add") and tail.bias is None:
        tail.bias = _operand(tail, reader)
        return tail.bias is not None
    return False


def _cast(tail: Tail, cast: ir.Node) -> bool:
    """True for a Cast that does nothing, or that undoes the one in front, which then goes with it."""
    if cast.inputs[0] is not None and cast.inputs[0].dtype == cast.outputs[0].dtype:
        return True
    before = tail.source.producer()
    if not is_op(before, "Cast") or before.inputs[0] is None or before.inputs[0].dtype != cast.outputs[0].dtype:
        return False
    narrow = before.inputs[0]
    if narrow.dtype not in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16) or not all(
        value is None or _representable(value, narrow.dtype) for value in (tail.scale, tail.bias)
    ):
        return False
    tail.source = narrow
    return True


def _representable(value: ir.Value, dtype: ir.DataType) -> bool:
    """True for constants that are numbers of a type."""
    array = constant_value(value) if is_constant(value) else None
    rounded = None if array is None else finite_in(array, dtype.numpy())
    return array is not None and rounded is not None and bool(np.all(rounded.astype(array.dtype) == array))


def _operand(tail: Tail, node: ir.Node) -> ir.Value | None:
    """The operand besides the normalized value, where it has the dims that are normalized."""
    value = tail.last.outputs[0]
    others = [other for other in node.inputs if other is not value]
    return others[0] if len(others) == 1 and others[0] is not None and fits(others[0], tail) else None


def fits(value: ir.Value, tail: Tail) -> bool:
    """True for a tensor of the dims that are normalized, or a constant that has them behind dims of 1."""
    dims, rank = shape_of(value), len(shape_of(tail.source) or ())
    if dims is None or len(dims) > rank or value.dtype is None:
        return False
    if dims == tail.dims:
        return True
    extra = len(dims) - len(tail.dims)
    return is_constant(value) and extra > 0 and dims[:extra] == (1,) * extra and dims[extra:] == tail.dims


def ones_fault(tail: Tail, facts: Facts) -> str | None:
    """Why the ones that stand for a missing scale are too many, or None."""
    size = math.prod(tail.dims) * 4
    if tail.scale is None and size > max(facts.room, SMALL_COPY):
        return f"there is no scale, and ones for it would take {size} bytes"
    return None
