"""Axes and indices counted from the end came with opset 11."""

from __future__ import annotations

import onnx_ir as ir

from baker.model.graph import attribute
from baker.passes.convert._tools import Refused, Rule, Rules, Step, int64, known, put, put_input, rank_of

_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")
_ONE_AXIS = (
    *("ArgMax", "ArgMin", "Compress", "Concat", "Flatten", "Gather", "Hardmax", "LogSoftmax", "Softmax", "Split"),
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
    ("ScatterElements", 11): _renamed(_axis, "Scatter"),
    ("Slice", 11): _slice,
    ("Squeeze", 11): _axes,
    ("TopK", 11): _largest,
    ("Unsqueeze", 11): _axes,
}
