"""Pooling of one element."""

from __future__ import annotations

import onnx_ir as ir

from baker.model.graph import attribute, has_reference_attribute
from baker.passes.fuse._rule import BypassRule
from baker.pipeline.rewrite import Match


class PoolNothing(BypassRule):
    """Remove a MaxPool or AveragePool whose window is one element.

    Shapes: x (N, C, *spatial).

        MaxPool(x, kernel 1, stride 1, no pads) = x          AveragePool(x, kernel 1, stride 1, no pads) = x

    Error: 0.
    Declines: a stride other than 1; pads; the indices of MaxPool are read; it gives a graph output its name.
    Source: ONNX MaxPool and AveragePool.
    """

    anchor = ("MaxPool", "AveragePool")

    def match(self, node: ir.Node) -> Match | None:
        """Finds a window of one element."""
        source = node.inputs[0]
        if source is None or has_reference_attribute(node):
            return None
        one = all(size == 1 for size in attribute(node, "kernel_shape", (0,)))
        return Match(node=node, source=source, why="its window is one element") if one else None

    def check(self, match: Match) -> str | None:
        """The window must step from element to element."""
        node = match.node
        if any(stride != 1 for stride in attribute(node, "strides", ())):
            return "it steps over elements"
        if any(attribute(node, "pads", ())):
            return "it pads"
        if any(value.uses() or value.is_graph_output() for value in node.outputs[1:]):
            return "its indices are read"
        return super().check(match)
