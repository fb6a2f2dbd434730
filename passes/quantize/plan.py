"""Which tensors become int8, decided for the whole graph at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from baker.model.graph import is_constant, is_op, sole_reader
from baker.passes.quantize.layers import Layer
from baker.passes.quantize.placement import ABSORBED, data_inputs, placement_of, refusal, saturation


@dataclass(frozen=True, eq=False)
class QTensor:
    """A tensor that gets a QuantizeLinear and a DequantizeLinear.

    Attributes:
        value: the float tensor.
        leader: the tensor whose range it takes: itself, unless it only moves another's values.
        forced: every reader reads it through the pair, or its producer would stay in float.
        readers: (node, input index) of those that compute on integers.
    """

    value: ir.Value
    leader: ir.Value
    forced: bool
    readers: list[tuple[ir.Node, int]] = field(default_factory=list)

    @property
    def within(self) -> tuple[float, float]:
        """The bounds that a Relu or Clip in front guarantees, and that the parameters must keep to let it vanish."""
        return saturation(self.value.producer()) or (-math.inf, math.inf)


@dataclass(frozen=True)
class Plan:
    """What is to become int8.

    Attributes:
        layers: the layers.
        others: operators between them that run on integers, too, in topological order.
        tensors: what is quantized, in topological order.
    """

    layers: tuple[Layer, ...]
    others: tuple[ir.Node, ...]
    tensors: dict[ir.Value, QTensor]


def make_plan(
    graph: ir.Graph,
    layers: Sequence[Layer],
    *,
    allowed: Callable[[ir.Node], bool] = lambda node: True,
    banned: Collection[ir.Value] = frozenset(),
) -> Plan:
    """Spreads int8 from the layers over the operators between them.

    An operator joins when all its data is int8 anyway (a Conv's result, what a layer reads, or the result of another
    one that joined) and somebody reads its result as int8. So attention, normalization and what surrounds them stay
    in float, while a residual network becomes int8 throughout.

    Args:
        graph: the main graph.
        layers: the layers to quantize, all in ``graph``.
        allowed: which other operators may be touched.
        banned: tensors without a usable range.
    """
    units = {node: _result(node) for node in graph if _may_join(node, allowed, banned)}
    read = {layer.source for layer in layers}
    made = {layer.result for layer in layers if layer.needs_output}
    _shrink(units, read, made)
    return Plan(tuple(layers), tuple(units), _tensors(graph, layers, units, banned))


def _may_join(node: ir.Node, allowed: Callable[[ir.Node], bool], banned: Collection[ir.Value]) -> bool:
    if placement_of(node, "arithmetic", "same") is None or refusal(node) is not None or not allowed(node):
        return False
    touched = [node.inputs[index] for index in data_inputs(node)] + list(_result(node))
    return not any(value is None or is_constant(value) or not _is_float(value) or value in banned for value in touched)


def _is_float(value: ir.Value) -> bool:
    return value.dtype in (None, ir.DataType.FLOAT)


def _result(node: ir.Node) -> tuple[ir.Value, ...]:
    """What the node makes, an absorbed Relu or Clip behind arithmetic included."""
    if placement_of(node, "same"):
        return tuple(node.outputs) if node.op_type == "Split" else (node.outputs[0],)
    reader = sole_reader(node.outputs[0])
    if reader is not None and reader.graph is node.graph and saturation(reader) is not None:
        return (reader.outputs[0],)
    return (node.outputs[0],)


def _shrink(units: dict[ir.Node, tuple[ir.Value, ...]], read: set[ir.Value], made: set[ir.Value]) -> None:
    """Removes units until each one's data is int8 and each one's result is read as int8.

    Sweeps forward for the data and backward for the readers: what one removal causes follows in the same sweep.
    """
    produced = made | {value for results in units.values() for value in results}
    before = -1
    while len(units) != before:
        before = len(units)
        for node in list(units):
            if not all(node.inputs[index] in produced or node.inputs[index] in read for index in data_inputs(node)):
                produced -= set(units.pop(node))
        for node in reversed(list(units)):
            if not any(value in read or _read_by(value, units) for value in units[node]):
                produced -= set(units.pop(node))


def _read_by(value: ir.Value, units: Collection[ir.Node]) -> bool:
    return any(node in units and index in data_inputs(node) for node, index in value.uses())


def _tensors(
    graph: ir.Graph,
    layers: Sequence[Layer],
    units: dict[ir.Node, tuple[ir.Value, ...]],
    banned: Collection[ir.Value],
) -> dict[ir.Value, QTensor]:
    forced = {layer.result for layer in layers if layer.needs_output}
    forced |= {value for results in units.values() for value in results}
    readers: dict[ir.Value, list[tuple[ir.Node, int]]] = {}
    for layer in layers:
        readers.setdefault(layer.source, []).append((layer.node, layer.source_index))
    for node in units:
        for index in data_inputs(node):
            value = node.inputs[index]
            assert value is not None
            readers.setdefault(value, []).append((node, index))
    forced |= {layer.result for layer in layers if layer.result not in banned and _needs_pair(layer, readers)}
    tensors: dict[ir.Value, QTensor] = {}
    for value in _in_order(graph, forced | set(readers)):
        producer = value.producer()
        leader = value
        moved = producer.inputs[0] if producer in units and placement_of(producer, "same") else None
        if moved is not None:
            leader = tensors[moved].leader
        tensors[value] = QTensor(value, leader, value in forced, readers.get(value, []))
    return tensors


def _needs_pair(layer: Layer, readers: Collection[ir.Value]) -> bool:
    """True where ONNX Runtime leaves a Gemm or MatMul in float unless all that read its result read it as int8.

    It looks for a QuantizeLinear behind an activation, too, and there takes float readers for a reason to refuse. And
    it makes a product of two-dimensional matrices and an Add a Gemm, which takes no float matrix for its bias.
    """
    uses = tuple(layer.result.uses())
    if layer.result.producer() not in (layer.node, layer.bias_add):
        return bool(uses)
    becomes_gemm = is_op(layer.node, "MatMul") and layer.bias_add is None and _rank(layer.result) == 2
    taken_in = (*ABSORBED, "Add") if becomes_gemm else tuple(ABSORBED)
    return layer.result in readers or (len(uses) == 1 and is_op(uses[0].node, *taken_in))


def _rank(value: ir.Value) -> int | None:
    return None if value.shape is None else len(value.shape)


def _in_order(graph: ir.Graph, values: set[ir.Value]) -> list[ir.Value]:
    ordered = [value for value in graph.inputs if value in values]
    return ordered + [value for node in graph for value in node.outputs if value in values]
