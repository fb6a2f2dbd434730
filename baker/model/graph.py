"""The edits and questions that onnx_ir lacks.

All edits keep the interface: the name and type of a graph output never change. No function writes into a
tensor's array, since tensors are shared between clones.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, TypeAlias, TypeGuard

import numpy as np
import onnx_ir as ir

from baker.model.marks import DECLARED, INVENTED, QUANTIZATION, RENAMED
from baker.model.pages import kept

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
"""A numpy array of any shape and type (also ml_dtypes' bfloat16, int4, int2)."""

_NAMES = "baker.names"  # graph.meta: the set of taken names, one set object for the whole model
_GRAPH, _GRAPHS = ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS
_FUNCTION = "baker.function"  # graph.meta: this graph is the body of a local function
_PURE = frozenset({"", "ai.onnx.ml", "com.microsoft", "ai.baker"})  # domains of operators that only compute


class UnknownAttribute(ValueError):
    """An attribute is a parameter of the enclosing local function, so its value is known at the calls alone."""


# ---- walking ---------------------------------------------------------------------------------------------------


def graphs(model: ir.Model) -> Iterator[ir.Graph]:
    """Yields the main graph, then the body graph of each local function, each followed by its subgraphs."""
    yield from _nested(model.graph)
    for function in model.functions.values():
        yield from _nested(function.graph)


def _nested(graph: ir.Graph) -> Iterator[ir.Graph]:
    yield graph
    for node in graph:
        for inner in subgraphs(node):
            yield from _nested(inner)


def subgraphs(node: ir.Node) -> Sequence[ir.Graph]:
    """Returns the graphs that a node holds as attributes (the branches of an If, the body of a Loop)."""
    attributes = node.attributes.data  # the plain dict behind it: every walk over a model comes through here
    if not attributes:
        return ()
    found: list[ir.Graph] = []
    for attribute in attributes.values():
        kind = attribute.type
        if kind is _GRAPH and not attribute.is_ref():
            found.append(attribute.as_graph())
        elif kind is _GRAPHS and not attribute.is_ref():
            found += attribute.as_graphs()
    return found


def all_nodes(model: ir.Model) -> Iterator[ir.Node]:
    """Yields every node: main graph, subgraphs, function bodies (each once)."""
    for graph in graphs(model):
        yield from graph


def count_nodes(model: ir.Model) -> int:
    """Counts non-Constant nodes, subgraphs included, each function body once."""
    return sum(not is_op(node, "Constant") for node in all_nodes(model))


# ---- asking ----------------------------------------------------------------------------------------------------


def is_op(node: ir.Node | None, *op_types: str, domain: str = "") -> TypeGuard[ir.Node]:
    """True when the node is there, of this domain ("" and "ai.onnx" are one), and of one of these types."""
    return node is not None and node.op_type in op_types and standard_domain(node.domain) == domain


def standard_domain(domain: str) -> str:
    """Returns "" for both spellings of the default domain."""
    return "" if domain == "ai.onnx" else domain


def constant_value(value: ir.Value | None) -> Array | None:
    """Returns the array of an initializer or a Constant node's output, or None.

    An initializer that is also a graph input is a default that the caller may override: None.
    """
    if value is None or value.is_graph_input():
        return None
    if value.is_initializer():
        return None if value.const_value is None else value.const_value.numpy()
    tensor = constant_tensor(value)
    return None if tensor is None else tensor.numpy()


def constant_tensor(value: ir.Value | None) -> ir.TensorProtocol | None:
    """Returns the tensor of an initializer or a Constant node, or None, as `constant_value`; reads no data."""
    if not is_constant(value):
        return None
    if value.const_value is not None:
        return value.const_value
    node = value.producer()
    given = None if node is None else node.attributes.get("value")
    if given is not None and given.type == ir.AttributeType.TENSOR:
        return given.as_tensor()  # onnx_ir's function would give it a name, and the file would grow
    return ir.convenience.get_const_tensor(value)


def is_constant(value: ir.Value | None) -> TypeGuard[ir.Value]:
    """True when the value is known before the model runs (see `constant_value`), without reading its data."""
    if value is None or value.is_graph_input():
        return False
    if value.is_initializer():
        return value.const_value is not None
    node = value.producer()
    return is_op(node, "Constant") and not has_reference_attribute(node) and "sparse_value" not in node.attributes


def overridable(*values: ir.Value | None) -> str | None:
    """Says which of the values is an initializer and an input, too, so that nothing can rely on its number; or None."""
    for value in values:
        if value is not None and value.is_graph_input() and value.is_initializer():
            return f"'{value.name}' is no constant: a graph input of the same name can override it. Remove that input"
    return None


def sole_reader(value: ir.Value) -> ir.Node | None:
    """Returns the only node that reads the value, or None when others do or the graph outputs it."""
    if value.is_graph_output():
        return None
    found: ir.Node | None = None
    for reader, _ in usages(value):
        if found is not None and reader is not found:
            return None
        found = reader
    return found


def usages(value: ir.Value) -> Collection[tuple[ir.Node, int]]:
    """``value.uses()`` without the copy, which takes long where half of a large graph reads one value.

    Not to be walked while readers come or go.
    """
    return value._uses.keys()


def shape_of(value: ir.Value | None) -> tuple[int | None, ...] | None:
    """Returns the dims, None for an unknown or symbolic one; None when even the rank is unknown."""
    if value is None or value.shape is None:
        return None
    return tuple(dim if isinstance(dim, int) and dim >= 0 else None for dim in value.shape)  # -1: some mean any size


def attribute(node: ir.Node, name: str, default: Any) -> Any:
    """Returns the attribute's value (ints and floats as tuples), or the default when it is absent.

    Raises:
        UnknownAttribute: the attribute refers to a parameter of the enclosing function, so it has no value here.
    """
    found = node.attributes.get(name)
    if found is None:
        return default
    if found.is_ref():
        raise UnknownAttribute(f"attribute '{name}' of {label(node)} is a parameter of the enclosing function")
    return tuple(found.value) if isinstance(found.value, (list, tuple)) else found.value


def annotation_parameters(graph: ir.Graph) -> set[str]:
    """Returns the names of initializers that quantization annotations of a graph's values refer to; no node need."""
    values = (*graph.inputs, *graph.initializers.values(), *(value for node in graph for value in node.outputs))
    return {name for value in values for name in value.meta.get(QUANTIZATION, {}).values()}


def has_reference_attribute(node: ir.Node) -> bool:
    """True when an attribute's value is only known where the enclosing local function is called."""
    return any(found.is_ref() for found in node.attributes.values())


def label(node: ir.Node) -> str:
    """Names a node for people: its name, or its operator and first output."""
    if node.name:
        return node.name
    output = next((value.name for value in node.outputs if value.name), "")
    return f"{node.op_type}->{output}"


def in_function(node: ir.Node) -> bool:
    """True when the node stands directly in the body of a local function, where initializers are not allowed."""
    return node.graph is not None and bool(node.graph.meta.get(_FUNCTION, False))


# ---- naming ----------------------------------------------------------------------------------------------------


def index_names(model: ir.Model) -> None:
    """Collects every name of the model, so that `unique_name` stays cheap and unique across nested scopes.

    `PassManager` calls it before each pass. Without it, names are unique within one graph.
    """
    taken = _Taken()
    for graph in graphs(model):
        taken |= _names_in(graph)
        graph.meta[_NAMES] = taken
    for function in model.functions.values():
        function.graph.meta[_FUNCTION] = True


def _names_in(graph: ir.Graph) -> set[str]:
    names = {value.name for value in graph.inputs if value.name} | set(graph.initializers)
    for node in graph:
        names.update(value.name for value in node.outputs if value.name)
        if node.name:
            names.add(node.name)
    return names


class _Taken(set[str]):
    """Names in use. They only become more, so the search for a free number goes on where it ended."""

    def __init__(self, names: Collection[str] = ()) -> None:
        super().__init__(names)
        self._numbers: dict[str, int] = {}

    def take(self, hint: str) -> str:
        """Adds the hint, or the hint with the first free number."""
        name, number = hint, self._numbers.get(hint, 0)
        while name in self:
            number += 1
            name = f"{hint}_{number}"
        self._numbers[hint] = number
        self.add(name)
        return name


def unique_name(graph: ir.Graph, hint: str) -> str:
    """Returns the hint, or the hint with the first free number, and takes the name."""
    taken = graph.meta.get(_NAMES)
    if taken is None:
        taken = _Taken(_names_in(graph))
        graph.meta[_NAMES] = taken
    return taken.take(hint)


# ---- editing ---------------------------------------------------------------------------------------------------


def set_initializer(graph: ir.Graph, hint: str, array: Array | ir.TensorProtocol) -> ir.Value:
    """Adds a new initializer under a free name and returns its value.

    Not for the body of a local function: see `constant_before`.
    """
    name = unique_name(graph, hint)
    tensor = _tensor(array, name)
    shape = ir.Shape(tensor.shape.numpy())
    value = ir.Value(name=name, shape=shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def _tensor(array: Array | ir.TensorProtocol, name: str) -> ir.TensorProtocol:
    """`ir.tensor`, without its test against a protocol class for plain arrays: that takes longer than all the rest."""
    if isinstance(array, np.ndarray) and array.dtype.kind in "fiub":
        array = kept(array)
        return ir.Tensor(array, dtype=ir.DataType.from_numpy(array.dtype), name=name)
    return ir.tensor(array, name=name)


def constant_before(node: ir.Node, hint: str, array: Array | ir.TensorProtocol) -> ir.Value:
    """Makes an array available to a node: an initializer of its graph, or a Constant in a function's body."""
    graph = graph_of(node)
    if not in_function(node):
        return set_initializer(graph, hint, array)
    tensor = ir.tensor(array)
    (value,) = emit(node, "Constant", [], {"value": tensor}, name=hint).outputs
    value.const_value = tensor
    value.shape, value.type = ir.Shape(tensor.shape.numpy()), ir.TensorType(tensor.dtype)
    return value


def graph_of(node: ir.Node) -> ir.Graph:
    """Returns the graph that holds the node.

    Raises:
        ValueError: the node was removed from its graph.
    """
    if not isinstance(node.graph, ir.Graph):
        raise ValueError(f"{label(node)} is in no graph")
    return node.graph


def emit(
    before: ir.Node,
    op_type: str,
    inputs: Sequence[ir.Value | None],
    attributes: Mapping[str, Any] | None = None,
    *,
    domain: str = "",
    outputs: int = 1,
    name: str | None = None,
) -> ir.Node:
    """Inserts a new node before another one; node and output values get free names.

    Args:
        before: the node that the new one goes in front of, in the same graph.
        attributes: plain Python values, tensors or `ir.Attr`; None values are left out.
        name: a hint for the names of node and outputs; default: from ``before``.
    """
    graph = graph_of(before)
    hint = name or f"{before.outputs[0].name or before.op_type}_{op_type}"
    plain = {key: value for key, value in (attributes or {}).items() if value is not None}
    node = ir.node(
        op_type,
        inputs=list(inputs),
        attributes=plain,
        domain=domain,
        num_outputs=outputs,
        name=unique_name(graph, hint),
    )
    for value in node.outputs:
        value.name = unique_name(graph, f"{hint}_out")
    graph.insert_before(before, node)
    return node


def can_replace(old: ir.Value, new: ir.Value) -> bool:
    """True when `replace_value` can do it without a node in between.

    A graph output can only be taken over by a node's output of the same graph that is not an output already.
    """
    if not old.is_graph_output():
        return True
    return new.producer() is not None and not new.is_graph_output() and new.graph is old.graph


def replace_value(old: ir.Value, new: ir.Value) -> None:
    """Makes every reader of one value, subgraphs included, read another; a graph output keeps name and type.

    Raises:
        ValueError: `can_replace` says no.
    """
    if not can_replace(old, new):
        raise ValueError(f"output '{old.name}' can't become '{new.name}'")
    if not old.is_graph_output():
        old.replace_all_uses_with(new)
        return
    name = old.name
    old.name = None
    new.name = name
    new.type, new.shape = old.type, old.shape
    for mark in (DECLARED, INVENTED, RENAMED):  # what is known of the output is known of whoever becomes it
        new.meta.pop(mark, None)
        if mark in old.meta:
            new.meta[mark] = old.meta[mark]
    old.replace_all_uses_with(new, replace_graph_outputs=True)


def remove_node(node: ir.Node) -> None:
    """Removes a node whose outputs nobody reads; its inputs lose a reader.

    Raises:
        ValueError: an output is still read, or is a graph output.
    """
    graph_of(node).remove(node, safe=True)


def remove_if_dead(*values: ir.Value | None) -> None:
    """Removes the producers, and theirs in turn, of values that nobody reads, and unread initializers.

    Operators of domains that baker does not know stay, since they may do more than compute their outputs.
    """
    pending = [value for value in values if value is not None]
    while pending:
        value = pending.pop()
        if usages(value) or value.is_graph_output() or value.is_graph_input():
            continue
        node = value.producer()
        if node is None:
            _drop_initializer(value)
        elif node.graph is not None and not any(usages(out) or out.is_graph_output() for out in node.outputs):
            pending += _removed(node) if computes_only(node) else []


def remove_dead_node(node: ir.Node) -> None:
    """Removes a node of any domain whose outputs nobody reads, and what was there for it alone.

    Raises:
        ValueError: an output is still read, or is a graph output.
    """
    remove_if_dead(*_removed(node))


def computes_only(node: ir.Node, functions: Collection[ir.OperatorIdentifier] = ()) -> bool:
    """True where a node, with all in its subgraphs, is known to do no more than compute its outputs.

    Args:
        functions: local functions of which the same is known.
    """
    if standard_domain(node.domain) not in _PURE and node.op_identifier() not in functions:
        return False
    return all(computes_only(inner, functions) for graph in subgraphs(node) for inner in graph)


def _removed(node: ir.Node) -> list[ir.Value]:
    """Removes a node and returns what it and its subgraphs read."""
    read = [value for value in node.inputs if value is not None]
    for inner in subgraphs(node):
        read += _captured(inner)
    remove_node(node)
    return read


def _drop_initializer(value: ir.Value) -> None:
    graph = value.graph
    if isinstance(graph, ir.Graph) and value.is_initializer() and value.name:
        del graph.initializers[value.name]


def _captured(graph: ir.Graph) -> list[ir.Value]:
    """Detaches a dying subgraph's nodes from what they read, and returns what they read."""
    read: list[ir.Value] = []
    for node in graph:
        for index, value in enumerate(node.inputs):
            if value is not None:
                read.append(value)
                node.replace_input_with(index, None)
        for inner in subgraphs(node):
            read += _captured(inner)
    return [value for value in read if value.graph is not graph]
