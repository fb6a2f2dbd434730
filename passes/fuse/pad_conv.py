"""Pad with zeros, then Conv."""

from __future__ import annotations

import onnx_ir as ir

from baker.model.graph import attribute, is_op, label, remove_if_dead, shape_of
from baker.passes.fuse._pads import pad_value, spatial_pads
from baker.passes.fuse._rule import FuseRule, apart
from baker.pipeline.pass_base import Change
from baker.pipeline.rewrite import Match


class PadConv(FuseRule):
    """Fold a Pad with zeros around the spatial axes into the pads of the Conv behind it.

    Shapes: x (N, C, *spatial); pads of axes 0 and 1 must be 0, all others 0 or more.

        pads_conv' = pads_conv + pads of the spatial axes

    Error: 0, the Conv reads the same zeros.
    Declines: the padded tensor is read elsewhere; a mode other than constant, a value other than 0, pads that are
        negative, not constant, or on axes 0 and 1; a Conv with auto_pad SAME_*.
    Source: ONNX Pad and Conv.
    """

    anchor = "Conv"

    def match(self, node: ir.Node) -> Match | None:
        """Finds the Pad in front of a Conv."""
        pad = None if node.inputs[0] is None else node.inputs[0].producer()
        return Match(pad=pad, conv=node) if is_op(pad, "Pad") else None

    def check(self, match: Match) -> str | None:
        """The Pad must add zeros, around the spatial axes only, for this Conv alone."""
        pad, conv = match.pad, match.conv
        if attribute(pad, "mode", "constant") != "constant" or pad_value(pad) != 0:
            return "it does not pad with zeros"
        rank = len(shape_of(conv.inputs[1]) or ())
        pads = spatial_pads(pad, rank)
        if pads is None or min(pads) < 0:
            return "its pads are negative, not constant, or not on the spatial axes alone"
        if attribute(conv, "auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
            return "the Conv computes its own pads (auto_pad)"
        own = attribute(conv, "pads", (0,) * len(pads))
        if attribute(conv, "auto_pad", "NOTSET") == "VALID":
            own = (0,) * len(pads)
        match.pads = [a + b for a, b in zip(own, pads, strict=True)]
        return apart(pad, conv)

    def apply(self, match: Match) -> Change:
        """Adds the pads to the Conv's own."""
        pad, conv = match.pad, match.conv
        name = label(pad)
        conv.attributes.pop("auto_pad", None)
        conv.attributes.add(ir.AttrInt64s("pads", match.pads))
        padded = pad.outputs[0]
        conv.replace_input_with(0, pad.inputs[0])
        remove_if_dead(padded)
        return Change(self.name, name, f"folded into the pads of Conv '{label(conv)}'")
