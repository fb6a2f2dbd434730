"""Two Slices in a row."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from baker.model.graph import constant_before, is_op, label, remove_if_dead
from baker.passes.fuse._rule import FuseRule, apart
from baker.passes.fuse._slices import Range, cuts_of
from baker.pipeline.pass_base import Change
from baker.pipeline.rewrite import Match

_LARGEST = 2**63 - 1


class SliceChain(FuseRule):
    """Merge a Slice into the one behind it.

    Shapes: any; all bounds are constant, axes are not negative. On an axis that both cut, steps are 1 and bounds count
    from the start.

        Slice(Slice(x, axis 1), axis 2) = Slice(x, axes 1 and 2)        x[a:b][c:d] = x[a + c : min(b, a + d)]

    Error: 0.
    Declines: the first result is read elsewhere; an axis that both cut with negative bounds or steps; opset below 10.
    Source: ONNX Slice; onnxscript's collapse_slices takes one axis only.
    """

    anchor = "Slice"

    def match(self, node: ir.Node) -> Match | None:
        """Finds the Slice in front of a Slice."""
        first = None if node.inputs[0] is None else node.inputs[0].producer()
        inner, outer = cuts_of(first) if is_op(first, "Slice") else None, cuts_of(node)
        return None if inner is None or outer is None else Match(first=first, node=node, inner=inner, outer=outer)

    def check(self, match: Match) -> str | None:
        """The cuts must be of different axes, or both simple."""
        if self.facts.opset < 10:
            return "the bounds are attributes below opset 10"
        match.cuts = merged(match.inner, match.outer)
        if match.cuts is None:
            return "an axis is cut twice, and not simply, or is negative"
        return apart(match.first, match.node)

    def apply(self, match: Match) -> Change:
        """Lets the second Slice cut all axes."""
        node, name = match.node, label(match.first)
        old, cuts = list(node.inputs), sorted(match.cuts.items())
        columns: dict[str, list[int]] = {
            "starts": [cut.start for _, cut in cuts],
            "ends": [cut.end for _, cut in cuts],
            "axes": [axis for axis, _ in cuts],
            "steps": [cut.step for _, cut in cuts],
        }
        if all(step == 1 for step in columns["steps"]):
            del columns["steps"]
        node.resize_inputs(1 + len(columns))
        for index, (hint, column) in enumerate(columns.items(), start=1):
            node.replace_input_with(index, constant_before(node, hint, np.array(column, np.int64)))
        node.replace_input_with(0, match.first.inputs[0])
        remove_if_dead(*old)
        return Change(self.name, name, f"merged into Slice '{label(node)}'")


def merged(inner: dict[int, Range], outer: dict[int, Range]) -> dict[int, Range] | None:
    """The cuts of both at once, None where they can't be one."""
    if any(axis < 0 for axis in (*inner, *outer)):
        return None
    cuts = inner | outer
    for axis in inner.keys() & outer.keys():
        a, b = inner[axis], outer[axis]
        if a.step != 1 or b.step != 1 or min(a.start, a.end, b.start, b.end) < 0:
            return None
        cuts[axis] = Range(min(a.start + b.start, _LARGEST), min(a.end, a.start + b.end), 1)
    return cuts
