"""What a graph tells about the inputs it expects: index ranges, constants it compares with or clips at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from baker.model.graph import (
    all_nodes,
    attribute,
    constant_value,
    has_reference_attribute,
    is_op,
    shape_of,
    standard_domain,
)

# Operators whose output holds the same numbers as their first input.
_CARRIERS = {
    "Cast", "Concat", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Tile",
    "Transpose", "Unsqueeze",
}  # fmt: skip

# Operators and inputs that say how large a result is: larger numbers would fill the memory. Each with lowest and end.
_SIZES = {
    ("Pad", 1): (0, 3), ("Tile", 1): (1, 4), ("Expand", 1): (1, 5), ("ConstantOfShape", 0): (1, 5),
    ("Resize", 3): (1, 9), ("OneHot", 1): (2, 9), ("HannWindow", 0): (2, 65), ("HammingWindow", 0): (2, 65),
    ("BlackmanWindow", 0): (2, 65), ("STFT", 1): (1, 9), ("STFT", 3): (1, 17),  # a frame step of 0 ends the process
}  # fmt: skip


@dataclass(frozen=True)
class InputHint:
    """What the graph does with an input.

    Attributes:
        below: integers must be smaller than this, because they index a table of this size; None: no table seen.
        compared: constants that the graph compares the input with.
        lowest: integers must not be smaller than this; None: no such bound seen.
    """

    below: int | None = None
    compared: tuple[float, ...] = ()
    lowest: int | None = None


def hint_for(value: ir.Value) -> InputHint:
    """Follows an input through operators that only move its numbers."""
    below: list[int] = []
    compared: list[float] = []
    lowest = None
    for node, index in _uses(value):
        sizes = _SIZES.get((node.op_type, index)) if not standard_domain(node.domain) else None
        if sizes is not None:
            lowest = sizes[0]
            below += [sizes[1]]
        table = _table_size(node, index)
        if table is not None:
            below.append(table)
        elif is_op(node, "Equal"):
            other = constant_value(node.inputs[1 - index])
            if other is None or other.dtype.kind not in "fiub":  # strings, and types that numpy lacks
                continue
            if other.size > 8:  # a one-hot encoding, written out
                below.append(int(other.max()) + 1)
            else:
                compared += [float(item) for item in other.ravel()]
    return InputHint(min(below, default=None), tuple(dict.fromkeys(compared)), lowest)


def _uses(value: ir.Value) -> Iterator[tuple[ir.Node, int]]:
    pending, seen = [value], {value}
    while pending:
        for node, index in pending.pop().uses():
            yield node, index
            first = index == 0 or node.op_type == "Concat"
            if first and is_op(node, *_CARRIERS):
                fresh = [output for output in node.outputs if output not in seen]
                pending += fresh
                seen.update(fresh)


def _table_size(node: ir.Node, index: int) -> int | None:
    """Returns the size of what input ``index`` of the node indexes."""
    if is_op(node, "Gather", "GatherElements") and index == 1 and not has_reference_attribute(node):
        dims, axis = shape_of(node.inputs[0]), attribute(node, "axis", 0)
        return None if dims is None or not -len(dims) <= axis < len(dims) else dims[axis]
    if is_op(node, "OneHot") and index == 0:
        depth = constant_value(node.inputs[1])
        return None if depth is None or not depth.size else int(depth.ravel()[0])
    if is_op(node, "EmbedLayerNormalization", domain="com.microsoft") and index in (0, 1):
        dims = shape_of(node.inputs[index + 2])  # word and segment embeddings follow the two index inputs
        return None if not dims else dims[0]
    return None


def thresholds(model: ir.Model) -> tuple[float, ...]:
    """The numbers at which the graph's piecewise functions bend: zero, and the limits of its Clips and the like."""
    found = [0.0]
    for node in all_nodes(model):
        if is_op(node, "Clip"):
            limits = [constant_value(value) for value in node.inputs[1:]]
            found += [float(limit) for limit in limits if limit is not None and limit.size == 1]
        if is_op(node, "Clip", "ThresholdedRelu", "Shrink") and not has_reference_attribute(node):
            settings = [attribute(node, name, None) for name in ("min", "max", "alpha", "lambd")]
            found += [float(setting) for setting in settings if setting is not None]
        elif is_op(node, "HardSwish"):
            found += [-3.0, 3.0]
    finite = [number for number in dict.fromkeys(found) if np.isfinite(number) and abs(number) < 1e6]
    return tuple(finite[:32])
