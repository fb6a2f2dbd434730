"""Where two versions of a model part: the first tensor, in the order of computation, that differs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from baker.errors import ModelError
from baker.model.graph import Array, constant_value, label
from baker.proof.interface import Feed
from baker.proof.numerics import FLOAT_TOLERANCE, HALF_TOLERANCE, Fidelity, as_array, compare, is_number, peak, ratios
from baker.proof.traits import uses_half
from baker.runtime.session import run, session

FEEDS = 4
"""On how many inputs a difference is looked for."""

MOST_BETWEEN = 64
"""How many nodes are named between tensors that are the same and the first that is not."""

AT_ONCE, BYTES_AT_ONCE = 128, 256 * 2**20
"""How many tensors are made visible in one run: all of them together may not fit into memory."""


@dataclass(frozen=True)
class Divergence:
    """The first tensor that differs.

    Attributes:
        tensor: its name in both models.
        max_abs: max|found - reference| over its elements; inf where shapes or types differ, or one side is not finite.
        rel_l2: ||found - reference|| / ||reference||.
        reference, found: the two numbers where they differ most; None where the tensors can't be subtracted.
        before, after: the nodes that compute it in the two models.
        difference: how these two nodes differ; empty where the same node reads other numbers, or constants differ
            before it.
        feed: index of the input it shows on.
        between: nodes of the two models that lead to it from tensors that are still the same.
    """

    tensor: str
    max_abs: float
    rel_l2: float
    reference: float | None
    found: float | None
    before: str
    after: str
    difference: tuple[str, ...] = ()
    feed: int = 0
    between: tuple[str, ...] = ()

    def text(self) -> str:
        """One or two lines for people."""
        shown = f"'{self.tensor}' max error {self.max_abs:.3g}"
        if self.reference is not None and self.found is not None:
            shown += f" (reference {self.reference:.6g}, found {self.found:.6g})"
        shown += f", computed by {self.after}"
        if self.before != self.after:
            shown += f", before by {self.before}"
        return shown if not self.difference else f"{shown}: {'; '.join(self.difference)}"


@dataclass
class _Best:
    """The first tensor beyond its tolerance, else the one nearest to it that comes first."""

    ratio: float = 0.0
    name: str = ""
    pair: tuple[Array, Array] | None = None
    feed: int = 0

    def take(self, ratio: float, name: str, pair: tuple[Array, Array], feed: int) -> None:
        if ratio > 2 * self.ratio:
            self.ratio, self.name, self.pair, self.feed = ratio, name, pair, feed


def first_divergence(
    before: ir.Model,
    after: ir.Model,
    feeds: Sequence[Feed],
    fidelity: Fidelity,
    *,
    threads: int | None = None,
    custom_ops: str | None = None,
) -> Divergence | str:
    """Compares what two versions of a model compute on the way to their outputs, ONNX Runtime's optimizer off.

    Values of the main graph that kept their name are compared in the order of ``after``. One that other nodes read than
    before may have become something else with good reason (a Conv's output once the BatchNormalization behind it is
    folded in), so it is only named where no other differs.

    Args:
        fidelity: EXACT asks for equal bits; else a tensor may differ by float32 rounding.

    Returns: the first that differs, or why there is none to name.
    """
    if not feeds:
        return "there are no inputs to compare on"
    old, new = producers(before), producers(after)
    names = [name for name in new if name in old]
    sure, unsure, same, half = _Best(), _Best(), set[str](), uses_half(before)
    for index, feed in enumerate(feeds[:FEEDS]):
        try:
            for name, pair in _pairs(before, after, names, feed, threads, custom_ops):
                best = sure if _readers(old[name], name) == _readers(new[name], name) else unsure
                best.take(ratio := _ratio(pair, fidelity, half), name, pair, index)
                same.update([name] if ratio <= 1 else [])
                if sure.ratio > 1:
                    return _described(sure, old, new, same)
        except ModelError as error:
            return f"the two can't be compared: {error}"
        if unsure.ratio > 1:
            break
    best = unsure if sure.pair is None else sure
    if best.pair is None:
        return f"the {len(names)} tensors that both models have are the same on {min(FEEDS, len(feeds))} inputs"
    return _described(best, old, new, same - {best.name})


def _readers(node: ir.Node, name: str) -> set[str]:
    """The first outputs of the nodes that read a value, and the value itself where it is the graph's output."""
    found: set[str] = set()
    for value in node.outputs:
        if value.name == name:
            found.update(reader.outputs[0].name or "" for reader, _ in value.uses() if reader.outputs)
            found.update([name] if value.is_graph_output() else [])
    return found


def producers(model: ir.Model) -> dict[str, ir.Node]:
    """The node of the main graph that computes each value, by the value's name."""
    return {value.name: node for node in model.graph for value in node.outputs if value.name}


def _pairs(
    before: ir.Model, after: ir.Model, names: Sequence[str], feed: Feed, threads: int | None, custom_ops: str | None
) -> Iterator[tuple[str, tuple[Array, Array]]]:
    for part in parts(before, names, feed):
        left = values_of(before, part, feed, threads, custom_ops)
        right = values_of(after, part, feed, threads, custom_ops)
        for name in part:
            yield name, (left[name], right[name])


