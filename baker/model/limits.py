"""Bounds on what a model would make of memory and time, where its constants already tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import onnx_ir as ir

from baker.errors import ModelError, ResourceError
from baker.model.graph import Array, all_nodes, attribute, constant_value, has_reference_attribute, is_op, subgraphs
from baker.model.marks import quoted
from baker.model.tensors import MAX_RANK, tensor_nbytes

MAX_TENSOR_BYTES = 4 << 30
"""One tensor of a running model. The weights of a model are not held to it: they exist already."""
MAX_TRIPS = 1_000_000_000
"""Iterations of a Loop that nothing but its trip count ends; an empty one takes minutes."""


Given: TypeAlias = Mapping[ir.Value, int | None]
"""What the inputs of a function are in a call, where that is a constant number."""

_NOTHING: Given = {}
_ENDLESS = 2**63


def check_constants(model: ir.Model) -> None:
    """Looks at the constants that say how much to allocate and how often to repeat.

    Raises:
        ModelError: a ConstantOfShape of negative size.
        ResourceError: an input or a ConstantOfShape over `MAX_TENSOR_BYTES`, Loops over `MAX_TRIPS`.
    """
    for value in model.graph.inputs:
        if value.shape is not None and value.shape.is_static() and value.dtype is not None:
            _check_bytes(f"input {quoted(value.name)} is", value.dtype, value.shape.numpy())
    for node in all_nodes(model):
        if is_op(node, "ConstantOfShape"):
            _check_fill(node)
    trips = _Trips(model)
    for function in model.functions.values():
        trips.of(function.graph)
    if (total := trips.of(model.graph)) > MAX_TRIPS:
        raise ResourceError(f"the model's Loops repeat {total} times in all; the limit is {MAX_TRIPS}")


def _check_fill(node: ir.Node) -> None:
    dims = constant_value(node.inputs[0]) if node.inputs else None
    if dims is None:
        return
    if dims.size > MAX_RANK or (dims < 0).any():
        raise ModelError(f"ConstantOfShape {_shown(node)}: {_listed(dims)} is no shape")
    # A value that is a parameter of the enclosing function has a type that is not known here: float is usual.
    value = None if has_reference_attribute(node) else attribute(node, "value", None)
    dtype = ir.DataType.FLOAT if value is None else value.dtype
    check_size(node, dtype, tuple(int(dim) for dim in dims.reshape(-1)))


class _Trips:
    """Counts how often the Loops of a graph go round, Loops inside of Loops and of called functions included.

    A Loop counts as one where its condition may end it early, or its number of trips is not known. What a caller hands
    to a function as a constant is one in there.
    """

    def __init__(self, model: ir.Model) -> None:
        self.functions = model.functions
        self.known: dict[tuple[object, ...], int] = {}

    def of(self, graph: ir.Graph, given: Given = _NOTHING) -> int:
        """Returns a lower bound, and raises where a Loop is over the limit."""
        return sum(self._node(node, given) for node in graph)

    def _node(self, node: ir.Node, given: Given) -> int:
        called = self.functions.get(node.op_identifier())
        if called is not None:
            return self._call(node, called, given)
        inner = [self.of(graph, given) for graph in subgraphs(node)]
        if not inner:
            return 0
        if not is_op(node, "Loop"):
            return min(inner)  # the shorter branch of an If, the body of a Scan
        trips = _constant_trips(node, given)
        if trips is None:
            return max(1, inner[0])
        found = trips * max(1, inner[0])
        if found > MAX_TRIPS:
            count = f"{found} times" if trips != _ENDLESS else "without end"
            raise ResourceError(f"Loop {_shown(node)} repeats {count}; the limit is {MAX_TRIPS}")
        return found

    def _call(self, node: ir.Node, called: ir.Function, given: Given) -> int:
        """Functions call no one that calls them: that was checked."""
        pairs = zip(called.inputs, node.inputs, strict=False)
        handed = {inside: _number(outside, given) for inside, outside in pairs if outside is not None}
        key = (called.identifier(), *(handed.get(value) for value in called.inputs))
        if key not in self.known:
            self.known[key] = self.of(called.graph, handed)
        return self.known[key]


def _number(value: ir.Value, given: Given) -> int | None:
    """The whole number that a value of one element always is; None where it is not known."""
    if value in given:
        return given[value]
    array = constant_value(value)
    return None if array is None or array.size != 1 or array.dtype.kind not in "iub" else int(array.reshape(-1)[0])


def _constant_trips(node: ir.Node, given: Given) -> int | None:
    """The number of trips of a Loop that nothing else ends; None where it is not known, or something may end it."""
    body = None if has_reference_attribute(node) else attribute(node, "body", None)
    if not (isinstance(body, ir.Graph) and _starts(node, given) and _always_continues(body, given)) or not node.inputs:
        return None
    if node.inputs[0] is None:
        return _ENDLESS
    trips = _number(node.inputs[0], given)
    return None if trips is None else max(0, trips)


def _starts(node: ir.Node, given: Given) -> bool:
    condition = node.inputs[1] if len(node.inputs) > 1 else None
    return condition is None or bool(_number(condition, given))


def _always_continues(body: ir.Graph, given: Given) -> bool:
    """True when the body's condition is constantly true, or the one it was given."""
    if not body.outputs:
        return False
    condition = body.outputs[0]
    while is_op(producer := condition.producer(), "Identity") and producer.inputs[0] is not None:
        condition = producer.inputs[0]
    return (len(body.inputs) > 1 and condition is body.inputs[1]) or bool(_number(condition, given))


def check_size(node: ir.Node, dtype: ir.DataType, dims: tuple[int, ...]) -> None:
    """Looks at what a node's output takes, before anything of that size is folded or run.

    Raises:
        ResourceError: more than `MAX_TENSOR_BYTES`.
    """
    _check_bytes(f"{quoted(node.op_type)[1:-1]} {_shown(node)} makes", dtype, dims)


def _check_bytes(what: str, dtype: ir.DataType, dims: tuple[int, ...]) -> None:
    if dtype == ir.DataType.UNDEFINED or any(dim < 0 for dim in dims):
        return
    # A string is an object of its own; four bytes of it is a low guess.
    size = tensor_nbytes(ir.DataType.FLOAT if dtype == ir.DataType.STRING else dtype, dims)
    if size > MAX_TENSOR_BYTES:
        raise ResourceError(
            f"{what} a tensor of shape {list(dims)}, {size / 2**30:.1f} GiB; the limit is {MAX_TENSOR_BYTES >> 30} GiB"
        )


def _shown(node: ir.Node) -> str:
    return quoted(node.name or next((value.name for value in node.outputs if value.name), ""))


def _listed(array: Array) -> str:
    return str(array.reshape(-1)[:8].tolist())
