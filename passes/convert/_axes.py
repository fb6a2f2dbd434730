"""Axes and indices counted from the end came with opset 11."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from baker.model.graph import attribute, is_constant, shape_of
from baker.passes.convert._tools import Refused, Rule, Rules, Step, int64, known, put, put_input, rank_of

_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")
_ONE_AXIS = (
    *("ArgMax", "ArgMin", "Compress", "Concat", "Flatten", "Hardmax", "LogSoftmax", "Softmax", "Split"),
    *("ScatterElements", "TopK"),
)


def _counted(node: ir.Node, axis: int, more: int = 0) -> int:
    return axis + rank_of(node) + more if axis < 0 else axis


def _axis(node: ir.Node, step: Step) -> None:
    axis = attribute(node, "axis", None)
    if axis is not None:
        put(node, "axis", _counted(node, int(axis)))


def _axes(node: ir.Node, step: Step) -> None:
    axes = attribute(node, "axes", None)
    if axes:
        more = len(axes) if node.op_type == "Unsqueeze" else 0
        put(node, "axes", [_counted(node, int(axis), more) for axis in axes])


def _gather(node: ir.Node, step: Step) -> None:
    """Constant indices from the end are told from the front; a computed index is taken to need no such thing."""
    _axis(node, step)
    if not is_constant(node.inputs[1]) or (known(node, 1, "indices") >= 0).all():
        return
    indices, shape = known(node, 1, "indices"), shape_of(node.inputs[0])
    size = None if shape is None else shape[int(attribute(node, "axis", 0))]
    if size is None:
        raise Refused("its indices count from the end, and the dim is not fixed")
    node.replace_input_with(1, step.constant(node, "indices", np.where(indices < 0, indices + size, indices)))


def _scan(node: ir.Node, step: Step) -> None:
    for name in ("scan_input_axes", "scan_output_axes"):
        if any(axis < 0 for axis in attribute(node, name, ())):
            raise Refused(f"{name} that count from the end came with opset 11")


def _slice(node: ir.Node, step: Step) -> None:
    if len(node.inputs) < 4 or node.inputs[3] is None:
        return
    axes = known(node, 3, "axes")
    if (axes >= 0).all():
        return
    put_input(node, 3, step.constant(node, "axes", int64(*(_counted(node, int(axis)) for axis in axes))))


def _largest(node: ir.Node, step: Step) -> None:
    for name in ("largest", "sorted"):
        if not attribute(node, name, 1):
            raise Refused(f"{name}=0 came with opset 11")
        node.attributes.pop(name, None)
    _axis(node, step)


def _renamed(rule: Rule, op_type: str) -> Rule:
    def renamed(node: ir.Node, step: Step) -> None:
        rule(node, step)
        node.op_type = op_type

    return renamed


UP: Rules = {}
DOWN: Rules = {
    **{(name, 11): _axis for name in _ONE_AXIS},
    **{(f"Reduce{name}", 11): _axes for name in _REDUCTIONS},
    ("Gather", 11): _gather,
    ("Scan", 11): _scan,
    ("ScatterElements", 11): _renamed(_axis, "Scatter"),
    ("Slice", 11): _slice,
    ("Squeeze", 11): _axes,
    ("TopK", 11): _largest,
    ("Unsqueeze", 11): _axes,
}
