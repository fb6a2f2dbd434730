"""Softmax, LogSoftmax, Hardmax: below opset 13 all axes from ``axis`` on were one."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from baker.model.graph import attribute, shape_of
from baker.passes.convert._tools import Rules, Step, behind, feed, front, put, rank, rank_of

_OPERATORS = ("Hardmax", "LogSoftmax", "Softmax")


def _up(node: ir.Node, step: Step) -> None:
    """Up to opset 12 ``axis`` defaults to 1, since 13 to -1."""
    axis = int(attribute(node, "axis", 1))
    only = _only_axis(shape_of(node.inputs[0]), axis)
    if only is not None:
        put(node, "axis", only)
        return
    shape = shape_of(node.inputs[0])
    if shape is not None and None not in shape:
        dims = step.constant(node, "shape", np.array(shape, np.int64))
    else:
        dims = front(node, "Shape", [node.inputs[0]])
    feed(node, 0, "Flatten", axis=axis)
    put(node, "axis", -1)
    behind(node, "Reshape", dims).shape = None


def _only_axis(shape: tuple[int | None, ...] | None, axis: int) -> int | None:
    """The one axis, of those from ``axis`` on, that has more than one element; None where there may be several."""
    if axis == -1:
        return -1
    if shape is None:
        return None
    size = len(shape)
    long = [index for index in range(axis % size if size else 0, size) if shape[index] != 1]
    last = size - 1 if not long else long[0]
    return None if len(long) > 1 else -1 if last == size - 1 else last


def _down(node: ir.Node, step: Step) -> None:
    axis = int(attribute(node, "axis", -1))
    if axis == -1:
        known = rank(node.inputs[0])
        put(node, "axis", -1 if known is None else max(known - 1, 0))
        return
    size = rank_of(node)
    axis %= size
    shape = shape_of(node.inputs[0]) or ()
    put(node, "axis", size - 1)
    if all(dim == 1 for dim in shape[axis + 1 :]):
        put(node, "axis", axis)
        return
    swapped = list(range(size))
    swapped[axis], swapped[-1] = swapped[-1], swapped[axis]
    feed(node, 0, "Transpose", perm=swapped)
    behind(node, "Transpose", perm=swapped).shape = None


UP: Rules = {(name, 13): _up for name in _OPERATORS}
DOWN: Rules = {(name, 13): _down for name in _OPERATORS}
