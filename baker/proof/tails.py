"""Looks behind the last operator of a network, where that hides what went before.

A saturated Softmax or Sigmoid moves too little, and a decision (a comparison, an ArgMax, a cast to integers) jumps
where its input only moved by a last bit.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeGuard

import numpy as np
import onnx_ir as ir

from baker.model.graph import Array, attribute, constant_value, has_reference_attribute, is_op, subgraphs

_COMPARISONS = ("Greater", "GreaterOrEqual", "Less", "LessOrEqual")
_ROUNDINGS = ("Ceil", "Floor", "Round")
_KEEP_SCALE = (
    *("Flatten", "Identity", "ReduceMax", "ReduceMean", "ReduceMin", "Reshape", "Slice", "Squeeze", "Transpose"),
    *("Gather", "Unsqueeze"),
)
_CARRIERS = ("Cast", "Expand", "Flatten", "Identity", "Not", "Reshape", "Squeeze", "Tile", "Transpose", "Unsqueeze")


@dataclass(frozen=True)
class Tail:
    """An operator that makes a graph output: a Softmax, a Sigmoid, or a decision.

    Attributes:
        op: its operator.
        sources: what it reads: the name of a value, or a constant.
        axis: what a Softmax normalizes over.
        to_the_end: it normalizes over all axes from there on together, as below opset 13.
        rounding: the operator between it and its source, where that rounds.
    """

    op: str
    sources: tuple[str | Array, ...]
    axis: int = 0
    to_the_end: bool = False
    rounding: str = ""

    @property
    def decides(self) -> bool:
        """The output jumps where what is read moves by a last bit."""
        return self.op not in ("Softmax", "Sigmoid")

    def label(self, output: str) -> str:
        """Names what the operator's output depends on; what two models have before other operators is not compared."""
        return f"{output} before its {f'{self.rounding} and ' if self.rounding else ''}{self.op}"

    def invariant(self, raw: Mapping[str, Array]) -> Array:
        """Returns what the operator's output depends on, in float64.

        That is the input, for Softmax less its log-sum-exp, for a comparison the difference of its inputs. A Softmax
        does not see a shift of all its inputs, so that a rewrite may drop one.
        """
        read = [raw[item] if isinstance(item, str) else item for item in self.sources]
        wide, *others = (array.astype(np.float64) for array in read)
        if others:
            with np.errstate(invalid="ignore"):
                return np.asarray(wide - others[0])
        if self.op != "Softmax" or not wide.ndim or not wide.size:
            return wide
        start = self.axis % wide.ndim
        axes = tuple(range(start, wide.ndim)) if self.to_the_end else (start,)
        with np.errstate(all="ignore"):  # a row of -inf is NaN before and after
            top = wide.max(axis=axes, keepdims=True)
            return np.asarray(wide - top - np.log(np.exp(wide - top).sum(axis=axes, keepdims=True)))


@dataclass(frozen=True)
class Probed:
    """A model that also gives out what its last operators read.

    Attributes:
        model: a copy with more outputs, or the model itself where there is nothing to look behind.
        tails: the operators, by the name of the output they make.
        names: the outputs of the original.
    """

    model: ir.Model
    tails: Mapping[str, Tail]
    names: Sequence[str]

    def outputs(self, raw: Mapping[str, Array]) -> dict[str, Array]:
        """Turns the outputs of ``model`` into those of the original and what the tails depend on."""
        found = {name: raw[name] for name in self.names}
        return found | {tail.label(name): tail.invariant(raw) for name, tail in self.tails.items()}

    def labels(self, names: Sequence[str]) -> list[str]:
        """Names what the tails of some outputs depend on, as `outputs` does."""
        return [tail.label(name) for name, tail in self.tails.items() if name in names]

    def decided(self, names: Sequence[str]) -> dict[str, str]:
        """Finds outputs that a decision makes, and names what they depend on, as `outputs` does."""
        return {name: tail.label(name) for name, tail in self.tails.items() if name in names and tail.decides}


def unprobed(model: ir.Model) -> Probed:
    """The model as it is."""
    return Probed(model, {}, [value.name or "" for value in model.graph.outputs])


def probed(model: ir.Model) -> Probed:
    """Exposes what the operators at the end of the main graph read."""
    tails = {value.name or "": tail for value in model.graph.outputs if (tail := _tail(value, model)) is not None}
    plain = unprobed(model)
    if not tails:
        return plain
    wide = model.clone()
    hidden = {item for tail in tails.values() for item in tail.sources if isinstance(item, str)} - set(plain.names)
    values = {value.name: value for node in wide.graph for value in node.outputs}
    wide.graph.outputs.extend(values[name] for name in sorted(hidden))
    return Probed(wide, tails, plain.names)


