"""Which layers int8 hurts most, measured one by one."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from baker.model.graph import Array, emit, index_names, set_initializer, shape_of, unique_name
from baker.model.qparams import Affine, dequantize, quantize, weight_qparams
from baker.passes.quantize.emit import Ranges, layer_weight_qparams, tensor_qparams
from baker.passes.quantize.layers import Layer, find_layers
from baker.passes.quantize.plan import make_plan
from baker.pipeline.pass_base import PassContext
from baker.runtime.session import run, session

_FEEDS = 2
_ENOUGH = 1 << 17
"""Input values; one feed that holds as many (a picture) tells as much as several."""
_SESSIONS = 2
"""ONNX Runtime dequantizes all weights before the first layer runs; in parts, less is held at once."""


def output_errors(model: ir.Model, names: Sequence[str], ranges: Ranges, context: PassContext) -> dict[str, float]:
    """Noise-to-signal ratio that int8 input, weight and (behind a Conv) output cause in each layer alone.

    A copy of the model holds layers twice, in float and quantized and fed the same float activations; what leaves it
    are sums, so a sample costs about two runs of the model and no memory to speak of. The signal is what varies:
    a channel's mean over all samples is no part of it.

    Args:
        model: float.
        names: the layers.
        ranges: (lo, hi) by tensor name.
    """
    half = -(-len(names) // _SESSIONS)
    found: dict[str, float] = {}
    for start in range(0, len(names), max(half, 1)):
        found |= _errors_of(model, set(names[start : start + half]), ranges, context)
    return found


def _errors_of(model: ir.Model, names: set[str], ranges: Ranges, context: PassContext) -> dict[str, float]:
    probe = model.clone()
    index_names(probe)
    layers = [layer for layer in find_layers(probe, lambda node: True)[0] if layer.name in names]
    qparams = tensor_qparams(make_plan(probe.graph, layers), ranges)
    outputs = [_probe(probe.graph, layer, qparams) for layer in layers]
    probe.graph.outputs[:] = [value for four in outputs for value in four]
    # With the optimizer on, every quantized weight would be held as float32, too.
    runner = session(probe, optimize=False, arena=False, threads=context.threads, custom_ops=context.custom_ops)
    totals: list[Array] = [np.zeros((), np.float64)] * (4 * len(layers))
    values = 0
    for feed in itertools.islice(context.calibration, _FEEDS):
        totals = [total + found for total, found in zip(totals, run(runner, feed).values(), strict=True)]
        values += sum(np.size(array) for array in feed.values())
        if values >= _ENOUGH:
            break
    return {layer.name: _ratio(*totals[4 * i : 4 * i + 4]) for i, layer in enumerate(layers)}


def _ratio(noise: Array, total: Array, squares: Array, elements: Array) -> float:
    count = float(elements) / total.size  # of values per channel
    mean = np.square(total, dtype=np.float64) / count if count > 1 else 0.0  # one value is no mean of many
    signal = float(np.maximum(squares - mean, 0).sum())
    return float(noise) / max(signal, 1e-30)


def weight_errors(model: ir.Model, names: Sequence[str]) -> dict[str, float]:
    """Noise-to-signal ratio of each layer's int8 weights; needs no data."""
    ratio = {}
    for layer in find_layers(model, lambda node: True)[0]:
        if layer.name not in names:
            continue
        array = layer.array()
        qparams = weight_qparams(array, array.ndim - 1 if layer.axis is None else layer.axis)
        noise = np.square(dequantize(quantize(array, qparams), qparams) - array).sum(dtype=np.float64)
        ratio[layer.name] = noise / max(np.square(array).sum(dtype=np.float64), 1e-30)
    return ratio


def _probe(graph: ir.Graph, layer: Layer, qparams: dict[ir.Value, Affine]) -> list[ir.Value]:
    """Adds the quantized twin of a layer; returns Σ error², and Σ y, Σ y² per channel and the size of y."""
    node = layer.node
    array = layer.array()
    weight = layer_weight_qparams(layer, array, qparams[layer.source])
    inputs = list(node.inputs)
    inputs[layer.source_index] = _rounded(graph, node, layer.source, qparams[layer.source])
    # As integers: a second float copy would take four times that.
    stored = (quantize(array, weight), weight.scale, weight.zero_point)
    given = [set_initializer(graph, "probe_weight", part) for part in stored]
    axis = {} if weight.axis is None else {"axis": weight.axis}
    inputs[layer.weight_index] = emit(node, "DequantizeLinear", given, axis).outputs[0]
    attributes = {key: value for key, value in node.attributes.items() if key != "alpha"}
    twin = emit(node, node.op_type, inputs, attributes).outputs[0]
    if layer.needs_output:
        return _sums(graph, layer, layer.result, _rounded(graph, node, twin, qparams[layer.result]))
    return _sums(graph, layer, node.outputs[0], twin)


def _rounded(graph: ir.Graph, before: ir.Node, value: ir.Value, qparams: Affine) -> ir.Value:
    scale = set_initializer(graph, "probe_scale", qparams.scale)
    zero_point = set_initializer(graph, "probe_zero_point", qparams.zero_point)
    q = emit(before, "QuantizeLinear", [value, scale, zero_point]).outputs[0]
    return emit(before, "DequantizeLinear", [q, scale, zero_point]).outputs[0]


def _sums(graph: ir.Graph, layer: Layer, reference: ir.Value, twin: ir.Value) -> list[ir.Value]:
    rank = layer.array().ndim if layer.needs_output else len(shape_of(reference) or ())
    channels = 1 if layer.needs_output else rank - 1
    axes = [axis for axis in range(rank) if axis != channels]  # none where the rank is unknown: one sum over all
    given = set_initializer(graph, "probe_axes", np.array(axes, np.int64))
    difference = ir.node("Sub", [twin, reference])
    nodes = [
        ir.node("ReduceSumSquare", [difference.outputs[0]], {"keepdims": 0}),
        ir.node("ReduceSum", [reference, given] if axes else [reference], {"keepdims": 0}),
        ir.node("Mul", [reference, reference]),
        ir.node("Size", [reference]),
    ]
    squares = ir.node("ReduceSum", [nodes[2].outputs[0], *([given] if axes else [])], {"keepdims": 0})
    graph.extend([difference, *nodes, squares])
    for made in (difference, *nodes, squares):
        made.outputs[0].name = unique_name(graph, "probe")
    results = [nodes[0].outputs[0], nodes[1].outputs[0], squares.outputs[0], nodes[3].outputs[0]]
    for result in results:
        result.type = ir.TensorType(ir.DataType.INT64 if result is results[3] else ir.DataType.FLOAT)
    return results
