"""Transpose that moves nothing, and Transposes in a row."""

from __future__ import annotations

import onnx_ir as ir

from baker.model.graph import attribute, can_replace, has_reference_attribute, is_op, label, remove_if_dead, shape_of
from baker.passes.fuse._rule import FuseRule, bypass
from baker.pipeline.pass_base import Change
from baker.pipeline.rewrite import Match


class Transpose(FuseRule):
    """Merge a Transpose with the one before it, and remove one that leaves every axis where it is.

    Shapes: any; a Transpose without `perm` reverses all axes, so its rank must be known.

        Transpose(Transpose(x, p), q) = Transpose(x, p[q])         Transpose(x, (0, 1, ...)) = x

    Error: 0.
    Declines: it gives a graph output its name and would be the identity.
    Source: ONNX Transpose.
    """

    anchor = "Transpose"

    def match(self, node: ir.Node) -> Match | None:
        """Finds a Transpose that is the identity, or stands behind another."""
        source, perm = node.inputs[0], perm_of(node)
        if source is None or perm is None:
            return None
        first = source.producer()
        inner = perm_of(first) if is_op(first, "Transpose") else None
        if inner is not None and first is not None and len(inner) == len(perm):
            source, perm = first.inputs[0], [inner[axis] for axis in perm]
        elif perm != sorted(perm):
            return None
        return Match(node=node, source=source, perm=perm, same=perm == sorted(perm))

    def check(self, match: Match) -> str | None:
        """An identity can only go where its output's name can."""
        if match.same and not can_replace(match.node.outputs[0], match.source):
            return f"it gives the output '{match.node.outputs[0].name}' its name"
        return None

    def apply(self, match: Match) -> Change:
        """Removes the Transpose, or lets it read what the first one read."""
        node, name = match.node, label(match.node)
        if match.same:
            bypass(node, match.source)
            return Change(self.name, name, "Transpose removed: no axis moves")
        between = node.inputs[0]
        node.attributes.add(ir.AttrInt64s("perm", match.perm))
        node.replace_input_with(0, match.source)
        remove_if_dead(between)
        return Change(self.name, name, "merged with the Transpose before it")


def perm_of(node: ir.Node | None) -> list[int] | None:
    """Where each axis of a Transpose comes from; None where the rank is needed and not known."""
    if node is None or has_reference_attribute(node):
        return None
    given = attribute(node, "perm", None)
    if given is not None:
        return list(given)
    dims = shape_of(node.inputs[0])
    return None if dims is None else list(reversed(range(len(dims))))
