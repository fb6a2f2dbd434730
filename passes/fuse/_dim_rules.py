"""What each operator makes of its inputs' dims."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from baker.model.graph import attribute, standard_domain
from baker.passes.fuse._dims import ONE, Dim, Dims, First, Size, as_dim, broadcast_all, number
from baker.passes.fuse._rule import axes_of
from baker.passes.fuse._slices import cuts_of

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


@dataclass(frozen=True)
class Site:
    """What is known where a value is computed.

    Attributes:
        inputs: the dims of the node's inputs.
        contents: what its inputs hold, where they are small integer vectors: ints, dims, or None for what is unknown.
    """

    node: ir.Node
    value: ir.Value
    inputs: Sequence[Dims | None]
    contents: Mapping[int, Sequence[Any]]

    @property
    def first(self) -> Dims:
        """The dims of the first input."""
        return self.inputs[0] or ()

    def elements(self, index: int) -> Sequence[Any] | None:
        """What an input holds."""
        return self.contents.get(index)

    def unknown(self, axis: int) -> Dim:
        """A dim of the value of which nothing is known."""
        return frozenset({Size(self.value, axis)})


def output_dims(site: Site) -> Dims | None:
    """The dims of a value, None where the operator is not known here, or not enough of its inputs."""
    node, inputs = site.node, site.inputs
    if standard_domain(node.domain) or not inputs or inputs[0] is None:
        return None
    if node.op_type in _BROADCAST:
        return broadcast_all([each for each in inputs if each is not None]) if None not in inputs else None
    if node.op_type in _SAME:
        return inputs[0] if site.value is node.outputs[0] else None
    rule = _RULES.get(node.op_type)
    return None if rule is None else rule(site)


def _transpose(site: Site) -> Dims | None:
    perm = attribute(site.node, "perm", tuple(reversed(range(len(site.first)))))
    return tuple(site.first[axis] for axis in perm)


def _matmul(site: Site) -> Dims | None:
    right = site.inputs[1]
    if right is None or len(site.first) < 2 or len(right) < 2:
        return None
    return (*broadcast_all([site.first[:-2], right[:-2]]), site.first[-2], right[-1])


def _gemm(site: Site) -> Dims | None:
    right = site.inputs[1]
    if right is None:
        return None
    rows = site.first[1 if attribute(site.node, "transA", 0) else 0]
    return rows, right[0 if attribute(site.node, "transB", 0) else 1]


def _gather(site: Site) -> Dims | None:
    indices, axis = site.inputs[1], attribute(site.node, "axis", 0) % len(site.first)
    return None if indices is None else (*site.first[:axis], *indices, *site.first[axis + 1 :])


def _unsqueeze(site: Site) -> Dims | None:
    axes = axes_of(site.node)
    if axes is None:
        return None
    rank, rest = len(site.first) + len(axes), iter(site.first)
    new = {axis % rank for axis in axes}
    return tuple(ONE if axis in new else next(rest) for axis in range(rank))


def _squeeze(site: Site) -> Dims | None:
    axes = axes_of(site.node)
    if axes is None:
        return None
    gone = {axis % len(site.first) for axis in axes}
    return tuple(dim for axis, dim in enumerate(site.first) if axis not in gone)


def _concat(site: Site) -> Dims | None:
    axis = attribute(site.node, "axis", 0) % len(site.first)
    sizes = [None if dims is None else number(dims[axis]) for dims in site.inputs]
    known = [size for size in sizes if size is not None]
    joined = as_dim(sum(known)) if len(known) == len(sizes) else site.unknown(axis)
    return (*site.first[:axis], joined, *site.first[axis + 1 :])


def _split(site: Site) -> Dims | None:
    axis = attribute(site.node, "axis", 0) % len(site.first)
    return (*site.first[:axis], site.unknown(axis), *site.first[axis + 1 :])


def _slice(site: Site) -> Dims | None:
    cuts, rank = cuts_of(site.node), len(site.first)
    if cuts is None:
        return _first(site)
    cut = {axis % rank: way for axis, way in cuts.items()}
    whole = {axis for axis, way in cut.items() if way.start == 0 and way.step == 1 and way.end >= 2**31 - 1}
    return tuple(
        site.unknown(axis) if axis in cut and axis not in whole else dim for axis, dim in enumerate(site.first)
    )


def _first(site: Site) -> Dims | None:
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


def _expand(site: Site) -> Dims | None:
    target = site.elements(1)
    if target is None:
        return None
    wanted = [_target(item, site.value, axis) for axis, item in enumerate(target)]
    return broadcast_all([site.first, tuple(wanted)])


def _filled(site: Site) -> Dims | None:
    target = site.elements(0)
    return None if target is None else tuple(_target(item, site.value, axis) for axis, item in enumerate(target))


def _target(item: Any, value: ir.Value, axis: int) -> Dim:
    if isinstance(item, int) and item >= 0:
        return as_dim(item)
    return item if isinstance(item, frozenset) else frozenset({Size(value, axis)})


def _reshape(site: Site) -> Dims | None:
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


def _range(site: Site) -> Dims | None:
    start, limit, delta = (site.elements(index) for index in range(3))
    if start != [0] or delta != [1] or limit is None or len(limit) != 1:
        return None
    return (_target(limit[0], site.value, 0),)


def _reduce(site: Site) -> Dims | None:
    axes = attribute(site.node, "axes", None)
    axes = site.elements(1) if axes is None else axes
    if axes is None or not attribute(site.node, "keepdims", 1) or not all(isinstance(axis, int) for axis in axes):
        return None
    gone = {axis % len(site.first) for axis in axes}
    return tuple(ONE if axis in gone else dim for axis, dim in enumerate(site.first)) if gone else None


def _attention(site: Site) -> Dims | None:
    values, rank = site.inputs[2], len(site.first)
    if values is None or site.value is not site.node.outputs[0]:
        return None
    if rank == 4:
        return (*site.first[:3], values[3])
    heads, groups = (attribute(site.node, name, 0) for name in ("q_num_heads", "kv_num_heads"))
    width = number(values[2])
    last = values[2] if heads == groups else as_dim(width // groups * heads) if width and groups else site.unknown(2)
    return (*site.first[:2], last)


_RULES: Mapping[str, Callable[[Site], Dims | None]] = {
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
