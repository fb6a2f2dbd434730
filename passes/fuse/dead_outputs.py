"""Outputs that nobody reads, of nodes that are needed for others."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
import onnx_ir as ir

from baker.model.graph import (
    graphs,
    has_reference_attribute,
    is_op,
    label,
    remove_if_dead,
    replace_value,
    standard_domain,
    subgraphs,
)
from baker.passes.fuse._rule import GraphRule
from baker.pipeline.pass_base import Change, PassContext

_OPTIONAL = {  # operator: the outputs that may be left out
    "Dropout": {1},
    "MaxPool": {1},
    "LSTM": {0, 1, 2},
    "GRU": {0, 1},
    "RNN": {0, 1},
    "LayerNormalization": {1, 2},
    "Unique": {1, 2, 3},
}
_KNOWN = frozenset({"", "ai.onnx.ml", "com.microsoft"})  # domains whose operators only compute their outputs


class DeadOutputs(GraphRule):
    """Remove outputs that nobody reads: of an If, of a Loop or Scan with what is carried for them alone, optional ones.

    Shapes: any.

        a, b = If(c), b read by nobody         ->  a = If(c)
        a, b = Loop(n, c, a0, b0), the same    ->  a = Loop(n, c, a0), where neither a nor the condition needs b
        y, h = LSTM(x, w, r), y the same       ->  "", h = LSTM(x, w, r)
        f(x, "")                               ->  f(x)

    Error: 0.
    Declines: a carried value that the body needs for another; bodies with operators of domains that baker does not
        know; optional outputs of operators other than Dropout, MaxPool, LSTM, GRU, RNN, LayerNormalization and Unique.
    Source: ONNX IR specification, optional inputs and outputs; ONNX If, Loop, Scan.
    """

    name = "dead-outputs"

    def run(self, model: ir.Model, context: PassContext) -> list[Change]:
        """Removes them in every graph."""
        changes: list[Change] = []
        for graph in list(graphs(model)):
            for node in list(graph):
                for change in _visit(node, context):
                    changes.append(change)
                    context.did(model, change)
        return changes


def _visit(node: ir.Node, context: PassContext) -> Iterator[Change]:
    if standard_domain(node.domain):
        return
    dead = _removable(node)
    if dead and context.admits(DeadOutputs.name, label(node)):
        _remove(node, dead)
        yield Change(DeadOutputs.name, label(node), f"{len(dead)} outputs that nobody reads removed")
    omitted = [i for i in _OPTIONAL.get(node.op_type, ()) if i < len(node.outputs) and node.outputs[i].name]
    omitted = [index for index in omitted if not _is_read(node.outputs[index])]
    if omitted and any(map(_is_read, node.outputs)) and context.admits(DeadOutputs.name, label(node)):
        _omit(node, omitted)
        yield Change(DeadOutputs.name, label(node), f"{len(omitted)} optional outputs that nobody reads left out")
    count = _inputs_needed(node)
    if count < len(node.inputs) and context.admits(DeadOutputs.name, label(node)):
        node.resize_inputs(count)
        yield Change(DeadOutputs.name, label(node), "absent inputs at the end left out")


def _inputs_needed(node: ir.Node) -> int:
    """The number of inputs without absent ones at the end, but as many as the operator must have."""
    if not node.inputs or node.inputs[-1] is not None or not onnx.defs.has(node.op_type):
        return len(node.inputs)
    given = max(index for index, value in enumerate([True, *node.inputs]) if value is not None)
    return min(max(given, onnx.defs.get_schema(node.op_type).min_input), len(node.inputs))


def _is_read(value: ir.Value) -> bool:
    return bool(value.uses()) or value.is_graph_output()


def _removable(node: ir.Node) -> list[int]:
    """The outputs of an If, Loop or Scan that can go, not all of them."""
    unread = {index for index, value in enumerate(node.outputs) if not _is_read(value)}
    if not unread or len(unread) == len(node.outputs) or _may_do_more(node) or has_reference_attribute(node):
        return []
    if is_op(node, "If"):
        return sorted(unread)
    if is_op(node, "Loop"):
        return _of_loop(node, unread, first_input=2, first_body=1)
    if is_op(node, "Scan") and "num_scan_inputs" in node.attributes and node.attributes["body"].type == _GRAPH:
        body, count = node.attributes["body"].as_graph(), node.attributes["num_scan_inputs"].as_int()
        if len(node.inputs) == len(body.inputs) and len(node.inputs) > count:  # opset 8 has one input more
            return _of_loop(node, unread, first_input=0, first_body=0)
    return []


_GRAPH = ir.AttributeType.GRAPH


def _states(node: ir.Node) -> int:
    """How many values a Loop or Scan carries."""
    if is_op(node, "Loop"):
        return len(node.inputs) - 2
    return len(node.inputs) - node.attributes["num_scan_inputs"].as_int()


def _of_loop(node: ir.Node, unread: set[int], *, first_input: int, first_body: int) -> list[int]:
    """The outputs that the body does not need: scanned ones, and carried ones that nothing else depends on."""
    body, states = node.attributes["body"].as_graph(), _states(node)
    needed: set[ir.Value] = set()
    pending: list[ir.Value | None] = list(body.outputs[:first_body])
    pending += [value for i, value in enumerate(body.outputs[first_body:]) if i not in unread]
    while pending:
        value = pending.pop()
        if value is None or value in needed:
            continue
        needed.add(value)
        producer = value.producer()
        if producer is not None and producer.graph is body:
            pending += _all_inputs(producer)
        elif value.graph is body and value in body.inputs:
            state = list(body.inputs).index(value) - (2 if first_input else 0)
            if 0 <= state < states:
                pending.append(body.outputs[first_body + state])
    kept = {i for i in range(states) if body.inputs[(2 if first_input else 0) + i] in needed}
    return sorted(index for index in unread if index >= states or index not in kept)


def _may_do_more(node: ir.Node) -> bool:
    return standard_domain(node.domain) not in _KNOWN or any(
        _may_do_more(inner) for graph in subgraphs(node) for inner in graph
    )


def _all_inputs(node: ir.Node) -> list[ir.Value | None]:
    """What a node reads, in its subgraphs as well."""
    inner = [value for graph in subgraphs(node) for each in graph for value in _all_inputs(each)]
    return [*node.inputs, *inner, *(value for graph in subgraphs(node) for value in graph.outputs)]


def _remove(node: ir.Node, dead: list[int]) -> None:
    """Takes outputs from a node, its bodies, and what is carried for them."""
    bodies = list(subgraphs(node))
    first = 1 if is_op(node, "Loop") else 0
    states = 0 if is_op(node, "If") else _states(node)
    for body in bodies:
        for index in reversed(dead):
            body.outputs.pop(first + index)  # del would not tell the value
        for inner in reversed(list(body)):
            if inner.graph is body and not any(map(_is_read, inner.outputs)):
                remove_if_dead(*inner.outputs)
    for index in reversed(dead):
        if index < states:
            bodies[0].inputs.pop(2 * first + index)
            _drop_input(node, 2 * first + index)
        elif is_op(node, "Scan"):
            _drop_scan_attributes(node, index - states)
        _drop_output(node, index)


def _drop_input(node: ir.Node, index: int) -> None:
    for at in range(index, len(node.inputs) - 1):
        node.replace_input_with(at, node.inputs[at + 1])
    node.resize_inputs(len(node.inputs) - 1)


def _drop_scan_attributes(node: ir.Node, scan: int) -> None:
    for name in ("scan_output_axes", "scan_output_directions"):
        if name in node.attributes:
            items = list(node.attributes[name].as_ints())
            node.attributes.add(ir.AttrInt64s(name, items[:scan] + items[scan + 1 :]))


def _drop_output(node: ir.Node, index: int) -> None:
    """Removes one output; those behind it move up, with their names."""
    outputs = node.outputs
    for new, old in zip(outputs[index:], outputs[index + 1 :], strict=False):
        name, is_output = old.name, old.is_graph_output()
        new.type, new.shape = old.type, old.shape
        for kept, taken in ((new.meta, old.meta), (new.metadata_props, old.metadata_props)):
            kept.clear()
            kept.update(taken)
        replace_value(old, new)
        if not is_output:
            old.name = None
            new.name = name
    node.resize_outputs(len(outputs) - 1)


def _omit(node: ir.Node, indices: list[int]) -> None:
    for index in indices:
        node.outputs[index].name = ""
    count = len(node.outputs)
    while count > 1 and not node.outputs[count - 1].name:
        count -= 1
    node.resize_outputs(count)
