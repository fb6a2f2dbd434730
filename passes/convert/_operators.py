"""Operators that were renamed, gained or lost an attribute, an output or a type; each with its own rule."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from baker.model.graph import attribute, constant_value, is_constant, shape_of
from baker.passes.convert._tools import (
    Refused,
    Rule,
    Rules,
    Step,
    behind,
    drop_input,
    dtype_of,
    given,
    known,
    put,
    put_input,
    rank,
    trim_inputs,
)

# ---- BatchNormalization, Dropout, GroupNormalization -----------------------------------------------------------


def _used(value: ir.Value) -> bool:
    return bool(value.uses()) or value.is_graph_output()


def _batch_norm_up(node: ir.Node, step: Step) -> None:
    if any(_used(value) for value in node.outputs[1:]):
        raise Refused("its further outputs are read: it is in training mode, which works otherwise since opset 14")
    node.resize_outputs(1)


def _batch_norm_down(node: ir.Node, step: Step) -> None:
    if attribute(node, "training_mode", 0):
        raise Refused("training_mode=1 came with opset 14")
    node.attributes.pop("training_mode", None)


def _mask_up(node: ir.Node, step: Step) -> None:
    """The mask became a tensor of bool."""
    if len(node.outputs) > 1 and _used(node.outputs[1]):
        raised = behind(node, "Cast", output=1, to=int(dtype_of(node)))
        raised.type = ir.TensorType(ir.DataType.BOOL)


def _dropout_up(node: ir.Node, step: Step) -> None:
    found = node.attributes.pop("ratio", None)
    if found is not None and not found.is_ref():
        put_input(node, 1, step.constant(node, "ratio", np.array(found.value, np.float32)))


def _dropout_down(node: ir.Node, step: Step) -> None:
    if given(node, 2) is not None and bool(known(node, 2, "training_mode").any()):
        raise Refused("training_mode=1 came with opset 12")
    ratio = constant_value(node.inputs[1]) if is_constant(given(node, 1)) else None
    for index in (2, 1):
        drop_input(step, node, index)
    node.attributes.pop("seed", None)
    if ratio is not None:
        put(node, "ratio", float(ratio.reshape(-1)[0]))


def _mask_down(node: ir.Node, step: Step) -> None:
    if len(node.outputs) > 1 and _used(node.outputs[1]):
        raise Refused("its mask is read, which is no tensor of bool before opset 10")
    node.resize_outputs(1)


def _group_norm_up(node: ir.Node, step: Step) -> None:
    """Scale and bias were one a group; since opset 21 they are one a channel."""
    groups, shape = int(attribute(node, "num_groups", 1)), shape_of(node.inputs[0])
    channels = None if shape is None or len(shape) < 2 else shape[1]
    if channels is None:
        raise Refused("the number of its channels is unknown")
    for index, name in ((1, "scale"), (2, "bias")):
        array = np.repeat(known(node, index, name), channels // groups)
        drop_input(step, node, index)
        put_input(node, index, step.constant(node, name, array))


# ---- attributes ------------------------------------------------------------------------------------------------


def _roi_align_up(node: ir.Node, step: Step) -> None:
    put(node, "coordinate_transformation_mode", "output_half_pixel")  # the only mode of opset 10


def _roi_align_down(node: ir.Node, step: Step) -> None:
    if attribute(node, "coordinate_transformation_mode", "half_pixel") != "output_half_pixel":
        raise Refused("before opset 16 the coordinates are output_half_pixel, not half_pixel")
    node.attributes.pop("coordinate_transformation_mode")


def _renamed_mode(names: dict[str, str]) -> Rule:
    def rule(node: ir.Node, step: Step) -> None:
        mode = attribute(node, "mode", None)
        if mode in names:
            put(node, "mode", names[mode])
        if not step.up and (rank(node.inputs[0]) or 4) != 4:
            raise Refused(f"it has {rank(node.inputs[0])} axes; before opset 20 it takes 4")

    return rule


def _neutral(*allowed: tuple[str, Any]) -> Rule:
    """Attributes that came with the newer version may go where they say what the older one did."""

    def rule(node: ir.Node, step: Step) -> None:
        for name, value in allowed:
            found = attribute(node, name, value)
            if found != value and not (isinstance(found, tuple) and all(item == value for item in found)):
                raise Refused(f"{name}={found} came with opset {step.version}")
            node.attributes.pop(name, None)

    return rule


def _only_float8(*names: str) -> Rule:
    """Attributes that speak of float8 alone mean nothing for any other type."""

    def rule(node: ir.Node, step: Step) -> None:
        target = attribute(node, "to", 0)
        if target and ir.DataType(target).name.startswith("FLOAT8"):
            raise Refused(f"{ir.DataType(target).name.lower()} came with opset {step.version}")
        for name in names:
            node.attributes.pop(name, None)

    return rule


def _output_dtype(index: int) -> Rule:
    """``output_dtype`` may go where an input says the same."""

    def rule(node: ir.Node, step: Step) -> None:
        wanted = attribute(node, "output_dtype", 0)
        value = given(node, index)
        if wanted and value is None:
            scale = node.inputs[1]
            shape = shape_of(scale)
            if shape is None or None in shape:
                raise Refused(f"output_dtype={ir.DataType(wanted).name} came with opset {step.version}")
            zero = np.zeros([dim or 0 for dim in shape], ir.DataType(wanted).numpy())
            put_input(node, index, step.constant(node, "zero_point", zero))
        elif wanted and (value is None or value.dtype != ir.DataType(wanted)):
            raise Refused(f"output_dtype={ir.DataType(wanted).name} came with opset {step.version}")
        node.attributes.pop("output_dtype", None)

    return rule


def _per_tensor(node: ir.Node, step: Step) -> None:
    shape = shape_of(node.inputs[1])
    if shape is None or any(dim != 1 for dim in shape):
        raise Refused("per-axis scales came with opset 13")
    node.attributes.pop("axis", None)


def _quantize_21_down(node: ir.Node, step: Step) -> None:
    _neutral(("block_size", 0))(node, step)
    _output_dtype(2)(node, step)


# ---- Constant, Scatter, TopK, Gemm -----------------------------------------------------------------------------

_PLAIN = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}


def _constant_down(node: ir.Node, step: Step) -> None:
    """Below opset 12 a Constant holds a tensor."""
    for name, kind in _PLAIN.items():
        if name in node.attributes:
            array = np.array(attribute(node, name, None), kind)
            node.attributes.pop(name)
            put(node, "value", ir.tensor(array))
    for name in ("value_string", "value_strings"):
        if name in node.attributes:
            found = attribute(node, name, None)
            node.attributes.pop(name)
            items = list(found) if name == "value_strings" else found
            put(node, "value", ir.StringTensor(np.array(items, object), shape=ir.Shape(np.shape(items))))


def _mod_down(node: ir.Node, step: Step) -> None:
    floats = dtype_of(node) in (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
    if floats and not attribute(node, "fmod", 0):
        raise Refused("before opset 28 Mod takes floating-point numbers with fmod=1 alone")


def _came_later(name: str, *values: str) -> Rule:
    """Values of an attribute that the older version does not know."""

    def rule(node: ir.Node, step: Step) -> None:
        found = attribute(node, name, None)
        if found in values:
            raise Refused(f"{name}={found} came with opset {step.version}")

    return rule


def _scan_down(node: ir.Node, step: Step) -> None:
    raise Refused("the Scan of opset 8 runs over each element of a batch, which this one does not")


def _scan_up(node: ir.Node, step: Step) -> None:
    raise Refused("the Scan of opset 8 runs over each element of a batch, which no later one does")


def _renamed(op_type: str) -> Rule:
    def rule(node: ir.Node, step: Step) -> None:
        node.op_type = op_type

    return rule


def _gemm_down(node: ir.Node, step: Step) -> None:
    trim_inputs(node)
    if given(node, 2) is None:
        zero = np.zeros(1, dtype_of(node).numpy())
        put_input(node, 2, step.constant(node, "C", zero))


def _cast_like_down(node: ir.Node, step: Step) -> None:
    target = dtype_of(node, 1)
    node.op_type = "Cast"
    drop_input(step, node, 1)
    put(node, "to", int(target))


UP: Rules = {
    ("BatchNormalization", 14): _batch_norm_up,
    ("Dropout", 10): _mask_up,
    ("Dropout", 12): _dropout_up,
    ("GridSample", 20): _renamed_mode({"bilinear": "linear", "bicubic": "cubic"}),
    ("GroupNormalization", 21): _group_norm_up,
    ("RoiAlign", 16): _roi_align_up,
    ("Scan", 9): _scan_up,
    ("Scatter", 11): _renamed("ScatterElements"),
}
DOWN: Rules = {
    ("AveragePool", 10): _neutral(("ceil_mode", 0)),
    ("AveragePool", 19): _neutral(("dilations", 1)),
    ("BatchNormalization", 14): _batch_norm_down,
    ("Cast", 19): _only_float8("saturate"),
    ("Cast", 24): _only_float8("round_mode"),
    ("CastLike", 15): _cast_like_down,
    ("CastLike", 19): _only_float8("saturate"),
    ("CastLike", 24): _only_float8("round_mode"),
    ("Constant", 12): _constant_down,
    ("DepthToSpace", 11): _neutral(("mode", "DCR")),
    ("DequantizeLinear", 13): _per_tensor,
    ("DequantizeLinear", 23): _output_dtype(1),
    ("Dropout", 10): _mask_down,
    ("Dropout", 12): _dropout_down,
    ("Gemm", 11): _gemm_down,
    ("GridSample", 20): _renamed_mode({"linear": "bilinear", "cubic": "bicubic"}),
    ("LpPool", 18): _neutral(("ceil_mode", 0), ("dilations", 1)),
    ("Mod", 28): _mod_down,
    ("MaxPool", 10): _neutral(("ceil_mode", 0), ("dilations", 1)),
    ("Pad", 19): _came_later("mode", "wrap"),
    ("QuantizeLinear", 13): _per_tensor,
    ("QuantizeLinear", 19): _only_float8("saturate"),
    ("QuantizeLinear", 21): _quantize_21_down,
    ("Resize", 19): _came_later("coordinate_transformation_mode", "half_pixel_symmetric"),
    ("RoiAlign", 16): _roi_align_down,
    ("Scan", 9): _scan_down,
    ("ScatterElements", 18): _came_later("reduction", "max", "min"),
    ("ScatterND", 18): _came_later("reduction", "max", "min"),
}
