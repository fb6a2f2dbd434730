"""Two Pads in a row."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from baker.model.graph import attribute, constant_before, is_op, label, remove_if_dead, shape_of
from baker.passes.fuse._pads import all_pads, pad_value
from baker.passes.fuse._rule import FuseRule, apart
from baker.pipeline.pass_base import Change
from baker.pipeline.rewrite import Match


class PadChain(FuseRule):
    """Merge a Pad into the one behind it.

    Shapes: x of known rank; all pads are constant and 0 or more.

        Pad(Pad(x, p, c), q, c) = Pad(x, p + q, c)          Pad(Pad(x, p, edge), q, edge) = Pad(x, p + q, edge)

    Error: 0.
    Declines: the first result is read elsewhere; modes that differ, or mirror; values that differ, or are not constant;
        negative pads; opset below 11, where they are attributes.
    Source: ONNX Pad.
    """

    anchor = "Pad"

    def match(self, node: ir.Node) -> Match | None:
        """Finds the Pad in front of a Pad."""
        first = None if node.inputs[0] is None else node.inputs[0].producer()
        return Match(first=first, node=node) if is_op(first, "Pad") else None

    def check(self, match: Match) -> str | None:
        """Both must pad with the same, outwards."""
        first, node = match.first, match.node
        if self.facts.opset < 11:
            return "the pads are attributes below opset 11"
        modes = {attribute(pad, "mode", "constant") for pad in (first, node)}
        if modes not in ({"constant"}, {"edge"}):
            return f"the modes are {' and '.join(sorted(modes))}"
        values = [pad_value(pad) for pad in (first, node)]
        if modes == {"constant"} and (values[0] is None or values[0] != values[1]):
            return f"the values are {values[0]} and {values[1]}, not one constant"
        rank = len(shape_of(first.inputs[0]) or ())
        pads = [found for pad in (first, node) if (found := all_pads(pad, rank)) is not None]
        if not rank or len(pads) < 2 or min(map(min, pads)) < 0:
            return "the rank is not known, or pads are negative or not constant"
        match.pads = np.sum(pads, axis=0)
        return apart(first, node)

    def apply(self, match: Match) -> Change:
        """Lets the second Pad do it all."""
        first, node, name = match.first, match.node, label(match.first)
        between, old = node.inputs[0], list(node.inputs[1:])
        hint = old[0].name or "pads"
        node.replace_input_with(1, constant_before(node, hint, match.pads.astype(np.int64)))
        node.resize_inputs(min(len(node.inputs), 3))  # the axes are all of them
        node.replace_input_with(0, first.inputs[0])
        remove_if_dead(between, *old)
        return Change(self.name, name, f"merged into Pad '{label(node)}'")
