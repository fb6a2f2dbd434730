"""Which side of its bends a rewritten node has seen: inputs of one sign prove nothing about a Relu that is gone.

Looked at are nodes of the reference that the candidate lacks, as far as numbers of the inputs reach them:

    operator                               what bends                   where
    Relu, LeakyRelu, PRelu, Elu, Abs, ...  its input                    0
    Clip                                   its input                    its limits
    HardSigmoid, HardSwish                 its input                    where they saturate
    ThresholdedRelu, Shrink                its input                    alpha; -lambd and lambd
    Max, Min (of two)                      the difference of its inputs 0
    Where, If                              its condition                false and true
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from baker.errors import ModelError
from baker.model.graph import Array, attribute, constant_value, has_reference_attribute, is_op, label
from baker.proof.interface import Feed
from baker.proof.recorder import Recorder
from baker.proof.traits import reached
from baker.runtime.session import run

_AT_ZERO = (
    *("Abs", "Celu", "Elu", "LeakyRelu", "PRelu", "Relu", "Selu", "Sign"),
    *("Mish", "Softplus", "ThresholdedRelu"),
)
_NEVER_NEGATIVE = ("Abs", "Exp", "HardSigmoid", "Relu", "Sigmoid", "Softmax", "Softplus", "Sqrt")
_NOTHING = (np.inf, -np.inf)
_COPIES = ("Flatten", "Identity", "MaxPool", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")


@dataclass(frozen=True)
class Bend:
    """A node of the reference, what decides about its regime, and the numbers at which that changes."""

    node: str
    reads: tuple[str, ...]  # one value, or two whose difference counts
    at: tuple[float, ...]

    @property
    def low(self) -> str:
        return f"{self.node}/low"

    @property
    def high(self) -> str:
        return f"{self.node}/high"


@dataclass(frozen=True)
class Unseen:
    """A rewritten node that saw one regime only: between ``low`` and ``high``, where it bends at ``at``."""

    node: str
    low: float
    high: float
    at: tuple[float, ...]

    def __str__(self) -> str:
        where = " and ".join(f"{number:g}" for number in self.at)
        return f"{self.node} saw {self.low:.3g} to {self.high:.3g} only, and bends at {where}"


def bends(reference: ir.Model, candidate: ir.Model) -> list[Bend]:
    """Finds the reference's piecewise nodes that the candidate lacks, where it has fewer of them."""
    named = {(_settings(node), node.outputs[0].name) for node in candidate.graph if node.outputs}
    missing = Counter(map(_settings, reference.graph))
    missing.subtract(map(_settings, candidate.graph))
    moving = {value.name for value in reached(reference)}
    found: dict[tuple[object, ...], list[Bend]] = {}
    for node in reference.graph:
        settings = _settings(node)
        if missing[settings] <= 0 or not node.outputs or has_reference_attribute(node):
            continue
        bend = _bend(node) if _is_float(node.outputs[0]) else None
        if bend is None:
            missing[settings] -= 1  # may be the one that is gone, and that is no loss
        elif (settings, node.outputs[0].name) not in named and any(name in moving for name in bend.reads):
            found.setdefault(settings, []).append(bend)
    return [bend for settings, group in found.items() if missing[settings] > 0 for bend in group]


def _settings(node: ir.Node) -> tuple[object, ...]:
    """A node's operator and what it is set to: attributes, and constants of one element."""
    attributes = (one for one in node.attributes.values() if one.type != ir.AttributeType.GRAPH)
    constants = tuple(_number(value) for value in node.inputs[1:])
    return node.op_type, node.domain, tuple(sorted((one.name, str(one.value)) for one in attributes)), constants


def _number(value: ir.Value | None) -> float | None:
    array = constant_value(value)
    return float(array.ravel()[0]) if array is not None and array.size == 1 and array.dtype.kind in "fiu" else None


def _is_float(value: ir.Value) -> bool:
    return value.dtype is not None and value.dtype.is_floating_point()


def _bend(node: ir.Node) -> Bend | None:
    first = node.inputs[0] if node.inputs else None
    if first is None or not first.name or constant_value(first) is not None:
        return None
    shown = f"{node.op_type} '{label(node)}'"
    if is_op(node, "Max", "Min"):
        other = node.inputs[1] if len(node.inputs) == 2 else None
        return None if other is None or not other.name else Bend(shown, (first.name, other.name), (0.0,))
    if is_op(node, "Where", "If"):
        return Bend(shown, (first.name,), (0.5,))
    at = _bends_at(node)
    if not at or (at == (0.0,) and _is_never_negative(first)):
        return None
    return Bend(shown, (first.name,), at)


