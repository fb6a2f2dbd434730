"""Linear layers in a graph: MatMul and Gemm with a constant weight, float or as `quantize` leaves them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from baker.model.graph import Array, attribute, has_reference_attribute, is_op, overridable, shape_of, sole_reader
from baker.passes.ternary.subgraph import Evaluator

MAX_DEPTH = 1 << 19
"""K up to which `ai.baker::TernaryMatMul` sums in int32."""

_NOT_WORTH_IT = {
    "Conv": ": im2col takes 1 to 6 times as long as an int8 Conv (benchmarks/ternary_conv.py); quantize makes it int8",
    "ConvTranspose": "",
}


@dataclass(frozen=True)
class Linear:
    """``result = activation @ weight (+ bias) (+ addend)``.

    Attributes:
        node: the MatMul, Gemm or MatMulInteger.
        activation: float32 [..., K], before a dynamic quantization.
        weight: depends on constants alone; [K, N], or [N, K] where ``transposed``.
        transposed: whether the weight is stored [N, K].
        factor: float32, scalar or [N]: what the product is multiplied by.
        weight_zero: zero point of an integer weight, scalar or [N].
        bias: float32 [N], or None.
        bias_value: the initializer that is just this bias, or None.
        addend: what else is added (a Gemm's C that is not one value a channel), or None.
        result: the value that the layer makes, bias included.
    """

    node: ir.Node
    activation: ir.Value
    weight: ir.Value
    result: ir.Value
    transposed: bool = False
    factor: Array | None = None
    weight_zero: Array | None = None
    bias: Array | None = None
    bias_value: ir.Value | None = None
    addend: ir.Value | None = None

    def dims(self, evaluator: Evaluator) -> tuple[int, int] | None:
        """(N, K), or None where the weight is no matrix that is known ahead."""
        shape = shape_of(self.weight)
        if shape is None or None in shape:
            stored = evaluator.constant(self.weight)
            shape = None if stored is None else stored.shape
        if shape is None or len(shape) != 2:
            return None
        first, second = (int(dim or 0) for dim in shape)
        return (first, second) if self.transposed else (second, first)

    def matrix(self, evaluator: Evaluator) -> Array | str:
        """The weight as float32 [N, K], every factor included, or why there is none."""
        stored = evaluator.constant(self.weight)
        if stored is None:
            return f"weight '{self.weight.name}' can't be computed ahead"
        if stored.ndim != 2:
            return f"weight '{self.weight.name}' has {stored.ndim} axes {stored.shape}; a linear layer's has two"
        if stored.size == 0:
            return f"weight '{self.weight.name}' {stored.shape} holds nothing"
        matrix = stored if self.transposed else stored.T
        if self.weight_zero is not None:
            matrix = matrix.astype(np.int32) - self.weight_zero.reshape(-1, 1)
        if self.factor is not None:
            matrix = matrix.astype(np.float32) * self.factor.reshape(-1, 1)
        return np.ascontiguousarray(matrix, dtype=np.float32)


def find(node: ir.Node, evaluator: Evaluator) -> Linear | str | None:
    """The linear layer that a node computes.

    Returns:
        The layer; a reason why a node that multiplies by a constant can't be one; None for any other node.
    """
    if is_op(node, "MatMul"):
        return _of_matmul(node, evaluator)
    if is_op(node, "Gemm"):
        return _of_gemm(node, evaluator)
    if is_op(node, "MatMulInteger"):
        return _of_matmul_integer(node, evaluator)
    if is_op(node, "Conv", "ConvTranspose") and evaluator.is_constant(node.inputs[1]):
        return (
            f"ternary converts MatMul and Gemm; there is no ternary {node.op_type} kernel{_NOT_WORTH_IT[node.op_type]}"
        )
    return None


def _of_matmul(node: ir.Node, evaluator: Evaluator) -> Linear | str | None:
    left, right = node.inputs
    if left is None or right is None:
        return None
    if not evaluator.is_constant(right):
        return (
            "its weight is the left operand; only x @ W is converted"
            if evaluator.is_constant(left)
            else overridable(right)
        )
    if evaluator.is_constant(left):
        return None  # all constant: for `fold`
    unfit = _unfit(node, left, right)
    return unfit or _with_bias(Linear(node, left, right, node.outputs[0]), evaluator)


def _of_gemm(node: ir.Node, evaluator: Evaluator) -> Linear | str | None:
    left, right = node.inputs[0], node.inputs[1]
    if left is None or right is None or evaluator.is_constant(left):
        return None
    if not evaluator.is_constant(right):
        return overridable(right)
    if has_reference_attribute(node):
        return "an attribute is a parameter of the enclosing function"
    if attribute(node, "transA", 0):
        return "its activation is transposed (transA=1)"
    unfit = _unfit(node, left, right)
    if unfit:
        return unfit
    alpha, beta = np.float32(attribute(node, "alpha", 1.0)), np.float32(attribute(node, "beta", 1.0))
    layer = Linear(
        node,
        left,
        right,
        node.outputs[0],
        transposed=bool(attribute(node, "transB", 0)),
        factor=None if alpha == 1 else np.asarray(alpha),
    )
    addend = node.inputs[2] if len(node.inputs) > 2 else None
    if addend is None:
        return _with_bias(layer, evaluator)
    bias = _per_channel(evaluator.constant(addend), layer, evaluator)
    if bias is not None:
        named = addend if beta == 1 else None
        return _with_bias(replace(layer, bias=(bias * beta).astype(np.float32), bias_value=named), evaluator)
    if beta != 1:
        return f"its C is no bias of one value a channel, and beta is {beta}"
    return replace(layer, addend=addend)


def _of_matmul_integer(node: ir.Node, evaluator: Evaluator) -> Linear | str | None:
    """x -> DynamicQuantizeLinear -> MatMulInteger -> Cast -> Mul by the scales (-> Add): int8 without calibration."""
    quantized, weight, *zeros = (*node.inputs, None, None)
    if quantized is None or weight is None or not evaluator.is_constant(weight):
        return None
    quantize = quantized.producer()
    if not is_op(quantize, "DynamicQuantizeLinear") or zeros[0] is not quantize.outputs[2]:
        return "its activation is not quantized by a DynamicQuantizeLinear"
    if quantize.inputs[0] is None:
        return None
    scaled = _scaled(node, quantize.outputs[1], evaluator)
    if isinstance(scaled, str):
        return scaled
    factor, result = scaled
    zero = evaluator.constant(zeros[1])
    if zero is not None:
        zero = zero.astype(np.int32)
    layer = Linear(node, quantize.inputs[0], weight, result, factor=factor, weight_zero=zero)
    return _with_bias(layer, evaluator)


def _scaled(node: ir.Node, step: ir.Value, evaluator: Evaluator) -> tuple[Array, ir.Value] | str:
    """What an integer product is multiplied by besides the activation's step, and where that is done."""
    unknown = "its int32 result is not simply scaled back to float"
    cast = _next(node.outputs[0])
    if not is_op(cast, "Cast") or has_reference_attribute(cast) or attribute(cast, "to", 0) != ir.DataType.FLOAT:
        return unknown
    factor: Array = np.ones((), np.float32)
    result, dequantized = cast.outputs[0], False
    while not dequantized:
        mul = _next(result)
        if not is_op(mul, "Mul"):
            return unknown
        operand = next((read for read in mul.inputs if read is not result), None)
        parts = _factors(operand, step, evaluator)
        if parts is None:
            return unknown
        dequantized, constant = parts
        factor, result = factor * constant, mul.outputs[0]
    return factor, result


def _factors(operand: ir.Value | None, step: ir.Value, evaluator: Evaluator) -> tuple[bool, Array] | None:
    """Whether the operand holds the activation's step, and its constant part."""
    if operand is step:
        return True, np.ones((), np.float32)
    constant = evaluator.constant(operand)
    if constant is not None:
        return False, constant.reshape(-1)
    product = operand.producer() if operand is not None else None
    if not is_op(product, "Mul") or step not in product.inputs:
        return None
    other = evaluator.constant(next((read for read in product.inputs if read is not step), None))
    return None if other is None else (True, other.reshape(-1))


def _with_bias(layer: Linear, evaluator: Evaluator) -> Linear:
    """Takes in the Add of one constant a channel that alone reads the result, if there is one."""
    add = _next(layer.result)
    if not is_op(add, "Add"):
        return layer
    other = next((read for read in add.inputs if read is not layer.result), None)
    bias = _per_channel(evaluator.constant(other), layer, evaluator)
    if bias is None:
        return layer
    if layer.bias is None:
        return replace(layer, bias=bias, bias_value=other, result=add.outputs[0])
    return replace(layer, bias=layer.bias + bias, bias_value=None, result=add.outputs[0])


def _next(value: ir.Value) -> ir.Node | None:
    """The only node that reads the value, where it stands in the same graph: a branch's node may never run."""
    reader = sole_reader(value)
    return reader if reader is not None and reader.graph is value.graph else None


def _per_channel(constant: Array | None, layer: Linear, evaluator: Evaluator) -> Array | None:
    """The constant as float32 [N] when adding it to the result adds one value a channel and no axis."""
    if constant is None or constant.dtype != np.float32:
        return None
    dims = layer.dims(evaluator)
    shape = shape_of(layer.activation) or shape_of(layer.result) or (None,)
    axes = 2 if is_op(layer.node, "Gemm") else len(shape)
    if dims is None:
        return None
    channels = dims[0]
    if constant.ndim > axes or constant.size not in (1, channels):
        return None
    if constant.size == channels and constant.ndim and constant.shape[-1] != channels:
        return None
    return np.broadcast_to(constant.reshape(-1), (channels,))


def _unfit(node: ir.Node, activation: ir.Value, weight: ir.Value) -> str | None:
    """Why types rule the layer out, or None."""
    for value, what in ((weight, "weight"), (activation, "activation")):
        if value.dtype is not None and value.dtype != ir.DataType.FLOAT:
            kind, shape = value.dtype.name.lower(), shape_of(value)
            dims = "" if shape is None else f" {tuple('?' if dim is None else dim for dim in shape)}"
            return (
                f"{what} '{value.name}' of {node.op_type} '{node.name}' is {kind}{dims}; ternary needs float32. "
                f"Convert the model to float32 first, or exclude it: ternary{{skip={value.name}}}"
            )
    return None
