"""Static int8: ranges learnt from calibration data, then QuantizeLinear and DequantizeLinear by the plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import onnx_ir as ir

from baker.model.graph import index_names
from baker.passes.quantize.bias import ChannelMean, channel_axis
from baker.passes.quantize.built import Built
from baker.passes.quantize.calibrate import observe
from baker.passes.quantize.emit import Rounded, emit_static
from baker.passes.quantize.histogram import Histogram, RangeMethod
from baker.passes.quantize.layers import Layer, find_layers, misfusion
from baker.passes.quantize.placement import placement_of
from baker.passes.quantize.plan import Plan, make_plan
from baker.pipeline.pass_base import Declined, PassContext

Selects = Callable[[ir.Node], bool]


@dataclass(frozen=True)
class Calibration:
    """What is made of the data.

    Attributes:
        method: how a range follows from a histogram.
        percentile: for that method, in percent.
        correct_bias: take what rounding the weights shifts a result by off the bias.
    """

    method: RangeMethod = "mse"
    percentile: float = 99.99
    correct_bias: bool = True

    def bounds(self, value: ir.Value, histogram: Histogram) -> tuple[float, float]:
        """The range of a tensor; all that was seen where the extremes carry the meaning: outputs, Sigmoids."""
        row = placement_of(value.producer())
        keeps_tails = value.is_graph_output() or (row is not None and row.minmax)
        return histogram.range("minmax" if keeps_tails else self.method, percentile=self.percentile)


@dataclass(frozen=True)
class StaticInt8:
    """Builds static int8 models from one set of ranges.

    Attributes:
        selects: which nodes may be touched.
        ranges: (lo, hi) by tensor name.
        unusable: tensors without a finite range, by name.
        means: the channel means of layers' inputs, by tensor name; empty leaves biases as they are.
        rounded: weights that builds have rounded already.
    """

    selects: Selects
    ranges: Mapping[str, tuple[float, float]]
    unusable: frozenset[str]
    means: Mapping[str, ChannelMean]
    rounded: Rounded = field(default_factory=dict)

    @classmethod
    def calibrate(cls, model: ir.Model, context: PassContext, selects: Selects, calibration: Calibration) -> StaticInt8:
        """Learns the ranges in one pass over ``context.calibration``.

        Raises:
            UsageError: a feed holds NaN or infinity.
            ModelError: ONNX Runtime can't run the model on a feed.
        """
        layers = [layer for layer in find_layers(model, selects)[0] if layer.node.graph is model.graph]
        plan = make_plan(model.graph, layers, allowed=selects)
        axes = {layer.source: channel_axis(layer) for layer in layers} if calibration.correct_bias else {}
        wanted = {tensor.leader for tensor in plan.tensors.values()} | {layer.source for layer in layers}
        watched = {value: axes.get(value) for value in plan.tensors if value in wanted}
        seen = observe(model, watched, context)
        usable = {value: found for value, found in seen.items() if found.histogram.finite and found.histogram.seen}
        return cls(
            selects,
            {value.name or "": calibration.bounds(value, found.histogram) for value, found in usable.items()},
            frozenset(value.name or "" for value in seen if value not in usable),
            {value.name or "": found.mean for value, found in usable.items() if found.mean is not None},
        )

    def build(self, model: ir.Model, excluded: Mapping[str, str]) -> Built:
        """Quantizes a copy of the model.

        Args:
            excluded: layers to leave in float, and why, by name.
        """
        candidate = model.clone()
        index_names(candidate)
        found, declined = find_layers(candidate, self.selects)
        layers: list[Layer] = []
        for layer in found:
            reason = excluded.get(layer.name) or self._unfit(layer, candidate.graph)
            if reason is None:
                layers.append(layer)
            else:
                declined.append(Declined(layer.name, reason))
        plan = self._plan(candidate.graph, layers)
        emitted = emit_static(candidate.graph, plan, self.ranges, self.means, self.rounded)
        return Built(candidate, emitted.changes, declined, emitted.weights)

    def _plan(self, graph: ir.Graph, layers: list[Layer]) -> Plan:
        banned = {value for node in graph for value in node.outputs if value.name in self.unusable}
        return make_plan(graph, layers, allowed=self.selects, banned=banned)

    def _unfit(self, layer: Layer, graph: ir.Graph) -> str | None:
        if layer.node.graph is not graph:
            return "stands in a subgraph or function, where activations can't be observed; 'mode=dynamic' needs no data"
        reason = misfusion(layer.source)
        if reason is not None:
            return reason
        touched = [layer.source, layer.result] if layer.needs_output else [layer.source]
        for value in touched:
            if value.name in self.unusable:
                return f"'{value.name}' held NaN or infinity, or nothing at all, on the calibration data"
        return None
