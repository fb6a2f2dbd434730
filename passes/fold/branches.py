"""An If whose condition is known: its branch takes its place."""

from __future__ import annotations

from collections import Counter

import onnx_ir as ir

from baker.model.graph import (
    can_replace,
    emit,
    graph_of,
    in_function,
    is_op,
    label,
    remove_dead_node,
    replace_value,
    unique_name,
)
from baker.passes.fold.analysis import Analysis, scopes
from baker.passes.fold.evaluate import EvaluationError
from baker.passes.fold.ranks import impossible_branch
from baker.pipeline.pass_base import Change, Declined, PassContext


def inline_branches(model: ir.Model, analysis: Analysis, context: PassContext) -> tuple[list[Change], list[Declined]]:
    """Replaces every If whose condition is known by the nodes and initializers of the branch that is taken."""
    changes: list[Change] = []
    declined: list[Declined] = []
    names: Counter[str] | None = None
    for graph, _ in list(scopes(model)):
        for node in list(graph):
            if node.graph is not graph or not is_op(node, "If"):
                continue
            found = _taken_branch(node, analysis)
            if found is None:
                continue
            taken, why = found
            if in_function(node) and taken.initializers:
                declined.append(Declined(label(node), "a function body can't hold the branch's initializers", "if"))
                continue
            name = label(node)
            if not context.admits("if", name):
                continue
            names = names or count_names(model)
            _inline(node, taken, names)
            changes.append(Change("if", name, f"replaced by a branch: {why}"))
            context.did(model, changes[-1])
    return changes, declined


def _taken_branch(node: ir.Node, analysis: Analysis) -> tuple[ir.Graph, str] | None:
    """The branch that is always taken, and why."""
    condition = analysis.tensor(node.inputs[0])
    if condition is None or condition.nbytes != 1:
        failing = impossible_branch(node)
        other = {"then_branch": "else_branch", "else_branch": "then_branch"}
        return None if failing is None else (node.attributes[other[failing]].as_graph(), "the other can only fail")
    try:
        branch = "then_branch" if bool(condition.array.reshape(-1)[0]) else "else_branch"
    except EvaluationError:  # reported where the condition itself was to be folded
        return None
    attribute = node.attributes.get(branch)
    return None if attribute is None or attribute.is_ref() else (attribute.as_graph(), "its condition is constant")


def _inline(node: ir.Node, branch: ir.Graph, names: Counter[str]) -> None:
    """Moves the branch in front of the If, gives its outputs to the If's readers and removes the If."""
    results = list(branch.outputs)
    branch.outputs.clear()
    move_into(node, branch, names)
    for output, result in zip(node.outputs, results, strict=True):
        hand_over(node, output, result)
    remove_dead_node(node)


def move_into(node: ir.Node, branch: ir.Graph, names: Counter[str]) -> None:
    """Moves the nodes and initializers of a subgraph in front of the node that holds it."""
    outer = graph_of(node)
    for value in list(branch.initializers.values()):
        del branch.initializers[value.name or ""]
        value.name = _outer_name(outer, "value", value.name, names)
        outer.register_initializer(value)
    for inner in list(branch):
        branch.remove(inner)
        inner.name = _outer_name(outer, "node", inner.name, names)
        for value in inner.outputs:
            value.name = _outer_name(outer, "value", value.name, names)
        outer.insert_before(node, inner)


def _outer_name(outer: ir.Graph, kind: str, name: str | None, names: Counter[str]) -> str | None:
    """The name to have in the outer graph: a new one where a sibling branch uses the same."""
    return unique_name(outer, name) if name and names[f"{kind} {name}"] > 1 else name


def count_names(model: ir.Model) -> Counter[str]:
    """How often each name of a value or a node is taken."""
    names: Counter[str] = Counter()
    for graph, _ in scopes(model):
        values = [*graph.inputs, *(v for v in graph.initializers.values() if not v.is_graph_input())]
        values += [value for node in graph for value in node.outputs]
        names.update(f"value {value.name}" for value in values)
        names.update(f"node {node.name}" for node in graph)
    return names


def hand_over(node: ir.Node, output: ir.Value, result: ir.Value) -> None:
    """Lets the readers of an output read another value; through an Identity where a graph output keeps its name."""
    if can_replace(output, result):
        replace_value(output, result)
        return
    identity = emit(node, "Identity", [result], name=output.name)
    identity.outputs[0].type, identity.outputs[0].shape = output.type, output.shape
    replace_value(output, identity.outputs[0])
