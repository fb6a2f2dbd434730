"""Large arrays that memory need not hold: mapped from files, and given back once they were read.

Weights in external data files are mapped, and pages of a map count as the process's own from the first look at them.
`pieces` reads a large array bit by bit and gives the pages back behind itself, `release` does so for all maps;
whoever looks again finds the same numbers, only later. Arrays that passes make go where they find room: the first
`MEMORY` bytes of them into memory, what is beyond into a file without a name, which is gone when the process is.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import mmap
import os
import tempfile
import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from baker.model.files import nameless_file

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

PIECE = 1 << 24
"""Bytes that are looked at, or computed, at once."""
MEMORY = 1 << 28
"""Bytes of new arrays that stay in memory; a ResNet-152 has 230 MiB."""
SMALL = 1 << 14
"""Arrays below this many bytes stay in memory in any case."""

_SEGMENT = 1 << 28  # bytes of one temporary file; an open file can hold many arrays, and there may be 1024 of those

_TICK = 0.01  # seconds, in which some 100 MB are read

_looked_at = 0
_maps: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()


def mapped(descriptor: int, *, nbytes: int = 0, writable: bool = False) -> mmap.mmap:
    """Maps a file, whose pages `release` then knows of.

    Args:
        nbytes: from the start of the file; 0 is all of it.
    """
    mapping = mmap.mmap(descriptor, nbytes, access=mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ)
    _maps.add(mapping)
    return mapping


def release() -> None:
    """Gives back all pages of all maps. They are read anew where they are looked at again."""
    if not hasattr(mmap, "MADV_DONTNEED"):
        return
    for mapping in list(_maps):
        with contextlib.suppress(ValueError, OSError):  # closed meanwhile, or locked into memory
            mapping.madvise(mmap.MADV_DONTNEED)


def trim() -> None:
    """Gives back memory that was freed and that Python or the C library keep for later."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError, TypeError):  # the GNU C library has it
        ctypes.CDLL(None).malloc_trim(0)


@contextlib.contextmanager
def releasing() -> Iterator[None]:
    """While somebody else's code reads large arrays from end to end, gives their pages back behind it."""
    trim()
    done = threading.Event()

    def work() -> None:
        while not done.wait(_TICK):
            release()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        release()


def looked_at(nbytes: int) -> None:
    """Counts bytes that were read, and now and then gives their pages back."""
    global _looked_at  # there is one address space
    _looked_at += nbytes
    if _looked_at >= 2 * PIECE:
        release()
        _looked_at = 0


def pieces(data: bytes | memoryview, size: int = 0) -> Iterator[memoryview]:
    """Yields contiguous bytes piece by piece, of `PIECE` or ``size`` bytes; pages are given back behind them."""
    whole, size = memoryview(data), size or PIECE
    for start in range(0, len(whole), size):
        piece = whole[start : start + size]
        yield piece
        looked_at(len(piece))


