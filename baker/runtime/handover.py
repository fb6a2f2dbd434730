"""A model as ONNX Runtime is given it: serialized, but for its large weights, which are handed over as they are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort

from baker.errors import ModelError
from baker.model.graph import graphs, subgraphs
from baker.model.marks import DECLARED, INVENTED, is_lowered

Source: TypeAlias = str | os.PathLike[str] | bytes | onnx.ModelProto | ir.Model

# A weight of this many bytes or more goes to ONNX Runtime as an array, not inside the serialized model: that saves a
# copy in the protobuf and one in the serialized bytes. Smaller ones stay inside, because shape inference reads them.
HAND_OVER_BYTES = 4096
_HANDED_OVER = {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE, ir.DataType.INT8, ir.DataType.UINT8}

_BIG = 1 << 20  # bytes; no shape or index is as large
_HANDED_OVER_BIG = _HANDED_OVER | {ir.DataType.INT32, ir.DataType.INT64, ir.DataType.BFLOAT16}


@dataclass
class Packed:
    """What ONNX Runtime is given: a path or bytes, and weights that the bytes lack."""

    content: str | bytes
    what: str
    names: list[str] = field(default_factory=list)
    values: list[ort.OrtValue] = field(default_factory=list)
    nbytes: int = 0  # of the values


def pack(model: Source, *, hand_over: bool) -> Packed:
    """Prepares a model for a session; ``hand_over``: its large weights may be left out and handed over.

    Raises:
        ModelError: an onnx_ir.Model that can't be serialized.
    """
    if isinstance(model, ir.Model):
        return _pack_ir(model, hand_over)
    if isinstance(model, onnx.ModelProto):
        return Packed(model.SerializeToString(), _what(model.graph.name))
    if isinstance(model, bytes):
        return Packed(model, "the model")
    return Packed(os.fspath(model), f"'{os.fspath(model)}'")


def _pack_ir(model: ir.Model, hand_over: bool) -> Packed:
    what = _what(model.graph.name)
    try:
        return _strip_and_serialize(model, hand_over, what)
    except (RuntimeError, TypeError, ValueError) as error:  # what onnx_ir raises for a model that is not whole
        raise ModelError(f"{what} can't be serialized: {one_line(_root(error))}") from error


def _root(error: BaseException) -> BaseException:
    """What started a chain of exceptions; onnx_ir adds one for each level of the graph."""
    return error if error.__cause__ is None else _root(error.__cause__)


def _strip_and_serialize(model: ir.Model, hand_over: bool, what: str) -> Packed:
    packed = Packed(b"", what)
    stripped = model.clone()
    if hand_over:
        lift_weights(stripped)
    for value in list(stripped.graph.initializers.values()) if hand_over else []:
        tensor = value.const_value
        if tensor is None or not _is_handed_over(tensor):
            continue
        if not value.uses() and not value.is_graph_output():
            continue  # ONNX Runtime drops what nobody reads, and then misses it among what was handed over
        name = value.name or ""
        packed.names.append(name)
        packed.values.append(_ort_value(tensor))
        packed.nbytes += int(tensor.nbytes)
        # Stands in for the array; nothing is ever read from this place.
        value.const_value = ir.ExternalTensor(
            "memory", 0, tensor.nbytes, tensor.dtype, shape=ir.Shape(tensor.shape.numpy()), name=name
        )
    if is_lowered(model):
        _forget_inferred(stripped)
    packed.content = ir.to_proto(stripped).SerializeToString()
    return packed


def _is_handed_over(tensor: ir.TensorProtocol) -> bool:
    kinds = _HANDED_OVER if tensor.nbytes < _BIG else _HANDED_OVER_BIG
    return tensor.nbytes >= HAND_OVER_BYTES and tensor.dtype in kinds


def _ort_value(tensor: ir.TensorProtocol) -> ort.OrtValue:
    array = np.ascontiguousarray(tensor.numpy())
    if tensor.dtype != ir.DataType.BFLOAT16:
        return ort.OrtValue.ortvalue_from_numpy(array)
    return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(np.uint16), int(tensor.dtype))


def lift_weights(model: ir.Model) -> None:
    """Puts the large weights of subgraphs into the main graph, from where they can be handed over; drops dead ones."""
    for graph in list(_inside(model.graph)):
        for value in list(graph.initializers.values()):
            tensor = value.const_value
            if tensor is None or tensor.nbytes < _BIG or value.is_graph_output() or value.is_graph_input():
                continue
            if value.uses() and (graph is model.graph or not _is_handed_over(tensor)):
                continue
            del graph.initializers[value.name or ""]
            if value.uses():
                value.name = f"{value.name}.{len(model.graph.initializers)}.lifted"
                model.graph.register_initializer(value)


def _inside(graph: ir.Graph) -> Iterator[ir.Graph]:
    yield graph
    for node in graph:
        for inner in subgraphs(node):
            yield from _inside(inner)


def _forget_inferred(model: ir.Model) -> None:
    """Takes off the types that `lower` and the passes inferred: `save` leaves them out, so nothing may rely on them."""
    for graph in graphs(model):
        for node in graph:
            for value in node.outputs:
                inner = graph is not model.graph and value.meta.get(INVENTED)
                if DECLARED not in value.meta and (inner or not value.is_graph_output()):
                    value.type = value.shape = None


def _what(name: str | None) -> str:
    return f"model '{name}'" if name else "the model"


def one_line(error: BaseException) -> str:
    """Returns an ONNX Runtime message without its prefix and line breaks, at most 300 characters."""
    text = " ".join(str(error).split())
    if text.startswith("[ONNXRuntimeError] : "):
        text = text.split(" : ", 3)[-1]
    return text if len(text) <= 300 else text[:297] + "..."
