"""Slice of a Concat that takes some of its parts whole."""

from __future__ import annotations

import itertools

import onnx_ir as ir

from baker.model.graph import attribute, can_replace, has_reference_attribute, is_op, label, shape_of
from baker.passes.fuse._rule import FuseRule, bypass
from baker.passes.fuse._slices import cuts_of
from baker.pipeline.pass_base import Change
from baker.pipeline.rewrite import Match


class SliceConcat(FuseRule):
    """Let who reads one whole part of a Concat, cut out by a Slice, read the part.

    Shapes: the dims of the parts on the axis are known, up to the end of the slice; one axis is cut, step 1.

        Slice(Concat(a, b, c), from dim of a, to dim of a + b) = b

    Error: 0.
    Declines: the slice is no whole part; dims that are not known; it gives a graph output its name.
    Source: ONNX Slice and Concat.
    """

    anchor = "Slice"

    def match(self, node: ir.Node) -> Match | None:
        """Finds the Concat in front of a Slice of its axis."""
        concat = None if node.inputs[0] is None else node.inputs[0].producer()
        cuts = cuts_of(node) if is_op(concat, "Concat") and not has_reference_attribute(concat) else None
        dims = shape_of(node.inputs[0])
        if concat is None or cuts is None or len(cuts) != 1 or dims is None:
            return None
        ((axis, cut),) = cuts.items()
        on = int(attribute(concat, "axis", 1)) % len(dims)
        return Match(concat=concat, node=node, axis=on, cut=cut) if axis % len(dims) == on else None

    def check(self, match: Match) -> str | None:
        """The slice must begin and end where a part does."""
        sizes = [dims[match.axis] if (dims := shape_of(value)) else None for value in match.concat.inputs]
        start, end, step = match.cut
        if None in sizes and min(start, end) < 0:
            return "it counts from the end, and the dims are not all known"
        known = list(itertools.takewhile(lambda size: size is not None, sizes))
        edges = list(itertools.accumulate((size or 0 for size in known), initial=0))
        total = edges[-1] if len(known) == len(sizes) else None
        if total is not None:
            start, end, step = slice(start, end, step).indices(total)
        parts = [i for i, edge in enumerate(edges[:-1]) if (edge, edges[i + 1]) == (start, end) and edge < edges[i + 1]]
        if not parts or step != 1:
            return "it is no whole part of the Concat, or may be none"
        match.source = match.concat.inputs[parts[0]]
        if not can_replace(match.node.outputs[0], match.source):
            return f"it gives the output '{match.node.outputs[0].name}' its name"
        return None

    def apply(self, match: Match) -> Change:
        """Lets the readers of the Slice read the part."""
        name = label(match.node)
        concat = label(match.concat)
        bypass(match.node, match.source)
        return Change(self.name, name, f"Slice removed: it takes one part of Concat '{concat}'")