def _bends_at(node: ir.Node) -> tuple[float, ...]:
    if is_op(node, "HardSwish"):
        return (-3.0, 3.0)
    if is_op(node, "HardSigmoid"):
        alpha, beta = attribute(node, "alpha", 0.2), attribute(node, "beta", 0.5)
        return tuple(sorted((-beta / alpha, (1 - beta) / alpha))) if alpha else ()
    if is_op(node, "ThresholdedRelu"):
        return (attribute(node, "alpha", 1.0),)
    if is_op(node, "Shrink"):
        lambd = attribute(node, "lambd", 0.5)
        return (-lambd, lambd)
    if is_op(node, "Clip"):
        old = (attribute(node, "min", None), attribute(node, "max", None))
        limits = (*old, *(_number(value) for value in node.inputs[1:]))
        return tuple(sorted({float(limit) for limit in limits if limit is not None and abs(limit) < 1e30}))
    return (0.0,) if is_op(node, *_AT_ZERO) else ()


def _is_never_negative(value: ir.Value | None) -> bool:
    """True where the producer's range says so: a Relu behind a Relu has one regime."""
    for _ in range(8):
        node = None if value is None else value.producer()
        if is_op(node, *_NEVER_NEGATIVE):
            return True
        if is_op(node, "Clip"):
            return bool(node.inputs[1:]) and (_number(node.inputs[1]) or -1.0) >= 0
        if not is_op(node, *_COPIES):
            return False
        value = node.inputs[0]
    return False


# ---- running ---------------------------------------------------------------------------------------------------


def unseen(
    recorder: Recorder, reference: ir.Model, watched: Sequence[Bend], feeds: Sequence[Feed], *, unknown: bool = False
) -> list[Unseen]:
    """Runs the reference until each node was on either side of each of its bends; returns those that were not.

    What is not finite is not looked at.

    Args:
        unknown: whether nodes count as unseen of which nothing is known: a reference that can't be run with more
            outputs tells nothing, and neither does one that computes nothing finite.
    """
    ranges: dict[str, tuple[float, float]] = {}
    left = list(watched)
    try:
        runner = recorder.open(_measuring(reference, watched), optimize=False)
        for feed in feeds:
            if not left:
                break
            found = run(runner, feed, [name for bend in left for name in (bend.low, bend.high)])
            for bend in left:
                ranges[bend.node] = _wider(ranges.get(bend.node), found[bend.low], found[bend.high])
            left = [bend for bend in left if not _both_sides(bend, ranges)]
    except ModelError:
        left, ranges = list(watched), {}
    sides = [Unseen(bend.node, *ranges.get(bend.node, _NOTHING), bend.at) for bend in left]
    return [one for one in sides if unknown or one.low <= one.high]


def _wider(known: tuple[float, float] | None, low: Array, high: Array) -> tuple[float, float]:
    lows = [float(item) for item in np.ravel(low) if np.isfinite(item)]
    highs = [float(item) for item in np.ravel(high) if np.isfinite(item)]
    if known is not None:
        lows, highs = [*lows, known[0]], [*highs, known[1]]
    return min(lows, default=np.inf), max(highs, default=-np.inf)


def _both_sides(bend: Bend, ranges: Mapping[str, tuple[float, float]]) -> bool:
    low, high = ranges[bend.node]
    return low < bend.at[0] and high > bend.at[-1]


def _measuring(reference: ir.Model, watched: Sequence[Bend]) -> ir.Model:
    """A copy whose outputs are the least and the greatest of what decides about each node."""
    wide = reference.clone()
    values = {value.name: value for node in wide.graph for value in node.outputs}
    values |= {value.name: value for value in (*wide.graph.inputs, *wide.graph.initializers.values())}
    for bend in watched:
        nodes = list(_reductions(bend, [values[name] for name in bend.reads]))
        wide.graph.extend(nodes)
        wide.graph.outputs.extend(value for node in nodes for value in node.outputs if value.name)
    return wide


def _reductions(bend: Bend, read: Sequence[ir.Value]) -> Iterator[ir.Node]:
    casts = [ir.node("Cast", [value], {"to": int(ir.DataType.FLOAT)}) for value in read]
    yield from casts
    measured = casts[0].outputs[0]
    if len(casts) == 2:
        difference = ir.node("Sub", [cast.outputs[0] for cast in casts])
        yield difference
        measured = difference.outputs[0]
    for op_type, name in (("ReduceMin", bend.low), ("ReduceMax", bend.high)):
        reduced = ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([]))
        yield ir.node(op_type, [measured], {"keepdims": 0}, outputs=[reduced])
