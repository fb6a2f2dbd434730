"""Concat, Sum, Max, Min, Mean and Split of one tensor."""

from __future__ import annotations

import onnx_ir as ir

from baker.passes.fuse._rule import BypassRule
from baker.pipeline.rewrite import Match


class Variadic(BypassRule):
    """Remove a Concat, Sum, Max, Min or Mean of a single tensor, and a Split into one part.

    Shapes: any.

        Concat(x) = x         Sum(x) = x         Max(x) = x         Split(x) = x

    Error: 0.
    Declines: it gives a graph output its name.
    Source: ONNX.
    """

    anchor = ("Concat", "Sum", "Max", "Min", "Mean", "Split")

    def match(self, node: ir.Node) -> Match | None:
        """Finds a node with one operand, or a Split with one output."""
        source = node.inputs[0] if len(node.inputs) == 1 or node.op_type == "Split" else None
        if source is None or len(node.outputs) != 1:
            return None
        return Match(node=node, source=source, why="it has one part" if node.op_type == "Split" else "one operand")
