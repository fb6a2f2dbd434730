"""Gather of every index, in order."""

from __future__ import annotations

import onnx_ir as ir

from baker.model.graph import attribute, shape_of
from baker.passes.fuse._rule import BypassRule, ints
from baker.pipeline.rewrite import Match

_MOST = 1 << 16  # indices that are read for a hope


class GatherAll(BypassRule):
    """Remove a Gather whose indices are all of the axis, in order.

    Shapes: x any, its dim on the axis known; the indices a constant vector.

        Gather(x, [0, 1, ..., n - 1]) = x

    Error: 0.
    Declines: it gives a graph output its name.
    Source: ONNX Gather.
    """

    anchor = "Gather"

    def match(self, node: ir.Node) -> Match | None:
        """Finds a Gather whose constant indices count the whole axis."""
        source, indices = node.inputs[0], node.inputs[1]
        dims, given, axis = shape_of(source), shape_of(indices), int(attribute(node, "axis", 0))
        if source is None or dims is None or given is None or len(given) != 1 or not -len(dims) <= axis < len(dims):
            return None
        (count,) = given
        if not count or count > _MOST or dims[axis] != count:
            return None
        found = ints(indices)
        counted = None if found is None else [index + count if index < 0 else index for index in found]
        if counted != list(range(count)):
            return None
        return Match(node=node, source=source, why=f"it takes all {count}, in order")
