"""Feeds that differ from a given one in one respect: one input has other numbers, or one dim another size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from baker.errors import ModelError
from baker.model.graph import Array
from baker.proof.interface import Feed, dims_of
from baker.proof.numerics import as_array
from baker.runtime.session import run

MAX_INPUTS = 8
"""How many inputs are changed, one at a time."""
MAX_SIZES = 4
"""How many dims get another size."""
LOOKED_AT = 8
"""How many feeds are looked at for other numbers and sizes."""
SLOW_SECONDS = 2.0
"""A model that takes longer for one run is probed no more than twice."""


@dataclass(frozen=True)
class Probe:
    """A changed copy of the first feed.

    Attributes:
        kind: ``input``: one input has other numbers. ``size``: a dynamic dim has a size that no feed has.
        subject: the input's name; the dim and its size.
        batch: of kind ``size``: the dim is the first one of every input that has it; it got one sample more.
    """

    kind: Literal["input", "size"]
    subject: str
    feed: Feed
    batch: bool = False


@dataclass(frozen=True)
class Reaction:
    """What a model gives for a probe."""

    probe: Probe
    outputs: Mapping[str, Array]


Reader = Callable[[Mapping[str, Array]], Mapping[str, Array]]


def answer(runner: ort.InferenceSession, probe: Probe, read: Reader) -> Mapping[str, Array]:
    """Runs a session on a probe; ``read`` turns what it gives into the outputs that are compared.

    Raises:
        ModelError: ONNX Runtime can't run the model on it.
    """
    return read({name: as_array(output) for name, output in run(runner, probe.feed).items()})


def reactions(
    model: ir.Model,
    feeds: Sequence[Feed],
    runner: ort.InferenceSession,
    seconds: float,
    read: Reader,
) -> tuple[Reaction, ...]:
    """Runs the reference on probes; what it can't run is left out.

    Args:
        feeds: what the model is compared on.
        seconds: how long one run takes.
        read: see `answer`.
    """
    found: list[Reaction] = []
    for probe in probes(model, feeds):
        if seconds > SLOW_SECONDS and len(found) == 2:
            break
        try:
            found.append(Reaction(probe, answer(runner, probe, read)))
        except ModelError:
            continue  # a combination that the reference does not take says nothing about a candidate
    return tuple(found)


def probes(model: ir.Model, feeds: Sequence[Feed]) -> Iterator[Probe]:
    """Makes changed copies of the first feed: of one input at a time where there are several, and of dims' sizes."""
    seen = [feeds[index] for index in range(min(len(feeds), LOOKED_AT))]
    if not seen or not all(isinstance(array, np.ndarray) for array in seen[0].values()):
        return
    if len(seen[0]) > 1:
        for name in list(seen[0])[:MAX_INPUTS]:
            other = _other(name, seen)
            if other is not None:
                yield Probe("input", name, {**seen[0], name: other})
    yield from _sized(model, seen)


def _other(name: str, seen: Sequence[Feed]) -> Array | None:
    """Other numbers for an input: those of another feed, else its own shuffled, else noise."""
    given = seen[0][name]
    if not given.size:
        return None
    for feed in seen[1:]:
        other = feed.get(name)
        if isinstance(other, np.ndarray) and other.shape == given.shape and not np.array_equal(other, given):
            return other
    rng = np.random.default_rng(0)
    shuffled = np.asarray(rng.permutation(given.ravel()).reshape(given.shape), given.dtype)
    if not np.array_equal(shuffled, given):
        return shuffled
    if given.dtype.kind == "f":
        spread = float(np.std(given, dtype=np.float64)) or float(np.abs(given).max(initial=0.0)) or 1.0
        return np.asarray(given + spread * rng.standard_normal(given.shape), given.dtype)
    return ~given if given.dtype.kind == "b" else None


def _sized(model: ir.Model, seen: Sequence[Feed]) -> Iterator[Probe]:
    places = _dynamic(model, seen[0])
    for symbol, axes in list(places.items())[:MAX_SIZES]:
        sizes = {feed[name].shape[axis] for feed in seen for name, axis in axes.items() if name in feed}
        if len(sizes) != 1 or not min(sizes):
            continue
        (size,), batch = sizes, not any(axes.values())
        changed = dict(seen[0])
        for name, axis in axes.items():
            changed[name] = _one_more(name, seen) if batch else _resized(seen[0][name], axis)
        (new, *_) = {changed[name].shape[axis] for name, axis in axes.items()}
        yield Probe("size", f"dim '{symbol}' of size {new} (the samples have {size})", changed, batch)


def _dynamic(model: ir.Model, feed: Feed) -> dict[str, dict[str, int]]:
    """Where each dynamic dim is: input -> axis. Nameless first dims are taken for one and the same: the batch."""
    places: dict[str, dict[str, int]] = {}
    for value in model.graph.inputs:
        name, dims = value.name or "", dims_of(value.shape)
        if name not in feed or dims is None:
            continue
        for axis, dim in enumerate(dims):
            if not isinstance(dim, int):
                places.setdefault(dim or (f"{name}[{axis}]" if axis else "batch"), {}).setdefault(name, axis)
    return places


def _one_more(name: str, seen: Sequence[Feed]) -> Array:
    """The first feed's samples and one more, from another feed where one fits."""
    given = seen[0][name]
    fitting = (feed[name] for feed in seen[1:] if name in feed and feed[name].shape[1:] == given.shape[1:])
    other = next(fitting, None)
    if other is None:
        other = np.random.default_rng(0).permutation(given.ravel()).reshape(given.shape)
    return np.concatenate([given, other[:1]]).astype(given.dtype)


def _resized(array: Array, axis: int) -> Array:
    size = array.shape[axis]
    return np.repeat(array, 2, axis) if size == 1 else np.take(array, range((size + 1) // 2), axis)
