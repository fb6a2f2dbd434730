"""Where that always takes one side."""

from __future__ import annotations

import onnx_ir as ir

from baker.model.graph import constant_value, is_constant
from baker.passes.fuse._rule import BypassRule
from baker.passes.fuse.neutral_operand import broadcast_fault
from baker.pipeline.rewrite import Match

_MOST = 1 << 20  # elements of a condition that are read for a hope


class Where(BypassRule):
    """Remove a Where whose condition is constant and the same throughout, or whose sides are the same tensor.

    Shapes: what is taken has the shape of the result: neither the condition nor the other side broadcasts it.

        Where(true, a, b) = a          Where(false, a, b) = b          Where(c, a, a) = a

    Error: 0.
    Declines: the condition or the other side broadcasts what is taken, or may; it gives a graph output its name.
    Source: ONNX Where.
    """

    anchor = "Where"

    def match(self, node: ir.Node) -> Match | None:
        """Finds the side that is always taken."""
        condition, yes, no = node.inputs
        if condition is None or yes is None or no is None:
            return None
        if yes is no:
            return Match(node=node, source=yes, others=[condition], why="both sides are the same")
        if not is_constant(condition) or (condition.const_value is not None and condition.const_value.size > _MOST):
            return None
        array = constant_value(condition)
        if array is None or not array.size or bool(array.all()) != bool(array.any()):
            return None
        taken, other = (yes, no) if array.all() else (no, yes)
        return Match(node=node, source=taken, others=[condition, other], why=f"its condition is {bool(array.all())}")

    def check(self, match: Match) -> str | None:
        """Nothing may broadcast what is taken."""
        reasons = (broadcast_fault(match.source, other) for other in match.others)
        return next((reason for reason in reasons if reason is not None), None) or super().check(match)
