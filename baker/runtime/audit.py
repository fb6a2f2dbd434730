"""Which arithmetic a graph runs: every layer with constant weights, counted by its kernel."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import onnx
import onnx_ir as ir

from baker.model.size import is_large
from baker.runtime.handover import lift_weights
from baker.runtime.session import Source, optimized_graph, resolved

KernelKind = Literal["integer", "ternary", "float"]

LAYER = re.compile(r"Conv|MatMul|Gemm|Attention|LSTM|GRU|RNN|Einsum|MoE")
"""What a layer is called, whatever it was fused into: FusedConv, QLinearConv, DynamicQuantizeMatMul, ..."""
LOW_BITS = re.compile(r"^Q[A-Z]|Integer|DynamicQuantize|NBits|Bnb4|^Ternary")
"""What a layer on integer, ternary or packed weights is called."""
# The names that ONNX and ONNX Runtime give to integer arithmetic.
_INTEGER = re.compile(r"^Q[A-Z]|Integer|DynamicQuantize")
_FLOATS = {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE}
_LARGE_WEIGHT = 1 << 20  # bytes
# Operators that hand a constant on as one.
_CARRIERS = {"DequantizeLinear", "QuantizeLinear", "Transpose", "Cast", "Reshape", "Identity", "Unsqueeze", "Squeeze"}


@dataclass(frozen=True)
class KernelUse:
    """One layer: its node (or, without a name, its output), its operator, and the arithmetic behind it."""

    node: str
    op: str
    kernel: KernelKind


@dataclass(frozen=True)
class KernelAudit:
    """How many layers with constant weights run integer, ternary and floating-point kernels."""

    integer: int
    ternary: int
    float: int
    nodes: tuple[KernelUse, ...]


def audit_kernels(model: Source, *, custom_ops: str | os.PathLike[str] | None = None) -> KernelAudit:
    """Counts which arithmetic the layers with constant weights run, in ONNX Runtime's optimized graph.

    Raises:
        ModelError: ONNX Runtime can't load the model.
    """
    if isinstance(model, (str, os.PathLike)):
        model = resolved(model)
    if isinstance(model, ir.Model) and is_large(model):
        light, weights = _without_weights(model)
        return audit(optimized_graph(light, custom_ops=custom_ops, weights=False), weights)
    return audit(optimized_graph(model, custom_ops=custom_ops, weights=False))


def _without_weights(model: ir.Model) -> tuple[ir.Model, frozenset[str]]:
    """A copy whose large floating-point weights are inputs, and their names: their kernels are float in any case."""
    light, names = model.clone(), set[str]()
    lift_weights(light)
    for value in list(light.graph.initializers.values()):
        tensor = value.const_value
        if tensor is None or tensor.dtype not in _FLOATS or tensor.nbytes < _LARGE_WEIGHT or not value.uses():
            continue
        if value.is_graph_input() or value.is_graph_output() or len(tensor.shape) < 2:
            continue
        del light.graph.initializers[value.name or ""]
        value.const_value = None
        light.graph.inputs.append(value)
        names.add(value.name or "")
    return light, frozenset(names)


def audit(model: onnx.ModelProto, weights: frozenset[str] = frozenset()) -> KernelAudit:
    """Classifies the layers of a graph as it stands: give it ONNX Runtime's optimized graph.

    Args:
        weights: inputs that are weights.

    A layer is a node named like one (Conv, MatMul, Gemm, Attention, LSTM, ... in any fused form) that reads a constant
    of two or more dimensions. MatMulNBits counts as ternary at 2 bits, else as integer at accuracy_level 4 (int8
    activations), else as float: its weights are then expanded to float. Layers that were merged into one node count
    as so many.
    """
    uses = tuple(
        KernelUse(node.name or node.output[0], _qualified(node), _kernel(node))
        for node in _layers(model.graph, set(weights))
        for _ in range(_count(node))
    )
    counts = {kind: sum(use.kernel == kind for use in uses) for kind in ("integer", "ternary", "float")}
    return KernelAudit(counts["integer"], counts["ternary"], counts["float"], uses)


def _layers(graph: onnx.GraphProto, outer: set[str]) -> Iterator[onnx.NodeProto]:
    """Yields the layers of a graph and its subgraphs; ``outer``: weights known in the enclosing graphs."""
    weights = outer | {tensor.name for tensor in graph.initializer if len(tensor.dims) >= 2}
    for node in graph.node:
        if node.op_type == "Constant":
            weights.update(node.output)
        elif node.op_type in _CARRIERS and node.input[0] in weights:
            weights.add(node.output[0])
        elif LAYER.search(node.op_type) and not weights.isdisjoint(node.input):
            yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _layers(inner, weights)


def _qualified(node: onnx.NodeProto) -> str:
    return f"{node.domain}.{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type


def _kernel(node: onnx.NodeProto) -> KernelKind:
    if node.op_type == "MatMulNBits":
        return _n_bits_kernel(node)
    if node.op_type.startswith("Ternary"):
        return "ternary"
    return "integer" if _INTEGER.search(node.op_type) else "float"


def _count(node: onnx.NodeProto) -> int:
    """How many layers a node is."""
    splits = next((attribute.ints for attribute in node.attribute if attribute.name == "splits"), ())
    return max(1, len(splits)) if _kernel(node) == "ternary" else 1


def _n_bits_kernel(node: onnx.NodeProto) -> KernelKind:
    settings = {attribute.name: attribute.i for attribute in node.attribute}
    if settings.get("bits", 4) == 2:
        return "ternary"
    return "integer" if settings.get("accuracy_level", 0) == 4 else "float"
