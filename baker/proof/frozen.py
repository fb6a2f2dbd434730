"""Feeds in one file, so that a check made later looks at the very same inputs.

The file is a .npz: ``calibration/<n>/<input>`` and ``held_out/<n>/<input>``, uncompressed and without times, so that
the same feeds give the same bytes. Types that numpy has no name for (bfloat16, float8) are kept as their bits.
"""

from __future__ import annotations

import io
import zipfile

import numpy as np
import onnx_ir as ir

from baker.errors import ModelError, ResourceError, UsageError
from baker.model.graph import Array
from baker.proof.feeds import Feeds
from baker.proof.interface import Feed, check_feed
from baker.proof.sources import LazyFeeds

DEFAULT_LIMIT = 64 * 2**20
"""How many bytes of feeds are frozen unless told otherwise."""
MAX_FEEDS = 1_000_000
_PARTS = ("calibration", "held_out")


def freeze(feeds: Feeds, *, limit: int = DEFAULT_LIMIT) -> bytes:
    """Returns the file.

    Raises:
        ResourceError: the feeds take more than ``limit`` bytes.
        UsageError: an input is no tensor.
    """
    buffer, size = io.BytesIO(), 0
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for part, all_feeds in zip(_PARTS, (feeds.calibration, feeds.held_out), strict=True):
            for index, feed in enumerate(all_feeds):
                for name, value in feed.items():
                    array = _plain(name, value)
                    size += array.nbytes
                    if size > limit:
                        raise ResourceError(
                            f"the feeds take more than {limit / 2**20:g} MiB. Give fewer or smaller samples through "
                            "--calib, or raise --limit-feeds."
                        )
                    info = zipfile.ZipInfo(f"{part}/{index}/{name}.npy")
                    with archive.open(info, "w") as file:
                        np.lib.format.write_array(file, array, allow_pickle=False)
    return buffer.getvalue()


def _plain(name: str, value: object) -> Array:
    """An array of a type that a .npy file can hold without pickling."""
    if not isinstance(value, (np.ndarray, np.generic)):
        raise UsageError(f"input '{name}' is a {type(value).__name__}; only tensors can be frozen.")
    if value.dtype.kind == "O":
        return np.array([_text(item) for item in value.ravel()], np.str_).reshape(value.shape)
    if value.dtype.kind in "fiubcUS":
        return np.asarray(value, order="C")
    return np.asarray(value, order="C").view(f"u{value.dtype.itemsize}")


def _text(item: object) -> str:
    return item.decode("utf-8", "surrogateescape") if isinstance(item, bytes) else str(item)


def thaw(
    data: bytes,
    model: ir.Model,
    where: str,
    *,
    counts: tuple[int, int],
    source: str,
    synthetic: bool,
    problem: str = "",
) -> Feeds:
    """Reads what `freeze` wrote.

    Args:
        where: what to call the file in messages.
        counts: how many feeds there must be for calibration, and held out.

    Raises:
        ModelError: it is no such file, is compressed (a bomb would be), or holds another number of feeds.
        UsageError: a feed does not fit the model.
    """
    types = {value.name: value.dtype for value in model.graph.inputs}
    if not 0 <= min(counts) <= sum(counts) <= MAX_FEEDS:
        raise ModelError(f"{where}: {counts[0]} and {counts[1]} feeds can't be. Record them anew.")
    parts: list[list[Feed]] = [[{} for _ in range(count)] for count in counts]
    try:
        _refuse_compressed(data)
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            for key in archive.files:
                part, index, name = key.split("/", 2)
                feed = parts[_PARTS.index(part)][int(index)]
                feed[name] = _typed(archive[key], types.get(name))
    except Exception as error:  # zipfile, numpy and what is above each have errors of their own for a broken file
        raise ModelError(f"{where}: no frozen feeds, or other ones: {error}. Record them anew.") from error
    calibration, held_out = (
        [check_feed(model, feed, f"{where}, {part}/{index}") for index, feed in enumerate(feeds)]
        for part, feeds in zip(_PARTS, parts, strict=True)
    )
    lazy = [LazyFeeds(model, feeds, problem) for feeds in (calibration, held_out)]
    return Feeds(lazy[0], lazy[1], source, synthetic, problem=problem)


def _refuse_compressed(data: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
            raise ValueError("it is compressed")


def _typed(array: Array, dtype: ir.DataType | None) -> Array:
    if dtype is None or dtype == ir.DataType.STRING or array.dtype == dtype.numpy():
        return array
    own = dtype.numpy()
    return array.view(own) if own.kind not in "fiub" and own.itemsize == array.dtype.itemsize else array
