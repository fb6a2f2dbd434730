"""Concat, then Split into the parts that were joined."""

from __future__ import annotations

import onnx_ir as ir

from baker.model.graph import (
    attribute,
    can_replace,
    has_reference_attribute,
    is_op,
    label,
    remove_if_dead,
    replace_value,
    shape_of,
)
from baker.passes.fuse._rule import FuseRule, ints
from baker.pipeline.pass_base import Change
from baker.pipeline.rewrite import Match


class ConcatSplit(FuseRule):
    """Remove a Split that takes apart what a Concat joined.

    Shapes: the dims of all parts on the axis are known, and those of the Split are the same, in order.

        Split(Concat(a, b)) = a, b

    Error: 0.
    Declines: the axes or the dims differ, or may; it gives a graph output its name.
    Source: ONNX Split and Concat.
    """

    anchor = "Split"

    def match(self, node: ir.Node) -> Match | None:
        """Finds the Concat in front of a Split with as many parts."""
        concat = None if node.inputs[0] is None else node.inputs[0].producer()
        if not is_op(concat, "Concat") or has_reference_attribute(concat) or has_reference_attribute(node):
            return None
        return Match(concat=concat, node=node) if len(concat.inputs) == len(node.outputs) else None

    def check(self, match: Match) -> str | None:
        """Each part must be as large as before."""
        concat, node = match.concat, match.node
        dims, a, b = shape_of(concat.inputs[0]), attribute(concat, "axis", 1), attribute(node, "axis", 0)
        if dims is None or (a - b) % len(dims):
            return f"the axes {a} and {b} differ, or may"
        sizes = [None if (dims := shape_of(part)) is None else dims[a] for part in concat.inputs]
        if None in sizes or sizes != _cut(node, sum(size or 0 for size in sizes)):
            return "the parts are of other sizes, or may be"
        for part, output in zip(concat.inputs, node.outputs, strict=True):
            if not can_replace(output, part):
                return f"it gives the output '{output.name}' its name"
        named = [part for part, out in zip(concat.inputs, node.outputs, strict=True) if out.is_graph_output()]
        return "it gives two outputs their names" if len(set(named)) < len(named) else None

    def apply(self, match: Match) -> Change:
        """Lets the readers of each part read what was joined."""
        concat, node, name = match.concat, match.node, label(match.node)
        joined = label(concat)
        outputs = list(node.outputs)
        for part, output in zip(list(concat.inputs), outputs, strict=True):
            replace_value(output, part)
        remove_if_dead(*outputs)
        return Change(self.name, name, f"Split removed: it undid Concat '{joined}'")


def _cut(node: ir.Node, total: int) -> list[int] | None:
    """The sizes of a Split's parts, None where they are not constant."""
    given = attribute(node, "split", None)
    if given is not None:
        return list(given)
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        return ints(node.inputs[1])
    count = len(node.outputs)
    return None if total % count else [total // count] * count
