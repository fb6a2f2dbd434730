"""Weights into a second file, for models that are too large for one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import onnx
import onnx_ir as ir

from baker.model.encode import model_proto, saved_names
from baker.model.files import publish, temporary_file
from baker.model.pages import pieces
from baker.model.tensors import header_proto, payload, to_proto
from baker.model.wire import Encoded, is_streamable

_PAGE = 4096
_PAGED_FROM = 1 << 20  # bytes; ONNX wants large tensors on page boundaries, so that they can be mapped
_ALIGNMENT = 64  # a cache line, and the widest vector


@dataclass
class _DataFile:
    """Moves large initializers of all graphs to a file; attributes stay, for not every runtime looks there."""

    file: BinaryIO
    size: int = 0

    def __post_init__(self) -> None:
        self.digest = hashlib.sha256()

    def initializer(self, tensor: ir.TensorProtocol, name: str, graph: ir.Graph) -> onnx.TensorProto:
        if not is_streamable(tensor):
            return to_proto(tensor, name)
        data = payload(tensor)
        self._write(bytes(-self.size % (_PAGE if len(data) >= _PAGED_FROM else _ALIGNMENT)))
        proto = header_proto(tensor, name)
        proto.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", ""), ("offset", self.size), ("length", len(data))):
            proto.external_data.add(key=key, value=str(value))
        self._write(data)
        return proto

    def attribute(self, tensor: ir.TensorProtocol) -> onnx.TensorProto:
        return to_proto(tensor, tensor.name or "")

    def _write(self, data: bytes | memoryview) -> None:
        for piece in pieces(data):
            self.file.write(piece)
            self.digest.update(piece)
        self.size += len(data)


@dataclass(frozen=True)
class Spilled:
    """A model in two parts.

    Attributes:
        rest: the model without its large weights.
        path: the data file, in place already.
        nbytes: its size.
        is_new: no file of this name, hence with this content, was there before.
    """

    rest: Encoded
    path: Path
    nbytes: int
    is_new: bool

    def undo(self) -> None:
        """Removes the data file, since the model that should name it was not written."""
        if self.is_new:
            self.path.unlink(missing_ok=True)


def spill(model: ir.Model, target: Path) -> Spilled:
    """Writes the large weights into a file beside ``target`` that is named by what it holds.

    Raises:
        UsageError, ResourceError: it can't be written.
    """
    with temporary_file(target.parent, target.name) as (file, temporary):
        policy = _DataFile(file)
        proto = model_proto(model, policy, saved_names(model))
        path = target.parent / f"{target.name}.{policy.digest.hexdigest()[:16]}.data"
        is_new = not path.exists()
        publish(file, temporary, path)
    _point(proto.graph, path.name)
    for function in proto.functions:
        _point_inside(function.node, path.name)
    rest = Encoded(proto, (None,) * len(proto.graph.initializer))
    return Spilled(rest, path, policy.size, is_new)


def _point(graph: onnx.GraphProto, name: str) -> None:
    """Fills in the data file's name, which is known only once everything is written."""
    for tensor in graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            tensor.external_data[0].value = name
    _point_inside(graph.node, name)


def _point_inside(nodes: Iterable[onnx.NodeProto], name: str) -> None:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _point(attribute.g, name)
            for inner in attribute.graphs:
                _point(inner, name)
