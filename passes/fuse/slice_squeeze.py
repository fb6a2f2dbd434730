"""Slice of one element of an axis, then Squeeze of that axis."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from baker.model.graph import constant_before, has_reference_attribute, is_op, label
from baker.passes.fuse._rule import FuseRule, apart, axes_of, substitute
from baker.passes.fuse._slices import cuts_of
from baker.pipeline.pass_base import Change
from baker.pipeline.rewrite import Match

_OPEN_END = 2**31 - 1


class SliceSqueeze(FuseRule):
    """Make a Slice of one element and the Squeeze of its axis one Gather.

    Shapes: x any, axis a of at least i + 1 elements (else the Squeeze would fail).

        Squeeze(Slice(x, i, i + 1, a), a) = Gather(x, i, axis = a)

    Error: 0.
    Declines: the slice is read elsewhere; bounds, axis or step not constant, more than one element or axis; opset below
        11, where Gather takes no negative index.
    Source: ONNX Slice, Squeeze and Gather.
    """

    anchor = "Squeeze"

    def match(self, node: ir.Node) -> Match | None:
        """Finds the Slice in front of a Squeeze."""
        cut = None if node.inputs[0] is None else node.inputs[0].producer()
        if not is_op(cut, "Slice") or has_reference_attribute(node):
            return None
        return Match(cut=cut, node=node)

    def check(self, match: Match) -> str | None:
        """The slice must be one element of the axis that goes."""
        cut, node = match.cut, match.node
        cuts = cuts_of(cut)
        if cuts is None or len(cuts) != 1:
            return "it is no constant slice of one axis"
        ((axis, (start, end, step)),) = cuts.items()
        if step != 1 or not _one(start, end):
            return f"the slice {start}:{end}:{step} is not one element"
        if axes_of(node) != [axis] or self.facts.opset < 11:
            return "another axis is squeezed" if self.facts.opset >= 11 else "Gather takes no negative index"
        match.index, match.axis = start, axis
        return apart(cut, node)

    def apply(self, match: Match) -> Change:
        """Puts a Gather in the place of both."""
        node, name = match.node, label(match.cut)
        index = constant_before(node, "index", np.array(match.index, np.int64))
        gather = substitute(node, "Gather", [match.cut.inputs[0], index], axis=match.axis)
        return Change(self.name, name, f"Slice and Squeeze became Gather '{label(gather)}'")


def _one(start: int, end: int) -> bool:
    if start == -1:
        return end == 0 or end >= _OPEN_END
    return end == start + 1
