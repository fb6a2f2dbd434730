"""The safetensors format: the tensors of a checkpoint in one file, mapped, and checked before anything is believed.

    8 bytes   n, little-endian
    n bytes   JSON: {"name": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [begin, end]}, "__metadata__": {...}}
    the rest  the tensors, little-endian; offsets count from here, and no byte belongs to none of them or to two

Source: https://github.com/huggingface/safetensors, "Format".
"""

from __future__ import annotations

import errno
import json
import math
import os
import stat
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from baker.errors import ModelError, ResourceError, UsageError
from baker.model.graph import Array
from baker.model.marks import quoted
from baker.model.pages import mapped
from baker.model.tensors import MAX_RANK

MAX_HEADER_BYTES = 1 << 24
"""Of the JSON; a checkpoint of 100,000 tensors has about half of that."""

_LENGTH_BYTES = 8
_DTYPES = {
    "BOOL": ir.DataType.BOOL,
    "U8": ir.DataType.UINT8,
    "I8": ir.DataType.INT8,
    "F8_E4M3": ir.DataType.FLOAT8E4M3FN,
    "F8_E5M2": ir.DataType.FLOAT8E5M2,
    "U16": ir.DataType.UINT16,
    "I16": ir.DataType.INT16,
    "F16": ir.DataType.FLOAT16,
    "BF16": ir.DataType.BFLOAT16,
    "U32": ir.DataType.UINT32,
    "I32": ir.DataType.INT32,
    "F32": ir.DataType.FLOAT,
    "U64": ir.DataType.UINT64,
    "I64": ir.DataType.INT64,
    "F64": ir.DataType.DOUBLE,
}


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a mapped file.

    Attributes:
        data: its bytes (n,), which nothing has read yet.
    """

    dtype: ir.DataType
    shape: tuple[int, ...]
    data: Array

    def rows(self, start: int, stop: int) -> Array:
        """Reads a range along axis 0 into memory."""
        row = self.data.size // max(1, self.shape[0])
        part = self.data[start * row : stop * row].copy()  # offsets in the file need not be aligned
        found: Array = part.view(self.dtype.numpy().newbyteorder("<")).reshape(stop - start, *self.shape[1:])
        return found

    def whole(self) -> Array:
        """Reads all of it into memory."""
        found: Array = self.data.copy().view(self.dtype.numpy().newbyteorder("<")).reshape(self.shape)
        return found

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.shape)}"


def read_safetensors(path: Path) -> dict[str, StoredTensor]:
    """Maps a file and checks its header.

    Raises:
        UsageError: it can't be read.
        ModelError: it is no safetensors file, is cut off, or its header contradicts itself.
        ResourceError: a header above `MAX_HEADER_BYTES`.
    """
    data = map_file(path)
    if len(data) < _LENGTH_BYTES:
        raise ModelError(f"not a safetensors file, or cut off: it has {len(data)} bytes")
    length = int.from_bytes(data[:_LENGTH_BYTES].tobytes(), "little")
    end = _LENGTH_BYTES + length
    if end > len(data):
        raise ModelError(f"not a safetensors file, or cut off: a header of {length} bytes in a file of {len(data)}")
    if length > MAX_HEADER_BYTES:
        raise ResourceError(f"the safetensors header takes {length} bytes; the limit is {MAX_HEADER_BYTES}")
    header = strict_json(data[_LENGTH_BYTES:end].tobytes(), "the safetensors header")
    _check_metadata(header.pop("__metadata__", {}))
    ranges = {name: _entry(name, entry) for name, entry in header.items()}
    body = data[end:]
    _check_ranges(ranges, body.size)
    return {name: StoredTensor(dtype, shape, body[a:b]) for name, (dtype, shape, a, b) in ranges.items()}


def strict_json(data: bytes, what: str) -> dict[str, Any]:
    """Parses a JSON object without NaN and without a key that is there twice.

    Raises:
        ModelError: it is none.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
            raise ModelError(f"{what} has {quoted(twice)} twice")
        return found

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    try:
        found = json.loads(data.decode("utf-8"), object_pairs_hook=once, parse_constant=refuse)
    except (ValueError, RecursionError) as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise ModelError(f"{what} is no JSON: {str(error)[:200]}") from error
    if not isinstance(found, dict):
        raise ModelError(f"{what} is no JSON object, but {type(found).__name__}")
    return found


def regular_file(path: Path) -> os.stat_result:
    """Looks whether a file is there and can be mapped.

    Raises:
        UsageError: it is not there, or a folder, a pipe or a device.
    """
    try:
        found = path.stat()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise UsageError(f"{quoted(path.name)} can't be read: {getattr(error, 'strerror', None) or error}") from error
    if not stat.S_ISREG(found.st_mode):
        raise UsageError(f"{quoted(path.name)} is not a file, but a folder or a device")
    return found


def map_file(path: Path) -> Array:
    """Maps a file as bytes (n,).

    Raises:
        UsageError: it can't be read.
        ModelError: it is empty.
        ResourceError: this machine can't map that much.
    """
    if regular_file(path).st_size == 0:
        raise ModelError(f"{quoted(path.name)} is empty")
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            return np.frombuffer(mapped(descriptor), np.uint8)
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:
        kind = ResourceError if getattr(error, "errno", None) == errno.ENOMEM else UsageError
        raise kind(f"{quoted(path.name)} can't be read: {getattr(error, 'strerror', None) or error}") from error


def _check_metadata(found: object) -> None:
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise ModelError("the safetensors header's __metadata__ is no map of strings")


def _entry(name: str, entry: object) -> tuple[ir.DataType, tuple[int, ...], int, int]:
    """Reads one tensor's line of the header: type, shape, begin, end."""
    where = f"tensor {quoted(name)}"
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ModelError(f"{where}: the header gives it other things than dtype, shape and data_offsets")
    dtype = _DTYPES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    if dtype is None:
        raise ModelError(f"{where}: unknown dtype {quoted(entry['dtype'])}")
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not (_naturals(shape) and _naturals(offsets) and len(offsets) == 2 and len(shape) <= MAX_RANK):
        raise ModelError(f"{where}: shape {quoted(shape)} at {quoted(offsets)} is no shape and no range")
    begin, end = offsets
    needed = math.prod(shape) * dtype.bitwidth // 8
    if end - begin != needed:
        raise ModelError(f"{where}: {dtype} of shape {quoted(shape)} needs {needed} bytes, its range has {end - begin}")
    return dtype, tuple(shape), begin, end


def _naturals(found: object) -> bool:
    """True for a list of natural numbers of at most 63 bits."""
    return isinstance(found, list) and all(type(item) is int and 0 <= item < 2**63 for item in found)


def _check_ranges(ranges: dict[str, tuple[ir.DataType, tuple[int, ...], int, int]], size: int) -> None:
    """Every byte behind the header belongs to one tensor."""
    position, before = 0, "the header"
    for name, (_, _, begin, end) in sorted(ranges.items(), key=lambda item: item[1][2:]):
        if begin != position:
            kind = "overlaps" if begin < position else "leaves a hole behind"
            raise ModelError(
                f"tensor {quoted(name)}: starts at byte {begin} and {kind} {before}, which ends at {position}"
            )
        if end > size:
            raise ModelError(f"tensor {quoted(name)}: bytes {begin} to {end} are past the end of the data, {size}")
        position, before = end, f"tensor {quoted(name)}"
    if position != size:
        raise ModelError(f"the file holds {size - position} bytes behind its last tensor that belong to none")
