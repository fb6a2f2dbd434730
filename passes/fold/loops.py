"""A Loop that is known to run once, or not at all: its body, or its initial values, take its place.

    Loop(0, cond, a) or Loop(m, false, a)    ->  a
    Loop(1, true, a)                         ->  body(0, true, a)
    Loop(m, true, a), body says stop         ->  body(0, true, a)         where m is not 0

A scanned output is the body's value with one dim more; a Loop that does not run has none, and is left alone where it is
read. Nothing is unrolled: more rounds than one are more nodes.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir as ir

from baker.model.graph import (
    constant_before,
    emit,
    has_reference_attribute,
    in_function,
    is_op,
    label,
    remove_dead_node,
    remove_if_dead,
)
from baker.passes.fold.analysis import Analysis, scopes
from baker.passes.fold.branches import count_names, hand_over, move_into
from baker.passes.fold.evaluate import EvaluationError
from baker.pipeline.pass_base import Change, Declined, PassContext

_ENDLESS = 2**63 - 1  # rounds, where none are given


def inline_loops(model: ir.Model, analysis: Analysis, context: PassContext) -> tuple[list[Change], list[Declined]]:
    """Replaces every Loop that is known to run at most once."""
    changes: list[Change] = []
    declined: list[Declined] = []
    names: Counter[str] | None = None
    for graph, opset in list(scopes(model)):
        for node in list(graph):
            if node.graph is not graph or not is_op(node, "Loop") or has_reference_attribute(node):
                continue
            rounds = _rounds(node, analysis)
            if rounds is None:
                continue
            reason = _refusal(node, rounds, opset)
            if reason is not None:
                declined.append(Declined(label(node), reason, "loop"))
                continue
            name = label(node)
            if not context.admits("loop", name):
                continue
            names = names or count_names(model)
            _inline(node, rounds, names, opset)
            what = "replaced by its body: it runs once" if rounds else "replaced by its initial values: it never runs"
            changes.append(Change("loop", name, what))
            context.did(model, changes[-1])
    return changes, declined


def _rounds(node: ir.Node, analysis: Analysis) -> int | None:
    """How often a Loop runs, 0 or 1; None where that is not known, or more."""
    try:
        limit = _number(node.inputs[0], analysis, _ENDLESS)
        start = _number(node.inputs[1], analysis, 1)
        again = _number(node.attributes["body"].as_graph().outputs[0], analysis, None)
    except EvaluationError:  # reported where the number itself was to be folded
        return None
    if start == 0 or (limit is not None and limit <= 0):
        return 0
    if start is None or limit is None:
        return None
    return 1 if limit == 1 or again == 0 else None


def _number(value: ir.Value | None, analysis: Analysis, absent: int | None) -> int | None:
    if value is None:
        return absent
    known = analysis.tensor(value)
    if known is None or known.nbytes > 8 or known.nbytes != known.dtype.itemsize:
        return None
    return int(known.array.reshape(-1)[0])


def _refusal(node: ir.Node, rounds: int, opset: int) -> str | None:
    body, states = node.attributes["body"].as_graph(), len(node.inputs) - 2
    if in_function(node) and body.initializers:
        return "a function body can't hold the body's initializers"
    scanned = [value for value in node.outputs[states:] if value.uses() or value.is_graph_output()]
    if scanned and not rounds:
        return f"it never runs, but '{scanned[0].name}' is read: a tensor of 0 rows of unknown dims"
    if scanned and opset < 13:
        return "a scanned output needs Unsqueeze of opset 13"
    return None


def _inline(node: ir.Node, rounds: int, names: Counter[str], opset: int) -> None:
    initial = list(node.inputs[2:])
    outputs = list(node.outputs)
    if not rounds:
        for output, value in zip(outputs, initial, strict=False):
            if value is not None:
                hand_over(node, output, value)
        remove_dead_node(node)
        return
    body = node.attributes["body"].as_graph()
    iteration = np.zeros((1,) if body.inputs[0].shape is not None and body.inputs[0].shape.rank() else (), np.int64)
    arguments = [constant_before(node, "iteration", iteration), constant_before(node, "condition", np.array(True))]
    given = dict(zip(body.inputs, [*arguments, *initial], strict=True))
    results = [given.get(value) or value for value in body.outputs]
    body.outputs.clear()
    for inner, outer in given.items():
        if outer is not None:
            inner.replace_all_uses_with(outer)
    move_into(node, body, names)
    for index, (output, result) in enumerate(zip(outputs, results[1:], strict=True)):
        if index >= len(initial) and (output.uses() or output.is_graph_output()):
            axes = constant_before(node, "axes", np.zeros(1, np.int64))
            result = emit(node, "Unsqueeze", [result, axes], name=output.name).outputs[0]
            result.type, result.shape = output.type, output.shape
        if output.uses() or output.is_graph_output():
            hand_over(node, output, result)
    remove_dead_node(node)
    remove_if_dead(results[0], *arguments)
