"""Min, Max, And and Or of one tensor with itself."""

from __future__ import annotations

import onnx_ir as ir

from baker.passes.fuse._rule import BypassRule
from baker.pipeline.rewrite import Match


class SameOperands(BypassRule):
    """Remove a Min, Max, And, Or, BitwiseAnd or BitwiseOr whose operands are all the same tensor.

    Shapes: any.

        Max(x, x) = x          Min(x, x) = x          x and x = x          x or x = x

    Error: 0, also for NaN.
    Declines: it gives a graph output its name and can't take the input over.
    Source: ONNX Min, Max, And, Or.
    """

    anchor = ("Min", "Max", "And", "Or", "BitwiseAnd", "BitwiseOr")

    def match(self, node: ir.Node) -> Match | None:
        """Finds a node that reads one value two times or more, and nothing else."""
        source = node.inputs[0]
        if source is None or len(node.inputs) < 2 or any(value is not source for value in node.inputs):
            return None
        return Match(node=node, source=source, why="its operands are the same")
