"""Initializers that hold the same tensor."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Hashable, Iterator

import onnx_ir as ir

from baker.model.graph import annotation_parameters, subgraphs
from baker.model.pages import pieces
from baker.model.tensors import payload
from baker.passes.fuse._rule import GraphRule
from baker.pipeline.pass_base import Change, PassContext


class DuplicateInitializers(GraphRule):
    """Let initializers of the same type, shape and bits be one; the first, or the outermost, stays.

    Shapes: any.

        a = [1, 2], b = [1, 2]: f(a), g(b)  ->  f(a), g(a)

    Error: 0.
    Declines: initializers that are graph inputs or outputs; strings; a tensor whose size no other has is never read.
    Source: ONNX IR specification, scopes of names.
    """

    name = "duplicate-initializers"

    def run(self, model: ir.Model, context: PassContext) -> list[Change]:
        """Merges equal initializers of the main graph and of subgraphs."""
        sizes: Counter[Hashable] = Counter()
        for graph in model.graphs():
            sizes.update(_size(value) for value in graph.initializers.values())
        changes: list[Change] = []
        for root in (model.graph, *(function.graph for function in model.functions.values())):
            for change in _visit(root, {}, sizes, context):
                changes.append(change)
                context.did(model, change)
        return changes


def _visit(
    graph: ir.Graph, outer: dict[Hashable, ir.Value], sizes: Counter[Hashable], context: PassContext
) -> Iterator[Change]:
    seen, annotated = dict(outer), annotation_parameters(graph)
    for value in list(graph.initializers.values()):
        if sizes[_size(value)] < 2 or value.is_graph_input() or value.is_graph_output() or value.name in annotated:
            continue
        key = _key(value)
        first = seen.setdefault(key, value) if key is not None else value
        if first is not value and context.admits(DuplicateInitializers.name, value.name or ""):
            value.replace_all_uses_with(first)
            del graph.initializers[value.name or ""]
            yield Change(DuplicateInitializers.name, value.name or "", f"the same as '{first.name}'")
    for node in graph:
        for inner in subgraphs(node):
            yield from _visit(inner, seen, sizes, context)


def _size(value: ir.Value) -> Hashable:
    tensor = value.const_value
    return None if tensor is None else (tensor.dtype, tuple(tensor.shape))


def _key(value: ir.Value) -> Hashable:
    tensor = value.const_value
    if tensor is None or tensor.dtype == ir.DataType.STRING:
        return None
    data = payload(tensor)
    if len(data) <= 64:
        return tensor.dtype, tuple(tensor.shape), bytes(data)
    digest = hashlib.sha256()
    for piece in pieces(data):
        digest.update(piece)
    return tensor.dtype, tuple(tensor.shape), digest.digest()
