"""Writes QuantizeLinear and DequantizeLinear into the graph, where ONNX Runtime fuses them to integer kernels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import onnx_ir as ir

from baker.model.graph import Array, label, remove_if_dead, replace_value, set_initializer, unique_name
from baker.model.qparams import MIN_SCALE, Affine, activation_qparams, quantize, weight_qparams
from baker.passes.quantize.bias import ChannelMean, channel_axis, shift
from baker.passes.quantize.layers import Layer
from baker.passes.quantize.plan import Plan, QTensor
from baker.pipeline.pass_base import Change

Ranges = Mapping[str, tuple[float, float]]
"""(lo, hi) by tensor name."""

_WeightKey: TypeAlias = tuple[ir.Value, tuple[int, ...], int | None, bytes]
"""A weight, its shape, its channel axis and its scales: what layers must agree in to share the integers."""

Rounded: TypeAlias = dict[tuple[str, bytes], tuple[Array, Array | None]]
"""A layer's int8 weight and what its bias is corrected by, by output name and scales: found once for many builds."""

_MOST_BIAS = float(1 << 30)
"""Largest int32 bias: as much again is left for the products that ONNX Runtime adds to it (K up to 33,000)."""


@dataclass(frozen=True)
class Emitted:
    """What `emit_static` did.

    Attributes:
        changes: one per layer and one per operator between them.
        weights: the initializer that now holds each layer's integers, by layer name.
    """

    changes: list[Change]
    weights: dict[str, str]


def tensor_qparams(plan: Plan, ranges: Ranges) -> dict[ir.Value, Affine]:
    """Parameters for each quantized tensor; those with one leader share one object."""
    leading: dict[ir.Value, Affine] = {}
    for value, tensor in plan.tensors.items():
        if tensor.leader is value:
            leading[value] = activation_qparams(*ranges[value.name or ""], within=tensor.within)
    return {value: leading[tensor.leader] for value, tensor in plan.tensors.items()}


def emit_static(
    graph: ir.Graph,
    plan: Plan,
    ranges: Ranges,
    means: Mapping[str, ChannelMean] | None = None,
    rounded: Rounded | None = None,
) -> Emitted:
    """Puts the plan into the graph.

    Weights become int8 initializers (or uint8) behind a DequantizeLinear, biases int32 ones whose scale is exactly
    s_x · s_w[n], as ONNX Runtime demands. Float weights that nobody reads any more are removed.

    Args:
        plan: made for this very graph.
        ranges: (lo, hi) of every leader in the plan, by name.
        means: channel means of layers' inputs by name; biases are corrected by them.
        rounded: what was found in builds with the same ranges and means before; it is added to.
    """
    writer = _Writer(graph, plan, tensor_qparams(plan, ranges), means or {}, {} if rounded is None else rounded)
    changes = [writer.layer(layer) for layer in plan.layers]
    for tensor in plan.tensors.values():
        writer.tensor(tensor)
    for node in plan.others:
        changes.append(Change("int8-operator", label(node), f"{node.op_type} -> int8, as what it reads and feeds"))
    return Emitted(changes, writer.weights)


