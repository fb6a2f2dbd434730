"""Types and validity as onnx finds them. Only the child of `baker.pipeline.reduce.probe` asks it about candidates.

onnx 1.23 aborts the process on some models that are none (a Split of more parts than its axis has elements): there is
no exception to catch.
"""

from __future__ import annotations

import onnx

from baker.pipeline.reduce.net import nested_graphs

ERRORS = (onnx.shape_inference.InferenceError, onnx.checker.ValidationError, RuntimeError, ValueError, TypeError)
"""What onnx raises for a model that is none."""


def inferred(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the types that follow from its inputs, as far as they do."""
    return onnx.shape_inference.infer_shapes(proto, data_prop=True)


def types_of(proto: onnx.ModelProto) -> dict[str, onnx.TypeProto]:
    """The types that a model declares, those of its subgraphs included."""
    types: dict[str, onnx.TypeProto] = {}
    for graph in (proto.graph, *nested_graphs(proto.graph)):
        for value in (*graph.value_info, *graph.input, *graph.output):
            types.setdefault(value.name, value.type)
        for tensor in graph.initializer:
            types[tensor.name] = onnx.helper.make_tensor_type_proto(tensor.data_type, tensor.dims)
    return types


def is_open(proto: onnx.ModelProto) -> bool:
    """True when the shape of an output is left to inference."""
    kinds = [value.type for value in proto.graph.output]
    return any(kind.HasField("tensor_type") and not kind.tensor_type.HasField("shape") for kind in kinds)


def closed(proto: onnx.ModelProto) -> onnx.ModelProto | None:
    """The model with the shapes of its outputs filled in; None where they don't follow from its inputs."""
    found = onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)
    for value, known in zip(proto.graph.output, found.graph.output, strict=True):
        if known.type.HasField("tensor_type") and not known.type.tensor_type.HasField("shape"):
            return None
        value.CopyFrom(known)
    return proto
