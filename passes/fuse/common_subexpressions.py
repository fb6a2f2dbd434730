"""Nodes that compute the same thing."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Hashable, Iterator, MutableMapping
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir

from baker.model.graph import can_replace, label, remove_if_dead, replace_value, standard_domain, subgraphs
from baker.model.operators import RANDOM_OPERATORS
from baker.passes.fuse._rule import GraphRule
from baker.pipeline.pass_base import Change, PassContext

_RANDOM = RANDOM_OPERATORS | {"Dropout"}
_COMMUTATIVE = frozenset({"Add", "Mul", "And", "Or", "Xor", "Equal"})  # bit-equal either way round
_SMALL = 1 << 10  # bytes of a tensor attribute that is worth comparing

Table: TypeAlias = MutableMapping[Hashable, ir.Node]


class CommonSubexpressions(GraphRule):
    """Let nodes of the same operator, inputs and attributes be one node.

    A node in a subgraph may be replaced by one of an outer graph that stands before it, never the other way round.

    Shapes: any.

        a = f(x), b = f(x): g(a), h(b)  ->  g(a), h(a)

    Error: 0.
    Declines: random operators, also unseeded ones; nodes with subgraphs; other domains than the standard's; a second
        graph output.
    Source: Aho et al., Compilers, section 9.1 (value numbering).
    """

    name = "common-subexpressions"

    def run(self, model: ir.Model, context: PassContext) -> list[Change]:
        """Merges equal nodes of the main graph, of subgraphs and of functions."""
        changes: list[Change] = []
        for graph in (model.graph, *(function.graph for function in model.functions.values())):
            for change in _visit(graph, ChainMap(), context):
                changes.append(change)
                context.did(model, change)
        return changes


def _visit(graph: ir.Graph, seen: ChainMap[Hashable, ir.Node], context: PassContext) -> Iterator[Change]:
    for node in list(graph):
        for inner in subgraphs(node):
            yield from _visit(inner, seen.new_child(), context)
        key = _key(node)
        if key is None:
            continue
        first = seen.setdefault(key, node)
        name = label(node)
        if first is not node and _replaceable(node, first) and context.admits(CommonSubexpressions.name, name):
            for old, new in zip(node.outputs, first.outputs, strict=True):
                replace_value(old, new)
            remove_if_dead(*node.outputs)
            yield Change(CommonSubexpressions.name, name, f"the same as {first.op_type} '{label(first)}'")


def _replaceable(node: ir.Node, first: ir.Node) -> bool:
    outputs = [value for value in node.outputs if value.is_graph_output()]
    if len(outputs) > 1 and len(node.outputs) > 1:  # the first may take over one name only where none is taken
        return False
    return all(can_replace(old, new) for old, new in zip(node.outputs, first.outputs, strict=True))


def _key(node: ir.Node) -> Hashable:
    """What two equal nodes have in common, None for a node that has no equal."""
    if standard_domain(node.domain) or node.op_type in _RANDOM or subgraphs(node):
        return None
    attributes = []
    for name, attribute in sorted(node.attributes.items()):
        value = _comparable(attribute)
        if value is None:
            return None
        attributes.append((name, attribute.type, value))
    inputs = [0 if value is None else id(value) for value in node.inputs]
    if node.op_type in _COMMUTATIVE:
        inputs.sort()
    outputs = tuple(bool(value.name) for value in node.outputs)
    return node.op_type, tuple(inputs), tuple(attributes), outputs


def _comparable(attribute: ir.Attr) -> Hashable:
    if attribute.is_ref():
        return ("reference", attribute.ref_attr_name)
    value: Any = attribute.value
    if attribute.type == ir.AttributeType.TENSOR:
        if value.dtype == ir.DataType.STRING:
            return (value.dtype, tuple(value.shape), tuple(value.string_data())) if value.size <= _SMALL else None
        return None if value.nbytes > _SMALL else (value.dtype, tuple(value.shape), value.tobytes())
    if attribute.type in (ir.AttributeType.FLOAT, ir.AttributeType.FLOATS):
        return np.asarray(value, np.float64).tobytes()  # bits: 0 and -0 are not the same, and NaN is
    if isinstance(value, (list, tuple)):
        return tuple(value) if all(isinstance(item, (int, str, bytes)) for item in value) else None
    return value if isinstance(value, (int, str, bytes)) else None
