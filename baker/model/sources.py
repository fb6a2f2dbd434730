"""What users have, as a checked ONNX message: the first half of `baker.model.lower.lower`."""

from __future__ import annotations

import hashlib
import mmap
import os
import stat
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError  # type: ignore[import-untyped, unused-ignore]

from baker.errors import ModelError, UsageError
from baker.model import external, inline, tensors
from baker.model.bitnet.checkpoint import is_checkpoint, open_checkpoint, unpacked
from baker.model.encode import model_proto, saved_names
from baker.model.external import DataFolder
from baker.model.hostile import check_model, deserialize
from baker.model.inline import Inline
from baker.model.marks import quoted, source_files
from baker.model.pages import mapped, pieces
from baker.model.prescan import check_size

Resolver: TypeAlias = Callable[[ir.TensorProtocol, str], ir.TensorProtocol]
"""Turns a tensor as deserialized into one that owns, or safely maps, its data; the text says where it stands."""

MAX_FILE_BYTES = 2**31 - 1  # protobuf's limit on one message

_SIGNATURES = (
    (b"version https://git-lfs", "it is a Git LFS pointer; run 'git lfs pull'"),
    (b"PK\x03\x04", "it is a zip archive, perhaps a PyTorch file; export it with torch.onnx.export"),
    (b"\x80\x02", "it is a Python pickle; export the model with torch.onnx.export"),
    (b"\x89HDF", "it is an HDF5 file, perhaps from Keras; convert it with tf2onnx"),
)
_INLINE_BYTES = 256  # tensors up to this size travel inside the message when an onnx_ir.Model is read


@dataclass(frozen=True)
class Opened:
    """A source, checked and in memory, with its tensors not yet resolved.

    Attributes:
        model: straight from the message; nobody else holds it.
        resolve: gives each tensor its data.
        path: the model file; None for a model in memory.
        sha256: of the model file; None for a model in memory.
        nbytes: of the model file, or of the message; None for an onnx_ir.Model.
        folders: where external data is opened from; they know which files that were.
        files: further files that weights are mapped from, of a checkpoint or by an earlier `lower`.
        notes: what was taken for granted.
    """

    model: ir.Model
    resolve: Resolver
    path: Path | None
    sha256: str | None
    nbytes: int | None
    folders: list[DataFolder] = field(default_factory=list)
    files: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()


def open_source(source: Any) -> Opened:
    """Reads and checks a model in any form that `baker.lower` takes.

    Raises:
        UsageError: no such file, or a kind of object that is no model.
        ModelError, SecurityError, ResourceError: see `baker.model.hostile.check_model`.
    """
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        return _open_checkpoint(path) if is_checkpoint(path) else _open_file(path)
    if isinstance(source, onnx.ModelProto):
        return _open_proto(source, None, None, source.ByteSize())
    if isinstance(source, ir.Model):
        return _open_ir(source)
    if callable(getattr(source, "to_model_proto", None)):  # onnxscript.OnnxFunction
        return open_source(source.to_model_proto())
    return open_source(_export_torch(source))


def label_of(source: Any) -> str:
    """Names a source in messages."""
    if not isinstance(source, (str, os.PathLike)):
        return f"the given {type(source).__name__}"
    text = os.fspath(source)
    return text if isinstance(text, str) and text.isprintable() else quoted(text)


def _open_checkpoint(path: Path) -> Opened:
    found = open_checkpoint(path)
    return Opened(found.model, unpacked, found.path, found.sha256, found.nbytes, files=found.files, notes=found.notes)


def _open_file(path: Path) -> Opened:
    data = _read(path)
    large = Inline(data) if isinstance(data, mmap.mmap) else None
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data if large is None else large.message)
    except DecodeError as error:
        found = "nested deeper than protobuf reads" if "Depth" in str(error) else error
        raise ModelError(f"not an ONNX model, or cut off: {found}") from error
    digest, size = hashlib.sha256(), len(data)
    for piece in pieces(memoryview(data)):
        digest.update(piece)
    del data  # the message has its own copy
    return _open_proto(proto, path, digest.hexdigest(), size, large)


