"""Cast to a type that holds every value, then Cast to another."""

from __future__ import annotations

import onnx_ir as ir

from baker.model.graph import attribute, has_reference_attribute, is_op, label, remove_if_dead
from baker.passes.fuse._rule import FuseRule, apart
from baker.passes.fuse.cast import holds
from baker.pipeline.pass_base import Change
from baker.pipeline.rewrite import Match


class CastChain(FuseRule):
    """Leave out a Cast in front of a Cast, where it goes to a type that holds every value.

    Shapes: any.

        Cast(Cast(x, wider), t) = Cast(x, t)          such as int32 -> int64 -> float, or float16 -> float -> float16

    Error: 0.
    Declines: the type in between loses bits; the first result is read elsewhere.
    Source: ONNX Cast.
    """

    anchor = "Cast"

    def match(self, node: ir.Node) -> Match | None:
        """Finds a Cast in front of a Cast to a third type."""
        first = None if node.inputs[0] is None else node.inputs[0].producer()
        if not is_op(first, "Cast") or has_reference_attribute(node) or has_reference_attribute(first):
            return None
        source, target = first.inputs[0], ir.DataType(attribute(node, "to", 0))
        if source is None or source.dtype is None or source.dtype == target:  # `cast` removes a round trip
            return None
        return Match(first=first, node=node, source=source, between=ir.DataType(attribute(first, "to", 0)))

    def check(self, match: Match) -> str | None:
        """What is in between must hold every value."""
        if not holds(match.between, match.source.dtype):
            return f"{match.between} does not hold every {match.source.dtype}"
        return apart(match.first, match.node)

    def apply(self, match: Match) -> Change:
        """Lets the second Cast read what the first one read."""
        node, name = match.node, label(match.first)
        between = node.inputs[0]
        node.replace_input_with(0, match.source)
        remove_if_dead(between)
        return Change(self.name, name, f"merged into Cast '{label(node)}'")
