"""Pad by nothing."""

from __future__ import annotations

import onnx_ir as ir

from baker.model.graph import attribute, has_reference_attribute
from baker.passes.fuse._rule import BypassRule, ints
from baker.pipeline.rewrite import Match


class Pad(BypassRule):
    """Remove a Pad whose pads are all 0, in any mode.

    Shapes: any.

        Pad(x, 0) = x

    Error: 0.
    Declines: it gives a graph output its name.
    Source: ONNX Pad.
    """

    anchor = "Pad"

    def match(self, node: ir.Node) -> Match | None:
        """Finds a Pad with constant pads of 0."""
        if node.inputs[0] is None or has_reference_attribute(node):
            return None
        given = attribute(node, "pads", None)
        pads = list(given) if given is not None else ints(node.inputs[1]) if len(node.inputs) > 1 else None
        return None if pads is None or any(pads) else Match(node=node, source=node.inputs[0], why="it pads by nothing")
