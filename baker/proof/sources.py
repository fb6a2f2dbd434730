"""Feeds that are read when they are looked at: files, folders, and whatever a function yields."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import overload

import numpy as np
import onnx
import onnx_ir as ir

from baker.errors import UsageError
from baker.model.files import ScratchFolder
from baker.proof.archive import MAX_TENSOR_FILE_BYTES, read_npz, require_plain
from baker.proof.interface import Feed, check_feed, required_inputs

IN_MEMORY_BYTES = 256 * 2**20
"""What an iterator of feeds may take in memory; the rest is kept in temporary files."""


class LazyFeeds(Sequence[Feed]):
    """Feeds in memory or in files; a file is read, and checked against the model, each time it is looked at.

    Args:
        model: whose inputs the feeds are for.
        items: feeds that were checked already, or paths: a .npz file or a folder with input_*.pb.
        problem: why there are no feeds, for a verdict to tell.
        holder: is kept alive as long as the feeds (a temporary folder).
    """

    def __init__(
        self, model: ir.Model, items: Sequence[Feed | Path], problem: str = "", holder: object | None = None
    ) -> None:
        self.model = model
        self.items = items
        self.problem = problem
        self.holder = holder

    def __len__(self) -> int:
        return len(self.items)

    @overload
    def __getitem__(self, index: int) -> Feed: ...

    @overload
    def __getitem__(self, index: slice) -> LazyFeeds: ...

    def __getitem__(self, index: int | slice) -> Feed | LazyFeeds:
        if isinstance(index, slice):
            return LazyFeeds(self.model, self.items[index], self.problem, self.holder)
        item = self.items[index]
        return read_feed(self.model, item) if isinstance(item, Path) else item


def read_feed(model: ir.Model, path: Path) -> Feed:
    """Reads one feed: a .npz of arrays by input name, or a folder with input_0.pb, input_1.pb, ...

    Raises:
        UsageError: the file can't be read, or does not fit the model.
        ResourceError: it is too large.
    """
    where = f"calibration data '{path}'"
    feed = _read_protobufs(model, path, where) if path.is_dir() else read_npz(path, where)
    return check_feed(model, feed, where)


def _read_protobufs(model: ir.Model, folder: Path, where: str) -> Feed:
    inputs = required_inputs(model)
    names = {value.name for value in model.graph.inputs}
    feed: Feed = {}
    for index, path in enumerate(in_natural_order(folder.glob("input_*.pb"))):
        tensor = onnx.TensorProto()
        require_plain(path, where, MAX_TENSOR_FILE_BYTES)
        try:
            tensor.ParseFromString(path.read_bytes())
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                raise ValueError("its data is in another file, which is not followed")
            array = onnx.numpy_helper.to_array(tensor)
        except Exception as error:  # protobuf and numpy each have errors of their own for a broken file
            raise UsageError(f"{where}: '{path.name}' can't be read as a tensor: {error}") from error
        if tensor.name not in names and index >= len(inputs):
            raise UsageError(f"{where}: '{path.name}' is one input too many; the model has {len(inputs)}.")
        feed[tensor.name if tensor.name in names else inputs[index].name or ""] = array
    return feed


def in_natural_order(paths: Iterable[Path]) -> list[Path]:
    """Sorts by name with numbers by their value: set_2 before set_10."""
    return sorted(
        paths, key=lambda path: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)]
    )


def from_path(model: ir.Model, path: Path) -> LazyFeeds:
    """Feeds from a .npz file, a folder of them, a folder of test_data_set_*, or one such set. Each is checked once.

    Raises:
        UsageError: it is none of these, or a file is broken or does not fit the model.
    """
    if not path.exists():
        raise UsageError(
            f"calibration data '{path}' is not there. Give a .npz, a folder, module:function, or synthetic."
        )
    if path.is_file():
        items = [path]
    else:
        items = in_natural_order(folder for folder in path.glob("test_data_set_*") if folder.is_dir())
        items = items or in_natural_order(path.glob("*.npz"))
        items = items or [path for _ in [*path.glob("input_*.pb")][:1]]
    if not items:
        raise UsageError(f"calibration data '{path}' holds neither .npz files nor test_data_set_* folders.")
    for item in items:
        read_feed(model, item)
    return LazyFeeds(model, items)


def from_iterable(model: ir.Model, source: Iterable[object], where: str) -> LazyFeeds:
    """Feeds from whatever yields dicts. What goes beyond `IN_MEMORY_BYTES` is kept in temporary files.

    Raises:
        UsageError: it yields nothing, something else, or raises.
    """
    spool, items, size = None, list[Feed | Path](), 0
    for index, found in enumerate(_guarded(source, where)):
        feed = check_feed(model, found, f"{where}, feed {index}")
        size += sum(array.nbytes for array in feed.values() if isinstance(array, np.ndarray))
        if size <= IN_MEMORY_BYTES or isinstance(source, Sequence) or not _storable(feed):
            items.append(feed)
            continue
        spool = spool or ScratchFolder()
        items.append(_store(feed, Path(spool.name) / f"{index}.npz"))
    if not items:
        raise UsageError(f"{where} yields no feeds; at least one dict of arrays by input name is due.")
    return LazyFeeds(model, items, holder=spool)


def _guarded(source: Iterable[object], where: str) -> Iterator[object]:
    try:
        yield from source
    except (Exception, SystemExit) as error:  # the iterator is the user's code
        raise UsageError(f"{where} raised {type(error).__name__}: {error}") from error


def _storable(feed: Feed) -> bool:
    if feed.keys() & {"file", "allow_pickle"}:  # np.savez has parameters of these names
        return False
    return all(isinstance(array, np.ndarray) and array.dtype.kind in "fiub" for array in feed.values())


def _store(feed: Feed, path: Path) -> Path:
    np.savez(path, allow_pickle=False, **feed)
    return path
