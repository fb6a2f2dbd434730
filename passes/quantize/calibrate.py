"""What values the tensors take on the calibration data: one session, one pass, memory of one sample."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from baker.errors import UsageError
from baker.model.graph import Array
from baker.passes.quantize.histogram import Histogram
from baker.runtime.session import run, session

if TYPE_CHECKING:
    from baker.proof.feeds import Feed

_FETCH_BYTES = 256 << 20
"""Tensors fetched by one run; a model whose tensors take more is run several times a sample."""

_FETCH_UNKNOWN = 16
"""Tensors fetched by one run as long as their sizes are not known."""


def observe(
    model: ir.Model, values: Collection[ir.Value], feeds: Sequence[Feed], *, threads: int | None = None
) -> dict[ir.Value, Histogram]:
    """Runs the model over the feeds and returns a histogram for each value.

    Args:
        values: float32 values of the main graph, inputs included.
        feeds: read once, one after the other.
        threads: threads for the session; None is ONNX Runtime's own choice.

    Raises:
        UsageError: an input of a feed holds NaN or infinity.
        ModelError: ONNX Runtime can't run the model on a feed.
    """
    histograms = {value.name or "": Histogram() for value in values}
    inputs = {value.name or "" for value in model.graph.inputs}
    inner = [name for name in histograms if name not in inputs]
    runner = session(_exposing(model, inner), threads=threads)
    sizes: dict[str, int] = {}  # bytes of each tensor in the feed before
    for number, feed in enumerate(feeds):
        _check_finite(feed, number)
        sizes = sizes or _expected_sizes(model, values, feed)
        for name in histograms.keys() & feed.keys():
            histograms[name].add(np.asarray(feed[name]))
        for names in _groups(inner, sizes):
            fetched = run(runner, feed, names)
            for name in names:
                array = fetched.pop(name)
                sizes[name] = array.nbytes
                histograms[name].add(array)
    return {value: histograms[value.name or ""] for value in values}


def _exposing(model: ir.Model, names: Collection[str]) -> ir.Model:
    """A copy of the model (weights are shared) whose outputs are the named values."""
    copy = model.clone()
    values = {value.name: value for node in copy.graph for value in node.outputs}
    wanted = [values[name] for name in names]
    for value in wanted:
        if value.type is None:
            value.type = ir.TensorType(ir.DataType.FLOAT)
    copy.graph.outputs[:] = wanted or list(copy.graph.outputs)[:1]
    return copy


def _expected_sizes(model: ir.Model, values: Collection[ir.Value], feed: Feed) -> dict[str, int]:
    """Bytes of the tensors whose inferred dims are known once the inputs' symbolic dims are those of the feed."""
    known: dict[str | None, int] = {}
    for value in model.graph.inputs:
        if value.shape is None or value.name not in feed:
            continue
        for dim, size in zip(value.shape, np.shape(feed[value.name]), strict=False):
            if isinstance(dim, ir.SymbolicDim) and dim.value is not None:
                known[dim.value] = size
    sizes = {}
    for value in values:
        if value.shape is None:
            continue
        dims = [dim if isinstance(dim, int) else known.get(dim.value) for dim in value.shape]
        if None not in dims:
            sizes[value.name or ""] = 4 * math.prod(dim for dim in dims if dim is not None)
    return sizes


def _groups(names: Sequence[str], sizes: dict[str, int]) -> Iterator[list[str]]:
    """Splits the names so that one group's tensors stay within the memory for one fetch."""
    group: list[str] = []
    total = 0
    for name in names:
        size = sizes.get(name, _FETCH_BYTES // _FETCH_UNKNOWN)
        if group and total + size > _FETCH_BYTES:
            yield group
            group, total = [], 0
        group.append(name)
        total += size
    if group:
        yield group


def _check_finite(feed: Feed, number: int) -> None:
    for name, array in feed.items():
        kind: Array = np.asarray(array)
        if kind.dtype.kind == "f" and kind.size and not math.isfinite(float(np.abs(kind).max())):
            raise UsageError(
                f"calibration feed {number}: input '{name}' {kind.dtype} {kind.shape} holds NaN or infinity. "
                "Remove or repair the sample: ranges can't be learnt from it."
            )
