"""Weights into a second file, for models that are too large for one."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import onnx
import onnx_ir as ir

from baker.model.encode import model_proto, saved_names
from baker.model.files import publish, temporary_file
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
        self.file.write(data)
        self.digest.update(data)
        self.size += len(data)


def spill(model: ir.Model, target: Path) -> tuple[Encoded, int, str]:
    """Writes the large weights beside ``target``; returns the rest of the model, and size and name of the data file.

    The file is named by what it holds, so an existing one of that name already is the right one.

    Raises:
        UsageError, ResourceError: it can't be written.
    """
    with temporary_file(target.parent, target.name) as (file, temporary):
        policy = _DataFile(file)
        proto = model_proto(model, policy, saved_names(model))
        name = f"{target.name}.{policy.digest.hexdigest()[:16]}.data"
        publish(file, temporary, target.parent / name)
    _point(proto.graph, name)
    return Encoded(proto, (None,) * len(proto.graph.initializer)), policy.size, name


def _point(graph: onnx.GraphProto, name: str) -> None:
    """Fills in the data file's name, which is known only once everything is written."""
    for tensor in graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            tensor.external_data[0].value = name
    for node in graph.node:
        for attribute in node.attribute:
            for inner in ((attribute.g,) if attribute.HasField("g") else ()) or attribute.graphs:
                _point(inner, name)
