"""ConcatFromSequence of a sequence that was just made."""

from __future__ import annotations

import onnx_ir as ir

from baker.model.graph import attribute, has_reference_attribute, is_op, label
from baker.passes.fuse._rule import FuseRule, apart, substitute
from baker.pipeline.pass_base import Change
from baker.pipeline.rewrite import Match


class SequenceConcat(FuseRule):
    """Join tensors as they are, instead of making a sequence of them first.

    Shapes: any.

        ConcatFromSequence(SequenceConstruct(a, b)) = Concat(a, b)

    Error: 0.
    Declines: the sequence is read elsewhere; a new axis.
    Source: ONNX SequenceConstruct, ConcatFromSequence and Concat.
    """

    anchor = "ConcatFromSequence"

    def match(self, node: ir.Node) -> Match | None:
        """Finds the SequenceConstruct."""
        made = None if node.inputs[0] is None else node.inputs[0].producer()
        if not is_op(made, "SequenceConstruct") or has_reference_attribute(node):
            return None
        return Match(made=made, node=node)

    def check(self, match: Match) -> str | None:
        """The tensors must be joined on an axis that they have, for this node alone."""
        if attribute(match.node, "new_axis", 0):
            return "it makes a new axis"
        return apart(match.made, match.node)

    def apply(self, match: Match) -> Change:
        """Puts a Concat in the place of both."""
        made, node, name = match.made, match.node, label(match.made)
        joined = substitute(node, "Concat", list(made.inputs), axis=int(attribute(node, "axis", 0)))
        return Change(self.name, name, f"SequenceConstruct and ConcatFromSequence became Concat '{label(joined)}'")
