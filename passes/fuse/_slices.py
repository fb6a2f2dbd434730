"""The bounds of a Slice, by axis."""

from __future__ import annotations

from typing import NamedTuple

import onnx_ir as ir

from baker.model.graph import attribute, has_reference_attribute
from baker.passes.fuse._rule import ints


class Range(NamedTuple):
    """Start, end and step of one axis, as the Slice has them: negative ones count from the end."""

    start: int
    end: int
    step: int


def cuts_of(node: ir.Node) -> dict[int, Range] | None:
    """The range of each axis that a Slice cuts; None where something is not constant, or the rank is needed."""
    if has_reference_attribute(node) or node.inputs[0] is None:
        return None
    if "starts" in node.attributes:  # below opset 10
        starts, ends = list(attribute(node, "starts", ())), list(attribute(node, "ends", ()))
        axes, steps = attribute(node, "axes", None), [1] * len(starts)
    else:
        given = [*node.inputs[1:5], None, None, None, None][:4]
        columns = [[] if value is None else ints(value) for value in given]
        if any(column is None for column in columns):
            return None
        starts, ends, axes, steps = (column or [] for column in columns)
        axes = None if given[2] is None else axes
        steps = steps or [1] * len(starts)
    axes = list(range(len(starts))) if axes is None else axes
    if not len(starts) == len(ends) == len(axes) == len(steps):
        return None
    return {axis: Range(*bounds) for axis, *bounds in zip(axes, starts, ends, steps, strict=True)}
