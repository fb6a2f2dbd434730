"""What a file would unfold into, counted before protobuf makes objects of it.

Two bytes of a file can be a message of a hundred bytes in memory and of some thousand in Python. This walks the tags
and lengths of the fields, jumps over what they hold, and allocates nothing; weights are one jump each.
"""

from __future__ import annotations

import mmap

import onnx
from google.protobuf.descriptor import Descriptor  # type: ignore[import-untyped, unused-ignore]

from baker.errors import ModelError, ResourceError

MAX_NODES = 500_000
"""The largest published models have some ten thousand."""
MAX_FIELDS, FIELDS_PER_NODE, MOST_FIELDS = 1_000_000, 100, 8_000_000
"""Fields of all messages, and how many more each node allows: with types and metadata one takes about 50."""
MAX_TEXT_BYTES, TEXT_PER_NODE = 32 << 20, 16 << 10
"""Metadata and doc strings together, and how much more each node allows: torch writes a stack trace into each."""
MAX_LIST_BYTES = 8 << 20
"""Numbers or strings of one attribute; weights belong into tensors."""
MAX_STRAYS = 1000
MAX_DEPTH = 200
"""Messages in each other; protobuf reads 100."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_NODE = onnx.NodeProto.DESCRIPTOR.full_name
_LISTS = {onnx.AttributeProto.DESCRIPTOR.fields_by_name[name].number for name in ("floats", "ints", "strings")}


class _Kind:
    """A message type: which of its fields are messages, and which hold text that is no weight."""

    known: dict[str, _Kind] = {}  # noqa: RUF012  # a cache

    def __init__(self, descriptor: Descriptor) -> None:
        self.known[descriptor.full_name] = self
        self.is_node = descriptor.full_name == _NODE
        self.is_attribute = descriptor.full_name == onnx.AttributeProto.DESCRIPTOR.full_name
        is_entry = descriptor.full_name == onnx.StringStringEntryProto.DESCRIPTOR.full_name
        self.fields = {field.number for field in descriptor.fields}
        self.texts = {field.number for field in descriptor.fields if is_entry or field.name == "doc_string"}
        self.children = {
            field.number: self.known.get(field.message_type.full_name) or _Kind(field.message_type)
            for field in descriptor.fields
            if field.message_type is not None
        }


_MODEL = _Kind(onnx.ModelProto.DESCRIPTOR)


def check_size(data: bytes | mmap.mmap) -> None:
    """Looks at a serialized ModelProto; what is not well-formed is left for protobuf to report.

    Raises:
        ResourceError: more fields, nodes, text, or numbers in an attribute than the limits above.
        ModelError: messages nested deeper than protobuf reads, or in a form that ONNX does not use.
    """
    counted = _Counted()
    kind, end, position = _MODEL, len(data), 0
    outer: list[tuple[_Kind, int]] = []
    for fields in range(MOST_FIELDS):
        while position >= end:
            if position > end or not outer:
                return
            kind, end = outer.pop()
        tag = data[position]
        position += 1
        if tag > 0x7F:
            tag, position = varint(data, position - 1, end)
        if tag >> 3 not in kind.fields:
            counted.stray()
        if fields >= counted.fields_allowed:
            break
        if tag & 7 != _BYTES:
            position = after_number(data, tag & 7, position, end)
            continue
        length, position = varint(data, position, end)
        child = kind.children.get(tag >> 3)
        if child is None:
            counted.take(kind, tag >> 3, length)
            position += length
            continue
        if child.is_node:
            counted.node()
        outer.append((kind, end))
        if len(outer) > MAX_DEPTH:
            raise ModelError(f"not an ONNX model: messages are nested deeper than {MAX_DEPTH}")
        kind, end = child, min(end, position + length)
    raise ResourceError(f"the file holds more than {fields} fields, the limit for {counted.nodes} nodes")


class _Counted:
    """What was found so far."""

    def __init__(self) -> None:
        self.nodes = 0
        self.text = 0
        self.strays = 0
        self.fields_allowed = MAX_FIELDS

    def node(self) -> None:
        """Counts a node, which makes room for what comes with one."""
        self.nodes += 1
        self.fields_allowed += FIELDS_PER_NODE
        if self.nodes > MAX_NODES:
            raise ResourceError(f"the file holds more than {MAX_NODES} nodes, which is the limit")

    def stray(self) -> None:
        """Counts a field that ONNX does not know: a newer version has some, noise has nothing else."""
        self.strays += 1
        if self.strays > MAX_STRAYS:
            raise ModelError("not an ONNX model, or cut off: it has fields that ONNX does not know")

    def take(self, kind: _Kind, number: int, length: int) -> None:
        """Counts a field that holds text or data."""
        if number in kind.texts:
            self.text += length
            limit = MAX_TEXT_BYTES + TEXT_PER_NODE * self.nodes
            if self.text > limit:
                raise ResourceError(f"the file holds more than {limit >> 20} MiB of metadata and doc strings")
        if kind.is_attribute and number in _LISTS and length > MAX_LIST_BYTES:
            found = f"an attribute holds {length >> 20} MiB of numbers or text"
            raise ResourceError(f"{found}; the limit is {MAX_LIST_BYTES >> 20} MiB")


def after_number(data: bytes | mmap.mmap, wire: int, position: int, end: int) -> int:
    """Returns where a field of a wire type without a length ends."""
    if wire == _VARINT:
        return varint(data, position, end)[1]
    if wire not in (_FIXED64, _FIXED32):
        raise ModelError("not an ONNX model, or cut off: it has protobuf groups, which ONNX does not use")
    return position + (8 if wire == _FIXED64 else 4)


def varint(data: bytes | mmap.mmap, position: int, end: int) -> tuple[int, int]:
    """Returns a number and where it ends; past ``end`` where it is cut off."""
    if position < end and data[position] < 0x80:
        return data[position], position + 1
    value = shift = 0
    while position < end:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            break
    return 0, end + 1
