"""Reshape behind another node that only changes the shape."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from baker.model.graph import attribute, constant_before, has_reference_attribute, is_op, label, remove_if_dead
from baker.passes.fuse._rule import FuseRule, apart, ints
from baker.pipeline.pass_base import Change
from baker.pipeline.rewrite import Match

_VIEWS = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")


class ReshapeChain(FuseRule):
    """Let a Reshape read what the Reshape, Flatten, Squeeze or Unsqueeze before it reads.

    Shapes: any; a 0 in the target copies a dim of the tensor in between, which must be a known number or the same
    symbol on the same axis of x.

        Reshape(Reshape(x, s), t) = Reshape(x, t)

    Error: 0.
    Declines: the first result is read elsewhere; the target is not constant; a 0 in it that x can't resolve.
    Source: ONNX Reshape; all of these keep the order of the elements.
    """

    anchor = "Reshape"

    def match(self, node: ir.Node) -> Match | None:
        """Finds the node before a Reshape."""
        first = None if node.inputs[0] is None else node.inputs[0].producer()
        target = ints(node.inputs[1]) if len(node.inputs) == 2 else None
        if not is_op(first, *_VIEWS) or target is None or first.inputs[0] is None or has_reference_attribute(node):
            return None
        return Match(first=first, node=node, target=target)

    def check(self, match: Match) -> str | None:
        """The target must mean the same for x."""
        reason = apart(match.first, match.node)
        if reason is not None:
            return reason
        match.wanted = match.target
        if not attribute(match.node, "allowzero", 0):
            between, source = match.first.outputs[0].shape, match.first.inputs[0].shape
            match.wanted = [_resolve(axis, item, between, source) for axis, item in enumerate(match.target)]
        return "a 0 in the target copies a dim that is not x's" if None in match.wanted else None

    def apply(self, match: Match) -> Change:
        """Moves the Reshape up."""
        node, name = match.node, label(match.first)
        between, target = node.inputs
        if match.wanted != match.target:
            node.replace_input_with(1, constant_before(node, target.name or "shape", np.array(match.wanted, np.int64)))
            remove_if_dead(target)
        node.replace_input_with(0, match.first.inputs[0])
        remove_if_dead(between)
        return Change(self.name, name, f"{match.first.op_type} merged into Reshape '{label(node)}'")


def _resolve(axis: int, item: int, between: ir.Shape | None, source: ir.Shape | None) -> int | None:
    if item != 0:
        return item
    if between is None or axis >= len(between):
        return None
    dim = between[axis]
    if isinstance(dim, int) and dim > 0:
        return dim
    same = source is not None and axis < len(source) and not isinstance(dim, int) and dim.value is not None
    return 0 if same and source is not None and source[axis] == dim else None
