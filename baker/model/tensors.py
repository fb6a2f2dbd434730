"""Tensors between their ONNX form and memory, checked before anything is allocated, never copied without need."""

from __future__ import annotations

import math
import sys

import numpy as np
import onnx
import onnx_ir as ir

from baker.errors import ModelError
from baker.model.graph import Array

MAX_RANK = 64  # numpy's own limit

_FLOAT_FIELDS = {
    ir.DataType.FLOAT: "float_data",
    ir.DataType.COMPLEX64: "float_data",
    ir.DataType.DOUBLE: "double_data",
    ir.DataType.COMPLEX128: "double_data",
}
_INTEGER_FIELDS = {
    ir.DataType.INT64: "int64_data",
    ir.DataType.UINT64: "uint64_data",
    ir.DataType.UINT32: "uint64_data",
}
_DATA_FIELDS = ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")


def check_header(proto: onnx.TensorProto, where: str) -> None:
    """Checks element type, dims and storage form, reading no data.

    Raises:
        ModelError: an unknown element type, a negative dim, a rank above 64, or a form that ONNX has given up.
    """
    try:
        dtype = ir.DataType(proto.data_type)
    except ValueError as error:
        raise ModelError(f"{where}: unknown element type {proto.data_type}") from error
    if dtype == ir.DataType.UNDEFINED:
        raise ModelError(f"{where}: the element type is missing")
    dims = list(proto.dims)
    if len(dims) > MAX_RANK:
        raise ModelError(f"{where}: rank {len(dims)}; at most {MAX_RANK} is supported")
    if any(dim < 0 for dim in dims):
        raise ModelError(f"{where}: negative dim in shape {dims}")
    if proto.HasField("segment"):
        raise ModelError(f"{where}: tensor segments are not supported; save the tensor in one piece")
    if proto.data_location == onnx.TensorProto.EXTERNAL and dtype == ir.DataType.STRING:
        raise ModelError(f"{where}: strings can't be external data")


def tensor_nbytes(dtype: ir.DataType, dims: tuple[int, ...]) -> int:
    """Returns the bytes of a tensor as ONNX packs it: 4-bit types two to a byte, 2-bit types four."""
    return (math.prod(dims) * dtype.bitwidth + 7) // 8


def from_proto(proto: onnx.TensorProto, where: str, raw: Array | None = None) -> ir.TensorProtocol:
    """Takes a tensor out of its protobuf: one copy of the data, read-only, and no tie to the message.

    Integers keep their typed form (``int64_data`` …) where that is the smaller one in a file.

    Args:
        raw: bytes (n,) to take for its raw_data.

    Raises:
        ModelError: the data is missing, too short, too long, or stored twice.
    """
    check_header(proto, where)
    dtype, dims = ir.DataType(proto.data_type), tuple(proto.dims)
    if dtype == ir.DataType.STRING:
        return _strings(list(proto.string_data), dims, proto, where)
    data = _raw_data(proto, dtype, dims, where, raw)
    if data is None:
        detached = onnx.TensorProto()
        detached.CopyFrom(proto)
        return ir.serde.TensorProtoTensor(detached)
    return from_bytes(np.frombuffer(data, np.uint8) if isinstance(data, bytes) else data, dtype, dims, proto)


def from_bytes(
    data: np.ndarray[tuple[int], np.dtype[np.uint8]],
    dtype: ir.DataType,
    dims: tuple[int, ...],
    proto: onnx.TensorProto | ir.TensorProtocol,
) -> ir.TensorProtocol:
    """Wraps little-endian bytes of the right length as a tensor without copying them.

    Args:
        data: (nbytes,) as `tensor_nbytes` counts them.
        proto: gives name, doc string and metadata.
    """
    doc, props = proto.doc_string or None, _properties(proto)
    if dtype.bitwidth < 8:
        return ir.PackedTensor(data, dtype, shape=list(dims), name=proto.name, doc_string=doc, metadata_props=props)
    array: Array = data.view(dtype.numpy().newbyteorder("<"))
    if not array.flags.aligned:
        array = array.copy()
    array = array.reshape(dims)
    array.flags.writeable = False
    return ir.Tensor(array, dtype, name=proto.name, doc_string=doc, metadata_props=props)


def _properties(proto: onnx.TensorProto | ir.TensorProtocol) -> dict[str, str]:
    if isinstance(proto, onnx.TensorProto):
        return {entry.key: entry.value for entry in proto.metadata_props}
    return dict(proto.metadata_props)


def _strings(
    data: list[bytes], dims: tuple[int, ...], proto: onnx.TensorProto | ir.TensorProtocol, where: str
) -> ir.TensorProtocol:
    if len(data) != math.prod(dims):
        raise ModelError(f"{where}: shape {list(dims)} needs {math.prod(dims)} strings, found {len(data)}")
    return ir.StringTensor(
        data,
        shape=ir.Shape(dims),
        name=proto.name,
        doc_string=proto.doc_string or None,
        metadata_props=_properties(proto),
    )


