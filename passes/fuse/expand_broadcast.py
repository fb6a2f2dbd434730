"""Expand in front of an operator that broadcasts."""

from __future__ import annotations

import onnx_ir as ir

from baker.model.graph import has_reference_attribute, is_op, label, remove_if_dead, shape_of
from baker.passes.fuse._rule import FuseRule
from baker.passes.fuse.neutral_operand import broadcast_fault
from baker.pipeline.pass_base import Change
from baker.pipeline.rewrite import Match

_BROADCASTS = (
    *("Add", "Sub", "Mul", "Div", "Pow", "And", "Or", "Xor", "Equal", "Less", "Greater"),
    *("LessOrEqual", "GreaterOrEqual", "Max", "Min", "Sum", "Mean", "Where", "Mod", "PRelu"),
)


class ExpandBroadcast(FuseRule):
    """Leave out an Expand whose result is combined with a tensor of its shape, by an operator that broadcasts.

    Shapes: another operand has every dim of the expanded tensor, or 1 where that is 1: equal numbers or one symbol.

        Expand(x, shape of y) + y = x + y

    Error: 0.
    Declines: no other operand is known to be as large; opset below 7, where broadcasting is an attribute.
    Source: ONNX broadcasting.
    """

    anchor = _BROADCASTS

    def match(self, node: ir.Node) -> Match | None:
        """Finds an Expand among the operands; PRelu broadcasts its slope alone."""
        if has_reference_attribute(node):
            return None
        for index, value in enumerate(node.inputs):
            expand = None if value is None or (node.op_type == "PRelu" and index == 0) else value.producer()
            if is_op(expand, "Expand") and expand.inputs[0] is not None:
                return Match(expand=expand, node=node)
        return None

    def check(self, match: Match) -> str | None:
        """One of the other operands must have all that the Expand gives."""
        expand, node = match.expand, match.node
        if self.facts.opset < 7:
            return "broadcasting is an attribute below opset 7"
        expanded = expand.outputs[0]
        if expanded.is_graph_output() and shape_of(expanded) is not None:
            return "the shape of a graph output is only declared"
        others = [value for value in node.inputs if value is not None and value is not expanded]
        if node.op_type == "PRelu":
            others = [node.inputs[0]]
        if not any(_covers(other, expanded) for other in others):
            return "no other operand is known to be as large"
        return None

    def apply(self, match: Match) -> Change:
        """Reads what is expanded."""
        expand, node = match.expand, match.node
        name, expanded = label(expand), expand.outputs[0]
        for index, value in enumerate(node.inputs):
            if value is expanded:
                node.replace_input_with(index, expand.inputs[0])
        remove_if_dead(expanded)
        return Change(self.name, name, f"left out: {node.op_type} '{label(node)}' broadcasts")


def _covers(other: ir.Value, expanded: ir.Value) -> bool:
    """True when an operand has at least the dims of the expanded tensor, so that it broadcasts x as far."""
    return other.shape is not None and expanded.shape is not None and broadcast_fault(other, expanded) is None
