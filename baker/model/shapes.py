"""Shapes and types of intermediate values, inferred on a copy of the model that has no weights in it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import onnx
import onnx_ir as ir

from baker.model.encode import model_proto
from baker.model.graph import standard_domain
from baker.model.limits import check_size
from baker.model.tensors import header_proto, to_proto

KEPT_BYTES = 4096
"""Constants up to this size stay, for they may be somebody's shape; of larger ones inference sees type and dims."""
MAX_PROPAGATED = 65_536
"""Elements of an integer vector up to which its contents are followed through the graph."""

_INFERRED = "baker.inferred"  # graph.meta: nothing has changed since shapes were inferred

_INTEGERS = (ir.DataType.INT64, ir.DataType.INT32)


def infer_shapes(model: ir.Model) -> list[str]:
    """Gives intermediate values, in place, the types and shapes that ONNX's inference finds; returns notes.

    Inputs and outputs keep what they declare. What the source declares of other values is believed as long as it does
    not contradict what follows from inputs and weights; then it is set aside, with a note. A node that inference
    stumbles over leaves its outputs unknown.

    Raises:
        ResourceError: a value of known shape exceeds `baker.model.limits.MAX_TENSOR_BYTES`.
    """
    skeleton = _skeleton(model)
    notes: list[str] = []
    # First without following the contents of vectors: 34 Concats that double one would fill the memory.
    inferred = _infer(skeleton, False, notes)
    if inferred is None:
        return notes
    longest = _apply(model, inferred)
    if _is_complete(model):
        return notes
    if longest > MAX_PROPAGATED:
        return [*notes, "shape inference did not follow the contents of vectors, since one is too long"]
    inferred = _infer(skeleton, True, notes)
    if inferred is not None:
        _apply(model, inferred)
    return notes


def ensure_shapes(model: ir.Model) -> list[str]:
    """`infer_shapes`, unless nothing has changed since that was done last; see `forget_inference`."""
    if model.graph.meta.get(_INFERRED):
        return []
    notes = infer_shapes(model)
    model.graph.meta[_INFERRED] = True
    return notes


def forget_inference(model: ir.Model) -> None:
    """Notes that the model has changed in ways that `ensure_shapes` has to look at."""
    model.graph.meta.pop(_INFERRED, None)


def complete_shapes(model: ir.Model) -> None:
    """`infer_shapes` after a change that set the types of what it made: where all are known, nothing can be added."""
    if not _is_complete(model):
        infer_shapes(model)


@dataclass(frozen=True)
class _WithoutWeights:
    """Writes small constants, and of others the header."""

    def initializer(self, tensor: ir.TensorProtocol, name: str, graph: ir.Graph) -> onnx.TensorProto:
        return _without_weight(tensor, name)

    def attribute(self, tensor: ir.TensorProtocol) -> onnx.TensorProto:
        return _without_weight(tensor, tensor.name or "")


def _without_weight(tensor: ir.TensorProtocol, name: str) -> onnx.TensorProto:
    return to_proto(tensor, name) if tensor.nbytes <= KEPT_BYTES else header_proto(tensor, name)


def _skeleton(model: ir.Model) -> onnx.ModelProto:
    proto = model_proto(model, _WithoutWeights())
    # A default that the caller may override must not be taken for a constant.
    inputs = {value.name for value in proto.graph.input}
    fixed = [tensor for tensor in proto.graph.initializer if tensor.name not in inputs]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(fixed)
    return proto


def _infer(skeleton: onnx.ModelProto, follow: bool, notes: list[str]) -> onnx.ModelProto | None:
    """Runs inference strictly; where that fails, once more without what the source declares, node by node."""
    for strict in (True, False):
        try:
            return onnx.shape_inference.infer_shapes(skeleton, check_type=False, strict_mode=strict, data_prop=follow)
        except (onnx.shape_inference.InferenceError, RuntimeError, ValueError, TypeError) as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
            note = f"shape inference: {' '.join(lines)[:300]}"
            if note not in notes:
                notes.append(note)
            _forget_declarations(skeleton.graph)
    return None


