"""Slice of everything."""

from __future__ import annotations

import math

import onnx_ir as ir

from baker.model.graph import shape_of
from baker.passes.fuse._rule import BypassRule
from baker.passes.fuse._slices import Range, cuts_of
from baker.pipeline.rewrite import Match

_OPEN_END = 2**31 - 1
_IMPOSSIBLE = 2**40  # elements that no tensor has


class Slice(BypassRule):
    """Remove a Slice that takes every element of every axis, in order.

    Shapes: any; an axis whose size is not known must be cut at an end that no tensor reaches.

        Slice(x, starts = 0 or -dims, ends >= dims, steps = 1) = x

    Error: 0.
    Declines: it gives a graph output its name.
    Source: ONNX Slice; TensorFlow exports spell "everything" with ends of 10**9.
    """

    anchor = "Slice"

    def match(self, node: ir.Node) -> Match | None:
        """Finds a Slice whose bounds are constant and reach over everything."""
        source = node.inputs[0]
        if source is None:
            return None
        cuts = cuts_of(node)
        if cuts is None or any(cut.step < 1 for cut in cuts.values()):
            return None
        whole = all(_takes_all(cut, axis, shape_of(source)) for axis, cut in cuts.items())
        return Match(node=node, source=source, why="it takes everything") if whole else None


def _takes_all(cut: Range, axis: int, dims: tuple[int | None, ...] | None) -> bool:
    """True when a range with a step of 1 or more can't leave out any of the axis."""
    size = None if dims is None or not -len(dims) <= axis < len(dims) else dims[axis]
    if size is not None:
        return range(*slice(*cut).indices(size)) == range(size)
    others = math.prod(dim for dim in dims or () if dim)
    return cut.start == 0 and cut.step == 1 and (cut.end >= _OPEN_END or cut.end * others >= _IMPOSSIBLE)
