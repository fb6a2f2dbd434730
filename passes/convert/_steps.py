"""Brings every node from one operator set to another, one version at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import onnx_ir as ir

from baker.errors import ModelError
from baker.model.graph import UnknownAttribute, remove_if_dead, subgraphs
from baker.model.shapes import infer_shapes
from baker.passes.convert._check import absence, changed_at, fault, is_standard, schema_of, type_fault, where
from baker.passes.convert._comparisons import clip_computed, compare
from baker.passes.convert._inline import inline
from baker.passes.convert._rules import DOWN, UP
from baker.passes.convert._tools import Refused, Step, trim_inputs
from baker.passes.convert._widen import widen

_UP_VERSIONS = frozenset(version for _, version in UP)


def raise_graph(root: ir.Graph, old: int, new: int, done: Counter[str]) -> None:
    """Rewrites the nodes of a graph and its subgraphs from an older operator set to a newer one.

    Args:
        done: counts the rewritten nodes by operator.

    Raises:
        ModelError: a node has no equivalent; names it.
    """
    step = Step(old, new)
    for version in range(old + 1, new + 1):
        if version not in _UP_VERSIONS:
            continue
        step = step.next(version)
        for graph in list(nested(root)):
            for node in list(graph):
                rule = UP.get((node.op_type, version)) if is_standard(node) else None
                if rule is None:
                    continue
                op_type, before = node.op_type, _look(node)
                try:
                    rule(node, step)
                except (Refused, UnknownAttribute) as error:
                    raise ModelError(_sentence(node, version - 1, version, str(error))) from error
                done[op_type] += _look(node) != before
        remove_if_dead(*step.dropped)


def lower_graph(model: ir.Model, root: ir.Graph, old: int, new: int, done: Counter[str]) -> None:
    """Rewrites the nodes of a graph and its subgraphs from a newer operator set to an older one.

    Args:
        model: the whole model, for shape inference after functions were inlined.
        done: counts the rewritten nodes by operator.

    Raises:
        ModelError: a node has no equivalent; names it.
    """
    step = Step(old, new, up=False)
    for version in range(old, new, -1):
        step = step.next(version)
        for graph in list(nested(root)):
            for node in list(graph):
                _lower(node, step, done)
        remove_if_dead(*step.dropped)
        if step.inlined:
            infer_shapes(model)


def _lower(node: ir.Node, step: Step, done: Counter[str]) -> None:
    if not is_standard(node) or not changed_at(node.op_type, step.version) or node.graph is None:
        return
    op_type, before = node.op_type, _look(node)
    try:
        lower_node(node, step)
        done[op_type] += _look(node) != before
    except (Refused, UnknownAttribute) as error:
        said = _sentence(node, step.version, step.version - 1, str(error))
        made = inline(node, step)
        if made is None:
            raise ModelError(said) from error
        done[op_type] += 1
        step.inlined = True
        for inner in made:
            for one in (inner, *(deep for graph in subgraphs(inner) for body in nested(graph) for deep in body)):
                _lower(one, step, done)


def lower_node(node: ir.Node, step: Step) -> None:
    """Rewrites one node, whose schema changed with ``step.version``, for the version before.

    Without a rule the node stays, less the attributes that say what the older version did anyway. A type that it lacks
    is computed in a wider one where that is the same.

    Raises:
        Refused: there is no such operator, attribute value or type.
    """
    older = step.version - 1
    rule = DOWN.get((node.op_type, step.version))
    if clip_computed(node, step):
        return
    wrong = type_fault(node, older)
    if wrong is not None and compare(node, step):
        return
    if wrong is not None and not widen(node, step):
        raise Refused(wrong)
    trim_inputs(node)
    if rule is not None:
        rule(node, step)
    elif schema_of(node.op_type, older) is None:
        raise Refused(absence(node.op_type, older) or "it does not exist there")
    _drop_defaults(node, step)
    left = fault(node, older) if node.graph is not None else None
    if left is not None:
        raise Refused(left)


def _drop_defaults(node: ir.Node, step: Step) -> None:
    old, new = schema_of(node.op_type, step.version - 1), schema_of(node.op_type, step.version)
    if node.graph is None or old is None or new is None:
        return
    extra = [name for name in node.attributes if name in new.attributes and name not in old.attributes]
    for name in extra:
        found, default = node.attributes[name], new.attributes[name].default_value
        if found.is_ref():
            raise UnknownAttribute(f"attribute '{name}' is a parameter of the enclosing function")
        neutral = ir.serde.deserialize_attribute(default).value if default.name else None
        if neutral is None or neutral != found.value:
            raise Refused(f"{name}={found.value} came with opset {step.version}")
        node.attributes.pop(name)


def _look(node: ir.Node) -> tuple[object, ...]:
    """What a rule changes of a node."""
    return node.op_type, tuple(node.attributes.items()), tuple(map(id, node.inputs)), len(node.outputs)


def check(root: ir.Graph, version: int) -> None:
    """Compares every node of a graph and its subgraphs with its schema.

    Raises:
        ModelError: a node is none of this operator set; names it.
    """
    for graph in nested(root):
        for node in graph:
            wrong = fault(node, version) if is_standard(node) else None
            if wrong is not None:
                raise ModelError(f"{where(node)} can't go to opset {version}: {wrong}")


def nested(graph: ir.Graph) -> Iterator[ir.Graph]:
    """Yields a graph, then the graphs in its nodes."""
    yield graph
    for node in graph:
        for inner in subgraphs(node):
            yield from nested(inner)


def _sentence(node: ir.Node, old: int, new: int, reason: str) -> str:
    return f"{where(node)} can't go from opset {old} to {new}: {reason}"