def parts(model: ir.Model, names: Sequence[str], feed: Feed) -> Iterator[list[str]]:
    """Cuts the names into runs of at most `AT_ONCE` tensors and about `BYTES_AT_ONCE`, by the stated shapes."""
    values = {value.name: value for node in model.graph for value in node.outputs}
    longest = max((max(getattr(array, "shape", ()), default=1) for array in feed.values()), default=1)
    part: list[str] = []
    room = BYTES_AT_ONCE
    for name in names:
        shape = values[name].shape
        dims = [longest] if shape is None else [dim if isinstance(dim, int) else longest for dim in shape]
        room -= 4 * math.prod(dims)
        if part and (room < 0 or len(part) == AT_ONCE):
            yield part
            part, room = [], BYTES_AT_ONCE - 4 * math.prod(dims)
        part.append(name)
    if part:
        yield part


def values_of(
    model: ir.Model, names: Sequence[str], feed: Feed, threads: int | None, custom_ops: str | None
) -> Mapping[str, Array]:
    """What a model computes for these names, its own outputs not included unless they are named."""
    runner = session(exposing(model, names), optimize=False, threads=threads, custom_ops=custom_ops)
    return {name: as_array(value) for name, value in run(runner, feed, list(names)).items()}


def exposing(model: ir.Model, names: Iterable[str]) -> ir.Model:
    """A copy of a model with more of its values as outputs, their types left to the runtime to find."""
    wide, wanted = model.clone(), set(names)
    present = set(wide.graph.outputs)
    for node in wide.graph:
        for value in node.outputs:
            if value.name in wanted and value not in present:
                value.type = value.shape = None
                wide.graph.outputs.append(value)
    return wide


def _ratio(pair: tuple[Array, Array], fidelity: Fidelity, half: bool) -> float:
    tolerance = None if fidelity is Fidelity.EXACT else HALF_TOLERANCE if half else FLOAT_TOLERANCE
    return float(ratios(*pair, tolerance, peak([pair[0]])).max(initial=0.0))


def _described(best: _Best, old: Mapping[str, ir.Node], new: Mapping[str, ir.Node], same: set[str]) -> Divergence:
    assert best.pair is not None
    reference, found = best.pair
    error = compare([reference], [found])
    worst = _worst(reference, found)
    was, now = old[best.name], new[best.name]
    return Divergence(
        best.name,
        error.max_abs,
        error.rel_l2,
        *worst,
        _shown(was),
        _shown(now),
        tuple(differences(was, now)) or _shapes(reference, found),
        best.feed,
        tuple(dict.fromkeys((*_between(was, same), *_between(now, same)))),
    )


def _between(node: ir.Node, same: set[str]) -> list[str]:
    """Names of nodes from this one back to tensors that are the same in both models, or that nothing computes."""
    found: dict[ir.Node, None] = {node: None}
    pending = [node]
    while pending and len(found) < MOST_BETWEEN:
        for value in pending.pop().inputs:
            producer = None if value is None or value.name in same else value.producer()
            if producer is not None and producer not in found:
                found[producer] = None
                pending.append(producer)
    return [label(one) for one in found]


def _worst(reference: Array, found: Array) -> tuple[float | None, float | None]:
    if reference.shape != found.shape or not (is_number(reference) and is_number(found)) or not reference.size:
        return None, None
    a, b = reference.astype(np.float64).ravel(), found.astype(np.float64).ravel()
    with np.errstate(invalid="ignore"):
        distance = np.where(np.isfinite(a) & np.isfinite(b), np.abs(a - b), np.where(a == b, 0.0, np.inf))
    distance[np.isnan(a) & np.isnan(b)] = 0.0
    at = int(distance.argmax())
    return float(a[at]), float(b[at])


def _shapes(reference: Array, found: Array) -> tuple[str, ...]:
    if reference.shape == found.shape and reference.dtype == found.dtype:
        return ()
    return (f"it was {reference.dtype} {list(reference.shape)} and is {found.dtype} {list(found.shape)}",)


def _shown(node: ir.Node) -> str:
    return f"{node.op_type} '{label(node)}'"


def differences(before: ir.Node, after: ir.Node) -> Iterator[str]:
    """Yields how two nodes differ: operator, attributes, inputs, and the numbers of constant inputs."""
    if before.op_identifier() != after.op_identifier():
        yield f"it was {before.op_type}"
    for name in sorted({*before.attributes, *after.attributes}):
        told = [_plain(node.attributes.get(name)) for node in (before, after)]
        if told[0] != told[1]:
            yield f"attribute {name} was {told[0]}, is {told[1]}"
    for index in range(max(len(before.inputs), len(after.inputs))):
        left, right = (node.inputs[index] if index < len(node.inputs) else None for node in (before, after))
        names = [None if value is None else value.name for value in (left, right)]
        if names[0] != names[1]:
            yield f"input {index} was '{names[0] or ''}', is '{names[1] or ''}'"
        was, now = constant_value(left), constant_value(right)
        if was is not None and now is not None:
            yield from _weights(index, was, now)


def _plain(attribute: ir.Attr | None) -> str:
    if attribute is None:
        return "absent"
    if attribute.is_ref():
        return f"parameter {attribute.ref_attr_name}"
    if attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
        return "a graph"
    if attribute.type in (ir.AttributeType.TENSOR, ir.AttributeType.TENSORS):
        return "a tensor"
    return str(attribute.value)[:80]


def _weights(index: int, before: Array, after: Array) -> Iterator[str]:
    if before.shape != after.shape or before.dtype != after.dtype:
        yield f"constant input {index} was {before.dtype} {list(before.shape)}, is {after.dtype} {list(after.shape)}"
    elif is_number(before) and not np.array_equal(before, after):
        other = int(np.count_nonzero(before != after))
        error = compare([before], [after]).max_abs
        yield f"constant input {index} differs in {other} of {before.size} elements, by up to {error:.3g}"
