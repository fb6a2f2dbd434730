"""Which layers int8 hurts most, measured one by one in a single session."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from baker.model.graph import emit, index_names, set_initializer, unique_name
from baker.model.qparams import Affine, dequantize, quantize, weight_qparams
from baker.passes.quantize.emit import Ranges, layer_weight_qparams, tensor_qparams
from baker.passes.quantize.layers import Layer, find_layers
from baker.passes.quantize.plan import make_plan
from baker.pipeline.pass_base import PassContext
from baker.runtime.session import run, session

_FEEDS = 4


def by_output_error(model: ir.Model, names: Sequence[str], ranges: Ranges, context: PassContext) -> list[str]:
    """Sorts layers by the noise-to-signal ratio that int8 causes in each one alone, worst first.

    One copy of the model holds every layer twice, in float and quantized and fed the same float activations; what
    leaves it is two sums of squares per layer, so a sample costs two runs of the model and no memory to speak of.

    Args:
        model: float.
        names: the layers.
        ranges: (lo, hi) by tensor name.
    """
    probe = model.clone()
    index_names(probe)
    layers = [layer for layer in find_layers(probe, lambda node: True)[0] if layer.name in set(names)]
    plan = make_plan(probe.graph, layers)
    qparams = tensor_qparams(plan, ranges)
    outputs = [_probe(probe.graph, layer, qparams) for layer in layers]
    probe.graph.outputs[:] = [value for pair in outputs for value in pair]
    runner = session(probe, threads=context.threads)
    totals = np.zeros((len(layers), 2))
    for feed in itertools.islice(context.calibration, _FEEDS):
        totals += np.array(list(run(runner, feed).values()), np.float64).reshape(-1, 2)
    ratio = {layer.name: noise / max(signal, 1e-30) for layer, (noise, signal) in zip(layers, totals, strict=True)}
    return sorted(names, key=lambda name: ratio.get(name, math.inf), reverse=True)


def by_weight_error(model: ir.Model, names: Sequence[str]) -> list[str]:
    """Sorts layers by the noise-to-signal ratio of their int8 weights, worst first; needs no data."""
    ratio = {}
    for layer in find_layers(model, lambda node: True)[0]:
        array = layer.array()
        qparams = weight_qparams(array, array.ndim - 1 if layer.axis is None else layer.axis)
        noise = np.square(dequantize(quantize(array, qparams), qparams) - array).sum(dtype=np.float64)
        ratio[layer.name] = noise / max(np.square(array).sum(dtype=np.float64), 1e-30)
    return sorted(names, key=lambda name: ratio.get(name, math.inf), reverse=True)


def _probe(graph: ir.Graph, layer: Layer, qparams: dict[ir.Value, Affine]) -> tuple[ir.Value, ir.Value]:
    """Adds the quantized twin of a layer; returns Σ (its error)² and Σ (its float result)²."""
    node = layer.node
    array = layer.array()
    weight = layer_weight_qparams(layer, array, qparams[layer.source])
    inputs = list(node.inputs)
    inputs[layer.source_index] = _rounded(graph, node, layer.source, qparams[layer.source])
    inputs[layer.weight_index] = set_initializer(graph, "probe_weight", dequantize(quantize(array, weight), weight))
    attributes = {key: value for key, value in node.attributes.items() if key != "alpha"}
    twin = emit(node, node.op_type, inputs, attributes).outputs[0]
    if layer.needs_output:
        return _squares(graph, layer.result, _rounded(graph, node, twin, qparams[layer.result]))
    return _squares(graph, node.outputs[0], twin)


def _rounded(graph: ir.Graph, before: ir.Node, value: ir.Value, qparams: Affine) -> ir.Value:
    scale = set_initializer(graph, "probe_scale", qparams.scale)
    zero_point = set_initializer(graph, "probe_zero_point", qparams.zero_point)
    q = emit(before, "QuantizeLinear", [value, scale, zero_point]).outputs[0]
    return emit(before, "DequantizeLinear", [q, scale, zero_point]).outputs[0]


def _squares(graph: ir.Graph, reference: ir.Value, twin: ir.Value) -> tuple[ir.Value, ir.Value]:
    difference = ir.node("Sub", [twin, reference])
    noise = ir.node("ReduceSumSquare", [difference.outputs[0]], {"keepdims": 0})
    signal = ir.node("ReduceSumSquare", [reference], {"keepdims": 0})
    graph.extend([difference, noise, signal])
    for made in (difference, noise, signal):
        made.outputs[0].name = unique_name(graph, "probe")
    for made in (noise, signal):
        made.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    return noise.outputs[0], signal.outputs[0]
