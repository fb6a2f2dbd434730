"""Two models to be timed against each other: read, checked, and given the same inputs."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from baker.errors import ModelError, UsageError
from baker.model.bitnet.checkpoint import is_checkpoint
from baker.model.graph import all_nodes
from baker.model.lower import lower
from baker.model.operators import BAKER_DOMAIN
from baker.proof.feeds import Feeds, load_feeds
from baker.proof.interface import Feed, check_feed, dims_of, foreign_ops
from baker.proof.speed.plan import Side
from baker.runtime.audit import LOW_BITS

MAX_FEEDS = 16
MAX_FEED_BYTES = 64 << 20
"""The feeds of a benchmark; one is always taken."""


@dataclass(frozen=True)
class Pair:
    """Two models with one interface, and inputs for both.

    Attributes:
        outputs: their names, in order.
        groups: numbers of the feeds of one shape each.
        quantized: b has operators of quantization, or on quantized weights.
    """

    a: Side
    b: Side
    outputs: tuple[str, ...]
    feeds: tuple[Feed, ...]
    groups: list[list[int]]
    source: str
    synthetic: bool
    quantized: bool = False

    def described(self) -> dict[str, Any]:
        """Where the inputs came from, how many there are, and of how many shapes."""
        return {
            "source": self.source,
            "synthetic": self.synthetic,
            "distinct": len(self.feeds),
            "shapes": len(self.groups),
        }


def prepare(a: Path, b: Path, *, calib: Any = None, seed: int = 0, custom_ops: str | None = None) -> Pair:
    """Reads both models and finds inputs that fit both.

    Raises:
        UsageError: the interfaces differ, or the data does not fit; says how.
        ModelError: a file is no model, or nothing is known to run it with.
    """
    first, second = lower(a), lower(b)
    difference = _difference(first, second)
    if difference:
        raise UsageError(f"{a} and {b} can't be timed against each other: {difference}.")
    for path, model in ((a, first), (b, second)):
        foreign = foreign_ops(model)
        if foreign and custom_ops is None:
            raise ModelError(f"{path} has operators that nothing here runs: {', '.join(foreign)}. Give --custom-ops.")
    found = _feeds(calib, first, seed, a, custom_ops)
    feeds = tuple(_distinct(islice((*found.held_out, *found.calibration), MAX_FEEDS)))
    if not feeds:
        raise ModelError(f"{a} can't be run: {found.problem}")
    for feed in feeds:
        check_feed(second, feed, f"{b}")
        if not all(isinstance(value, np.ndarray) for value in feed.values()):
            raise UsageError(f"{a}: an input that is a sequence can't be timed.")
    names = tuple(value.name or "" for value in first.graph.outputs)
    return Pair(
        _side(a, custom_ops),
        _side(b, custom_ops),
        names,
        feeds,
        _groups(feeds),
        found.source,
        found.synthetic,
        _is_quantized(second),
    )


def _feeds(calib: Any, model: ir.Model, seed: int, path: Path, custom_ops: str | None) -> Feeds:
    """Made-up inputs are ordinary ones: those that look for faults (infinite, tiny) would time the rare case."""
    if calib is None and not any(path.parent.glob("test_data_set_*")):
        calib = "synthetic"
    return load_feeds(calib, model, seed=seed, model_path=path, custom_ops=custom_ops)


def _distinct(feeds: Iterable[Feed]) -> Iterable[Feed]:
    """Yields feeds that differ from those before, as far as their bytes go."""
    seen: set[tuple[Any, ...]] = set()
    room = MAX_FEED_BYTES
    for feed in feeds:
        arrays = {name: value if isinstance(value, np.ndarray) else None for name, value in feed.items()}
        key = tuple((name, None if a is None else (a.shape, a.tobytes())) for name, a in sorted(arrays.items()))
        size = sum(0 if array is None else array.nbytes for array in arrays.values())
        if key in seen or (seen and size > room):
            continue
        seen.add(key)
        room -= size
        # Text goes to a launch in arrays of fixed width.
        yield {n: v.astype(str) if isinstance(v, np.ndarray) and v.dtype.kind == "O" else v for n, v in feed.items()}


def _groups(feeds: Sequence[Feed]) -> list[list[int]]:
    groups: dict[tuple[Any, ...], list[int]] = {}
    for index, feed in enumerate(feeds):
        groups.setdefault(tuple((name, feed[name].shape) for name in sorted(feed)), []).append(index)
    return list(groups.values())


def _is_quantized(model: ir.Model) -> bool:
    return any("Quantize" in node.op_type or LOW_BITS.search(node.op_type) for node in all_nodes(model))


def _side(path: Path, custom_ops: str | None) -> Side:
    found = is_checkpoint(path) or _holds(path, b"location", BAKER_DOMAIN.encode())
    library = None if custom_ops is None else os.path.abspath(custom_ops)
    return Side(os.path.abspath(path), custom_ops is None and not found, os.fspath(path), library)


def _holds(path: Path, *words: bytes) -> bool:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return any(content.find(word) >= 0 for word in words)


# ---- interfaces ------------------------------------------------------------------------------------------------


def _difference(first: ir.Model, second: ir.Model) -> str:
    """How the inputs or outputs differ in name, type, rank, or a dim that both fix; "" where they don't.

    A dynamic dim may stand against a fixed one: the inputs that are timed have to fit both.
    """
    sides = ("input", first.graph.inputs, second.graph.inputs), ("output", first.graph.outputs, second.graph.outputs)
    for kind, before, after in sides:
        names, found = [value.name for value in before], [value.name for value in after]
        if sorted(map(str, names)) != sorted(map(str, found)):
            return f"the first has the {kind}s {_listed(names)}, the second {_listed(found)}"
        by_name = {value.name: value for value in after}
        for value in before:
            other = by_name[value.name]
            if not _fits(value, other):
                return f"{kind} '{value.name}' is {_shown(value)} in the first, {_shown(other)} in the second"
    return ""


def _fits(one: ir.Value, other: ir.Value) -> bool:
    if str(one.type) != str(other.type):
        return False
    dims, others = dims_of(one.shape), dims_of(other.shape)
    if dims is None or others is None:
        return True
    pairs = list(zip(dims, others, strict=False))
    return len(dims) == len(others) and all(a == b for a, b in pairs if isinstance(a, int) and isinstance(b, int))


def _listed(names: Iterable[str | None]) -> str:
    return ", ".join(f"'{name}'" for name in names) or "none"


def _shown(value: ir.Value) -> str:
    dims = dims_of(value.shape)
    kind = "?" if value.dtype is None else value.dtype.name.lower()
    return kind if dims is None else f"{kind} ({', '.join('?' if dim is None else str(dim) for dim in dims)})"