@dataclass
class _Writer:
    graph: ir.Graph
    plan: Plan
    qparams: dict[ir.Value, Affine]
    means: Mapping[str, ChannelMean]
    rounded: Rounded
    stored: dict[_WeightKey, tuple[ir.Value, ir.Value]] = field(default_factory=dict)
    scalars: dict[int, tuple[ir.Value, ir.Value]] = field(default_factory=dict)
    weights: dict[str, str] = field(default_factory=dict)

    # ---- activations ----

    def tensor(self, tensor: QTensor) -> None:
        """Puts QuantizeLinear -> DequantizeLinear behind a tensor."""
        value = tensor.value
        scale, zero_point = self.parameters(tensor.leader)
        name = value.name or "tensor"
        q = self.node("QuantizeLinear", [value, scale, zero_point], name)
        dq = self.node("DequantizeLinear", [q.outputs[0], scale, zero_point], name)
        self.insert_behind(value, [q, dq])
        restored = dq.outputs[0]
        restored.type, restored.shape = ir.TensorType(ir.DataType.FLOAT), value.shape
        if tensor.forced:
            replace_value(value, restored)
            if value.name is None:  # its name went to the graph output
                value.name = unique_name(self.graph, f"{name}_float")
            q.replace_input_with(0, value)
            return
        for node, index in tensor.readers:
            node.replace_input_with(index, restored)

    def parameters(self, leader: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Scale and zero point of a tensor as initializers, the same ones for all that share them."""
        qparams = self.qparams[leader]
        if id(qparams) not in self.scalars:
            name = leader.name or "tensor"
            self.scalars[id(qparams)] = (
                set_initializer(self.graph, f"{name}_scale", qparams.scale),
                set_initializer(self.graph, f"{name}_zero_point", qparams.zero_point),
            )
        return self.scalars[id(qparams)]

    def insert_behind(self, value: ir.Value, nodes: list[ir.Node]) -> None:
        producer = value.producer()
        if producer is not None:
            self.graph.insert_after(producer, nodes)
        else:
            self.graph.insert_before(self.graph[0], nodes)

    # ---- layers ----

    def layer(self, layer: Layer) -> Change:
        """Quantizes weight and bias of a layer."""
        array, bias = layer.array(), layer.bias
        source = self.qparams[layer.source]
        weight = layer_weight_qparams(layer, array, source)
        integers, moved = self.round(layer, array, weight)
        layer.node.replace_input_with(layer.weight_index, self.dequantized(layer, integers, weight))
        if moved is not None:
            bias = -moved if bias is None else bias - moved
        if bias is not None:
            self.bias(layer, bias, source, weight)
        layer.node.attributes.pop("alpha", None)
        layer.node.attributes.pop("beta", None)
        remove_if_dead(layer.weight)
        return Change("int8-static", layer.name, _describe(layer, array, source, weight))

    def round(self, layer: Layer, array: Array, weight: Affine) -> tuple[Array, Array | None]:
        """The weight's integers, and what rounding it adds to the layer's result on average, if that is known."""
        key = (layer.node.outputs[0].name or "", weight.scale.tobytes())
        if key not in self.rounded:
            integers = quantize(array, weight)
            seen = self.means.get(layer.source.name or "")
            moved = None
            if seen is not None and channel_axis(layer) is not None:
                moved = shift(layer, _rounding_error(array, integers, weight), seen)
            self.rounded[key] = integers, moved
        return self.rounded[key]

    def dequantized(self, layer: Layer, integers: Array, weight: Affine) -> ir.Value:
        """What dequantizes the weight's integers; layers that share weight and scales share it."""
        key = (layer.weight, integers.shape, weight.axis, weight.scale.tobytes())
        if key not in self.stored:
            name = layer.weight.name or "weight"
            inputs = [
                set_initializer(self.graph, f"{name}_quantized", integers),
                set_initializer(self.graph, f"{name}_scale", weight.scale),
                set_initializer(self.graph, f"{name}_zero_point", weight.zero_point),
            ]
            self.stored[key] = inputs[0], self.dequantize(inputs, weight.axis, layer.node, name)
        stored, restored = self.stored[key]
        self.weights[layer.name] = stored.name or ""
        return restored

    def bias(self, layer: Layer, bias: Array, source: Affine, weight: Affine) -> None:
        scale = (np.float32(source.scale) * weight.scale).astype(np.float32)
        if scale.ndim == 0:
            scale = np.full(bias.shape, scale, np.float32)
        integers = quantize(bias, Affine(scale, np.zeros(scale.shape, np.int32), 0))
        old = self.bias_input(layer)
        name = layer.name if old is None else old.name or "bias"
        hint = name if old is not None else f"{name}_bias"
        inputs = [
            set_initializer(self.graph, f"{hint}_quantized", integers),
            set_initializer(self.graph, f"{hint}_scale", scale),
        ]
        restored = self.dequantize(inputs, 0, layer.node, hint)
        if layer.bias_add is not None:
            index = next(i for i, value in enumerate(layer.bias_add.inputs) if value is old)
            layer.bias_add.replace_input_with(index, restored)
        else:
            layer.node.resize_inputs(3)
            layer.node.replace_input_with(2, restored)
        remove_if_dead(old)

    def bias_input(self, layer: Layer) -> ir.Value | None:
        if layer.bias_add is not None:
            producers = {value: value.producer() for value in layer.bias_add.inputs if value is not None}
            return next(value for value, producer in producers.items() if producer is not layer.node)
        return layer.node.inputs[2] if len(layer.node.inputs) > 2 else None

    # ---- nodes ----

    def dequantize(self, inputs: list[ir.Value], axis: int | None, before: ir.Node, name: str) -> ir.Value:
        node = self.node("DequantizeLinear", inputs, name, axis)
        self.graph.insert_before(before, node)
        return node.outputs[0]

    def node(self, op_type: str, inputs: list[ir.Value], name: str, axis: int | None = None) -> ir.Node:
        node = ir.node(
            op_type,
            inputs=inputs,
            attributes={} if axis is None else {"axis": axis},
            name=unique_name(self.graph, f"{name}_{op_type}"),
        )
        node.outputs[0].name = unique_name(self.graph, f"{name}_{op_type}_out")
        return node


def layer_weight_qparams(layer: Layer, array: Array, source: Affine) -> Affine:
    """Scales of a layer's weight, raised where its bias would not fit into int32 otherwise (tiny or all-zero channels).

    Raising a scale to |b| / (s_x · 2^30) costs at most K · 255 · |b| / 2^31 in the output: nothing beside the bias.
    """
    if layer.dtype == np.uint8:
        return activation_qparams(float(array.min()), float(array.max()))
    weight, bias = weight_qparams(array, layer.axis), layer.bias
    if bias is None:
        return weight
    step = float(source.scale)
    least = np.maximum(np.abs(bias.astype(np.float64)) / (step * _MOST_BIAS), MIN_SCALE / min(step, 1.0))
    used = array.any(axis=None if layer.axis is None else _others(array.ndim, layer.axis))
    if layer.axis is None:
        least = least.max()
    biased = (bias != 0) if layer.axis is not None else np.any(bias)
    scale = np.where(used, np.maximum(weight.scale, least), np.where(biased, least, 1.0))
    return Affine(scale.astype(np.float32), weight.zero_point, weight.axis)


def _rounding_error(array: Array, integers: Array, weight: Affine) -> Array:
    """Wq - W in float32."""
    if weight.axis is None:
        raise ValueError("the weight of a layer with a corrected bias has int8 integers per channel")
    scale = weight.scale.reshape([-1 if axis == weight.axis else 1 for axis in range(array.ndim)])
    restored: Array = integers * scale
    restored -= array
    return restored


def _others(rank: int, axis: int) -> tuple[int, ...]:
    return tuple(i for i in range(rank) if i != axis)


def _describe(layer: Layer, array: Array, source: Affine, weight: Affine) -> str:
    low = -int(source.zero_point) * float(source.scale)
    high = (255 - int(source.zero_point)) * float(source.scale)
    scales = "per tensor" if weight.axis is None else f"per channel ({weight.scale.size})"
    kind = "U8" if layer.dtype == np.uint8 else "S8"
    return (
        f"{layer.node.op_type} -> int8: activation U8 [{low:.4g}, {high:.4g}], "
        f"weight {kind} {'x'.join(map(str, array.shape))} {scales}"
    )
