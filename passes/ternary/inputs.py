"""What layers read on the calibration data, as correlations: collected as `quantize` collects its ranges."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import onnx_ir as ir

from baker.errors import ModelError
from baker.model.graph import Array
from baker.passes.quantize.calibrate import collect
from baker.passes.ternary.compensate import MAX_DEPTH, Correlation
from baker.passes.ternary.plan import Layer
from baker.passes.ternary.subgraph import Evaluator, without_qdq
from baker.pipeline.pass_base import PassContext
from baker.runtime.session import one_line

_BYTES = 1 << 30
"""Correlations held at once; where they take more, the calibration data are run several times."""


class Inputs:
    """Correlations of the inputs of a model's layers, a portion of the layers at a time.

    Attributes:
        problem: why nothing was learnt although there is calibration data; empty where all went well.
    """

    def __init__(self, model: ir.Model, evaluator: Evaluator, context: PassContext) -> None:
        self.model, self.evaluator, self.context = model, evaluator, context
        self.problem = ""

    def portions(self, layers: Sequence[Layer]) -> Iterator[tuple[Layer, Array | None]]:
        """Each layer with H, float32 [K, K], of what it reads; None where it is not known.

        Unknown are the inputs of layers in subgraphs and functions, of more than `MAX_DEPTH` channels, or without
        calibration data.
        """
        for portion in self._portioned(layers):
            sources = {layer.position: self._observable(layer) for layer in portion}
            seen = self._collected({value: depth for value, depth in sources.values() if value is not None})
            damped: dict[ir.Value, Array | None] = {}
            for layer in portion:
                value = sources[layer.position][0]
                if value is not None and value not in damped:
                    damped[value] = seen[value].damped() if value in seen else None
                yield layer, None if value is None else damped[value]

    def _portioned(self, layers: Iterable[Layer]) -> Iterator[list[Layer]]:
        portion: list[Layer] = []
        held: dict[ir.Value, int] = {}
        for layer in layers:
            value, depth = self._observable(layer)
            need = 0 if value is None or value in held else 8 * depth * depth  # the sum, and H made of it
            if portion and sum(held.values()) + need > _BYTES:
                yield portion
                portion, held = [], {}
            portion.append(layer)
            if value is not None:
                held[value] = 8 * depth * depth
        if portion:
            yield portion

    def _observable(self, layer: Layer) -> tuple[ir.Value | None, int]:
        """What the layer reads, where a run of the model can tell, and K."""
        value, dims = without_qdq(layer.linear.activation), layer.linear.dims(self.evaluator)
        depth = 0 if dims is None else dims[1]
        main = value.graph is self.model.graph and value.dtype in (None, ir.DataType.FLOAT) and value.name
        usable = main and self.context.calibration and 0 < depth <= MAX_DEPTH and not self.problem
        return (value if usable else None), depth

    def _collected(self, depths: dict[ir.Value, int]) -> dict[ir.Value, Correlation]:
        sinks = {value: Correlation(depth) for value, depth in depths.items()}
        if not sinks:
            return {}
        try:
            collect(self.model, sinks, self.context)
        except ModelError as error:  # a model that can't be looked into can still be rounded
            self.problem = f"weights were rounded without the layers' inputs in mind: {one_line(error)}"
            return {}
        return sinks
