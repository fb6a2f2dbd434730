"""Relu or Clip, then Clip."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from baker.model.graph import is_constant, is_op, label, remove_if_dead
from baker.passes.fuse._linear import read
from baker.passes.fuse._rule import FuseRule, apart, renew, scalar
from baker.pipeline.pass_base import Change
from baker.pipeline.rewrite import Match


class ClipChain(FuseRule):
    """Merge a Relu or Clip into the Clip behind it.

    Shapes: any; bounds are constants of one element, those of the second Clip in ascending order.

        Clip(Relu(x), a, b) = Clip(x, max(a, 0), b)         Clip(Clip(x, c, d), a, b) = Clip(x, max(a, c), min(b, d))

    Error: 0.
    Declines: the first result is read elsewhere; bounds that are not constant, or leave nothing in between; opset below
        11, where they are attributes.
    Source: ONNX Clip.
    """

    anchor = "Clip"

    def match(self, node: ir.Node) -> Match | None:
        """Finds the Relu or Clip in front of a Clip."""
        first = None if node.inputs[0] is None else node.inputs[0].producer()
        return Match(first=first, node=node) if is_op(first, "Relu", "Clip") else None

    def check(self, match: Match) -> str | None:
        """Both ranges must be known and overlap."""
        first, node = match.first, match.node
        if self.facts.opset < 11:
            return "the bounds are attributes below opset 11"
        inner = (0.0, np.inf) if is_op(first, "Relu") else _bounds(first)
        outer = _bounds(node)
        if inner is None or outer is None or not any(is_constant(value) for value in node.inputs[1:]):
            return "a bound is not a constant of one element"
        low, high = max(inner[0], outer[0]), min(inner[1], outer[1])
        if low > high:
            return "the ranges do not overlap"
        match.bounds = (low, high)
        return apart(first, node)

    def apply(self, match: Match) -> Change:
        """Narrows the second range to the first."""
        first, node, name = match.first, match.node, label(match.first)
        dtype = next(read(value).dtype for value in node.inputs[1:] if is_constant(value))
        for index, bound in enumerate(match.bounds, start=1):
            if np.isfinite(bound) and (index >= len(node.inputs) or _number(node.inputs[index]) != bound):
                renew(node, index, np.array(bound, dtype), ("min", "max")[index - 1])
        between = node.inputs[0]
        node.replace_input_with(0, first.inputs[0])
        remove_if_dead(between)
        return Change(self.name, name, f"{first.op_type} merged into Clip '{label(node)}'")


def _number(value: ir.Value | None) -> float | None:
    """The number in a constant of one element; a whole one is exact, as a float64 above 2**53 would not be."""
    if not is_constant(value) or scalar(value) is None:
        return None
    number: float = read(value).reshape(-1)[0].item()
    return number


def _bounds(clip: ir.Node) -> tuple[float, float] | None:
    found: list[float] = []
    for index, default in ((1, -np.inf), (2, np.inf)):
        given = index < len(clip.inputs) and clip.inputs[index] is not None
        bound = _number(clip.inputs[index]) if given else default
        if bound is None:
            return None
        found.append(bound)
    return found[0], found[1]
