"""The layers that int8 is for: Conv, Gemm and MatMul with a constant weight."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from baker.model.graph import (
    Array,
    all_nodes,
    attribute,
    constant_value,
    has_reference_attribute,
    is_constant,
    is_op,
    label,
    overridable,
    shape_of,
    sole_reader,
)
from baker.passes.quantize.placement import FLOAT, placement_of, refusal, saturation
from baker.pipeline.pass_base import Declined


@dataclass(frozen=True, eq=False)
class Layer:
    """``result = activation(op(source, weight) + bias)``.

    Attributes:
        node: the Conv, Gemm or MatMul.
        source: the activation that it reads, float32.
        source_index: at which input.
        weight: its constant, float32, as the graph has it.
        weight_index: at which input.
        shape: what the weight is reshaped to before it is quantized: its own shape, without leading ones.
        axis: output-channel axis; None where ONNX Runtime takes one scale per tensor only.
        result: what it makes, the bias Add and an absorbed Relu or Clip included.
        bias: float32 (channels,), a Gemm's beta applied; None without a bias.
        bias_add: the Add that adds a MatMul's bias, or None.
        alpha: a Gemm's factor on the product.
        dtype: int8, or uint8 for a weight on the left, which ONNX Runtime multiplies only unsigned by unsigned.
    """

    node: ir.Node
    source: ir.Value
    source_index: int
    weight: ir.Value
    weight_index: int
    shape: tuple[int, ...]
    axis: int | None
    result: ir.Value
    bias: Array | None = None
    bias_add: ir.Node | None = None
    alpha: float = 1.0
    dtype: Any = np.int8

    @property
    def name(self) -> str:
        """What the report calls it."""
        return label(self.node)

    @property
    def needs_output(self) -> bool:
        """True when ONNX Runtime leaves it in float unless its result is quantized, too."""
        row = placement_of(self.node, "layer")
        return row is not None and row.needs_output

    def array(self) -> Array:
        """The weight that is to be quantized, float32, of ``shape``, alpha applied.

        Raises:
            ValueError: the weight is no constant any more.
        """
        stored = weight_value(self.weight)
        if stored is None:
            raise ValueError(f"weight '{self.weight.name}' of {self.name} is no constant")
        stored = stored.reshape(self.shape)
        return stored if self.alpha == 1.0 else (stored * np.float32(self.alpha)).astype(np.float32)


def weight_value(value: ir.Value | None) -> Array | None:
    """The array of a constant, also behind a Transpose that was not folded (of an embedding that others read, too)."""
    found = constant_value(value)
    if found is not None or value is None:
        return found
    node = value.producer()
    if not is_op(node, "Transpose") or has_reference_attribute(node):
        return None
    inner = constant_value(node.inputs[0])
    return None if inner is None else np.transpose(inner, attribute(node, "perm", None))


def is_weight(value: ir.Value | None) -> bool:
    """True where `weight_value` finds an array, without reading it."""
    node = None if value is None else value.producer()
    return is_constant(value) or (is_op(node, "Transpose") and is_constant(node.inputs[0]))


_WEIGHTED = ("ConvTranspose", "LSTM", "GRU", "RNN", "Einsum")
"""Operators that the report has to mention: they have weights, too, and stay in float."""


def find_layers(model: ir.Model, selects: Callable[[ir.Node], bool]) -> tuple[list[Layer], list[Declined]]:
    """Returns every layer of the model, in order, and what looks like one but can't be quantized.

    Args:
        selects: which nodes the user wants to be touched.
    """
    layers: list[Layer] = []
    declined: list[Declined] = []
    for node in all_nodes(model):
        found = _find(node)
        if found is None:
            continue
        if not selects(node):
            found = "left alone by 'only' or 'skip'"
        if isinstance(found, str):
            declined.append(Declined(label(node), found))
        else:
            layers.append(found)
    return layers, declined


def _find(node: ir.Node) -> Layer | str | None:
    """The layer at a node, why it can't be quantized, or None for what is no layer."""
    finder = _FINDERS.get(node.op_type) if placement_of(node, "layer") else None
    if finder is not None:
        reason = refusal(node) or _unfit(node)
        return reason or finder(node)
    if is_op(node, *_WEIGHTED):
        return f"{node.op_type}: {FLOAT[node.op_type]}"
    return None


def _unfit(node: ir.Node) -> str | None:
    """Why the types or the absence of constants rule the node out, or None."""
    weights = [value for value in node.inputs[:2] if value is not None and is_weight(value)]
    if not weights:
        producers = [value.producer() for value in node.inputs[:2] if value is not None]
        if any(is_op(producer, "DequantizeLinear") for producer in producers):
            return "is quantized already"
        return (
            overridable(*node.inputs[:2])
            or "both operands are computed while the model runs; there is no weight to quantize"
        )
    if len(weights) == 2:
        return "both operands are constant; run 'fold' first"
    array = _array(weights[0])
    if array.dtype != np.float32:  # the value's own type may be unknown, in the body of a function
        return (
            f"weight '{weights[0].name}' is {array.dtype.name} {array.shape}; quantize needs float32. "
            "Convert the model to float32 first"
        )
    if not np.isfinite(array).all():
        return f"weight '{weights[0].name}' holds NaN or infinity"
    return None


