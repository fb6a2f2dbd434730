"""SequenceAt of a sequence that was just made."""

from __future__ import annotations

import onnx_ir as ir

from baker.model.graph import is_op
from baker.passes.fuse._rule import BypassRule, ints
from baker.pipeline.rewrite import Match


class SequenceAt(BypassRule):
    """Let who takes one tensor out of a sequence that was made of tensors read the tensor.

    Shapes: any; the position is a constant.

        SequenceAt(SequenceConstruct(a, b, c), 1) = b

    Error: 0.
    Declines: a position beyond the sequence; it gives a graph output its name.
    Source: ONNX SequenceConstruct and SequenceAt.
    """

    anchor = "SequenceAt"

    def match(self, node: ir.Node) -> Match | None:
        """Finds the tensor at the position."""
        made = None if node.inputs[0] is None else node.inputs[0].producer()
        position = ints(node.inputs[1]) if is_op(made, "SequenceConstruct") else None
        if made is None or position is None or len(position) != 1:
            return None
        inside = -len(made.inputs) <= position[0] < len(made.inputs)
        source = made.inputs[position[0]] if inside else node.inputs[0]
        return Match(node=node, source=source, inside=inside, why=f"it takes number {position[0]} of a known sequence")

    def check(self, match: Match) -> str | None:
        """The sequence must have so many tensors."""
        return super().check(match) if match.inside else "the sequence is shorter"
