"""A large model file with its weights inside: read without ever holding them all.

Protobuf would hold the file and a message of the same size, and every tensor copies its data out of that. Here the
weights of the main graph are left out of what protobuf gets to see; a token stands in for each, and its bytes are
copied straight from the mapped file to where `baker.model.pages` finds room for them.
"""

from __future__ import annotations

import mmap
import secrets
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir

from baker.model.graph import Array
from baker.model.pages import rows_of, stored
from baker.model.prescan import after_number, varint
from baker.model.wire import encoded_varint

FROM = 1 << 28
"""Bytes of a file from which on it is read like this."""
WEIGHT = 1 << 16
"""Bytes of a weight that is left out."""

_BYTES = 2  # wire type of what has a length
_GRAPH = onnx.ModelProto.DESCRIPTOR.fields_by_name["graph"].number
_INITIALIZER = onnx.GraphProto.DESCRIPTOR.fields_by_name["initializer"].number
_RAW_DATA = onnx.TensorProto.DESCRIPTOR.fields_by_name["raw_data"].number


@dataclass(frozen=True)
class _Field:
    number: int
    wire: int
    start: int  # of its tag
    inside: int  # of what it holds
    end: int


class Inline:
    """A mapped model file, cut into a small message and weights.

    Attributes:
        message: the serialized model, each large weight replaced by a token.
    """

    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.secret = secrets.token_bytes(24)  # no file can guess it, so none can pose as a token
        self.places: dict[bytes, tuple[int, int]] = {}
        self.message = b"".join(self._cut(0, len(data), (_GRAPH, _INITIALIZER)))

    def weight(self, tensor: ir.TensorProtocol) -> Array | None:
        """The bytes (n,) of a tensor whose data is a token, copied out of the file; None for any other tensor."""
        if not isinstance(tensor, ir.serde.TensorProtoTensor):
            return None
        place = self.places.get(tensor.raw.raw_data) if len(tensor.raw.raw_data) == len(self.secret) + 8 else None
        if place is None:
            return None
        start, size = place
        view = np.frombuffer(self.data, np.uint8, size, start)
        return stored((size,), view.dtype, (view[part] for part in rows_of((size,), 1)))

    def _cut(self, start: int, end: int, path: tuple[int, ...]) -> Iterator[bytes]:
        """The fields of a message; those on the path are looked into, and weights at its end replaced."""
        for field in self._fields(start, end):
            if field.wire != _BYTES or field.number != (path[0] if path else _RAW_DATA):
                yield self.data[field.start : field.end]
            elif not path:
                yield from self._replaced(field)
            elif field.end - field.inside < WEIGHT:
                yield self.data[field.start : field.end]
            else:
                inner = b"".join(self._cut(field.inside, field.end, path[1:]))
                yield _head(field.number, len(inner)) + inner

    def _replaced(self, field: _Field) -> Iterator[bytes]:
        if field.end - field.inside < WEIGHT:
            yield self.data[field.start : field.end]
            return
        token = self.secret + len(self.places).to_bytes(8, "little")
        self.places[token] = (field.inside, field.end - field.inside)
        yield _head(field.number, len(token)) + token

    def _fields(self, start: int, end: int) -> Iterator[_Field]:
        """The fields of a message; what is cut off is one field to the end, for protobuf to report."""
        position = start
        while position < end:
            tag, inside = varint(self.data, position, end)
            if tag & 7 == _BYTES:
                length, inside = varint(self.data, inside, end)
                last = inside + length
            else:
                last = after_number(self.data, tag & 7, inside, end)
            if last > end:
                yield _Field(0, -1, position, position, end)
                return
            yield _Field(tag >> 3, tag & 7, position, inside, last)
            position = last


def _head(number: int, length: int) -> bytes:
    return encoded_varint(number << 3 | _BYTES) + encoded_varint(length)
