"""Concat, Sum, Max, Min and Mean of one tensor, and Concats in a row."""

from __future__ import annotations

import onnx_ir as ir

from baker.passes.fuse._rule import BypassRule
from baker.pipeline.rewrite import Match


class Variadic(BypassRule):
    """Remove a Concat, Sum, Max, Min or Mean of a single tensor.

    Shapes: any.

        Concat(x) = x         Sum(x) = x         Max(x) = x

    Error: 0.
    Declines: it gives a graph output its name.
    Source: ONNX.
    """

    anchor = ("Concat", "Sum", "Max", "Min", "Mean")

    def match(self, node: ir.Node) -> Match | None:
        """Finds a node with one operand."""
        source = node.inputs[0] if len(node.inputs) == 1 else None
        return None if source is None else Match(node=node, source=source, why="it has one operand")
