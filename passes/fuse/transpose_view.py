"""Transpose that moves single elements only, beside a node that changes the shape."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from baker.model.graph import constant_before, is_op, label, shape_of, sole_reader
from baker.passes.fuse._rule import FuseRule, apart, substitute
from baker.passes.fuse.transpose import perm_of
from baker.pipeline.pass_base import Change
from baker.pipeline.rewrite import Match

_VIEWS = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")


class TransposeView(FuseRule):
    """Make a Transpose that only moves dims of 1 a Reshape, where that merges with a Reshape beside it.

    Shapes: x with known dims of 1; at most one dim of the result is not known.

        Reshape(Transpose(x (N, 1, C), (0, 2, 1)), s) = Reshape(Reshape(x, (N, C, 1)), s) = Reshape(x, s)

    Error: 0.
    Declines: dims that are moved and not known to be 1; several dims that are not known; no Reshape, Flatten, Squeeze
        or Unsqueeze beside it that it would merge with.
    Source: ONNX Transpose and Reshape: the elements keep their order.
    """

    anchor = "Transpose"

    def match(self, node: ir.Node) -> Match | None:
        """Finds a Transpose that keeps the order of the elements."""
        perm, dims = perm_of(node), shape_of(node.inputs[0])
        if perm is None or dims is None or len(perm) != len(dims) or perm == sorted(perm):
            return None
        rest = [axis for axis in perm if dims[axis] != 1]
        return Match(node=node, target=[dims[axis] for axis in perm]) if rest == sorted(rest) else None

    def check(self, match: Match) -> str | None:
        """A neighbour must be there to merge with, and the target be writable."""
        node = match.node
        if self.facts.opset < 5:
            return "the target of Reshape is an attribute below opset 5"
        first, then = node.inputs[0].producer(), sole_reader(node.outputs[0])
        before = is_op(first, *_VIEWS) and apart(first, node) is None and not node.outputs[0].is_graph_output()
        behind = is_op(then, *_VIEWS) and then.graph is node.graph and then.inputs[0] is node.outputs[0]
        if not (before or behind):
            return "no node beside it changes the shape alone"
        if match.target.count(None) > 1 or 0 in match.target:
            return "several dims are not known"
        return None

    def apply(self, match: Match) -> Change:
        """Puts a Reshape in its place."""
        node, name = match.node, label(match.node)
        target = np.array([-1 if dim is None else dim for dim in match.target], np.int64)
        shape = constant_before(node, "shape", target)
        substitute(node, "Reshape", [node.inputs[0], shape])
        return Change(self.name, name, "Transpose of single elements became Reshape")