def _conv(node: ir.Node) -> Layer | str:
    source, weight = node.inputs[0], node.inputs[1]
    shape = _shape(weight)
    if source is None or weight is None or is_weight(source):
        return "its weight is computed while the model runs"
    given = node.inputs[2] if len(node.inputs) > 2 else None
    bias = constant_value(given)
    if given is not None and bias is None:
        return overridable(given) or f"bias '{given.name}' is computed while the model runs"
    result = _behind(node.outputs[0])
    return Layer(node, source, 0, weight, 1, shape, 0, result, bias)


def _gemm(node: ir.Node) -> Layer | str:
    source, weight = node.inputs[0], node.inputs[1]
    if source is None or weight is None or is_weight(source):
        return "its weight is the left operand; only x @ W runs on integers"
    shape = _shape(weight)
    axis = 0 if attribute(node, "transB", 0) else 1
    given = node.inputs[2] if len(node.inputs) > 2 else None
    bias: Array | None = None
    if given is not None:
        bias = _per_channel(constant_value(given), shape[axis], 2)
        if bias is None:
            return (
                overridable(given) or f"C '{given.name}' {shape_of(given) or ''} is no bias of one constant a channel"
            )
        bias = (bias * np.float32(attribute(node, "beta", 1.0))).astype(np.float32)
    alpha = float(attribute(node, "alpha", 1.0))
    return Layer(node, source, 0, weight, 1, shape, axis, _behind(node.outputs[0]), bias, alpha=alpha)


def _matmul(node: ir.Node) -> Layer | str:
    left, right = node.inputs
    if left is None or right is None:
        return "an operand is missing"
    if is_weight(left):
        shape = _shape(left)
        return Layer(node, right, 1, left, 0, shape, None, _behind(node.outputs[0]), dtype=np.uint8)
    shape = _shape(right)
    if len(shape) < 2:
        return f"weight '{right.name}' is a vector {shape}; ONNX Runtime multiplies integer matrices only"
    source = shape_of(left)
    rank = None if source is None else max(len(source), len(shape))
    if len(shape) > 2 and math.prod(shape[:-2]) == 1 and source is not None and len(source) >= len(shape):
        shape = shape[-2:]
    axis = 1 if len(shape) == 2 else None  # a batch of weights: MatMulIntegerToFloat refuses per-channel scales
    add, bias = _bias_add(node.outputs[0], shape[-1], rank)
    result = _behind(node.outputs[0] if add is None else add.outputs[0])
    return Layer(node, left, 0, right, 1, shape, axis, result, bias, add)


_FINDERS: dict[str, Callable[[ir.Node], Layer | str]] = {"Conv": _conv, "Gemm": _gemm, "MatMul": _matmul}


def _array(value: ir.Value | None) -> Array:
    stored = weight_value(value)
    return np.empty(0, np.float32) if stored is None else stored


def _shape(value: ir.Value | None) -> tuple[int, ...]:
    return tuple(_array(value).shape)


def _bias_add(value: ir.Value, channels: int, rank: int | None) -> tuple[ir.Node | None, Array | None]:
    """The Add of one constant a channel that alone reads the value, and that constant as (channels,)."""
    add = sole_reader(value)
    if not is_op(add, "Add") or add.graph is not value.graph:
        return None, None
    other = next((read for read in add.inputs if read is not value), None)
    bias = _per_channel(constant_value(other), channels, rank)
    return (None, None) if bias is None else (add, bias)


def _per_channel(constant: Array | None, channels: int, rank: int | None) -> Array | None:
    """The constant as float32 (channels,), if adding it adds one value a channel and no axis to the result."""
    if constant is None or constant.dtype != np.float32 or constant.ndim > (rank or 1):
        return None
    if constant.size != 1 and (constant.size != channels or constant.shape[-1] != channels):
        return None
    return np.ascontiguousarray(np.broadcast_to(constant.reshape(-1), (channels,)))


def _behind(value: ir.Value) -> ir.Value:
    """The output of the Relu or Clip that alone reads the value and that a QuantizeLinear can absorb, or the value."""
    node = sole_reader(value)
    if node is None or node.graph is not value.graph or saturation(node) is None:
        return value
    return node.outputs[0]


def misfusion(source: ir.Value) -> str | None:
    """Why a tensor must not be quantized because of what made it (see `Placement.misfused`), or None."""
    node = source.producer()
    while node is not None and (saturation(node) is not None or placement_of(node, "same")):
        above = node.inputs[0]
        node = None if above is None else above.producer()
    row = placement_of(node)
    if node is None or row is None or not row.misfused:
        return None
    reason = row.guard(node)
    return None if reason is None else f"it reads {label(node)}, and {reason}"
