"""Two negations in a row."""

from __future__ import annotations

import onnx_ir as ir

from baker.model.graph import is_op
from baker.passes.fuse._rule import BypassRule
from baker.pipeline.rewrite import Match


class Involution(BypassRule):
    """Remove a Neg, Not or BitwiseNot together with the one that it undoes.

    Shapes: any.

        Neg(Neg(x)) = x          Not(Not(x)) = x          BitwiseNot(BitwiseNot(x)) = x

    A Reciprocal of a Reciprocal is left alone: it rounds twice, and overflows where x is close to 0.

    Error: 0.
    Declines: it gives a graph output its name and can't take the input over.
    Source: ONNX Neg, Not and BitwiseNot.
    """

    anchor = ("Neg", "Not", "BitwiseNot")

    def match(self, node: ir.Node) -> Match | None:
        """Finds the same operator in front."""
        first = None if node.inputs[0] is None else node.inputs[0].producer()
        if not is_op(first, node.op_type) or first.inputs[0] is None:
            return None
        return Match(node=node, source=first.inputs[0], why=f"{node.op_type} of {node.op_type}")
