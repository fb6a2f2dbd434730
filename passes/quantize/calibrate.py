"""What values the tensors take on the calibration data: one session, one pass, memory of one sample."""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from baker.errors import ModelError, UsageError
from baker.model.graph import Array
from baker.passes.quantize.bias import ChannelMean
from baker.passes.quantize.histogram import Histogram
from baker.runtime.session import run, session

if TYPE_CHECKING:
    from baker.pipeline.pass_base import PassContext
    from baker.proof.feeds import Feed

_FETCH_BYTES = 256 << 20
"""Tensors fetched by one run; a model whose tensors take more is run several times a sample."""

LEFT_OUT = ["NchwcTransformer", "ConvAddActivationFusion"]
"""The first one's blocked layout is a second copy of all Conv weights (150 MB for ResNet-50), for a few per cent of
time. The second one, of two Convs that are added, may fuse away the one whose result is fetched; loading then fails."""

_FETCH_UNKNOWN = 16
"""Tensors fetched by one run as long as their sizes are not known."""


class Sink(Protocol):
    """Takes in what a tensor was, feed by feed, and keeps what it needs of it."""

    def add(self, array: Array, /) -> None:
        """Takes one more array."""


@dataclass
class Observed:
    """What is known of a tensor: its distribution, and the mean of each channel where that was asked for."""

    histogram: Histogram = field(default_factory=Histogram)
    mean: ChannelMean | None = None

    def add(self, array: Array) -> None:
        """Takes one more array."""
        self.histogram.add(array)
        if self.mean is not None and self.histogram.finite:
            self.mean.add(array)


def observe(model: ir.Model, values: Mapping[ir.Value, int | None], context: PassContext) -> dict[ir.Value, Observed]:
    """Runs the model over the calibration data, once, and returns what each value was.

    Args:
        values: float32 values of the main graph, inputs included, and the axis to take channel means along, or None.

    Raises:
        UsageError: an input of a feed holds NaN or infinity.
        ModelError: ONNX Runtime can't run the model on a feed.
    """
    seen = {value: Observed(mean=None if axis is None else ChannelMean(axis)) for value, axis in values.items()}
    collect(model, seen, context)
    return seen


def collect(model: ir.Model, sinks: Mapping[ir.Value, Sink], context: PassContext) -> None:
    """Runs the model over the calibration data, once, and gives each sink what its value was, feed by feed.

    Args:
        sinks: by float32 values of the main graph, inputs included.

    Raises:
        UsageError: an input of a feed holds NaN or infinity.
        ModelError: ONNX Runtime can't run the model on a feed.
    """
    seen = {value.name or "": sink for value, sink in sinks.items()}
    inputs = {value.name or "" for value in model.graph.inputs}
    inner = [name for name in seen if name not in inputs]
    probe = _exposing(model, inner)
    runner = _runner(probe, context)
    sizes: dict[str, int] = {}  # bytes of each tensor in the feed before
    for number, feed in enumerate(context.calibration):
        _check_finite(feed, number)
        sizes = sizes or _expected_sizes(model, sinks, feed)
        for name in seen.keys() & feed.keys():
            seen[name].add(np.asarray(feed[name]))
        for names in _groups(inner, sizes):
            fetched = run(runner, feed, names)
            for name in names:
                array = fetched.pop(name)
                sizes[name] = array.nbytes
                seen[name].add(array)


def _runner(probe: ir.Model, context: PassContext) -> ort.InferenceSession:
    """A session of the probe; without ONNX Runtime's optimizer where that trips over inner tensors as outputs."""
    opened = functools.partial(session, probe, threads=context.threads, custom_ops=context.custom_ops)
    try:
        return opened(disabled_optimizers=LEFT_OUT)
    except ModelError:
        return opened(optimize=False)


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


def _expected_sizes(model: ir.Model, values: Iterable[ir.Value], feed: Feed) -> dict[str, int]:
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
