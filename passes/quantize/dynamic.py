"""Int8 without calibration data: activations measured while the model runs, or weights alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from baker.model.graph import (
    Array,
    attribute,
    constant_before,
    emit,
    graph_of,
    in_function,
    index_names,
    is_op,
    remove_if_dead,
    replace_value,
)
from baker.model.qparams import Affine, quantize, weight_qparams
from baker.passes.quantize.built import Built
from baker.passes.quantize.layers import Layer, find_layers
from baker.pipeline.pass_base import Change, Declined

_OVERHEAD = 300  # bytes that a DequantizeLinear with its names takes in the file


@dataclass(frozen=True)
class DynamicInt8:
    """Builds int8 models that need no data: integer kernels for MatMul and Gemm, int8 storage for Conv.

    Attributes:
        selects: which nodes may be touched.
    """

    selects: Callable[[ir.Node], bool]

    def build(self, model: ir.Model, excluded: Mapping[str, str]) -> Built:
        """Quantizes a copy of the model.

        MatMul: DynamicQuantizeLinear -> MatMulInteger -> Cast -> Mul (-> Add), which ONNX Runtime fuses to
        DynamicQuantizeMatMul or, where several layers read one activation, MatMulIntegerToFloat. Conv: its weight
        goes through a DequantizeLinear. ConvInteger is never written: it is slower than the float Conv.

        Args:
            excluded: layers to leave in float, and why, by name.
        """
        candidate = model.clone()
        index_names(candidate)
        layers, declined = find_layers(candidate, self.selects)
        writer = _Writer()
        changes: list[Change] = []
        for layer in layers:
            reason = excluded.get(layer.name) or _refusal(layer)
            if reason is not None:
                declined.append(Declined(layer.name, reason))
                continue
            changes.append(writer.conv(layer) if is_op(layer.node, "Conv") else writer.matmul(layer))
        return Built(candidate, changes, declined, writer.weights)


def _refusal(layer: Layer) -> str | None:
    """Why a layer gains nothing, or can't be quantized, without calibration data; None if it can."""
    if layer.dtype == np.uint8:
        return "its weight is the left operand, which only calibration data can make int8"
    if not is_op(layer.node, "Conv"):
        return None
    array = layer.array()
    saved = 3 * array.size - 5 * array.shape[0] - _OVERHEAD
    return None if saved > 0 else f"storing its {array.size} weights as int8 would make the file no smaller"


@dataclass
class _Writer:
    quantized: dict[tuple[ir.Value, ir.Graph, bool], ir.Node] = field(default_factory=dict)
    stored: dict[tuple[ir.Value, ir.Graph, str], tuple[ir.Value, ir.Value]] = field(default_factory=dict)
    weights: dict[str, str] = field(default_factory=dict)

    def conv(self, layer: Layer) -> Change:
        """Int8 storage: Conv reads its weight through a DequantizeLinear."""
        node, array = layer.node, layer.array()
        name = layer.weight.name or "weight"
        inputs = self.weight(layer, array, weight_qparams(array, 0), "conv")
        restored = emit(node, "DequantizeLinear", inputs, {"axis": 0}, name=f"{name}_DequantizeLinear")
        node.replace_input_with(layer.weight_index, restored.outputs[0])
        remove_if_dead(layer.weight)
        dims = "x".join(map(str, array.shape))
        return Change("int8-weights", layer.name, f"Conv: weight {dims} stored as S8 per channel, computed in float")

    def matmul(self, layer: Layer) -> Change:
        """Integer product of an activation that is quantized on the way."""
        node, name = layer.node, layer.name
        array = layer.array()
        if is_op(node, "Gemm") and attribute(node, "transB", 0):
            array = array.T
        product = self.product(layer, self.activation(layer), array)
        bias = layer.bias if layer.bias_add is None else None
        if bias is not None:
            stored = constant_before(node, f"{name}_bias", bias)
            product = emit(node, "Add", [product, stored], name=f"{name}_Add").outputs[0]
        product.type, product.shape = node.outputs[0].type, node.outputs[0].shape
        old, result = list(node.inputs), node.outputs[0]
        kept, kind = result.name, node.op_type
        replace_value(result, product)
        graph_of(node).remove(node, safe=True)
        product.name = kept
        remove_if_dead(*old[1:])
        dims = "x".join(map(str, array.shape))
        what = f"{kind} -> int8: activation U8 measured while it runs, weight S8 {dims} per channel ({array.shape[-1]})"
        return Change("int8-dynamic", name, what)

    def product(self, layer: Layer, activation: ir.Node, array: Array) -> ir.Value:
        """``cast(xq @ wq) * (x_scale * w_scale)``, float32 of the layer's output shape."""
        node, name = layer.node, layer.name
        form = f"{array.shape} {attribute(node, 'transB', 0)} {layer.alpha}"
        weight, scale = self.weight(layer, array, weight_qparams(array, array.ndim - 1), form)
        if not in_function(node):  # a function's weights have no initializer to look for
            self.weights[name] = weight.name or ""
        quantized, step, zero = activation.outputs
        integer = emit(node, "MatMulInteger", [quantized, weight, zero], name=f"{name}_MatMulInteger")
        integer.name, node.name = name, integer.name  # reports go on naming the layer as its model does
        real = emit(node, "Cast", [integer.outputs[0]], {"to": ir.DataType.FLOAT}, name=f"{name}_Cast").outputs[0]
        factor = emit(node, "Mul", [step, scale], name=f"{name}_scale").outputs[0]
        return emit(node, "Mul", [real, factor], name=f"{name}_Mul").outputs[0]

    def weight(self, layer: Layer, array: Array, qparams: Affine, form: str) -> tuple[ir.Value, ir.Value]:
        """Integers and scales; one pair for all layers of a graph that use the weight in the same form."""
        key = (layer.weight, graph_of(layer.node), form)
        if key not in self.stored:
            name = layer.weight.name or layer.name
            integers = np.ascontiguousarray(quantize(array, qparams))
            self.stored[key] = (
                constant_before(layer.node, f"{name}_quantized", integers),
                constant_before(layer.node, f"{name}_scale", qparams.scale),
            )
        return self.stored[key]

    def activation(self, layer: Layer) -> ir.Node:
        """The DynamicQuantizeLinear of what the layer reads; one for all layers of a graph that read it."""
        node, source = layer.node, layer.node.inputs[layer.source_index]
        assert source is not None  # the layer's source, or what an earlier layer's result was replaced by
        transposed = is_op(node, "Gemm") and bool(attribute(node, "transA", 0))
        key = (source, graph_of(node), transposed)
        if key not in self.quantized:
            name = source.name or "activation"
            read = source
            if transposed:
                read = emit(node, "Transpose", [source], {"perm": [1, 0]}, name=f"{name}_Transpose").outputs[0]
            self.quantized[key] = emit(
                node, "DynamicQuantizeLinear", [read], outputs=3, name=f"{name}_DynamicQuantizeLinear"
            )
        return self.quantized[key]
