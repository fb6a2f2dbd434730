"""Squeeze and Unsqueeze in a row."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from baker.model.graph import (
    can_replace,
    constant_before,
    has_reference_attribute,
    is_op,
    label,
    remove_if_dead,
)
from baker.passes.fuse._rule import FuseRule, apart, axes_of, bypass
from baker.pipeline.pass_base import Change
from baker.pipeline.rewrite import Match


class SqueezeChain(FuseRule):
    """Merge two Squeezes or two Unsqueezes, and remove a pair that undoes itself.

    Shapes: any; axes are constant and, where two nodes are merged, not negative.

        Squeeze(Unsqueeze(x, a), a) = x                     Unsqueeze(Squeeze(x, a), a) = x
        Squeeze(Squeeze(x, a), b) = Squeeze(x, a + b')      Unsqueeze(Unsqueeze(x, a), b) = Unsqueeze(x, a' + b)

    where b' and a' are the axes as the outermost shape counts them.

    Error: 0.
    Declines: the first result is read elsewhere (for a merge); axes that are not constant, or negative.
    Source: ONNX Squeeze and Unsqueeze.
    """

    anchor = ("Squeeze", "Unsqueeze")

    def match(self, node: ir.Node) -> Match | None:
        """Finds the Squeeze or Unsqueeze in front of another."""
        first = None if node.inputs[0] is None else node.inputs[0].producer()
        if not is_op(first, "Squeeze", "Unsqueeze") or has_reference_attribute(node) or has_reference_attribute(first):
            return None
        inner, outer = axes_of(first), axes_of(node)
        if inner is None or outer is None or first.inputs[0] is None:
            return None
        return Match(first=first, node=node, inner=inner, outer=outer, undone=first.op_type != node.op_type)

    def check(self, match: Match) -> str | None:
        """A pair must name the same axes; two of a kind must be countable."""
        first, node = match.first, match.node
        if match.undone:
            if sorted(match.inner) != sorted(match.outer):
                return f"the axes {match.inner} and {match.outer} differ"
            named = not can_replace(node.outputs[0], first.inputs[0])
            return f"it gives the output '{node.outputs[0].name}' its name" if named else None
        if any(axis < 0 for axis in (*match.inner, *match.outer)):
            return "an axis is negative"
        return apart(first, node)

    def apply(self, match: Match) -> Change:
        """Removes the pair, or the first of two."""
        first, node, name = match.first, match.node, label(match.first)
        if match.undone:
            bypass(node, first.inputs[0])
            return Change(self.name, name, f"{first.op_type} removed together with the {node.op_type} that undid it")
        squeeze = is_op(node, "Squeeze")
        kept, other = (match.inner, match.outer) if squeeze else (match.outer, match.inner)
        axes = sorted([*kept, *_counted(other, kept)])
        between = node.inputs[0]
        if "axes" in node.attributes:
            node.attributes.add(ir.AttrInt64s("axes", axes))
        else:
            old = node.inputs[1]
            node.replace_input_with(1, constant_before(node, old.name or "axes", np.array(axes, np.int64)))
            remove_if_dead(old)
        node.replace_input_with(0, first.inputs[0])
        remove_if_dead(between)
        return Change(self.name, name, f"merged into {node.op_type} '{label(node)}'")


def _counted(axes: list[int], gaps: list[int]) -> list[int]:
    """The axes of a shape, as counted in the larger shape that also has the axes ``gaps``."""
    taken = set(gaps)
    free = [axis for axis in range(max([*axes, 0]) + len(gaps) + 1) if axis not in taken]
    return [free[axis] for axis in axes]
