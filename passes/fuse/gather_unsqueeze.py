"""Gather of one element of an axis, then Unsqueeze of that axis."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from baker.model.graph import attribute, constant_before, has_reference_attribute, is_op, label, shape_of
from baker.passes.fuse._rule import FuseRule, apart, axes_of, ints, substitute
from baker.pipeline.pass_base import Change
from baker.pipeline.rewrite import Match

_TO_THE_END = 2**63 - 1


class GatherUnsqueeze(FuseRule):
    """Make the Gather of one element and the Unsqueeze that gives its axis back one Slice.

    Shapes: x any, the index a constant scalar.

        Unsqueeze(Gather(x, i, axis = a), a) = Slice(x, i, i + 1, a)

    Error: 0.
    Declines: the gathered tensor is read elsewhere; an index that is no constant scalar; another axis; opset below 10.
    Source: ONNX Gather, Unsqueeze and Slice.
    """

    anchor = "Unsqueeze"

    def match(self, node: ir.Node) -> Match | None:
        """Finds the Gather in front of an Unsqueeze."""
        gather = None if node.inputs[0] is None else node.inputs[0].producer()
        if not is_op(gather, "Gather") or has_reference_attribute(gather) or has_reference_attribute(node):
            return None
        return Match(gather=gather, node=node)

    def check(self, match: Match) -> str | None:
        """The index must be one number, the axis the one that went."""
        gather, node = match.gather, match.node
        index, back = ints(gather.inputs[1]), axes_of(node)
        if index is None or shape_of(gather.inputs[1]) != () or self.facts.opset < 10:
            return "the index is no constant scalar" if self.facts.opset >= 10 else "Slice needs opset 10"
        axis, dims = int(attribute(gather, "axis", 0)), shape_of(gather.inputs[0])
        if back is None or len(back) != 1:
            return "the axes are not one constant"
        rank = len(dims) if dims is not None else None
        if back[0] != axis and (rank is None or (back[0] - axis) % rank):
            return f"the axes {axis} and {back[0]} differ, or may"
        match.index, match.axis = index[0], axis
        return apart(gather, node)

    def apply(self, match: Match) -> Change:
        """Puts a Slice in the place of both."""
        node, name = match.node, label(match.gather)
        end = _TO_THE_END if match.index == -1 else match.index + 1
        bounds = {"starts": match.index, "ends": end, "axes": match.axis}
        inputs = [constant_before(node, hint, np.array([number], np.int64)) for hint, number in bounds.items()]
        cut = substitute(node, "Slice", [match.gather.inputs[0], *inputs])
        return Change(self.name, name, f"Gather and Unsqueeze became Slice '{label(cut)}'")
