"""Relu behind something that is not negative."""

from __future__ import annotations

import onnx_ir as ir

from baker.model.graph import attribute, is_op
from baker.passes.fuse._rule import BypassRule, scalar
from baker.pipeline.rewrite import Match

_NOT_NEGATIVE = ("Relu", "Sigmoid", "HardSigmoid", "Softmax", "Exp", "Abs", "Sqrt")


class Relu(BypassRule):
    """Remove a Relu whose input is never negative.

    Shapes: any.

        Relu(Relu(x)) = Relu(x)      Relu(Sigmoid(x)) = Sigmoid(x)      Relu(Clip(x, 0, h)) = Clip(x, 0, h)

    Error: 0.
    Declines: it gives a graph output its name and can't take the input over.
    Source: the ranges of the ONNX operators.
    """

    anchor = "Relu"

    def match(self, node: ir.Node) -> Match | None:
        """Finds a Relu behind an operator whose range is known."""
        source = node.inputs[0]
        first = None if source is None else source.producer()
        if source is None or first is None or not never_negative(source):
            return None
        return Match(node=node, source=source, why=f"{first.op_type} is never negative")


def never_negative(value: ir.Value) -> bool:
    """True when a value comes from an operator that gives no negative number (NaN it may be)."""
    node = value.producer()
    return is_op(node, *_NOT_NEGATIVE) or (is_op(node, "Clip") and _from_zero(node))


def _from_zero(clip: ir.Node) -> bool:
    """True when both bounds are known not to be negative: where they cross, the upper one is the result."""
    if len(clip.inputs) < 2:  # attributes below opset 11
        return float(attribute(clip, "min", -1.0)) >= 0 and float(attribute(clip, "max", 1.0)) >= 0
    low, high = (scalar(value) for value in [*clip.inputs[1:3], None][:2])
    no_limit = len(clip.inputs) < 3 or clip.inputs[2] is None
    return low is not None and low >= 0 and (no_limit or (high is not None and high >= 0))
