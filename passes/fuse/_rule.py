"""What the rules of `fuse` share: the facts they are guarded by, and the edits they are made of."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from baker.model.graph import (
    Array,
    attribute,
    can_replace,
    constant_before,
    constant_value,
    emit,
    is_constant,
    is_op,
    label,
    remove_if_dead,
    replace_value,
    sole_reader,
    usages,
)
from baker.model.size import constant_bytes
from baker.pipeline.pass_base import Change, PassContext
from baker.pipeline.rewrite import Match, Rewrite

FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16})
"""Types in which a constant may be folded into another: baker computes in float64 and rounds once."""

SMALL_COPY = 1 << 16
"""Bytes of a weight that may be copied where it is shared, however small the model is."""


@dataclass(frozen=True)
class Facts:
    """What holds for a whole model and guards its rewrites.

    Attributes:
        opset: the lowest version of the standard operator set among the model and its functions.
        room: bytes by which one rewrite may make the file grow.
        accepted: the opset that ``fuse{opset=N}`` asked for, 0 where it asked for none.
    """

    opset: int
    room: int
    accepted: int = 0


class FuseRule(Rewrite):
    """A rewrite that knows the model's facts.

    Attributes:
        since: the opset that its result needs. `fuse` runs a rule only on models of this opset or later, and raises a
            model to it where ``fuse{opset=N}`` accepts that.
    """

    since: ClassVar[int] = 1

    def __init__(self, facts: Facts) -> None:
        self.facts = facts


class GraphRule:
    """A rule that looks at the whole model at once. A subclass sets ``name`` and implements `run`."""

    name: ClassVar[str]

    def run(self, model: ir.Model, context: PassContext) -> list[Change]:
        """Changes the model, where the context admits it, and says what became of what."""
        raise NotImplementedError(f"{type(self).__name__} has no run()")


class BypassRule(FuseRule):
    """A rule whose node gives back one of its inputs; a subclass implements `match` alone.

    The match holds ``node``, ``source`` (the value to read instead) and ``why``.
    """

    def check(self, match: Match) -> str | None:
        """A node between a graph's input, initializer or outer value and its output has to stay."""
        if is_constant(match.source) and any(is_op(reader, "Range") for reader, _ in usages(match.node.outputs[0])):
            return "ONNX Runtime's Range takes a computed tensor of one element, but of constants only scalars"
        if not can_replace(match.node.outputs[0], match.source):
            return f"it gives the output '{match.node.outputs[0].name}' its name"
        return None

    def apply(self, match: Match) -> Change:
        """Lets the readers of the node read its source."""
        name = label(match.node)
        bypass(match.node, match.source)
        return Change(self.name, name, f"{match.node.op_type} removed: {match.why}")


def bypass(node: ir.Node, source: ir.Value) -> None:
    """Lets all readers of a node's first output read another value, and removes what nobody reads then."""
    output = node.outputs[0]
    if source.shape is None and not (source.is_graph_input() or source.is_graph_output()):  # those stay as declared
        source.shape = output.shape
    replace_value(output, source)
    remove_if_dead(output)


def substitute(old: ir.Node, op_type: str, inputs: Sequence[ir.Value | None], **attributes: object) -> ir.Node:
    """Puts a new node with one output in the place of another; it inherits names, type, metadata and doc string."""
    output = old.outputs[0]
    new = emit(old, op_type, inputs, attributes)
    value = new.outputs[0]
    value.type, value.shape = output.type, output.shape
    value.metadata_props.update(output.metadata_props)
    new.metadata_props.update(old.metadata_props)
    new.doc_string = old.doc_string
    names, meta, taken = (old.name, output.name), (dict(old.meta), dict(output.meta)), output.is_graph_output()
    replace_value(output, value)
    remove_if_dead(output)
    new.name = names[0]
    new.meta.update(meta[0])
    if not taken:  # else replace_value gave it its name
        value.name = names[1]
        value.meta.update(meta[1])
    return new


def renew(node: ir.Node, index: int, array: Array, hint: str) -> None:
    """Makes a constant input of a node another array; the old one goes when nobody else reads it, its name stays."""
    if index >= len(node.inputs):
        node.resize_inputs(index + 1)
    old = node.inputs[index]
    name = old.name if old is not None else None
    value = constant_before(node, name or hint, array)
    node.replace_input_with(index, value)
    remove_if_dead(old)
    if old is not None and old.graph is None and name:  # removed, so that its name is free
        value.name = name


def apart(first: ir.Node, second: ir.Node) -> str | None:
    """Why two nodes, the second reading the first, can't become one (somebody else is between them), or None."""
    if first.graph is not second.graph:
        return f"{label(first)} stands in another graph"
    if sole_reader(first.outputs[0]) is not second:
        return f"the output of {label(first)} is read elsewhere"
    return None


def growth(new: int, dying: Iterable[tuple[ir.Value | None, ir.Node]]) -> int:
    """Bytes by which a file grows: new constants, less those that only the given node reads."""
    gone = {
        value: constant_bytes(value)
        for value, reader in dying
        if is_constant(value) and not value.is_graph_output() and all(node is reader for node, _ in usages(value))
    }
    return new - sum(gone.values())


def scalar(value: ir.Value | None) -> float | None:
    """The number in a constant of one element, None for anything else."""
    array = constant_value(value) if is_constant(value) and _size(value) == 1 else None
    return None if array is None else float(array.reshape(-1)[0])


def _size(value: ir.Value) -> int:
    if value.const_value is not None:
        return int(value.const_value.size)
    dims = () if value.shape is None else value.shape.dims  # a Constant in a function's body
    return math.prod(dim if isinstance(dim, int) else -1 for dim in dims)


def ints(value: ir.Value | None) -> list[int] | None:
    """A constant vector of whole numbers as a list, None for anything else."""
    if not is_constant(value):
        return None
    array = constant_value(value)
    if array is None or array.dtype.kind not in "iu" or array.ndim > 1:
        return None
    return [int(item) for item in array.reshape(-1)]


def axes_of(node: ir.Node) -> list[int] | None:
    """The axes of a Squeeze or Unsqueeze, attribute or input; None where they are absent or not constant."""
    given = attribute(node, "axes", None)
    if given is not None:
        return list(given)
    return ints(node.inputs[1]) if len(node.inputs) > 1 else None


def finite_in(array: Array, dtype: np.dtype[np.generic]) -> Array | None:
    """The array rounded to a type, None when a number does not fit."""
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = array.astype(dtype)
    return rounded if bool(np.isfinite(rounded).all()) else None