def squashed(output: str, labels: Collection[str]) -> bool:
    """True for what a Sigmoid or Softmax gives, where what goes in is among the labels, and so compared, too.

    Kernels aim at a scale of 1: ONNX Runtime's Sigmoid gives multiples of 6e-8, be they ever so small.
    """
    return any(f"{output} before its {op}" in labels for op in ("Sigmoid", "Softmax"))


def squashing_outputs(model: ir.Model) -> frozenset[str]:
    """Finds outputs that hold what Sigmoids or Softmaxes gave, if within a branch of an If, moved or averaged."""
    return frozenset(value.name or "" for value in model.graph.outputs if _is_squashed(value, 32))


def _is_squashed(value: ir.Value | None, depth: int) -> bool:
    node = None if value is None else value.producer()
    if value is None or node is None or not depth:
        return False
    if is_op(node, "Sigmoid", "Softmax"):
        return True
    if is_op(node, "If"):
        ends = [inner.outputs[value.index() or 0] for inner in subgraphs(node)]
        return bool(ends) and all(_is_squashed(end, depth - 1) for end in ends)
    if is_op(node, "Concat"):
        return all(_is_squashed(one, depth - 1) for one in node.inputs)
    return is_op(node, *_KEEP_SCALE) and _is_squashed(node.inputs[0], depth - 1)


def _tail(value: ir.Value, model: ir.Model) -> Tail | None:
    node = value.producer()
    if node is None or has_reference_attribute(node):
        return None
    if not is_op(node, "Softmax", "Sigmoid"):
        return _decision(value)
    source = node.inputs[0]
    if not _computed(source) or source.is_graph_output():
        return None
    old = model.graph.opset_imports.get("", 0) < 13  # flattened to two dims, the second one normalized
    axis = attribute(node, "axis", 1 if old else -1)
    return Tail(node.op_type, (source.name or "",), axis, to_the_end=old)


def _decision(value: ir.Value) -> Tail | None:
    """Looks behind operators that only move or rename what a decision gave."""
    for _ in range(8):
        node = value.producer()
        if node is None or not node.inputs or node.inputs[0] is None:
            return None
        before = node.inputs[0]
        if is_op(node, *_COMPARISONS):
            return _comparison(node)
        picks = is_op(node, "ArgMax", "ArgMin") or (is_op(node, "TopK") and value is node.outputs[-1])
        if picks or (is_op(node, "Cast") and _is_float(before) and not _is_float(value)):
            return _picked(node, before)
        if not is_op(node, *_CARRIERS):
            return None
        value = before
    return None


def _picked(node: ir.Node, before: ir.Value) -> Tail | None:
    before = _behind_copies(before)
    rounding = before.producer()
    source = rounding.inputs[0] if rounding is not None and is_op(rounding, *_ROUNDINGS) else None
    if source is None:
        return Tail(node.op_type, (before.name or "",)) if _computed(before) and _is_float(before) else None
    source = _behind_copies(source)
    if not _computed(source) or not _is_float(source) or rounding is None:
        return None
    return Tail(node.op_type, (source.name or "",), rounding=rounding.op_type)


def _behind_copies(value: ir.Value) -> ir.Value:
    """What a value is the same as: a rewrite may remove an Identity, or a Cast to the type that is there."""
    for _ in range(8):
        node = value.producer()
        source = None if node is None or not node.inputs else node.inputs[0]
        if source is None or source.dtype != value.dtype or not is_op(node, "Identity", "Cast"):
            break
        value = source
    return value


def _comparison(node: ir.Node) -> Tail | None:
    sources: list[str | Array] = []
    for value in node.inputs:
        constant = constant_value(value)
        if not _is_float(value) or (constant is None and not _computed(value)):
            return None
        sources.append(constant if constant is not None else (value.name or ""))
    return Tail(node.op_type, tuple(sources)) if any(isinstance(item, str) for item in sources) else None


def _is_float(value: ir.Value | None) -> TypeGuard[ir.Value]:
    return value is not None and value.dtype is not None and value.dtype.is_floating_point()


def _computed(value: ir.Value | None) -> TypeGuard[ir.Value]:
    """True for what a node gives and a graph can give out."""
    return value is not None and value.type is not None and value.producer() is not None and bool(value.name)