def _read(path: Path) -> bytes | mmap.mmap:
    """The file, or a map of it where it is large."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise UsageError("is a folder or a device; give a model file")
        if found.st_size > MAX_FILE_BYTES:
            raise ModelError(
                f"has {found.st_size} bytes, and no ONNX file can have more than {MAX_FILE_BYTES}; "
                "save it with its weights as external data"
            )
        with path.open("rb") as file:
            _look_inside(file)
            return mapped(file.fileno()) if found.st_size >= inline.FROM else file.read()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise UsageError(f"can't be read: {getattr(error, 'strerror', None) or error}") from error


def _look_inside(file: BinaryIO) -> None:
    """Refuses what is no model, or would unfold in memory, before it is read."""
    start = file.read(64)
    file.seek(0)
    if not start:
        raise ModelError("not an ONNX model: the file is empty")
    guess = _guess(start)
    if guess is not None:
        raise ModelError(f"not an ONNX model: {guess}")
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        check_size(content)


def _guess(data: bytes) -> str | None:
    if data[4:8] in (b"ORTM", b"TFL3"):
        return "it is a model of another runtime (ORT or TensorFlow Lite format); start from the ONNX file"
    return next((hint for signature, hint in _SIGNATURES if data.startswith(signature)), None)


def _open_proto(
    proto: onnx.ModelProto, path: Path | None, sha256: str | None, nbytes: int, large: Inline | None = None
) -> Opened:
    check_model(proto)
    folder = DataFolder(None if path is None else path.parent)

    def resolve(tensor: ir.TensorProtocol, where: str) -> ir.TensorProtocol:
        if isinstance(tensor, ir.ExternalTensor):
            return folder.tensor(tensor, where)
        weight = None if large is None else large.weight(tensor)
        if weight is not None and isinstance(tensor, ir.serde.TensorProtoTensor):
            return tensors.from_proto(tensor.raw, where, weight)
        return tensors.detached(tensor, where)

    return Opened(deserialize(proto), resolve, path, sha256, nbytes, [folder])


@dataclass
class _Placeholders:
    """Keeps tensors out of the message: a placeholder is an external tensor whose location is a number."""

    kept: list[ir.TensorProtocol] = field(default_factory=list)

    def initializer(self, tensor: ir.TensorProtocol, name: str, graph: ir.Graph) -> onnx.TensorProto:
        return self._keep(tensor, name)

    def attribute(self, tensor: ir.TensorProtocol) -> onnx.TensorProto:
        return self._keep(tensor, tensor.name or "")

    def _keep(self, tensor: ir.TensorProtocol, name: str) -> onnx.TensorProto:
        if isinstance(tensor, ir.StringTensor) or (
            tensor.nbytes <= _INLINE_BYTES and not isinstance(tensor, ir.ExternalTensor)
        ):
            return tensors.to_proto(tensor, name)
        proto = tensors.header_proto(tensor, name)
        proto.data_location = onnx.TensorProto.EXTERNAL
        proto.external_data.add(key="location", value=str(len(self.kept)))
        self.kept.append(tensor)
        return proto


def _open_ir(model: ir.Model) -> Opened:
    """Takes a model of onnx_ir through the same checks as a file, without touching it or copying its weights."""
    placeholders = _Placeholders()
    try:
        proto = model_proto(model, placeholders, saved_names(model))
    except (ir.serde.SerdeError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(f"the onnx_ir model can't be written as ONNX: {error.__cause__ or error}") from error
    check_model(proto)
    folders: dict[str, DataFolder] = {}
    for tensor in placeholders.kept:
        if isinstance(tensor, ir.ExternalTensor):
            external.check_location(os.fspath(tensor.location), f"tensor {quoted(tensor.name)}")
            base = os.fspath(tensor.base_dir) or "."
            folders.setdefault(base, DataFolder(Path(base)))

    def resolve(tensor: ir.TensorProtocol, where: str) -> ir.TensorProtocol:
        if not isinstance(tensor, ir.ExternalTensor):
            return tensors.detached(tensor, where)
        kept = placeholders.kept[int(os.fspath(tensor.location))]
        if isinstance(kept, ir.ExternalTensor):
            return folders[os.fspath(kept.base_dir) or "."].tensor(kept, where)
        return tensors.detached(kept, where)

    return Opened(deserialize(proto), resolve, None, None, None, list(folders.values()), source_files(model))


def _export_torch(source: Any) -> Any:
    """Exports what torch makes: an ExportedProgram, an ONNXProgram, or a module with a tuple of example inputs.

    Raises:
        UsageError: the object is none of these.
    """
    torch = sys.modules.get("torch")  # never imported here: who has one of its objects has imported it
    if torch is not None:
        if isinstance(source, torch.onnx.ONNXProgram):
            return source.model
        if isinstance(source, torch.export.ExportedProgram):
            return torch.onnx.export(source, dynamo=True, verbose=False).model
        if isinstance(source, torch.nn.Module):
            raise UsageError("a torch module needs example inputs: give (module, (input, ...))")
        if isinstance(source, tuple) and len(source) == 2 and isinstance(source[0], torch.nn.Module):
            inputs = source[1] if isinstance(source[1], tuple) else (source[1],)
            return torch.onnx.export(source[0], inputs, dynamo=True, verbose=False).model
    raise UsageError(
        f"can't read a model from {type(source).__name__}; give a path, an onnx.ModelProto, an onnx_ir.Model, "
        "an onnxscript function, a torch ExportedProgram, or (torch module, example inputs)"
    )