def _forget_declarations(graph: onnx.GraphProto) -> None:
    """Takes out what the source says of values that can be inferred; what foreign operators make can't be."""
    foreign = {name for node in graph.node if standard_domain(node.domain) != "" for name in node.output}
    kept = [info for info in graph.value_info if info.name in foreign]
    del graph.value_info[:]
    graph.value_info.extend(kept)
    for output in graph.output:
        if output.name not in foreign and output.type.HasField("tensor_type"):
            output.type.tensor_type.ClearField("shape")
    for inner in _subgraphs(graph):
        _forget_declarations(inner)


def _subgraphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield attribute.g
            yield from attribute.graphs


def _apply(model: ir.Model, inferred: onnx.ModelProto) -> int:
    """Writes inferred types onto the values of main graph and subgraphs, whose names are unique there.

    Returns the length of the longest vector of integers: inference that follows contents makes each a message.
    """
    types = dict(_types(inferred.graph))
    fixed = {*model.graph.inputs, *model.graph.outputs}
    longest = 0
    for graph in (model.graph, *model.graph.subgraphs()):
        for node in graph:
            for value in node.outputs:
                found = _read_type(types[value.name]) if value.name in types else None
                if found is None:
                    continue
                kind, shape = found
                if isinstance(kind, ir.TensorType) and shape is not None and shape.is_static():
                    check_size(node, kind.dtype, shape.numpy())
                    if kind.dtype in _INTEGERS and len(shape) <= 1:
                        longest = max(longest, math.prod(shape.numpy()))
                if value not in fixed:
                    value.type = kind
                    value.shape = value.shape if shape is None else _refined(shape, value.shape)
    return longest


def _is_complete(model: ir.Model) -> bool:
    """True when every shape is known, in numbers and the symbols of the model's inputs: then contents add nothing."""
    symbols = {dim for value in model.graph.inputs for dim in value.shape or () if isinstance(dim, ir.SymbolicDim)}
    symbols.discard(ir.SymbolicDim(None))
    outputs = set(model.graph.outputs)
    inner = (value for node in model.graph.all_nodes() for value in node.outputs if value.name and value not in outputs)
    return all(
        value.shape is not None
        and value.type is not None
        and all(isinstance(dim, int) or dim in symbols for dim in value.shape)
        for value in inner
    )


def _types(graph: onnx.GraphProto) -> Iterator[tuple[str, onnx.TypeProto]]:
    for info in (*graph.output, *graph.value_info):
        yield info.name, info.type
    for inner in _subgraphs(graph):
        yield from _types(inner)


def _read_type(proto: onnx.TypeProto) -> tuple[ir.TypeProtocol, ir.Shape | None] | None:
    """Returns type and shape; None where the type is unknown, or a map somewhere in it, for which onnx_ir has none."""
    kind = proto.WhichOneof("value")
    if kind is None or (kind == "tensor_type" and proto.tensor_type.elem_type == onnx.TensorProto.UNDEFINED):
        return None
    if kind == "tensor_type" and not proto.denotation:  # onnx_ir takes ten times as long for the usual case
        dims = proto.tensor_type.shape.dim
        if proto.tensor_type.HasField("shape") and all(d.HasField("dim_value") and not d.denotation for d in dims):
            dtype = ir.DataType(proto.tensor_type.elem_type)
            return ir.TensorType(dtype), ir.Shape([dim.dim_value for dim in dims])
    try:
        found = ir.serde.deserialize_type_proto_for_type(proto)
        shape = ir.serde.deserialize_type_proto_for_shape(proto)
    except ir.serde.SerdeError:
        return None
    return None if found is None else (found, shape)


def _refined(inferred: ir.Shape, known: ir.Shape | None) -> ir.Shape:
    """Fills in the dims that inference knows nothing about, where the rank is the same."""
    if known is None or len(known) != len(inferred):
        return inferred
    pairs = zip(inferred, known, strict=True)
    return ir.Shape([old if isinstance(new, ir.SymbolicDim) and new.value is None else new for new, old in pairs])
