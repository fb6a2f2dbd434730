"""Where int8 may stand: what ONNX Runtime 1.32 runs on integers on its CPU provider, as a table.

Each row was tried: a model of that one operator between QuantizeLinear and DequantizeLinear, and the operator read from
ONNX Runtime's optimized graph (tests/passes/quantize/test_placement.py does it again for every row).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from baker.model.graph import attribute, constant_value, has_reference_attribute, is_op, standard_domain

Guard = Callable[[ir.Node], str | None]
Role = Literal["layer", "arithmetic", "same"]


def _anything(node: ir.Node) -> str | None:
    return None


def _averages(node: ir.Node) -> str | None:
    if any(dilation != 1 for dilation in attribute(node, "dilations", ())):
        return "ONNX Runtime's integer AveragePool takes no dilations"
    if attribute(node, "ceil_mode", 0) and attribute(node, "count_include_pad", 0):
        return "ONNX Runtime's integer AveragePool miscounts the padding under ceil_mode (20 % off)"
    return None


def _nearest(node: ir.Node) -> str | None:
    mode = attribute(node, "mode", "nearest")
    if mode != "nearest":
        return f"Resize by '{mode}' has no integer kernel"
    if attribute(node, "coordinate_transformation_mode", "") == "tf_crop_and_resize":
        return "what tf_crop_and_resize puts outside of its input is a real number, not an integer code"
    return None


def _values_only(node: ir.Node) -> str | None:
    indices = node.outputs[1] if len(node.outputs) > 1 else None
    if indices is not None and (indices.uses() or indices.is_graph_output()):
        return "its Indices output is read, which the integer form lacks"
    return None


def _all_read(node: ir.Node) -> str | None:
    if all(value.uses() or value.is_graph_output() for value in node.outputs):
        return None
    return "an output that nobody reads keeps ONNX Runtime from splitting integers"


@dataclass(frozen=True)
class Placement:
    """How one operator runs on integers.

    Attributes:
        role: ``layer`` has a constant weight; ``arithmetic`` computes with the scales of its operands and of its
            result; ``same`` moves or selects values, so that input and output share one scale.
        data: indices of the inputs that are quantized; None means all of them.
        needs_output: without a QuantizeLinear behind it, ONNX Runtime leaves the operator in float.
        minmax: the result's range is what it is (a Sigmoid's tails carry the meaning): never clip it by MSE.
        guard: why this very node can't, or None.
        misfused: what the guard refuses is still fused by ONNX Runtime, wrongly, wherever it stands between a
            DequantizeLinear and a QuantizeLinear: what reads its result must stay in float, too.
    """

    role: Role
    data: tuple[int, ...] | None = (0,)
    needs_output: bool = True
    minmax: bool = False
    guard: Guard = _anything
    misfused: bool = False


PLACEMENT: dict[str, Placement] = {
    "Conv": Placement("layer"),
    "Gemm": Placement("layer", needs_output=False),
    "MatMul": Placement("layer", needs_output=False),
    "Add": Placement("arithmetic", data=None),
    "Mul": Placement("arithmetic", data=None),
    "Concat": Placement("arithmetic", data=None),
    "AveragePool": Placement("arithmetic", guard=_averages, misfused=True),
    "GlobalAveragePool": Placement("arithmetic"),
    "LeakyRelu": Placement("arithmetic"),
    "Sigmoid": Placement("arithmetic", minmax=True),
    "MaxPool": Placement("same", guard=_values_only),
    "Resize": Placement("same", guard=_nearest),
    **dict.fromkeys(
        (
            "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Expand", "Tile",
            "Gather", "GatherElements", "Slice", "DepthToSpace", "Identity",
        ),
        Placement("same"),
    ),
    "Split": Placement("same", guard=_all_read),
}  # fmt: skip
"""Operators of the default domain that run on integers."""


def _clip_bounds(node: ir.Node) -> tuple[float, float] | None:
    bounds = [-math.inf, math.inf]
    for index, name in ((1, "min"), (2, "max")):
        given = node.inputs[index] if len(node.inputs) > index else None
        value = constant_value(given)
        if given is not None and (value is None or value.size != 1):
            return None
        if value is not None:
            bounds[index - 1] = float(value.reshape(-1)[0])
        elif name in node.attributes:  # opset 6 to 10
            bounds[index - 1] = float(attribute(node, name, bounds[index - 1]))
    return bounds[0], bounds[1]


ABSORBED: dict[str, Callable[[ir.Node], tuple[float, float] | None]] = {
    "Relu": lambda node: (0.0, math.inf),
    "Clip": _clip_bounds,
}
"""Activations that vanish into the saturation of a QuantizeLinear behind them, if its range lies inside theirs."""

FLOAT: dict[str, str] = {
    **dict.fromkeys(
        (
            "ConvTranspose", "Gelu", "Erf", "Tanh", "HardSwish", "HardSigmoid", "Elu", "PRelu", "Softplus", "Mish",
            "LayerNormalization", "InstanceNormalization", "BatchNormalization", "GroupNormalization",
            "RMSNormalization", "SimplifiedLayerNormalization", "ReduceMean", "ReduceMax", "Sub", "Div", "Pow", "Sqrt",
            "Exp", "Max", "Min", "Einsum", "Pad", "SpaceToDepth", "GlobalMaxPool", "LpPool",
        ),
        "ONNX Runtime has no integer kernel for it",
    ),
    "Softmax": "8 bits can't hold small probabilities",
    "Where": "masks with -inf or -1e9 leave 8 bits no resolution",
    **dict.fromkeys(("LSTM", "GRU", "RNN"), "recurrent layers are not quantized"),
}  # fmt: skip
"""Operators that stay in float, and why. What is in neither table stays in float too."""


def placement_of(node: ir.Node | None, *roles: Role) -> Placement | None:
    """Returns the row for a node of one of these roles (default: any), guards not asked."""
    if node is None or standard_domain(node.domain):
        return None
    row = PLACEMENT.get(node.op_type)
    return row if row is not None and (not roles or row.role in roles) else None


def refusal(node: ir.Node) -> str | None:
    """Returns why this node can't run on integers although its operator can, or None."""
    if has_reference_attribute(node):
        return "an attribute is a parameter of the enclosing function"
    row = placement_of(node)
    return None if row is None else row.guard(node)


def saturation(node: ir.Node | None) -> tuple[float, float] | None:
    """The range that an absorbed activation cuts to, when it is known and holds 0; None for anything else."""
    if not is_op(node, *ABSORBED) or has_reference_attribute(node):
        return None
    bounds = ABSORBED[node.op_type](node)
    return bounds if bounds is not None and bounds[0] <= 0.0 <= bounds[1] and bounds[0] < bounds[1] else None


def data_inputs(node: ir.Node) -> list[int]:
    """Indices of the inputs that carry quantized data, for an ``arithmetic`` or ``same`` node."""
    row = placement_of(node)
    if row is None:
        return []
    wanted = range(len(node.inputs)) if row.data is None else row.data
    return [index for index in wanted if index < len(node.inputs) and node.inputs[index] is not None]
