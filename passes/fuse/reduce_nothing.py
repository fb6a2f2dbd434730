"""Reduction over axes of one element, or over none."""

from __future__ import annotations

import onnx_ir as ir

from baker.model.graph import attribute, has_reference_attribute, is_constant, shape_of
from baker.passes.fuse._rule import BypassRule, ints
from baker.pipeline.rewrite import Match


class ReduceNothing(BypassRule):
    """Remove a reduction that keeps its axes and has one element on each.

    Shapes: x has a known dim of 1 on every axis that is reduced.

        ReduceMean(x, axes of 1 element, keepdims = 1) = x          ReduceSum(x, no axes, noop_with_empty_axes = 1) = x

    Error: 0.
    Declines: the axes go (keepdims = 0); it gives a graph output its name.
    Source: ONNX ReduceMean, ReduceSum, ReduceMax, ReduceMin and ReduceProd.
    """

    anchor = ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd")

    def match(self, node: ir.Node) -> Match | None:
        """Finds a reduction whose axes have one element each."""
        source, axes, dims = node.inputs[0], _axes(node), shape_of(node.inputs[0])
        if source is None or axes is None or has_reference_attribute(node):
            return None
        if axes and (dims is None or any(not -len(dims) <= axis < len(dims) or dims[axis] != 1 for axis in axes)):
            return None
        return Match(node=node, source=source, why="it reduces single elements" if axes else "it reduces nothing")

    def check(self, match: Match) -> str | None:
        """The axes must stay."""
        if _axes(match.node) and not attribute(match.node, "keepdims", 1):
            return "the axes go: it is a Squeeze"
        return super().check(match)


def _axes(node: ir.Node) -> list[int] | None:
    """The axes that are reduced, an empty list where none is; None where they are not constant, or all."""
    given = attribute(node, "axes", None)
    if given is None and len(node.inputs) > 1 and node.inputs[1] is not None:
        given = ints(node.inputs[1]) if is_constant(node.inputs[1]) else None
        if given is None:
            return None
    if given:
        return list(given)
    if attribute(node, "noop_with_empty_axes", 0):
        return []
    dims = shape_of(node.inputs[0])
    return None if dims is None else list(range(len(dims)))
