"""Concat with parts that hold nothing."""

from __future__ import annotations

import onnx_ir as ir

from baker.model.graph import attribute, has_reference_attribute, label, remove_if_dead, shape_of
from baker.passes.fuse._rule import FuseRule
from baker.pipeline.pass_base import Change
from baker.pipeline.rewrite import Match


class ConcatEmpty(FuseRule):
    """Leave out the parts of a Concat that have no element on its axis.

    Shapes: the part's dim on the axis is known to be 0; one part stays.

        Concat(a, empty, b) = Concat(a, b)

    Error: 0.
    Declines: all parts are empty.
    Source: ONNX Concat.
    """

    anchor = "Concat"

    def match(self, node: ir.Node) -> Match | None:
        """Finds parts of size 0."""
        if has_reference_attribute(node) or len(node.inputs) < 2:
            return None
        axis = int(attribute(node, "axis", 1))
        empty = [value for value in node.inputs if _size(value, axis) == 0]
        return Match(node=node, empty=empty) if empty else None

    def check(self, match: Match) -> str | None:
        """Something must be left."""
        return "all of its parts are empty" if len(match.empty) == len(match.node.inputs) else None

    def apply(self, match: Match) -> Change:
        """Joins the others."""
        node = match.node
        kept = [value for value in node.inputs if all(value is not empty for empty in match.empty)]
        node.resize_inputs(len(kept))
        for index, value in enumerate(kept):
            node.replace_input_with(index, value)
        remove_if_dead(*match.empty)
        return Change(self.name, label(node), f"{len(match.empty)} empty parts left out")


def _size(value: ir.Value | None, axis: int) -> int | None:
    dims = shape_of(value)
    return dims[axis] if dims is not None and -len(dims) <= axis < len(dims) else None