def rows_of(shape: Sequence[int], itemsize: int, size: int = 0) -> Iterator[slice]:
    """Cuts axis 0 of an array into slices of about `PIECE` or ``size`` bytes, for arithmetic that goes bit by bit."""
    row = max(1, int(np.prod(shape[1:], dtype=np.int64)) * itemsize)
    step = max(1, (size or PIECE) // row)
    for start in range(0, shape[0], step):
        yield slice(start, min(shape[0], start + step))


def is_mapped(array: Array) -> bool:
    """True when an array's data is in a mapped file."""
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    return isinstance(base.obj if isinstance(base, memoryview) else base, mmap.mmap)


def kept(array: Array) -> Array:
    """Returns the array, or an equal one that is on disk: whoever keeps a large array asks here where.

    An array that is mapped already and contiguous is taken as it is, one in memory only while there is room.
    """
    if array.nbytes < SMALL or array.dtype.hasobject or (is_mapped(array) and array.flags.c_contiguous):
        return array
    if not is_mapped(array) and _room.take(_owner(array)):
        return array
    return stored(array.shape, array.dtype, (array[rows] for rows in rows_of(array.shape, array.itemsize)))


def stored(shape: Sequence[int], dtype: np.dtype[Any], parts: Iterable[Array]) -> Array:
    """Puts an array together of parts along axis 0, in memory or on disk.

    Args:
        parts: arrays that are one after the other what the array holds; of at most some `PIECE` bytes each.

    Returns:
        The array; on disk it is read-only. A full disk is no error: memory may still have room.
    """
    nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    place: _Place | _InMemory | None = None
    if nbytes >= SMALL and _room.free() < nbytes:
        place = _spill.place(nbytes)
    place = place or _InMemory(nbytes)
    position = 0
    for part in parts:
        data = np.ascontiguousarray(part, dtype).reshape(-1).view(np.uint8)
        if not place.write(data, position):
            begun, place = place.array(), _InMemory(nbytes)
            place.write(begun[:position], 0)
            place.write(data, position)
        position += data.nbytes
        looked_at(data.nbytes)
    assert position == nbytes, f"{position} bytes were given for an array of {nbytes}"
    return place.array().view(dtype).reshape(shape)


def spill_into(folder: Path | None) -> None:
    """Says where temporary files of weights go; None: the system's temporary folder."""
    _spill.folder = folder
    _spill.segment = None


class _Room:
    """Counts what of the new arrays is in memory."""

    def __init__(self) -> None:
        self.used = 0

    def free(self) -> int:
        return MEMORY - self.used

    def take(self, array: Array) -> bool:
        """Counts an array until nobody holds it any more; False where there is no room."""
        if array.nbytes > self.free():
            return False
        self.used += array.nbytes
        weakref.finalize(array, self._give_back, array.nbytes).atexit = False
        return True

    def _give_back(self, nbytes: int) -> None:
        self.used -= nbytes


def _owner(array: Array) -> Array:
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


class _InMemory:
    """Room for one array in memory."""

    def __init__(self, nbytes: int) -> None:
        self.data = np.empty(nbytes, np.uint8)
        _room.take(self.data)

    def write(self, data: Array, position: int) -> bool:
        self.data[position : position + data.nbytes] = data
        return True

    def array(self) -> Array:
        return self.data


class _Segment:
    """A temporary file without a name, and the map of it."""

    def __init__(self, folder: Path, nbytes: int) -> None:
        self.descriptor = nameless_file(folder)
        try:
            os.truncate(self.descriptor, nbytes)
            self.map = mapped(self.descriptor, writable=True)
        except BaseException:
            os.close(self.descriptor)
            raise
        weakref.finalize(self, os.close, self.descriptor)
        self.nbytes = nbytes
        self.end = 0

    def forget(self, start: int, nbytes: int) -> None:
        """Gives the room of an array back to the disk, where the file system can do that."""
        if hasattr(mmap, "MADV_REMOVE"):
            with contextlib.suppress(OSError, ValueError):
                self.map.madvise(mmap.MADV_REMOVE, start, nbytes)


class _Place:
    """Room for one array in a segment."""

    def __init__(self, segment: _Segment, start: int, nbytes: int) -> None:
        self.segment, self.start, self.nbytes = segment, start, nbytes

    def write(self, data: Array, position: int) -> bool:
        """Writes at a byte of the array; False when the disk is full."""
        left, at = data.data, self.start + position
        try:
            while left:
                written = os.pwrite(self.segment.descriptor, left, at)
                left, at = left[written:], at + written
        except OSError:
            return False
        return True

    def array(self) -> Array:
        """The bytes, read-only; their room on the disk goes back with the last view of them."""
        found: Array = np.frombuffer(self.segment.map, np.uint8, self.nbytes, self.start)
        found.flags.writeable = False
        whole = -(-self.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
        weakref.finalize(found, self.segment.forget, self.start, whole).atexit = False
        return found


class _Spill:
    """Temporary files for arrays that memory has no room for."""

    def __init__(self) -> None:
        self.folder: Path | None = None
        self.segment: _Segment | None = None

    def place(self, nbytes: int) -> _Place | None:
        """Room for an array; None where no file can be made."""
        whole = -(-nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
        if self.segment is None or self.segment.end + whole > self.segment.nbytes:
            try:
                self.segment = _Segment(self.folder or Path(tempfile.gettempdir()), max(whole, _SEGMENT))
            except (OSError, ValueError):
                return None
        segment = self.segment
        start, segment.end = segment.end, segment.end + whole
        return _Place(segment, start, nbytes)


_room = _Room()
_spill = _Spill()
