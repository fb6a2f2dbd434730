"""Slice of everything."""

from __future__ import annotations

import math

import onnx_ir as ir

from baker.model.graph import attribute, has_reference_attribute, shape_of
from baker.passes.fuse._rule import BypassRule, ints
from baker.pipeline.rewrite import Match

_OPEN_END = 2**31 - 1
_IMPOSSIBLE = 2**40  # elements that no tensor has


class Slice(BypassRule):
    """Remove a Slice that takes every element of every axis, in order.

    Shapes: any; an axis whose size is not known must be cut at an end that no tensor reaches.

        Slice(x, starts = 0, ends >= dims, steps = 1) = x

    Error: 0.
    Declines: it gives a graph output its name.
    Source: ONNX Slice; TensorFlow exports spell "everything" with ends of 10**9.
    """

    anchor = "Slice"

    def match(self, node: ir.Node) -> Match | None:
        """Finds a Slice whose bounds are constant and reach over everything."""
        source = node.inputs[0]
        if source is None or has_reference_attribute(node):
            return None
        parts = _attributes(node) if "starts" in node.attributes else _inputs(node)
        if parts is None:
            return None
        starts, ends, axes, steps = parts
        if any(step != 1 for step in steps) or any(start != 0 for start in starts):
            return None
        axes = list(range(len(starts))) if axes is None else axes
        whole = all(_reaches(end, axis, shape_of(source)) for end, axis in zip(ends, axes, strict=True))
        return Match(node=node, source=source, why="it takes everything") if whole else None


def _attributes(node: ir.Node) -> tuple[list[int], list[int], list[int] | None, list[int]] | None:
    axes = attribute(node, "axes", None)
    return list(attribute(node, "starts", ())), list(attribute(node, "ends", ())), axes and list(axes), []


def _inputs(node: ir.Node) -> tuple[list[int], list[int], list[int] | None, list[int]] | None:
    if len(node.inputs) < 3:
        return None
    starts, ends = ints(node.inputs[1]), ints(node.inputs[2])
    given = [index < len(node.inputs) and node.inputs[index] is not None for index in (3, 4)]
    axes = ints(node.inputs[3]) if given[0] else None
    steps = ints(node.inputs[4]) if given[1] else []
    if starts is None or ends is None or steps is None or (given[0] and axes is None) or len(starts) != len(ends):
        return None
    return starts, ends, axes, steps


def _reaches(end: int, axis: int, dims: tuple[int | None, ...] | None) -> bool:
    """True when an end can't lie inside the axis."""
    size = None if dims is None or not -len(dims) <= axis < len(dims) else dims[axis]
    if size is not None:
        return end >= size
    others = math.prod(dim for dim in dims or () if dim)
    return end >= _OPEN_END or end * others >= _IMPOSSIBLE
