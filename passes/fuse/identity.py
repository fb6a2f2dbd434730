"""Identity."""

from __future__ import annotations

import onnx_ir as ir

from baker.passes.fuse._rule import BypassRule
from baker.pipeline.rewrite import Match


class Identity(BypassRule):
    """Remove an Identity.

    Shapes: any tensor, sequence or optional.

        Identity(x) = x

    Error: 0.
    Declines: it gives a graph output the value of an input, an initializer, an outer value or another output.
    Source: ONNX Identity.
    """

    anchor = "Identity"

    def match(self, node: ir.Node) -> Match | None:
        """Matches every Identity."""
        source = node.inputs[0]
        return None if source is None else Match(node=node, source=source, why="Identity")
