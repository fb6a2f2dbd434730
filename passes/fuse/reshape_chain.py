"""Two nodes in a row that only change the shape."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from baker.model.graph import attribute, constant_before, has_reference_attribute, is_op, label, remove_if_dead
from baker.passes.fuse._rule import FuseRule, apart, axes_of, ints, renew, substitute
from baker.pipeline.pass_base import Change
from baker.pipeline.rewrite import Match

_VIEWS = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")


class ReshapeChain(FuseRule):
    """Make two of Reshape, Flatten, Squeeze and Unsqueeze one Reshape.

    Shapes: any. The target is the second Reshape's own, else the dims of the result: at most one of them unknown, and
    no other 0. A 0 in a target copies a dim of the tensor in between, which must be a known number, or the same symbol
    on the same axis of x.

        Reshape(Reshape(x, s), t) = Reshape(x, t)         Unsqueeze(Squeeze(x, a), b) = Reshape(x, dims of the result)

    Error: 0.
    Declines: the first result is read elsewhere; a target that can't be written as a constant; two Squeezes or two
        Unsqueezes (see squeeze-chain); a result that gives a graph output its name, whose dims are not believed.
    Source: ONNX Reshape; all of these keep the order of the elements.
    """

    anchor = _VIEWS

    def match(self, node: ir.Node) -> Match | None:
        """Finds the node in front."""
        first = None if node.inputs[0] is None else node.inputs[0].producer()
        if not is_op(first, *_VIEWS) or first.inputs[0] is None or has_reference_attribute(node):
            return None
        if first.op_type == node.op_type and not is_op(node, "Reshape"):
            return None
        return Match(first=first, node=node)

    def check(self, match: Match) -> str | None:
        """The target must mean the same for x."""
        first, node = match.first, match.node
        reason = apart(first, node)
        if reason is not None or self.facts.opset < 5:
            return reason or "the target of Reshape is an attribute below opset 5"
        if {first.op_type, node.op_type} == {"Squeeze", "Unsqueeze"} and axes_of(first) == axes_of(node):
            return "squeeze-chain removes both"
        match.target = _own_target(first, node) if is_op(node, "Reshape") else _target_of(node.outputs[0])
        return "the target is no constant for x" if match.target is None else None

    def apply(self, match: Match) -> Change:
        """Puts one Reshape in the place of both."""
        first, node, name = match.first, match.node, label(match.first)
        source, hint = first.inputs[0], "shape"
        if is_op(node, "Reshape"):
            between, target = node.inputs
            if match.target != ints(target):
                renew(node, 1, np.array(match.target, np.int64), hint)
            node.replace_input_with(0, source)
            remove_if_dead(between)
        else:
            constant = constant_before(node, hint, np.array(match.target, np.int64))
            node = substitute(node, "Reshape", [source, constant])
        return Change(self.name, name, f"{first.op_type} merged into Reshape '{label(node)}'")


def _own_target(first: ir.Node, node: ir.Node) -> list[int] | None:
    target = ints(node.inputs[1])
    if target is None or attribute(node, "allowzero", 0):
        return target
    source = None if first.inputs[0] is None else first.inputs[0].shape
    between = first.outputs[0].shape
    resolved = [_resolve(axis, item, between, source) for axis, item in enumerate(target)]
    return None if None in resolved else [item for item in resolved if item is not None]


def _resolve(axis: int, item: int, between: ir.Shape | None, source: ir.Shape | None) -> int | None:
    """What a target's 0 stands for when x is read: a number, or 0 where x has the same dim there."""
    if item != 0:
        return item
    if between is None or axis >= len(between):
        return None
    dim = between[axis]
    if isinstance(dim, int) and dim > 0:
        return dim
    same = source is not None and axis < len(source) and not isinstance(dim, int) and dim.value is not None
    return 0 if same and source is not None and source[axis] == dim else None


def _target_of(result: ir.Value) -> list[int] | None:
    """The dims of a result as a target, with at most one -1."""
    if result.shape is None or result.is_graph_output():
        return None
    target = [dim if isinstance(dim, int) else -1 for dim in result.shape]
    return None if target.count(-1) > 1 or 0 in target else target
