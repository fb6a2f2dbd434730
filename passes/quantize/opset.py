"""Raises the default opset to 13, the first whose DequantizeLinear knows per-channel scales."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir

from baker.errors import ModelError
from baker.model.graph import (
    attribute,
    constant_before,
    emit,
    graphs,
    index_names,
    replace_value,
    shape_of,
    standard_domain,
)

PER_CHANNEL_OPSET = 13
_OLDEST_BY_TABLE = 11
_IR_VERSION = 7  # of ONNX 1.8, which brought opset 13


def raise_opset(model: ir.Model) -> None:
    """Rewrites the model, in place, from opset 7 or later to 13; a newer one is left alone.

    From 11 on by the table below: seven operators changed their form by 13, all others only took more types. Older
    models go through onnx's own converter.

    Raises:
        ModelError: the model can't be converted.
    """
    opset = model.opset_imports.get("", 1)
    if opset >= PER_CHANNEL_OPSET:
        return
    if model.functions:
        raise ModelError(f"a model with local functions at opset {opset} can't be raised to {PER_CHANNEL_OPSET}")
    if opset >= _OLDEST_BY_TABLE:
        for graph in list(graphs(model)):
            for node in list(graph):
                rule = _RULES.get(node.op_type) if not standard_domain(node.domain) else None
                if rule is not None:
                    rule(node)
    else:
        _convert(model)
    model.opset_imports[""] = PER_CHANNEL_OPSET
    model.ir_version = max(model.ir_version or 0, _IR_VERSION)


def _attribute_to_input(name: str, index: int) -> Callable[[ir.Node], None]:
    """Makes the int64 list of an attribute the input at an index."""

    def rule(node: ir.Node) -> None:
        given = attribute(node, name, None)
        if given is None:
            return
        hint = f"{node.outputs[0].name or node.op_type}_{name}"
        value = constant_before(node, hint, np.array(given, np.int64))
        node.attributes.pop(name)
        node.resize_inputs(max(index + 1, len(node.inputs)))
        node.replace_input_with(index, value)

    return rule


def _dropout(node: ir.Node) -> None:
    node.attributes.pop("ratio", None)  # the identity, when a model is used and not trained


def _softmax(node: ir.Node) -> None:
    """Up to opset 12 all axes from ``axis`` (default 1) on are one; since 13 ``axis`` (default -1) stands alone."""
    axis = int(attribute(node, "axis", 1))
    source = node.inputs[0]
    shape = shape_of(source)
    if axis == -1 or (shape is not None and axis == len(shape) - 1):
        node.attributes["axis"] = ir.AttrInt64("axis", -1)
        return
    dims = emit(node, "Shape", [source]).outputs[0]
    flat = emit(node, "Flatten", [source], {"axis": axis}).outputs[0]
    rows = emit(node, node.op_type, [flat], {"axis": -1}).outputs[0]
    result = emit(node, "Reshape", [rows, dims]).outputs[0]
    result.type, result.shape = node.outputs[0].type, node.outputs[0].shape
    name = node.outputs[0].name
    replace_value(node.outputs[0], result)
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    graph.remove(node, safe=True)
    result.name = name


_RULES: dict[str, Callable[[ir.Node], None]] = {
    "Squeeze": _attribute_to_input("axes", 1),
    "Unsqueeze": _attribute_to_input("axes", 1),
    "ReduceSum": _attribute_to_input("axes", 1),
    "Split": _attribute_to_input("split", 1),
    "Dropout": _dropout,
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax"), _softmax),
}


def _convert(model: ir.Model) -> None:
    """onnx's converter; it works on a serialized model and gives a new graph."""
    try:
        converted = onnx.version_converter.convert_version(ir.to_proto(model), PER_CHANNEL_OPSET)
    except (RuntimeError, ValueError, onnx.version_converter.ConvertError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"opset {model.opset_imports.get('', 1)} can't be raised to {PER_CHANNEL_OPSET}: {reason}"
        ) from error
    model.graph = ir.from_proto(onnx.shape_inference.infer_shapes(converted)).graph
    index_names(model)
