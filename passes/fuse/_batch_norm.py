"""BatchNormalization in inference mode as one scale and one shift per channel.

s = gamma / sqrt(var + eps)        t = beta - mean * s
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from baker.model.graph import Array, attribute, constant_value, has_reference_attribute, is_constant, overridable
from baker.passes.fuse._linear import Affine
from baker.passes.fuse._rule import FLOATS


def inference_fault(node: ir.Node, opset: int) -> str | None:
    """Why a BatchNormalization is not a fixed scale and shift, or None.

    Args:
        opset: below 7 it is in training mode unless `is_test` is set.
    """
    if has_reference_attribute(node):
        return "an attribute is a parameter of the enclosing function"
    trains = attribute(node, "training_mode", 0) or (opset < 7 and not attribute(node, "is_test", 0))
    if trains or any(value.name for value in node.outputs[1:]):
        return "BatchNormalization is in training mode"
    if not attribute(node, "spatial", 1):
        return "BatchNormalization is not per channel (spatial=0)"
    if not all(is_constant(value) for value in node.inputs[1:5]):
        return overridable(*node.inputs[1:5]) or "a parameter of BatchNormalization is not constant"
    return None


def parameter_types(node: ir.Node) -> set[ir.DataType | None]:
    """The types of scale, bias, mean and variance."""
    return {value.dtype for value in node.inputs[1:5] if value is not None}


def type_fault(node: ir.Node, dtype: ir.DataType | None) -> str | None:
    """Why parameters can't be folded into a weight of a type, or None."""
    types = parameter_types(node)
    if types == {dtype} and dtype in FLOATS:
        return None
    found = ", ".join(sorted(str(kind) for kind in types))
    return f"the parameters of BatchNormalization are {found}, the weight is {dtype}"


def affine_of(node: ir.Node) -> Affine:
    """The scale and shift, float64 (C,)."""
    gamma, beta, mean, var = (_read(value) for value in node.inputs[1:5])
    with np.errstate(divide="ignore", invalid="ignore"):  # a variance of -eps: the rule declines what is not finite
        scale = gamma / np.sqrt(var + attribute(node, "epsilon", 1e-5))
        return Affine(scale, beta - mean * scale)


def _read(value: ir.Value | None) -> Array:
    array = constant_value(value)
    assert array is not None, "inference_fault() asks for constants"
    return array.astype(np.float64)
