"""Opset 7 brought numpy's broadcasting, and took away what training frameworks of the time had left in the nodes."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from baker.model.graph import attribute
from baker.passes.convert._tools import (
    Refused,
    Rule,
    Rules,
    Step,
    become,
    drop_input,
    dtype_of,
    feed,
    front,
    given,
    known,
    put,
    put_input,
    rank_of,
)

_BROADCAST = ("Add", "And", "Div", "Equal", "Greater", "Less", "Mul", "Or", "Pow", "Sub", "Xor")
_IN_PLACE = (
    *("Abs", "Add", "BatchNormalization", "Ceil", "Clip", "Div", "Dropout", "Elu", "Exp", "Floor", "HardSigmoid"),
    *("InstanceNormalization", "LeakyRelu", "Log", "Max", "Mean", "Min", "Mul", "Neg", "PRelu", "Reciprocal", "Relu"),
    *("Selu", "Sigmoid", "Sqrt", "Sub", "Sum", "Tanh"),
)


def _binary(node: ir.Node, step: Step) -> None:
    """``axis`` says where the second operand's dims stand in the first one's; numpy has them at the end."""
    axis, broadcast = attribute(node, "axis", None), attribute(node, "broadcast", 0)
    for name in ("axis", "broadcast"):
        node.attributes.pop(name, None)
    if not broadcast or axis is None:
        return
    first, second = rank_of(node), rank_of(node, 1)
    missing = first - (axis % first if first else 0) - second
    if missing > 0 and not _is_single(node.inputs[1]):
        feed(node, 1, "Unsqueeze", axes=[second + index for index in range(missing)])


def _is_single(value: ir.Value | None) -> bool:
    if value is None or value.shape is None or not value.shape.is_static():
        return False
    return math.prod(value.shape.numpy()) == 1


def _p_relu(node: ir.Node, step: Step) -> None:
    """A vector of slopes is one a channel (axis 1); numpy would have it on the last axis."""
    if _is_single(given(node, 1)) or rank_of(node, 1) != 1:
        return
    if rank_of(node) > 2:
        feed(node, 1, "Unsqueeze", axes=list(range(1, rank_of(node) - 1)))


def _without(*names: str) -> Rule:
    def rule(node: ir.Node, step: Step) -> None:
        for name in names:
            node.attributes.pop(name, None)

    return rule


def _inference(node: ir.Node, step: Step) -> None:
    if not attribute(node, "is_test", 0):
        raise Refused("it is in training mode (is_test=0)")
    node.attributes.pop("is_test")


def _spatial(node: ir.Node, step: Step) -> None:
    if not attribute(node, "spatial", 1):
        raise Refused("it normalizes each feature by itself (spatial=0), which opset 9 can't")
    node.attributes.pop("spatial", None)


def _selu(node: ir.Node, step: Step) -> None:
    for name, default in (("alpha", 1.6732), ("gamma", 1.0507)):
        if name not in node.attributes:
            put(node, name, default)
    node.attributes.pop("consumed_inputs", None)


def _cast(node: ir.Node, step: Step) -> None:
    name = str(attribute(node, "to", ""))
    if name.upper() not in ir.DataType.__members__:
        raise Refused(f"there is no type '{name}'")
    put(node, "to", int(ir.DataType[name.upper()]))


def _power(node: ir.Node, step: Step) -> None:
    """The p of an Lp norm became a whole number."""
    power = float(attribute(node, "p", 2.0))
    if not power.is_integer():
        raise Refused(f"its p={power} is no whole number")
    put(node, "p", int(power))


def _paddings(node: ir.Node, step: Step) -> None:
    found = node.attributes.pop("paddings", None)
    if found is not None:
        put(node, "pads", list(found.value))


def _tile(node: ir.Node, step: Step) -> None:
    """One axis was repeated; since opset 6 all are."""
    repeats = np.ones(rank_of(node), np.int64)
    repeats[int(known(node, 2, "axis").reshape(-1)[0])] = int(known(node, 1, "tiles").reshape(-1)[0])
    drop_input(step, node, 2)
    drop_input(step, node, 1)
    put_input(node, 1, step.constant(node, "repeats", repeats))


def _upsample(node: ir.Node, step: Step) -> None:
    height, width = (float(attribute(node, f"{side}_scale", 1.0)) for side in ("height", "width"))
    _without("height_scale", "width_scale")(node, step)
    put(node, "scales", ir.AttrFloat32s("scales", [1.0, 1.0, height, width]))


def _concat(node: ir.Node, step: Step) -> None:
    if "axis" not in node.attributes:
        put(node, "axis", 1)


def _same_shapes(node: ir.Node) -> bool:
    shapes = [value.shape for value in node.inputs if value is not None]
    if any(shape is None or any(not isinstance(dim, int) and dim.value is None for dim in shape) for shape in shapes):
        return False
    return all(shape == shapes[0] for shape in shapes)


def _variadic_down(node: ir.Node, step: Step) -> None:
    """Before opset 8 operators of any number of inputs do not broadcast, those of two do."""
    if len(node.inputs) == 1 or _same_shapes(node):
        return
    if node.op_type not in ("Mean", "Sum"):
        raise Refused(f"{node.op_type} does not broadcast before opset 8, and its inputs' shapes may differ")
    total, count = node.inputs[0], len(node.inputs)
    for value in node.inputs[1:]:
        total = front(node, "Add", [total, value])
    if node.op_type == "Mean":
        total = front(node, "Div", [total, step.constant(node, "count", np.array(count, dtype_of(node).numpy()))])
    assert total is not None
    become(node, total)


UP: Rules = {
    **{(name, 6): _without("consumed_inputs") for name in _IN_PLACE},
    **{(name, 7): _binary for name in _BROADCAST},
    **{(name, 7): _without("output_sequence") for name in ("GRU", "LSTM", "RNN")},
    ("BatchNormalization", 7): _inference,
    ("BatchNormalization", 9): _spatial,
    ("Cast", 6): _cast,
    ("Concat", 4): _concat,
    ("Dropout", 7): _inference,
    ("Gemm", 7): _without("broadcast"),
    ("GlobalLpPool", 2): _power,
    ("LpPool", 2): _power,
    ("PRelu", 7): _p_relu,
    ("Pad", 2): _paddings,
    ("Selu", 6): _selu,
    ("Tile", 6): _tile,
    ("Upsample", 7): _upsample,
}
DOWN: Rules = {(name, 8): _variadic_down for name in ("Max", "Mean", "Min", "Sum")}
