"""Clip, then Relu."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from baker.model.graph import constant_value, is_constant, is_op, label
from baker.passes.fuse._rule import FuseRule, apart, bypass, renew, scalar
from baker.pipeline.pass_base import Change
from baker.pipeline.rewrite import Match


class ClipRelu(FuseRule):
    """Merge a Relu into the Clip in front of it.

    Shapes: any; the bounds are constants of one element, or left out.

        Relu(Clip(x, a, b)) = Clip(x, max(a, 0), b)          b >= 0

    Error: 0.
    Declines: the Clip's result is read elsewhere; bounds that are not constant; an upper bound below 0; opset below 11,
        where they are attributes.
    Source: ONNX Clip and Relu.
    """

    anchor = "Relu"

    def match(self, node: ir.Node) -> Match | None:
        """Finds the Clip in front of a Relu."""
        clip = None if node.inputs[0] is None else node.inputs[0].producer()
        return Match(clip=clip, node=node) if is_op(clip, "Clip") else None

    def check(self, match: Match) -> str | None:
        """The bounds must be known, and leave something from 0 on."""
        clip = match.clip
        if self.facts.opset < 11:
            return "the bounds are attributes below opset 11"
        given = [value for value in clip.inputs[1:] if value is not None]
        if not given or not all(is_constant(value) and scalar(value) is not None for value in given):
            return "a bound is not a constant of one element"
        high = clip.inputs[2] if len(clip.inputs) > 2 else None
        if high is not None and not scalar(high) >= 0:  # type: ignore[operator]  # asked above
            return "its upper bound is below 0"
        match.dtype = _type(given[0])
        return apart(clip, match.node)

    def apply(self, match: Match) -> Change:
        """Raises the lower bound to 0 and removes the Relu."""
        clip, node, name = match.clip, match.node, label(match.node)
        low = scalar(clip.inputs[1])
        if low is None or low < 0:
            renew(clip, 1, np.zeros((), match.dtype), "min")
        bypass(node, clip.outputs[0])
        return Change(self.name, name, f"merged into Clip '{label(clip)}'")


def _type(value: ir.Value) -> np.dtype[np.generic]:
    array = constant_value(value)
    assert array is not None  # is_constant said so
    return array.dtype
