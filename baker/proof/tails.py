"""Looks behind a Softmax or Sigmoid at the end of a network, where saturation hides what went before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from baker.model.graph import Array, attribute, has_reference_attribute, is_op


@dataclass(frozen=True)
class Tail:
    """A Softmax or Sigmoid that makes a graph output.

    Attributes:
        op: its operator.
        source: the name of what it reads.
        axis: what a Softmax normalizes over.
        to_the_end: it normalizes over all axes from there on together, as below opset 13.
    """

    op: str
    source: str
    axis: int
    to_the_end: bool

    def label(self, output: str) -> str:
        """Names what the operator's output depends on."""
        return f"{output} before its {self.op}"

    def invariant(self, array: Array) -> Array:
        """Returns what the operator's output depends on, in float64: the input, for Softmax less its log-sum-exp.

        A Softmax does not see a shift of all its inputs, so that a rewrite may drop one.
        """
        wide = array.astype(np.float64)
        if self.op == "Sigmoid" or not wide.ndim or not wide.size:
            return wide
        start = self.axis % wide.ndim
        axes = tuple(range(start, wide.ndim)) if self.to_the_end else (start,)
        with np.errstate(all="ignore"):  # a row of -inf is NaN before and after
            top = wide.max(axis=axes, keepdims=True)
            return np.asarray(wide - top - np.log(np.exp(wide - top).sum(axis=axes, keepdims=True)))


@dataclass(frozen=True)
class Probed:
    """A model that also gives out what its last Softmax or Sigmoid reads.

    Attributes:
        model: a copy with more outputs, or the model itself where there is nothing to look behind.
        tails: the operators, by the name of the output they make.
    """

    model: ir.Model
    tails: Mapping[str, Tail]

    def outputs(self, raw: Mapping[str, Array]) -> dict[str, Array]:
        """Turns the outputs of ``model`` into those of the original and what the tails depend on."""
        sources = {tail.source for tail in self.tails.values()}
        found = {name: array for name, array in raw.items() if name not in sources}
        return found | {tail.label(name): tail.invariant(raw[tail.source]) for name, tail in self.tails.items()}

    def labels(self, names: Sequence[str]) -> list[str]:
        """Names what the tails of some outputs depend on, as `outputs` does."""
        return [tail.label(name) for name, tail in self.tails.items() if name in names]


def probed(model: ir.Model) -> Probed:
    """Exposes what the Softmax or Sigmoid at the end of the main graph reads."""
    tails = {value.name or "": tail for value in model.graph.outputs if (tail := _tail(value, model)) is not None}
    if not tails:
        return Probed(model, {})
    wide = model.clone()
    by_name = {value.name: value for value in wide.graph.outputs}
    for name in tails:
        node = by_name[name].producer()
        source = None if node is None else node.inputs[0]
        if source is not None and source not in wide.graph.outputs:
            wide.graph.outputs.append(source)
    return Probed(wide, tails)


def _tail(value: ir.Value, model: ir.Model) -> Tail | None:
    node = value.producer()
    if not is_op(node, "Softmax", "Sigmoid") or has_reference_attribute(node):
        return None
    source = node.inputs[0]
    if source is None or source.type is None or source.is_graph_output() or source.producer() is None:
        return None
    old = model.graph.opset_imports.get("", 0) < 13  # flattened to two dims, the second one normalized
    axis = attribute(node, "axis", 1 if old else -1)
    return Tail(node.op_type, source.name or "", axis, to_the_end=old)
