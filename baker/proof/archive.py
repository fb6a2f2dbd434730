"""Arrays from files that nobody has vouched for: looked at before they are read, and no code in them is run."""

from __future__ import annotations

import stat
import zipfile
from pathlib import Path

import numpy as np

from baker.errors import BakerError, ResourceError, UsageError
from baker.model.graph import Array

MAX_FEED_BYTES = 4 << 30
"""One feed, unpacked."""
MAX_TENSOR_FILE_BYTES = 2**31 - 1
"""One input_*.pb: protobuf's limit."""
_SUSPECT_BYTES, _SUSPECT_RATIO = 64 << 20, 200


def read_npz(path: Path, where: str) -> dict[str, Array]:
    """Reads the arrays of a .npz by name.

    Raises:
        UsageError: it is no such file, is broken, or holds objects (pickles), which are never loaded.
        ResourceError: it unpacks to more than `MAX_FEED_BYTES`, or to hundreds of times its size.
    """
    require_plain(path, where)
    if not zipfile.is_zipfile(path):
        raise UsageError(f"{where} is not a .npz file. Write one with numpy.savez(path, **arrays_by_input_name).")
    try:
        with zipfile.ZipFile(path) as members:
            _check_unpacked(members.infolist(), where)
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except BakerError:
        raise
    except Exception as error:  # zipfile, numpy and the system each have errors of their own for a broken file
        raise UsageError(f"{where} can't be read as a .npz of plain arrays: {error}") from error


def _check_unpacked(members: list[zipfile.ZipInfo], where: str) -> None:
    total = sum(member.file_size for member in members)
    if total > MAX_FEED_BYTES:
        raise ResourceError(f"{where} unpacks to {total} bytes; the limit of one feed is {MAX_FEED_BYTES}.")
    packed = sum(member.compress_size for member in members)
    if total > _SUSPECT_BYTES and total > _SUSPECT_RATIO * packed:
        raise ResourceError(
            f"{where} unpacks to {total} bytes from {packed}, like a zip bomb. If these are your numbers, write them "
            "with numpy.savez, uncompressed."
        )


def require_plain(path: Path, where: str, limit: int | None = None) -> None:
    """Refuses pipes and devices, which have no end.

    Raises:
        UsageError: it is no plain file, or can't be looked at.
        ResourceError: it is larger than ``limit`` bytes.
    """
    try:
        found = path.stat()
    except OSError as error:
        raise UsageError(f"{where} can't be read: {error.strerror}") from error
    if not stat.S_ISREG(found.st_mode):
        raise UsageError(f"{where}: '{path.name}' is not a plain file.")
    if limit is not None and found.st_size > limit:
        raise ResourceError(f"{where}: '{path.name}' has {found.st_size} bytes; the limit is {limit}.")
