"""Pad, then MaxPool or AveragePool."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from baker.model.graph import attribute, is_op, label, remove_if_dead
from baker.passes.fuse._pads import pad_value, spatial_pads
from baker.passes.fuse._rule import FLOATS, FuseRule, apart
from baker.passes.fuse.relu import never_negative
from baker.pipeline.pass_base import Change
from baker.pipeline.rewrite import Match


class PadPool(FuseRule):
    """Fold a Pad around the spatial axes into the pads of the MaxPool or AveragePool behind it.

    Shapes: x (N, C, *spatial); every window holds at least one element of x.

        MaxPool(Pad(x, p, -inf), q) = MaxPool(x, p + q)
        MaxPool(Pad(x, p, 0))       = MaxPool(x, p)                                    where x is never negative
        AveragePool(Pad(x, p, 0))   = AveragePool(x, p, count_include_pad = 1)

    Error: 0.
    Declines: the padded tensor is read elsewhere; another mode or value; pads that are negative, not constant, on axes
        0 and 1, or as large as the window; dilations; ceil_mode; auto_pad SAME_*; indices of MaxPool that are read; an
        AveragePool whose own pads do not count, or below opset 7.
    Source: ONNX Pad, MaxPool and AveragePool; TensorFlow exports of ResNet pad by a node of its own.
    """

    anchor = ("MaxPool", "AveragePool")

    def match(self, node: ir.Node) -> Match | None:
        """Finds the Pad in front of a pooling."""
        pad = None if node.inputs[0] is None else node.inputs[0].producer()
        return Match(pad=pad, pool=node) if is_op(pad, "Pad") else None

    def check(self, match: Match) -> str | None:
        """The Pad must add what the pooling would, for this pooling alone."""
        pad, pool = match.pad, match.pool
        if attribute(pool, "ceil_mode", 0) or any(step != 1 for step in attribute(pool, "dilations", ())):
            return "its windows are dilated, or count up (ceil_mode)"
        if any(value.uses() or value.is_graph_output() for value in pool.outputs[1:]):
            return "its indices are read"
        kernel = attribute(pool, "kernel_shape", ())
        pads, own = spatial_pads(pad, 2 + len(kernel)), own_pads(pool)
        if pads is None or min(pads) < 0:
            return "its pads are negative, not constant, or not on the spatial axes alone"
        if own is None:
            return f"{pool.op_type} computes its own pads (auto_pad)"
        match.pads = [a + b for a, b in zip(pads, own, strict=True)]
        if any(size >= window for size, window in zip(match.pads, [*kernel, *kernel], strict=True)):
            return "a window would hold nothing but padding"
        return (self._average if is_op(pool, "AveragePool") else _largest)(match) or apart(pad, pool)

    def _average(self, match: Match) -> str | None:
        pad, pool = match.pad, match.pool
        if attribute(pad, "mode", "constant") != "constant" or pad_value(pad) != 0:
            return "it does not pad with zeros"
        if self.facts.opset < 7:
            return "count_include_pad needs opset 7"
        if any(own_pads(pool) or ()) and not attribute(pool, "count_include_pad", 0):
            return "its own pads do not count"
        return None

    def apply(self, match: Match) -> Change:
        """Adds the pads to the pooling's own."""
        pad, pool = match.pad, match.pool
        name, padded = label(pad), pool.inputs[0]
        pool.attributes.pop("auto_pad", None)
        pool.attributes.add(ir.AttrInt64s("pads", match.pads))
        if is_op(pool, "AveragePool"):
            pool.attributes.add(ir.AttrInt64("count_include_pad", 1))
        pool.replace_input_with(0, pad.inputs[0])
        remove_if_dead(padded)
        return Change(self.name, name, f"folded into the pads of {pool.op_type} '{label(pool)}'")


def _largest(match: Match) -> str | None:
    """Why MaxPool would not pad with the same, or None."""
    pad, source = match.pad, match.pad.inputs[0]
    if attribute(pad, "mode", "constant") != "constant":
        return "it does not pad with a constant"
    value, dtype = pad_value(pad), source.dtype
    if dtype not in FLOATS or value is None:
        return "it pads with something that is not constant, or is no float"
    if value == -math.inf or value == float(np.finfo(dtype.numpy()).min):
        return None
    if value == 0 and never_negative(source) and not any(own_pads(match.pool) or ()):
        return None
    return f"it pads with {value:g}, which may be the largest of a window"


def own_pads(pool: ir.Node) -> list[int] | None:
    """The pads of a pooling, None where it computes them from its input's size."""
    sides = 2 * len(attribute(pool, "kernel_shape", ()))
    if attribute(pool, "auto_pad", "NOTSET") == "VALID":
        return [0] * sides
    if attribute(pool, "auto_pad", "NOTSET") != "NOTSET":
        return None
    return list(attribute(pool, "pads", (0,) * sides))
