"""How much of a disturbance inside a model is left at its outputs, by where it enters."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from baker.model.graph import Array, index_names, set_initializer, unique_name
from baker.model.qparams import activation_qparams
from baker.passes.quantize.calibrate import LEFT_OUT
from baker.passes.quantize.emit import Ranges
from baker.passes.quantize.layers import find_layers
from baker.pipeline.pass_base import PassContext
from baker.proof.interface import Feed
from baker.runtime.session import run, session

_POINTS = 5
"""Places where noise is let in; each costs a run of the model."""

_LEAST = 1e-20


def sensitivities(model: ir.Model, names: Sequence[str], ranges: Ranges, context: PassContext) -> dict[str, float]:
    """Noise-to-signal ratio at the outputs over that of the rounding which causes it, for each layer.

    Deep networks amplify what enters early, by orders of magnitude, which a layer's own error does not show. One
    float session has a switch in front of some layers, evenly spread: 1 rounds what they read to 8 bits. With one of
    them on at a time, the outputs of the first sample tell. Layers between follow by interpolation of the logarithm.

    Args:
        model: float.
        names: the layers, of the main graph.
        ranges: (lo, hi) by tensor name.
    """
    probe = model.clone()
    index_names(probe)
    layers = [layer for layer in find_layers(probe, lambda node: True)[0] if layer.name in set(names)]
    results = [value for value in probe.graph.outputs if value.dtype == ir.DataType.FLOAT]
    sources = list(dict.fromkeys(layer.source for layer in layers if layer.source.name in ranges))
    feed = next(iter(context.calibration), None)
    if len(sources) < 2 or not results or feed is None:
        return dict.fromkeys(names, 1.0)
    place = {source: index for index, source in enumerate(sources)}
    at = sorted({index * (len(sources) - 1) // (_POINTS - 1) for index in range(_POINTS)})
    switches = [_Switch(probe.graph, sources[index], ranges) for index in at]
    probe.graph.outputs[:] = [*results, *(switch.ratio for switch in switches)]
    runner = session(probe, threads=context.threads, custom_ops=context.custom_ops, disabled_optimizers=LEFT_OUT)
    gains = _gains(runner, feed, switches)
    where = {layer.name: place.get(layer.source, 0) for layer in layers}
    return {name: math.exp(float(np.interp(where.get(name, 0), at, gains))) for name in names}


def _gains(runner: ort.InferenceSession, feed: Feed, switches: Sequence[_Switch]) -> list[float]:
    """Logarithm of what comes out over what went in, for each switch."""
    off = {switch.name: np.zeros((), np.float32) for switch in switches}
    plain = list(run(runner, {**feed, **off}).values())
    count = len(plain) - len(switches)
    gains = []
    for entered, switch in zip(plain[count:], switches, strict=True):
        names = [value.name for value in runner.get_outputs()[:count]]
        found = run(runner, {**feed, **off, switch.name: np.ones((), np.float32)}, names).values()
        left = max(_ratio(*pair) for pair in zip(found, plain[:count], strict=True))
        gains.append(math.log(max(left, _LEAST) / max(float(entered), _LEAST)))
    return gains


def _ratio(found: Array, expected: Array) -> float:
    power = float(np.square(expected, dtype=np.float64).sum())
    return float(np.square(found.astype(np.float64) - expected).sum()) / max(power, _LEAST)


class _Switch:
    """An input of the graph that, at 1, rounds a value to 8 bits for all that read it, and at 0 leaves it.

    Attributes:
        name: of the input, a float32 scalar.
        ratio: noise-to-signal ratio of the rounding, switched on or not.
    """

    def __init__(self, graph: ir.Graph, value: ir.Value, ranges: Ranges) -> None:
        self.graph, self.made = graph, list[ir.Node]()
        self.name = unique_name(graph, "probe_switch")
        given = ir.Value(name=self.name, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(()))
        graph.inputs.append(given)
        uses = list(value.uses())
        qparams = activation_qparams(*ranges[value.name or ""])
        parameters = [set_initializer(graph, "probe", array) for array in (qparams.scale, qparams.zero_point)]
        rounded = self.node("DequantizeLinear", self.node("QuantizeLinear", value, *parameters), *parameters)
        noise = self.node("Sub", rounded, value)
        switched = self.node("Add", value, self.node("Mul", noise, given))
        sums = (self.node("ReduceSumSquare", operand, keepdims=0) for operand in (noise, value))
        self.ratio = self.node("Div", *sums)
        self.ratio.type = ir.TensorType(ir.DataType.FLOAT)
        producer = value.producer()
        if producer is None:
            graph.insert_before(graph[0], self.made)
        else:
            graph.insert_after(producer, self.made)
        for node, index in uses:
            node.replace_input_with(index, switched)

    def node(self, kind: str, *inputs: ir.Value, **attributes: int) -> ir.Value:
        self.made.append(ir.node(kind, list(inputs), attributes))
        self.made[-1].outputs[0].name = unique_name(self.graph, "probe")
        return self.made[-1].outputs[0]
