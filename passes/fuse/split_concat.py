"""Split, then Concat of all the parts."""

from __future__ import annotations

import onnx_ir as ir

from baker.model.graph import attribute, has_reference_attribute, is_op, shape_of
from baker.passes.fuse._rule import BypassRule
from baker.pipeline.rewrite import Match


class SplitConcat(BypassRule):
    """Remove a Concat that puts all parts of a Split together again, in order.

    Shapes: any; a negative axis needs the rank.

        Concat(Split(x)) = x

    Error: 0.
    Declines: the axes differ, or may; it gives a graph output its name.
    Source: ONNX Split and Concat.
    """

    anchor = "Concat"

    def match(self, node: ir.Node) -> Match | None:
        """Finds the Split whose outputs are the operands, all of them and in order."""
        first = None if not node.inputs or node.inputs[0] is None else node.inputs[0].producer()
        if not is_op(first, "Split") or has_reference_attribute(first) or has_reference_attribute(node):
            return None
        if list(node.inputs) != list(first.outputs) or first.inputs[0] is None:
            return None
        return Match(node=node, source=first.inputs[0], split=first, why="it undoes a Split")

    def check(self, match: Match) -> str | None:
        """Both must work on the same axis."""
        a, b = attribute(match.split, "axis", 0), attribute(match.node, "axis", 1)
        dims = shape_of(match.source)
        if a != b and (dims is None or (a - b) % len(dims)):
            return f"the axes {a} and {b} differ, or may"
        return super().check(match)
