"""How many bytes a model, a node or a constant takes in a file, without writing one.

The figures follow the protobuf encoding of ONNX: tags and lengths are counted as two bytes each, so they are exact to a
few bytes per node and never read a weight. Passes decide with them whether a rewrite would make the file grow.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from baker.model.graph import graphs, is_constant, subgraphs

LARGE = 1 << 30
"""Bytes of weights from which on there are no copies of all of them, in whatever precision or packing."""

_TAG = 2  # protobuf tag and length of a short field
_TENSOR = 12  # tags and lengths of a TensorProto: dims, type, name, raw_data


def tensor_bytes(tensor: ir.TensorProtocol, name: str | None = "") -> int:
    """Bytes of a tensor as an initializer of this name."""
    return int(tensor.nbytes) + _TENSOR + 2 * len(tensor.shape) + len(name or "")


def constant_bytes(value: ir.Value) -> int:
    """Bytes that an initializer, or the Constant node behind a value, takes in the file; 0 for anything else."""
    if not is_constant(value):
        return 0
    if value.is_initializer():
        return 0 if value.const_value is None else tensor_bytes(value.const_value, value.name)
    node = value.producer()
    return 0 if node is None else node_bytes(node)


def node_bytes(node: ir.Node) -> int:
    """Bytes of a node with its names and attributes, subgraphs included."""
    names = [node.op_type, node.domain, node.name, *(v.name if v is not None else "" for v in node.inputs)]
    names += [value.name for value in node.outputs]
    size = _TAG + sum(len(name or "") + _TAG for name in names)
    size += sum(_attribute_bytes(attribute) for attribute in node.attributes.values())
    return size + sum(graph_bytes(inner) for inner in subgraphs(node))


def graph_bytes(graph: ir.Graph) -> int:
    """Bytes of a graph: its nodes and initializers, with everything inside them."""
    constants = sum(
        tensor_bytes(v.const_value, v.name) for v in graph.initializers.values() if v.const_value is not None
    )
    return constants + sum(node_bytes(node) for node in graph)


def model_bytes(model: ir.Model) -> int:
    """Bytes of the model's graphs and functions, weights included, metadata left out."""
    return graph_bytes(model.graph) + sum(graph_bytes(function.graph) for function in model.functions.values())


def _attribute_bytes(attribute: ir.Attr) -> int:
    size = len(attribute.name) + 3 * _TAG
    value: Any = attribute.value
    if attribute.is_ref() or attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
        return size
    if attribute.type == ir.AttributeType.TENSOR:
        return size + tensor_bytes(value)
    if attribute.type == ir.AttributeType.STRING:
        return size + len(value)
    if attribute.type in (ir.AttributeType.INTS, ir.AttributeType.FLOATS):
        return size + 5 * len(value)
    return size + 4


def weight_bytes(model: ir.Model) -> int:
    """Bytes of all initializers, those of subgraphs included."""
    tensors = (value.const_value for graph in graphs(model) for value in graph.initializers.values())
    return sum(int(tensor.nbytes) for tensor in tensors if tensor is not None)


def is_large(model: ir.Model) -> bool:
    """True where memory is planned for one copy of the weights: see `LARGE`."""
    return weight_bytes(model) >= LARGE
