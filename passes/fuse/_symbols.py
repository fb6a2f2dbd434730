"""The dims of the values of a graph, followed through the shape arithmetic that exporters write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from baker.model.contents import Elements, propagate
from baker.model.graph import attribute, constant_value, is_constant, is_op, standard_domain, subgraphs
from baker.passes.fuse._dim_rules import Site, output_dims
from baker.passes.fuse._dims import Dim, Dims, Size, as_dim, number


class Symbols:
    """The dims of values, each computed once: what computes a value may change, its dims do not."""

    def __init__(self) -> None:
        self._dims: dict[ir.Value, Dims | None] = {}
        self._elements: dict[ir.Value, Elements | None] = {}

    def dims(self, value: ir.Value | None) -> Dims | None:
        """The dims of a value, None where its rank is unknown."""
        if value is None:
            return None
        self._visit(value)
        return self._dims[value]

    def elements(self, value: ir.Value | None) -> Sequence[Any] | None:
        """What an integer vector or scalar holds: an int, a `Dim`, or None each; None where nothing is known."""
        if value is None:
            return None
        self._visit(value)
        found = self._elements[value]
        return None if found is None else list(found.reshape(-1).tolist())

    def input_with(self, dim: Dim) -> tuple[ir.Value, int] | None:
        """An input of the main graph, among the values seen so far, and which of its axes has this dim."""
        for value, dims in self._dims.items():
            main = value.is_graph_input() and isinstance(value.graph, ir.Graph) and value.graph.opset_imports
            if main and dims is not None and dim in dims:
                return value, dims.index(dim)
        return None

    def _visit(self, value: ir.Value) -> None:
        pending = [value]
        while pending:  # depth first, without recursion: graphs are deep
            current = pending[-1]
            missing = [] if current in self._dims else [each for each in _reads(current) if each not in self._dims]
            if missing:
                pending += missing
                continue
            pending.pop()
            if current not in self._dims:
                self._elements[current] = self._elements_of(current)
                self._dims[current] = self._dims_of(current)

    def _dims_of(self, value: ir.Value) -> Dims | None:
        node = value.producer()
        found = None if node is None else output_dims(self._site(node, value))
        declared = value.shape
        if found is None and declared is not None:
            found = tuple(_declared(value, axis) for axis in range(len(declared)))
        if found is None or declared is None or len(declared) != len(found) or value.is_graph_output():
            return found
        return tuple(
            as_dim(known) if isinstance(known, int) else dim for known, dim in zip(declared, found, strict=True)
        )

    def _site(self, node: ir.Node, value: ir.Value) -> Site:
        inputs = [None if each is None else self._dims.get(each) for each in node.inputs]
        held = {index: self._elements.get(each) for index, each in enumerate(node.inputs) if each is not None}
        contents = {index: each.reshape(-1).tolist() for index, each in held.items() if each is not None}
        return Site(node, value, inputs, contents)

    def _elements_of(self, value: ir.Value) -> Elements | None:
        if value.dtype not in (ir.DataType.INT64, ir.DataType.INT32):
            return None
        if is_constant(value):
            array = constant_value(value) if value.shape is not None and value.shape.rank() < 2 else None
            return None if array is None or array.size > 64 else array.astype(object)
        node = value.producer()
        if node is None or value is not node.outputs[0] or standard_domain(node.domain):
            return None
        if node.op_type == "Shape":
            return self._shape(node)
        inputs = {index: self._elements.get(each) for index, each in enumerate(node.inputs) if each is not None}
        known = {index: each for index, each in inputs.items() if each is not None}
        return self._where(node, known) if node.op_type == "Where" else propagate(node, known)

    def _shape(self, node: ir.Node) -> Elements | None:
        dims = self._dims.get(node.inputs[0]) if node.inputs[0] is not None else None
        if dims is None:
            return None
        cut = dims[attribute(node, "start", 0) : attribute(node, "end", None)]
        return _objects([dim if number(dim) is None else number(dim) for dim in cut])

    def _where(self, node: ir.Node, known: Mapping[int, Elements]) -> Elements | None:
        """``Where(c == -1, ones, c)``, as exporters write the target of an Expand."""
        test = None if node.inputs[0] is None else node.inputs[0].producer()
        if not is_op(test, "Equal") or not {1, 2} <= set(known) or known[1].shape != known[2].shape:
            return None
        left, right = (self._elements.get(each) if each is not None else None for each in test.inputs)
        if left is None or right is None or not left.shape == right.shape == known[1].shape:
            return None
        columns = (array.reshape(-1).tolist() for array in (left, right, known[1], known[2]))
        return _objects([_choice(*column) for column in zip(*columns, strict=True)]).reshape(left.shape)


def _choice(left: Any, right: Any, then: Any, other: Any) -> Any:
    if left is None or right is None:
        return None
    if isinstance(left, int) and isinstance(right, int):
        return then if left == right else other
    negative = [each for each in (left, right) if isinstance(each, int) and each < 0]
    return other if negative else then if then == other else None  # a dim is never negative


def _objects(items: Sequence[Any]) -> Elements:
    array = np.empty(len(items), dtype=object)
    for index, item in enumerate(items):
        array[index] = item
    return array


def _reads(value: ir.Value) -> list[ir.Value]:
    node = value.producer()
    if node is None or is_constant(value) or any(True for _ in subgraphs(node)):
        return []
    found = [each for each in node.inputs if each is not None]
    test = node.inputs[0].producer() if is_op(node, "Where") and node.inputs[0] is not None else None
    return found + [each for each in (test.inputs if is_op(test, "Equal") else ()) if each is not None]


def _declared(value: ir.Value, axis: int) -> Dim:
    """What is declared of a dim; a name says the same everywhere only at the inputs of the main graph."""
    assert value.shape is not None
    dim = value.shape[axis]
    if isinstance(dim, int) and not value.is_graph_output():
        return as_dim(dim)
    named = not isinstance(dim, int) and dim.value is not None and value.is_graph_input()
    main = named and isinstance(value.graph, ir.Graph) and bool(value.graph.opset_imports)  # subgraphs have none
    return frozenset({str(dim.value)}) if main and not isinstance(dim, int) else frozenset({Size(value, axis)})
