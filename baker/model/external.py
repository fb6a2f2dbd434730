"""Weights in files beside the model: opened once, by baker itself, and never outside the model's folder.

What a model writes as a location is hostile until shown otherwise. A location is refused when it leaves the folder,
passes through a link, or names what is not a plain file of its own; every step is opened relative to the folder before
it, so nothing can be swapped in between. No path that a model names is ever handed to ONNX Runtime.
"""

from __future__ import annotations

import errno
import mmap
import os
import re
import stat
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from baker.errors import ModelError, ResourceError, SecurityError
from baker.model.marks import quoted
from baker.model.pages import mapped
from baker.model.tensors import from_bytes, tensor_nbytes

_NUMBER = re.compile(r"[0-9]{1,19}")


def check_entry(proto: onnx.TensorProto, where: str) -> None:
    """Checks what a tensor says about its external data, opening nothing.

    Raises:
        SecurityError: the location would leave the model's folder.
        ModelError: there is no location, or offset and length are no natural numbers.
    """
    entries = {entry.key: entry.value for entry in proto.external_data}
    check_location(entries.get("location", ""), where)
    for key in ("offset", "length"):
        if key in entries and not _NUMBER.fullmatch(str(entries[key])):
            raise ModelError(f"{where}: external data {key} {quoted(entries[key])} is not a natural number")


def check_location(location: object, where: str) -> tuple[str, ...]:
    """Returns the parts of a relative path that stays inside its folder.

    Raises:
        SecurityError: it is absolute, climbs with "..", or holds a NUL.
        ModelError: it is empty or not UTF-8.
    """
    if not isinstance(location, str):
        raise ModelError(f"{where}: the external data location is not UTF-8")
    parts = tuple(part for part in location.split("/") if part not in ("", "."))
    if not parts:
        raise ModelError(f"{where}: the external data has no location")
    if "\0" in location:
        raise SecurityError(f"{where}: the external data location {quoted(location)} holds a NUL character")
    if location.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", location):
        raise SecurityError(f"{where}: the external data location {quoted(location)} is an absolute path")
    if ".." in re.split(r"[/\\]", location):
        raise SecurityError(f"{where}: the external data location {quoted(location)} leaves the model's folder")
    return parts


class DataFolder:
    """The folder that a model's external data may come from.

    Args:
        folder: None for a model that came without a path; then any external tensor is an error.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._maps: dict[tuple[str, ...], mmap.mmap | bytes] = {}

    @property
    def files(self) -> tuple[Path, ...]:
        """The files opened so far."""
        assert self._folder is not None or not self._maps
        return tuple(Path(self._folder or "", *parts) for parts in self._maps)

    @property
    def nbytes(self) -> int:
        """The size of the files opened so far."""
        return sum(len(data) for data in self._maps.values())

    def tensor(self, external: ir.ExternalTensor, where: str) -> ir.TensorProtocol:
        """Returns the tensor over a read-only map of its file; nothing is read yet.

        Raises:
            SecurityError: a link on the way, or not a plain file of its own.
            ModelError: no such file, or offset and length do not fit the file and the shape.
            ResourceError: a tensor larger than memory, that the file does hold.
        """
        parts = check_location(os.fspath(external.location), where)
        dims = tuple(external.shape.numpy())
        needed = tensor_nbytes(external.dtype, dims)
        offset = external.offset or 0
        if external.length is not None and external.length != needed:
            raise ModelError(
                f"{where}: {external.dtype} of shape {list(dims)} needs {needed} bytes, "
                f"its external data says length {external.length}"
            )
        data = self._open(parts, where)
        if offset < 0 or offset + needed > len(data):
            raise ModelError(
                f"{where}: bytes {offset} to {offset + needed} are past the end of external data file "
                f"{quoted('/'.join(parts))}, which has {len(data)}"
            )
        if needed > memory():
            raise ResourceError(f"{where}: shape {list(dims)} takes {needed} bytes, more than this machine has memory")
        view = np.frombuffer(data, np.uint8, needed, offset) if needed else np.empty(0, np.uint8)
        return from_bytes(view, external.dtype, dims, external)

    def _open(self, parts: tuple[str, ...], where: str) -> mmap.mmap | bytes:
        if parts not in self._maps:
            if self._folder is None:
                raise ModelError(f"{where}: is external data, and a model in memory has no folder; give its path")
            self._maps[parts] = _map_file(self._folder, parts, where)
        return self._maps[parts]


def memory() -> int:
    """Bytes of memory there are; a file with holes may claim any size without taking any room."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):  # not told here
        return 1 << 62


def _map_file(folder: Path, parts: tuple[str, ...], where: str) -> mmap.mmap | bytes:
    """Opens folder after folder without following links, then maps the file."""
    shown = quoted("/".join(parts))
    opened = [os.open(folder, os.O_RDONLY | os.O_DIRECTORY)]
    try:
        for part in parts[:-1]:
            opened.append(os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=opened[-1]))
        found = os.stat(parts[-1], dir_fd=opened[-1], follow_symlinks=False)
        _refuse_special(found, shown, where)
        # O_NONBLOCK: should a pipe have taken the file's place by now, opening it must not wait for a writer.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        opened.append(os.open(parts[-1], flags, dir_fd=opened[-1]))
        found = os.fstat(opened[-1])
        _refuse_special(found, shown, where)
        return mapped(opened[-1]) if found.st_size else b""
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise SecurityError(
                f"{where}: external data {shown} passes through a link, or a file that is no folder; "
                "put the file itself there"
            ) from error
        raise ModelError(f"{where}: can't open external data file {shown}: {error.strerror}") from error
    finally:
        for descriptor in opened:
            os.close(descriptor)


def _refuse_special(found: os.stat_result, shown: str, where: str) -> None:
    if stat.S_ISLNK(found.st_mode):
        raise SecurityError(f"{where}: external data {shown} is a symbolic link; put the file itself there")
    if not stat.S_ISREG(found.st_mode):
        raise SecurityError(f"{where}: external data {shown} is not a plain file")
    if found.st_nlink > 1:
        raise SecurityError(
            f"{where}: external data {shown} has {found.st_nlink} hard links, so it may be any other file; "
            "put a copy there"
        )
