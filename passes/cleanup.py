"""Remove what nothing needs: dead nodes, initializers, functions, opset imports."""

from __future__ import annotations

from typing import Literal

import onnx_ir as ir

from baker.model.graph import (
    all_nodes,
    annotation_parameters,
    computes_only,
    graphs,
    label,
    remove_dead_node,
    standard_domain,
    usages,
)
from baker.pipeline.pass_base import Change, Pass, PassContext, PassResult
from baker.proof.numerics import Fidelity


class Cleanup(Pass):
    """Remove nodes and initializers that nobody reads, functions that nobody calls, opset imports that nobody uses.

    Shapes: any. Graph inputs and outputs, metadata and doc strings stay as they are, also an input that nobody reads,
    and so does an initializer that is a graph input: it is part of the signature. The doc strings and the metadata of
    nodes, where exporters put stack traces, go on demand alone: ``cleanup{doc_strings=drop,node_metadata=drop}``.

    Formula: none; what is removed is not connected with any output.

    Error: 0.

    Declines: nodes of a domain that baker does not know, whose operators may do more than compute their outputs.

    Source: ONNX IR specification.
    """

    name = "cleanup"
    fidelity = Fidelity.EXACT
    settles = True

    doc_strings: Literal["keep", "drop"] = "keep"  # what becomes of the doc strings of nodes; all others stay
    node_metadata: Literal["keep", "drop"] = "keep"  # what becomes of the metadata of nodes and of what they compute

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        """Removes everything that is dead."""
        changes = [*remove_dead(model, context), *_functions(model, context), *_opset_imports(model, context)]
        if self.doc_strings == "drop":
            changes += _doc_strings(model, context)
        if self.node_metadata == "drop":
            changes += _node_metadata(model, context)
        return PassResult(model, changes)


def _doc_strings(model: ir.Model, context: PassContext) -> list[Change]:
    told = [node for node in all_nodes(model) if node.doc_string]
    if not told or not context.admits("doc-strings", label(told[0])):
        return []
    size = sum(len((node.doc_string or "").encode()) for node in told)
    for node in told:
        node.doc_string = None
    change = Change("doc-strings", label(told[0]), f"doc strings of {len(told)} nodes removed: {size:,} bytes")
    context.did(model, change)
    return [change]


def _node_metadata(model: ir.Model, context: PassContext) -> list[Change]:
    outputs = {value for graph in graphs(model) for value in graph.outputs}  # these are part of the interface
    told = [
        (node, props)
        for node in all_nodes(model)
        for props in (node.metadata_props, *(v.metadata_props for v in node.outputs if v not in outputs))
        if props
    ]
    if not told or not context.admits("node-metadata", label(told[0][0])):
        return []
    size = sum(len(f"{key}{text}".encode()) for _, props in told for key, text in props.items())
    for _, props in told:
        props.clear()
    count = len({node for node, _ in told})
    change = Change("node-metadata", label(told[0][0]), f"metadata of {count} nodes removed: {size:,} bytes")
    context.did(model, change)
    return [change]


def remove_dead(model: ir.Model, context: PassContext) -> list[Change]:
    """Removes nodes whose outputs nobody reads, with what only they needed, and initializers that nobody reads."""
    changes: list[Change] = []
    pure = _pure_functions(model)
    for graph in reversed(list(graphs(model))):  # inner graphs first: what they read may be dead then
        for node in reversed(list(graph)):
            if not (node.graph is graph and _is_dead(node) and computes_only(node, pure)):
                continue
            name, op_type = label(node), node.op_type
            if context.admits("dead-code", name):
                remove_dead_node(node)
                changes.append(Change("dead-code", name, f"{op_type} removed: nobody reads it"))
                context.did(model, changes[-1])
    for graph in graphs(model):
        annotated = annotation_parameters(graph)
        for value in list(graph.initializers.values()):
            name = value.name or ""
            if usages(value) or value.is_graph_output() or value.is_graph_input() or name in annotated:
                continue
            if context.admits("dead-code", name):
                del graph.initializers[name]
                changes.append(Change("dead-code", name, "initializer removed: nobody reads it"))
                context.did(model, changes[-1])
    return changes


def _is_dead(node: ir.Node) -> bool:
    return bool(node.outputs) and not any(usages(value) or value.is_graph_output() for value in node.outputs)


def _pure_functions(model: ir.Model) -> set[ir.OperatorIdentifier]:
    """Local functions that call nothing but known operators and each other."""
    pure = set(model.functions)
    while True:
        bad = {key for key in pure if not all(computes_only(node, pure) for node in model.functions[key])}
        if not bad:
            return pure
        pure -= bad


def _functions(model: ir.Model, context: PassContext) -> list[Change]:
    called: set[ir.OperatorIdentifier] = set()
    pending = [*model.graph.all_nodes()]
    while pending:
        key = pending.pop().op_identifier()
        if key in model.functions and key not in called:
            called.add(key)
            pending += model.functions[key].all_nodes()
    changes: list[Change] = []
    for key in [key for key in model.functions if key not in called]:
        shown = f"{key[0]}::{key[1]}"
        if context.admits("unused-function", shown):
            del model.functions[key]
            changes.append(Change("unused-function", shown, "function removed: nobody calls it"))
            context.did(model, changes[-1])
    return changes


def _opset_imports(model: ir.Model, context: PassContext) -> list[Change]:
    """Removes imports of other domains; the standard one always stays."""
    changes: list[Change] = []
    kept = {"", *(standard_domain(function.domain) for function in model.functions.values())}
    owners: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    for owner in owners:
        used = {standard_domain(node.domain) for node in owner.all_nodes()}
        if owner is model.graph:
            used |= kept
        for domain in [domain for domain in owner.opset_imports if standard_domain(domain) not in used | {""}]:
            if not context.admits("unused-opset-import", domain):
                continue
            del owner.opset_imports[domain]
            changes.append(Change("unused-opset-import", domain, "opset import removed: no node is of this domain"))
    return changes