def _raw_data(
    proto: onnx.TensorProto, dtype: ir.DataType, dims: tuple[int, ...], where: str, given: Array | None
) -> bytes | Array | None:
    """Returns the data as raw little-endian bytes, or None where the typed integers are smaller in a file."""
    expected = tensor_nbytes(dtype, dims)
    stored = [field for field in _DATA_FIELDS if len(getattr(proto, field))]
    if proto.HasField("raw_data"):
        if stored:
            raise ModelError(f"{where}: holds both raw_data and {stored[0]}")
        raw = proto.raw_data if given is None else given
        if len(raw) != expected:
            raise ModelError(f"{where}: {dtype} of shape {list(dims)} needs {expected} bytes, found {len(raw)}")
        return raw
    field = _FLOAT_FIELDS.get(dtype) or _INTEGER_FIELDS.get(dtype, "int32_data")
    if any(other != field for other in stored):
        raise ModelError(f"{where}: {dtype} is stored in {stored}, belongs in {field}")
    count, needed = len(getattr(proto, field)), _entries(dtype, dims)
    if count != needed:
        raise ModelError(f"{where}: {dtype} of shape {list(dims)} needs {needed} entries in {field}, found {count}")
    if dtype in _FLOAT_FIELDS or expected == 0:
        return _packed_tail(proto, field, expected)
    alone = onnx.TensorProto()
    getattr(alone, field).MergeFrom(getattr(proto, field))
    return ir.serde.TensorProtoTensor(proto).tobytes() if alone.ByteSize() > expected + 2 else None


def _entries(dtype: ir.DataType, dims: tuple[int, ...]) -> int:
    """Counts the entries of the typed data field: complex numbers take two, packed types one a byte."""
    if dtype in (ir.DataType.COMPLEX64, ir.DataType.COMPLEX128):
        return 2 * math.prod(dims)
    if dtype.bitwidth in (2, 4):
        return tensor_nbytes(dtype, dims)
    return math.prod(dims)


def _packed_tail(proto: onnx.TensorProto, field: str, nbytes: int) -> bytes:
    """Reads packed floats as bytes: protobuf ends a message of one packed field with just these."""
    alone = onnx.TensorProto()
    getattr(alone, field).MergeFrom(getattr(proto, field))
    return alone.SerializeToString()[-nbytes:] if nbytes else b""


def detached(tensor: ir.TensorProtocol, where: str) -> ir.TensorProtocol:
    """Returns a tensor of its own name and metadata over the same data, which nobody can write through.

    The data is copied only where it lies in a protobuf message, from which every access would copy it anew.
    External tensors are the business of `baker.model.external`.
    """
    if isinstance(tensor, ir.serde.TensorProtoTensor):
        return from_proto(tensor.raw, where)
    if isinstance(tensor, ir.StringTensor):
        return _strings(list(tensor.string_data()), tensor.shape.numpy(), tensor, where)
    if isinstance(tensor, ir.PackedTensor):
        return from_bytes(tensor.numpy_packed().reshape(-1), tensor.dtype, tensor.shape.numpy(), tensor)
    if isinstance(tensor, ir.LazyTensor):
        return tensor
    array = tensor.numpy().view()
    array.flags.writeable = False
    return ir.Tensor(
        array,
        tensor.dtype,
        name=tensor.name,
        doc_string=tensor.doc_string,
        metadata_props=dict(tensor.metadata_props),
    )


def payload(tensor: ir.TensorProtocol) -> bytes | memoryview:
    """Returns the bytes that ONNX stores as raw_data, as a view on the tensor's own memory where it can be one."""
    raw = tensor.raw if type(tensor) in (ir.Tensor, ir.PackedTensor) else None
    if not isinstance(raw, np.ndarray) or sys.byteorder != "little":
        return tensor.tobytes()
    unpacked = isinstance(tensor, ir.Tensor) and tensor.dtype.bitwidth < 8
    if unpacked or not raw.flags.c_contiguous or raw.dtype.byteorder == ">":
        return tensor.tobytes()
    return raw.reshape(-1).view(np.uint8).data


def to_proto(tensor: ir.TensorProtocol, name: str) -> onnx.TensorProto:
    """Returns the whole tensor as a protobuf message of this name."""
    if isinstance(tensor, ir.serde.TensorProtoTensor) and not tensor.raw.HasField("raw_data"):
        proto = onnx.TensorProto()
        proto.CopyFrom(tensor.raw)
        proto.ClearField("name")
        proto.ClearField("metadata_props")
    else:
        proto = onnx.TensorProto(dims=tensor.shape.numpy(), data_type=tensor.dtype.value)
        if isinstance(tensor, ir.StringTensor):
            proto.string_data.extend(tensor.string_data())
        elif tensor.nbytes:
            proto.raw_data = bytes(payload(tensor))
    _describe(proto, tensor, name)
    return proto


def header_proto(tensor: ir.TensorProtocol, name: str) -> onnx.TensorProto:
    """Returns everything but the data: dims, element type, name, doc string, metadata."""
    proto = onnx.TensorProto(dims=tensor.shape.numpy(), data_type=tensor.dtype.value)
    _describe(proto, tensor, name)
    return proto


def _describe(proto: onnx.TensorProto, tensor: ir.TensorProtocol, name: str) -> None:
    if name:
        proto.name = name
    if tensor.doc_string:
        proto.doc_string = tensor.doc_string
    for key in sorted(tensor.metadata_props):
        proto.metadata_props.add(key=key, value=tensor.metadata_props[key])
