"""Concat of a Concat."""

from __future__ import annotations

import onnx_ir as ir

from baker.model.graph import attribute, has_reference_attribute, is_op, label, remove_if_dead, shape_of
from baker.passes.fuse._rule import FuseRule, apart
from baker.pipeline.pass_base import Change
from baker.pipeline.rewrite import Match


class ConcatChain(FuseRule):
    """Merge a Concat into the Concat on the same axis that reads it.

    Shapes: any; a negative axis needs the rank.

        Concat(Concat(a, b), c) = Concat(a, b, c)

    Error: 0.
    Declines: the inner result is read elsewhere, or more than once; another axis.
    Source: ONNX Concat.
    """

    anchor = "Concat"

    def match(self, node: ir.Node) -> Match | None:
        """Finds a Concat among the operands of a Concat."""
        for value in node.inputs:
            inner = None if value is None else value.producer()
            if is_op(inner, "Concat") and not has_reference_attribute(inner) and not has_reference_attribute(node):
                return Match(inner=inner, node=node)
        return None

    def check(self, match: Match) -> str | None:
        """Both must join the same axis, for one reader alone."""
        inner, node = match.inner, match.node
        a, b = attribute(inner, "axis", 1), attribute(node, "axis", 1)
        dims = shape_of(inner.outputs[0])
        if a != b and (dims is None or (a - b) % len(dims) != 0):
            return f"the axes {a} and {b} differ, or may"
        if len(inner.outputs[0].uses()) != 1:
            return f"the output of {label(inner)} is read elsewhere"
        return apart(inner, node)

    def apply(self, match: Match) -> Change:
        """Puts the inner operands in the place of the inner result."""
        inner, node, name = match.inner, match.node, label(match.inner)
        between = inner.outputs[0]
        operands = [v for value in node.inputs for v in (inner.inputs if value is between else [value])]
        node.resize_inputs(len(operands))
        for index, value in enumerate(operands):
            node.replace_input_with(index, value)
        remove_if_dead(between)
        return Change(self.name, name, f"merged into Concat '{label(node)}'")
