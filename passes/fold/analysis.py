"""What is known about a model's values before it runs: whole tensors, and elements of shapes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from baker.model.contents import Elements, elements_of, integers, propagate
from baker.model.graph import Array, constant_tensor, constant_value, is_constant, is_op, label, subgraphs, usages
from baker.passes.fold.evaluate import EvaluationError, Known, evaluate, may_evaluate
from baker.pipeline.pass_base import Declined

_SMALL = 1 << 10  # bytes of a tensor that may be a shape


def scopes(model: ir.Model) -> Iterator[tuple[ir.Graph, int]]:
    """Yields each graph with the version of the standard operator set that holds in it, outer graphs first."""
    yield from _nested(model.graph, model.opset_imports.get("", model.opset_imports.get("ai.onnx", 0)))
    for function in model.functions.values():
        imports = function.opset_imports
        yield from _nested(function.graph, imports.get("", imports.get("ai.onnx", 0)))


def _nested(graph: ir.Graph, opset: int) -> Iterator[tuple[ir.Graph, int]]:
    yield graph, opset
    for node in graph:
        for inner in subgraphs(node):
            yield from _nested(inner, opset)


class Analysis:
    """One walk over a model.

    Attributes:
        known: values whose tensor is known, constants left out. Computed when asked for.
        elements: small integer vectors of which some elements are known.
        foldable: nodes whose outputs are all known and none a graph output, numbered in topological order.
        declined: constant nodes that can't be evaluated.
    """

    def __init__(self, model: ir.Model, *, shapes: bool = True) -> None:
        self.known: dict[ir.Value, Known] = {}
        self.elements: dict[ir.Value, Elements] = {}
        self.foldable: dict[ir.Node, int] = {}
        self.declined: list[Declined] = []
        self._shapes = shapes
        self._constants: dict[ir.Value, Known] = {}
        for graph, opset in scopes(model):
            for node in graph:
                self._visit(node, opset)

    def tensor(self, value: ir.Value | None) -> Known | None:
        """The tensor of a constant or of a value that was found to be known."""
        if value is None:
            return None
        found = self.known.get(value) or self._constants.get(value)
        if found is None and is_constant(value):
            found = self._constants[value] = _constant(value)
        return found

    def compute(self, value: ir.Value) -> Array:
        """The array of a known value. What it takes comes first, one after the other: chains can be long.

        Raises:
            EvaluationError: ONNX Runtime can't compute it, or something before it.
        """
        pending = [value]
        while pending:
            node = pending[-1].producer()
            reads = () if node is None or self.known[pending[-1]].is_computed else node.inputs
            open_ = [read for read in reads if read in self.known and not self.known[read].is_computed]
            if open_:
                pending += open_
            else:
                _ = self.known[pending.pop()].array
        return self.known[value].array

    def shape_elements(self, value: ir.Value | None) -> Elements | None:
        """The elements of a value that is a constant or was derived from shapes."""
        if value is None or value in self.elements:
            return None if value is None else self.elements[value]
        known = self.tensor(value)
        if known is None or known.nbytes > _SMALL or known.dtype.kind != "i":
            return None
        try:
            return elements_of(known.array)
        except EvaluationError:  # reported where it is to be stored
            return None

    def _visit(self, node: ir.Node, opset: int) -> None:
        if is_op(node, "Constant"):
            return
        inputs = [self.tensor(value) for value in node.inputs]
        if is_op(node, "Range"):
            inputs = [None if known is None else known.as_scalar() for known in inputs]
        given = [known for value, known in zip(node.inputs, inputs, strict=True) if value is not None]
        if given and all(known is not None for known in given) and may_evaluate(node):
            self._evaluate(node, inputs, opset)
        elif self._shapes:
            self._propagate(node)
        outputs = [value for value in node.outputs if usages(value) or value.is_graph_output()]
        if outputs and all(value in self.known and not value.is_graph_output() for value in outputs):
            self.foldable[node] = len(self.foldable)

    def _evaluate(self, node: ir.Node, inputs: list[Known | None], opset: int) -> None:
        try:
            results = evaluate(node, inputs, opset)
        except EvaluationError as error:
            self.declined.append(Declined(label(node), str(error), "evaluate"))
            return
        named = [value for value in node.outputs if value.name]
        self.known.update(zip(named, results, strict=True))

    def _propagate(self, node: ir.Node) -> None:
        found = {index: self.shape_elements(value) for index, value in enumerate(node.inputs)}
        elements = propagate(node, {index: e for index, e in found.items() if e is not None})
        if elements is None:
            return
        output = node.outputs[0]
        self.elements[output] = elements
        items = integers(elements)
        if items is not None and output.dtype in (ir.DataType.INT64, ir.DataType.INT32):
            self.known[output] = Known.of(np.array(items, output.dtype.numpy()).reshape(elements.shape))


def _constant(value: ir.Value) -> Known:
    tensor = constant_tensor(value)
    assert tensor is not None  # is_constant said so

    def read() -> np.ndarray:
        array = constant_value(value)
        if array is None:
            raise EvaluationError(f"constant '{value.name}' has no data")
        return array

    return Known(tuple(tensor.shape.numpy()), np.dtype(tensor.dtype.numpy()), read)
