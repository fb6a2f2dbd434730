"""Dropout in inference mode."""

from __future__ import annotations

import onnx_ir as ir

from baker.model.graph import attribute, has_reference_attribute
from baker.passes.fuse._rule import BypassRule, scalar
from baker.pipeline.rewrite import Match


class Dropout(BypassRule):
    """Remove a Dropout that is not in training mode.

    Shapes: any.

        Dropout(x) = x

    Error: 0.
    Declines: training mode, or a mode that is not constant; the mask is read.
    Source: ONNX Dropout, versions 7 to 22; below 7 `is_test` must be set.
    """

    anchor = "Dropout"

    def match(self, node: ir.Node) -> Match | None:
        """Matches every Dropout."""
        source = node.inputs[0]
        return None if source is None else Match(node=node, source=source, why="Dropout does nothing in inference")

    def check(self, match: Match) -> str | None:
        """The mode must be known to be inference, and nobody may read the mask."""
        node = match.node
        if any(value.uses() or value.is_graph_output() for value in node.outputs[1:]):
            return "its mask is read"
        if has_reference_attribute(node):
            return "an attribute is a parameter of the enclosing function"
        if self.facts.opset < 7 and not attribute(node, "is_test", 0):
            return "it is in training mode"
        if len(node.inputs) > 2 and node.inputs[2] is not None and scalar(node.inputs[2]) != 0:
            return "it is in training mode, or may be"
        return super().check(match)
