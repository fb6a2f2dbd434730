"""Writing files so that nobody ever sees half of one."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import tempfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import BinaryIO

from baker.errors import ResourceError, UsageError


class Temporaries:
    """The temporary files and folders there are, for whoever has to remove them should this process be killed.

    Attributes:
        listener: is told all paths whenever one is added or gone.
    """

    def __init__(self) -> None:
        self.paths: dict[str, None] = {}
        self.listener: Callable[[Collection[str]], None] = lambda paths: None

    def add(self, path: str | os.PathLike[str]) -> None:
        """A path is about to be made."""
        self.paths[os.path.abspath(path)] = None
        self.listener(self.paths)

    def discard(self, path: str | os.PathLike[str]) -> None:
        """A path is gone."""
        self.paths.pop(os.path.abspath(path), None)
        self.listener(self.paths)


TEMPORARIES = Temporaries()
"""Those of this process."""


class ScratchFolder(tempfile.TemporaryDirectory[str]):
    """A temporary folder, removed at the end of a with block, when nobody holds it any more, or by a supervisor."""

    def __init__(self) -> None:
        super().__init__(prefix="baker-")
        TEMPORARIES.add(self.name)

    def cleanup(self) -> None:
        """Removes the folder and everything in it."""
        super().cleanup()
        TEMPORARIES.discard(self.name)


def write_bytes_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes a file under a temporary name, syncs it, and renames it.

    Raises:
        UsageError: the folder is missing or can't be written to.
        ResourceError: the disk is full.
    """
    with replacing(path) as file:
        file.write(data)


def write_json_atomically(path: str | os.PathLike[str], obj: object) -> None:
    """Writes an object as indented JSON, keys in their order, everything but ASCII escaped.

    Raises:
        ValueError: a float is infinite or not a number, which JSON can't say.
        UsageError, ResourceError: as `write_bytes_atomically`.
    """
    text = json.dumps(obj, indent=2, allow_nan=False)
    write_bytes_atomically(path, text.encode("ascii") + b"\n")


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Opens a temporary file beside ``path`` that takes its place when the block ends without an exception."""
    target = Path(path)
    if target.exists() and not target.is_file():
        raise UsageError(
            f"can't write {str(target)!r}: it is a folder or a device"
        )  # a rename would replace the device
    with explained(target), _temporary(target.parent, target.name) as (file, temporary):
        yield file
        _finish(file)
        os.replace(temporary, target)
        sync_folder(target.parent)


@contextlib.contextmanager
def temporary_file(folder: Path, stem: str) -> Iterator[tuple[BinaryIO, Path]]:
    """Opens a temporary file that `publish` may rename; whatever is left of it is removed at the end."""
    with explained(folder / stem), _temporary(folder, stem) as opened:
        yield opened


def publish(file: BinaryIO, temporary: Path, target: Path) -> None:
    """Syncs a finished temporary file to disk and gives it its name."""
    _finish(file)
    os.replace(temporary, target)
    sync_folder(target.parent)


@contextlib.contextmanager
def _temporary(folder: Path, stem: str) -> Iterator[tuple[BinaryIO, Path]]:
    temporary = folder / f".{stem[:80]}.{secrets.token_hex(6)}.tmp"
    TEMPORARIES.add(temporary)
    try:
        # os.open rather than tempfile: the result has the permissions that the user's umask gives any new file.
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        with open(descriptor, "wb") as file:
            yield file, temporary
    finally:
        with contextlib.suppress(OSError):  # it was renamed, or never made
            os.unlink(temporary)
        TEMPORARIES.discard(temporary)


def nameless_file(folder: Path) -> int:
    """Opens a new file for reading and writing that no folder lists: it is gone when it is closed, even by a kill.

    Returns:
        A descriptor, which is the caller's to close.

    Raises:
        OSError: the folder is missing, full, or can't be written to.
    """
    if hasattr(os, "O_TMPFILE"):
        with contextlib.suppress(OSError):  # not every file system can do that
            return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    temporary = folder / f".weights.{secrets.token_hex(6)}.tmp"
    TEMPORARIES.add(temporary)
    try:
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.unlink(temporary)
        return descriptor
    finally:
        TEMPORARIES.discard(temporary)


def _finish(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Makes a rename last through a power cut, where the system can sync folders."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def explained(target: Path) -> Iterator[None]:
    """Turns the system's errors about writing ``target`` into baker's."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        kind = ResourceError if full else UsageError
        raise kind(f"can't write {str(target)!r}: {error.strerror or error}") from error
