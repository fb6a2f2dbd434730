"""A model as `baker.pipeline.lineage` looks at it: names with their scopes, who makes them, what is alike."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import onnx_ir as ir

from baker.model.graph import graphs, standard_domain

Part: TypeAlias = ir.Node | ir.Value
"""A node or a weight."""
Key: TypeAlias = tuple[str, str, str]
"""Scope ("" for main graph and subgraphs, or the function), ``node`` or ``weight``, and its name; a node is known by
its first output, whose name is unique in its scope and stays when a pass replaces the node."""
Name: TypeAlias = tuple[str, str]
"""Scope and name of a value."""


def keyed(model: ir.Model) -> Iterator[tuple[Key, Part]]:
    """Every node and weight with its key."""
    for scope, graph in scopes(model):
        for value in graph.initializers.values():
            yield (scope, "weight", value.name or ""), value
        for node in graph:
            yield node_key(scope, node), node


def scopes(model: ir.Model) -> Iterator[tuple[str, ir.Graph]]:
    """Every graph with the scope that its names belong to."""
    bodies = {function.graph: "::".join(function.identifier()) for function in model.functions.values()}
    scope = ""
    for graph in graphs(model):  # each root is followed by its subgraphs
        scope = bodies.get(graph, scope)
        yield scope, graph


def node_key(scope: str, node: ir.Node) -> Key:
    """The key of a node."""
    output = next((value.name for value in node.outputs if value.name), node.name)
    return (scope, "node", output or "")


class Side:
    """One of the two models, indexed."""

    def __init__(self, model: ir.Model) -> None:
        self.model = model
        self.scope: dict[ir.Node, str] = {}
        self.named: dict[Name, ir.Node | None] = {}
        self.producer: dict[Name, ir.Node] = {}
        self.weights: dict[Name, ir.Value] = {}
        self.fixed: set[Name] = set()  # inputs of graphs and functions: nothing makes them
        self.order: dict[ir.Node, int] = {}
        for scope, graph in scopes(model):
            self.fixed.update((scope, value.name or "") for value in graph.inputs)
            for value in graph.initializers.values():
                self.weights[scope, value.name or ""] = value
            for node in graph:
                self.scope[node] = scope
                self.order[node] = len(self.order)
                if node.name:
                    self.named[scope, node.name] = None if (scope, node.name) in self.named else node
                for value in node.outputs:
                    if value.name:
                        self.producer.setdefault((scope, value.name), node)

    def has(self, name: Name) -> bool:
        """True when a value of this name is there."""
        return name in self.producer or name in self.weights or name in self.fixed

    def read(self, node: ir.Node) -> list[Name | None]:
        """What a node reads by its inputs, in order."""
        scope = self.scope[node]
        return [None if value is None else (scope, value.name or "") for value in node.inputs]

    def made(self, node: ir.Node) -> list[Name]:
        """What a node makes."""
        scope = self.scope[node]
        return [(scope, value.name) for value in node.outputs if value.name]


def same_operator(one: ir.Node, two: ir.Node) -> bool:
    """True when both run the same operator or function."""
    return (one.op_type, standard_domain(one.domain), one.overload) == (
        two.op_type,
        standard_domain(two.domain),
        two.overload,
    )


def same_attributes(one: ir.Node, two: ir.Node) -> bool:
    """True when both have the same; tensors are compared by identity, subgraphs node by node on their own."""
    if one.attributes.keys() != two.attributes.keys():
        return False
    return all(_same_attribute(mine, two.attributes[key]) for key, mine in one.attributes.items())


def _same_attribute(one: ir.Attr, two: ir.Attr) -> bool:
    if one is two:
        return True
    if one.type != two.type or one.is_ref() != two.is_ref():
        return False
    if one.is_ref():
        return bool(one.ref_attr_name == two.ref_attr_name)
    if one.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
        return True
    if one.type == ir.AttributeType.TENSOR:
        return one.value is two.value
    if one.type == ir.AttributeType.TENSORS:
        mine, theirs = list(one.as_tensors()), list(two.as_tensors())
        return len(mine) == len(theirs) and all(a is b for a, b in zip(mine, theirs, strict=True))
    return bool(one.value == two.value)
