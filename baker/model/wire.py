"""A model as the bytes of an .onnx file, streamed, so that saving needs no second copy of the weights.

The bytes are what protobuf itself writes for the whole message, fields in ascending order: everything but the weights
is serialized as usual, and each weight is put in its place straight from the tensor's memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar

import onnx
import onnx_ir as ir

from baker.model.encode import model_proto, saved_names
from baker.model.graph import graphs
from baker.model.pages import pieces
from baker.model.tensors import header_proto, payload, to_proto

Chunk: TypeAlias = bytes | memoryview
_Message = TypeVar("_Message", onnx.ModelProto, onnx.GraphProto, onnx.TensorProto)

_GRAPH = onnx.ModelProto.DESCRIPTOR.fields_by_name["graph"].number
_INITIALIZER = onnx.GraphProto.DESCRIPTOR.fields_by_name["initializer"].number
_RAW_DATA = onnx.TensorProto.DESCRIPTOR.fields_by_name["raw_data"].number

STREAMED_FROM = 1024
"""Bytes from which on a weight is streamed instead of copied into the message."""
MAX_NESTED = 1 << 28
"""Bytes of weights in subgraphs that are copied into the message; a model with more is saved in two files."""


def is_streamable(tensor: ir.TensorProtocol) -> bool:
    """True for tensors that are stored as raw bytes and large enough to matter."""
    if isinstance(tensor, ir.StringTensor):
        return False
    if isinstance(tensor, ir.serde.TensorProtoTensor) and not tensor.raw.HasField("raw_data"):
        return False
    return tensor.nbytes >= STREAMED_FROM


@dataclass
class _MainGraphWeights:
    """Leaves the large weights of the main graph out of the message and remembers them; on demand all large weights."""

    main: ir.Graph
    nested_too: bool
    found: list[ir.TensorProtocol | None] = field(default_factory=list)
    nested: list[ir.TensorProtocol] = field(default_factory=list)

    def initializer(self, tensor: ir.TensorProtocol, name: str, graph: ir.Graph) -> onnx.TensorProto:
        if graph is not self.main:
            return self._inside(tensor, name)
        streamed = is_streamable(tensor)
        self.found.append(tensor if streamed else None)
        return header_proto(tensor, name) if streamed else to_proto(tensor, name)

    def attribute(self, tensor: ir.TensorProtocol) -> onnx.TensorProto:
        return to_proto(tensor, tensor.name or "")

    def _inside(self, tensor: ir.TensorProtocol, name: str) -> onnx.TensorProto:
        if not self.nested_too or not is_streamable(tensor):
            return to_proto(tensor, name)
        self.nested.append(tensor)
        proto = header_proto(tensor, name)
        proto.data_location = onnx.TensorProto.EXTERNAL
        return proto


@dataclass(frozen=True)
class Encoded:
    """A model ready to be written: the message, and for each of its main initializers the weight left out of it.

    Attributes:
        nested: weights of subgraphs that were left out, too, external in the message but nowhere yet. Such a model can
            be measured and hashed; it is saved in two files.
    """

    proto: onnx.ModelProto
    weights: tuple[ir.TensorProtocol | None, ...]
    nested: tuple[ir.TensorProtocol, ...] = ()

    def size(self) -> int:
        """Bytes of the file; no weight is read."""
        return sum(_lengths(self)) + sum(int(weight.nbytes) for weight in self.nested)

    def chunks(self) -> Iterator[Chunk]:
        """Yields the file piece by piece; a view on a weight is valid until the next piece is asked for."""
        yield from self._file()
        for weight in self.nested:
            yield from pieces(payload(weight))

    def _file(self) -> Iterator[Chunk]:
        before, after = _split(self.proto, _GRAPH)
        first, last = _split(self.proto.graph, _INITIALIZER)
        inner = sum(_initializer_lengths(self))
        yield before.SerializeToString(deterministic=True)
        yield _tag(_GRAPH) + encoded_varint(first.ByteSize() + inner + last.ByteSize())
        yield first.SerializeToString(deterministic=True)
        for proto, weight in zip(self.proto.graph.initializer, self.weights, strict=True):
            yield from _initializer(proto, weight)
        yield last.SerializeToString(deterministic=True)
        yield after.SerializeToString(deterministic=True)


def encode(model: ir.Model) -> Encoded:
    """Returns the model as it would be saved into one file, weights still in place."""
    inner = (graph for graph in graphs(model) if graph is not model.graph)
    inside = (value.const_value for graph in inner for value in graph.initializers.values())
    nested = sum(int(tensor.nbytes) for tensor in inside if tensor is not None)
    policy = _MainGraphWeights(model.graph, nested > MAX_NESTED)
    proto = model_proto(model, policy, saved_names(model))
    return Encoded(proto, tuple(policy.found), tuple(policy.nested))


def _lengths(encoded: Encoded) -> Iterator[int]:
    before, after = _split(encoded.proto, _GRAPH)
    first, last = _split(encoded.proto.graph, _INITIALIZER)
    inner = first.ByteSize() + sum(_initializer_lengths(encoded)) + last.ByteSize()
    yield from (before.ByteSize(), len(_tag(_GRAPH)), len(encoded_varint(inner)), inner, after.ByteSize())


def _initializer_lengths(encoded: Encoded) -> Iterator[int]:
    for proto, weight in zip(encoded.proto.graph.initializer, encoded.weights, strict=True):
        length = _tensor_length(proto, weight)
        yield len(_tag(_INITIALIZER)) + len(encoded_varint(length)) + length


def _tensor_length(proto: onnx.TensorProto, weight: ir.TensorProtocol | None) -> int:
    if weight is None:
        return int(proto.ByteSize())
    return int(proto.ByteSize()) + len(_tag(_RAW_DATA)) + len(encoded_varint(weight.nbytes)) + int(weight.nbytes)


def _initializer(proto: onnx.TensorProto, weight: ir.TensorProtocol | None) -> Iterator[Chunk]:
    yield _tag(_INITIALIZER) + encoded_varint(_tensor_length(proto, weight))
    if weight is None:
        yield proto.SerializeToString(deterministic=True)
        return
    before, after = _split(proto, _RAW_DATA)
    yield before.SerializeToString(deterministic=True) + _tag(_RAW_DATA) + encoded_varint(weight.nbytes)
    data = payload(weight)
    assert len(data) == weight.nbytes, f"tensor {weight.name!r} has {len(data)} bytes, its shape says {weight.nbytes}"
    yield from pieces(data)
    yield after.SerializeToString(deterministic=True)


def _split(message: _Message, number: int) -> tuple[_Message, _Message]:
    """Returns a message's fields below and above a number."""
    parts = type(message)(), type(message)()
    for descriptor, value in message.ListFields():
        if descriptor.number == number:
            continue
        part = parts[descriptor.number > number]
        if hasattr(value, "MergeFrom"):  # repeated fields and messages
            getattr(part, descriptor.name).MergeFrom(value)
        else:
            setattr(part, descriptor.name, value)
    return parts


def _tag(number: int) -> bytes:
    """The key of a length-delimited field."""
    return encoded_varint(number << 3 | 2)


def encoded_varint(value: int) -> bytes:
    """Base-128, least significant group first (protobuf encoding guide)."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
