"""What the conversion rules share: one step between two operator sets, and the edits that a rule is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir

from baker.errors import ModelError
from baker.model.graph import (
    Array,
    constant_before,
    constant_value,
    emit,
    graph_of,
    in_function,
    is_constant,
    is_op,
    overridable,
    remove_if_dead,
    replace_value,
    unique_name,
)
from baker.model.marks import INVENTED, RENAMED


class Refused(ModelError):
    """A node has no equivalent in the other operator set; the message is the reason alone."""


@dataclass
class Step:
    """The step between operator set ``version - 1`` and ``version``; a rule rewrites one node from one to the other.

    Attributes:
        version: the newer of the two operator sets.
        target: the operator set at which the conversion ends.
        up: true from the older one to the newer one.
        inlined: set by a rule that put nodes without types into the graph.
        dropped: what nodes read no more. To ask a value for its readers takes time for each of them.
    """

    version: int
    target: int
    up: bool = True
    inlined: bool = False
    dropped: dict[ir.Value, None] = field(default_factory=dict)
    _constants: dict[tuple[ir.Graph, str, tuple[int, ...], bytes], ir.Value] = field(default_factory=dict)

    def next(self, version: int) -> Step:
        """The step at another version, which shares what constants there are."""
        return Step(version, self.target, self.up, _constants=self._constants)

    def constant(self, node: ir.Node, name: str, array: Array) -> ir.Value:
        """Makes an array available to a node: one initializer for all nodes of a graph that need the same one."""
        hint = f"{node.outputs[0].name or node.op_type}_{name}"
        if in_function(node):
            return constant_before(node, hint, array)
        graph = graph_of(node)
        key = graph, str(array.dtype), array.shape, array.tobytes()
        found = self._constants.get(key)
        if found is None or found.graph is not graph or not found.is_initializer():
            found = self._constants[key] = constant_before(node, hint, array)
        return found


Rule: TypeAlias = Callable[[ir.Node, Step], None]
"""Rewrites a node in place from one side of a step to the other; raises `Refused` where it can't."""
Rules: TypeAlias = Mapping[tuple[str, int], Rule]
"""Rules by operator and the newer version of the step."""


# ---- inputs and attributes -------------------------------------------------------------------------------------


def given(node: ir.Node, index: int) -> ir.Value | None:
    """The input at an index, None where the node has none."""
    return node.inputs[index] if index < len(node.inputs) else None


def put_input(node: ir.Node, index: int, value: ir.Value | None) -> None:
    """Sets the input at an index; a node without so many gets empty ones in between."""
    if index >= len(node.inputs):
        node.resize_inputs(index + 1)
    node.replace_input_with(index, value)


def drop_input(step: Step, node: ir.Node, index: int) -> None:
    """Takes away an input and empty inputs at the end; its producer goes at the end of the step, if nobody reads it."""
    old = given(node, index)
    if old is None:
        return
    node.replace_input_with(index, None)
    trim_inputs(node)
    step.dropped[old] = None


def trim_inputs(node: ir.Node) -> None:
    """Removes empty inputs from the end."""
    kept = len(node.inputs)
    while kept and node.inputs[kept - 1] is None:
        kept -= 1
    node.resize_inputs(kept)


def put(node: ir.Node, name: str, value: Any) -> None:
    """Sets an attribute to a plain Python value, a tensor, or an `ir.Attr`."""
    node.attributes[name] = value if isinstance(value, ir.Attr) else ir.convenience.convert_attribute(name, value)


def known(node: ir.Node, index: int, name: str) -> Array:
    """The array of a constant input.

    Raises:
        Refused: it is no constant.
    """
    value = given(node, index)
    array = constant_value(value) if is_constant(value) else None
    if array is None:
        reason = overridable(value) or f"its {name} '{value.name if value else ''}' is no constant; try 'fold' first"
        raise Refused(reason)
    return array


def reference(value: ir.Value | None) -> ir.Attr | None:
    """The reference attribute of a Constant whose value is a parameter of the enclosing function, or None."""
    node = None if value is None else value.producer()
    if not is_op(node, "Constant"):
        return None
    return next((found for found in node.attributes.values() if found.is_ref()), None)


def rank(value: ir.Value | None) -> int | None:
    """The number of dims, None where it is unknown."""
    return None if value is None or value.shape is None else len(value.shape)


def rank_of(node: ir.Node, index: int = 0) -> int:
    """The rank of an input.

    Raises:
        Refused: it is unknown.
    """
    found = rank(given(node, index))
    if found is None:
        raise Refused("the rank of its input is unknown")
    return found


def dtype_of(node: ir.Node, index: int = 0) -> ir.DataType:
    """The element type of an input.

    Raises:
        Refused: it is unknown.
    """
    value = given(node, index)
    if value is None or value.dtype is None:
        raise Refused("the type of its input is unknown")
    return value.dtype


# ---- nodes -----------------------------------------------------------------------------------------------------


def front(
    node: ir.Node, op_type: str, inputs: Sequence[ir.Value | None], attributes: Mapping[str, Any] | None = None
) -> ir.Value:
    """Puts a node in front of another one, with its metadata, and returns the output."""
    made = emit(node, op_type, inputs, attributes)
    made.metadata_props.update(node.metadata_props)
    return made.outputs[0]


def feed(node: ir.Node, index: int, op_type: str, *more: ir.Value | None, **attributes: Any) -> None:
    """Sends an input through another operator first; its type and rank are taken to stay."""
    source = node.inputs[index]
    made = front(node, op_type, [source, *more], attributes)
    if source is not None:
        made.type = source.type
    node.replace_input_with(index, made)


def behind(node: ir.Node, op_type: str, *more: ir.Value | None, output: int = 0, **attributes: Any) -> ir.Value:
    """Sends an output through another operator, whose result takes its name and type; returns what the node gives."""
    old = node.outputs[output]
    made = emit(node, op_type, [old, *more], attributes)
    graph = graph_of(node)
    graph.remove(made)
    graph.insert_after(node, made)
    made.metadata_props.update(node.metadata_props)
    new, name = made.outputs[0], old.name
    new.type, new.shape = old.type, old.shape
    new.metadata_props.update(old.metadata_props)
    _hand_over(old, new, name)
    made.replace_input_with(0, old)
    old.name = unique_name(graph, f"{name or node.op_type}_{node.op_type}")
    old.meta[INVENTED] = True
    old.meta.pop(RENAMED, None)
    return old


def _hand_over(old: ir.Value, new: ir.Value, name: str | None) -> None:
    if not old.is_graph_output():
        new.meta.update(old.meta)
    replace_value(old, new)
    if old.name is not None:  # no graph output, so the name is still to be given
        old.name = None
        new.name = name


def become(node: ir.Node, value: ir.Value) -> None:
    """Lets another value, of a node in front, take the place of a node's only used output; the node goes."""
    output = node.outputs[0]
    made = value.producer()
    if made is None:
        raise ValueError(f"'{value.name}' is the output of no node")
    made.doc_string = node.doc_string
    made.metadata_props.update(node.metadata_props)
    value.type, value.shape = output.type, output.shape
    value.metadata_props.update(output.metadata_props)
    name, node_name = output.name, node.name
    made.meta.update(node.meta)
    _hand_over(output, value, name)
    remove_if_dead(output)
    made.name = node_name


def int64(*numbers: int) -> Array:
    """A vector of int64."""
    return np.array(numbers, np.int64)
