"""Reduction that drops its axes, then Unsqueeze that puts them back."""

from __future__ import annotations

import onnx_ir as ir

from baker.model.graph import attribute, has_reference_attribute, is_op, label, shape_of
from baker.passes.fuse._rule import FuseRule, apart, axes_of, bypass, ints
from baker.pipeline.pass_base import Change
from baker.pipeline.rewrite import Match

_REDUCTIONS = ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2")
_INDICES = ("ArgMax", "ArgMin")


class ReduceUnsqueeze(FuseRule):
    """Let a reduction keep the axes that an Unsqueeze behind it puts back.

    Shapes: x any; the axes are constant and the same, counted from the same end where the rank is unknown.

        Unsqueeze(ReduceMean(x, a, keepdims = 0), a) = ReduceMean(x, a, keepdims = 1)

    Error: 0.
    Declines: the reduced tensor is read elsewhere; other or unknown axes; a reduction over all axes.
    Source: ONNX Reduce*, ArgMax and ArgMin.
    """

    anchor = "Unsqueeze"

    def match(self, node: ir.Node) -> Match | None:
        """Finds the reduction in front of an Unsqueeze."""
        reduce = None if node.inputs[0] is None else node.inputs[0].producer()
        if (
            not is_op(reduce, *_REDUCTIONS, *_INDICES)
            or has_reference_attribute(reduce)
            or has_reference_attribute(node)
        ):
            return None
        return Match(reduce=reduce, node=node) if attribute(reduce, "keepdims", 1) == 0 else None

    def check(self, match: Match) -> str | None:
        """The axes must be those that went."""
        reduce, node = match.reduce, match.node
        gone, back = _reduced(reduce), axes_of(node)
        if not gone or back is None:
            return "the axes are not constant"
        dims = shape_of(reduce.inputs[0])
        if dims is not None:
            gone, back = [axis % len(dims) for axis in gone], [axis % len(dims) for axis in back]
        if sorted(gone) != sorted(back):
            return f"the axes {gone} and {back} differ"
        return apart(reduce, node)

    def apply(self, match: Match) -> Change:
        """Sets keepdims and removes the Unsqueeze."""
        reduce, node, name = match.reduce, match.node, label(match.node)
        reduce.attributes.add(ir.AttrInt64("keepdims", 1))
        reduce.outputs[0].shape = node.outputs[0].shape
        bypass(node, reduce.outputs[0])
        return Change(self.name, name, f"{reduce.op_type} '{label(reduce)}' keeps the axes")


def _reduced(node: ir.Node) -> list[int] | None:
    if is_op(node, *_INDICES):
        return [int(attribute(node, "axis", 0))]
    given = attribute(node, "axes", None)
    if given is not None:
        return list(given)
    return ints(node.inputs[1]) if len(node.inputs) > 1 else None
