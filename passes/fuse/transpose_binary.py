"""Two Transposes of one kind, then an operator of both."""

from __future__ import annotations

import onnx_ir as ir

from baker.model.graph import emit, is_op, label, remove_if_dead
from baker.passes.fuse._rule import FuseRule, apart, substitute
from baker.passes.fuse.transpose import perm_of
from baker.pipeline.pass_base import Change
from baker.pipeline.rewrite import Match


class TransposeBinary(FuseRule):
    """Combine two tensors before they are transposed, instead of two transposed ones.

    Shapes: a and b of the same rank.

        Transpose(a, p) + Transpose(b, p) = Transpose(a + b, p)

    Error: 0.
    Declines: a Transpose is read elsewhere; they move the axes differently; opset below 7, where broadcasting is an
        attribute.
    Source: element-wise operators do not look at where an element stands.
    """

    anchor = ("Add", "Sub", "Mul", "Div", "Pow", "And", "Or", "Xor", "Equal", "Less", "Greater")

    def match(self, node: ir.Node) -> Match | None:
        """Finds two different Transposes in front of an operator."""
        if len(node.inputs) != 2 or node.inputs[0] is node.inputs[1]:
            return None
        first, second = (None if value is None else value.producer() for value in node.inputs)
        return Match(first=first, second=second, node=node) if _both(first, second) else None

    def check(self, match: Match) -> str | None:
        """Both must move the axes alike, for this operator alone."""
        if self.facts.opset < 7:
            return "broadcasting is an attribute below opset 7"
        p, q = perm_of(match.first), perm_of(match.second)
        if p is None or p != q:
            return f"they move the axes differently: {p} and {q}"
        return apart(match.first, match.node) or apart(match.second, match.node)

    def apply(self, match: Match) -> Change:
        """Puts one Transpose behind the operator."""
        first, second, node = match.first, match.second, match.node
        name, perm = label(second), perm_of(first)
        old = list(node.inputs)
        attributes = dict(node.attributes)
        combined = emit(node, node.op_type, [first.inputs[0], second.inputs[0]], attributes, name=node.name).outputs[0]
        shape = node.outputs[0].shape
        combined.type = node.outputs[0].type
        if shape is not None and perm is not None and not node.outputs[0].is_graph_output():
            combined.shape = ir.Shape([shape[perm.index(axis)] for axis in range(len(perm))])
        moved = substitute(node, "Transpose", [combined], perm=perm)
        remove_if_dead(*old)
        return Change(self.name, name, f"merged with the Transpose of the other operand into '{label(moved)}'")


def _both(first: ir.Node | None, second: ir.Node | None) -> bool:
    return is_op(first, "Transpose") and is_op(second, "Transpose") and first.inputs[0] is not None
