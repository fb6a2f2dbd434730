"""Branches that can only end in an error, found by the ranks that values may have.

A PyTorch export asks at run time whether a tensor has 2 or 3 dims, and one of the branches then feeds an LSTM something
that it refuses. What is computed when the model runs without an error is what the other branch computes.

    possible ranks     forward: an If may have the ranks of either branch
    required ranks     backward, from readers that surely run when the value is computed: LSTM, GRU, RNN, Conv
"""

from __future__ import annotations

import onnx_ir as ir

from baker.model.graph import attribute, constant_value, has_reference_attribute, is_constant, is_op, shape_of

_SAME = frozenset(
    {"Identity", "Relu", "Sigmoid", "Tanh", "Cast", "Neg", "Abs", "Sqrt", "Exp", "Log", "Clip", "Softmax", "LeakyRelu"}
)
_RECURRENT = ("LSTM", "GRU", "RNN")  # X, initial_h and initial_c are 3-D
_DEEPEST = 64  # nodes that are followed in one direction

Ranks = frozenset[int] | None
"""Ranks that a value may have; None: any."""


def impossible_branch(node: ir.Node) -> str | None:
    """The branch of an If (``then_branch`` or ``else_branch``) that no run without an error takes, or None."""
    branches = {name: node.attributes.get(name) for name in ("then_branch", "else_branch")}
    for index, output in enumerate(node.outputs):
        required = _required(output, _DEEPEST)
        if required is None:
            continue
        bad = [
            name
            for name, found in branches.items()
            if found is not None and not found.is_ref() and _excludes(required, found.as_graph().outputs[index])
        ]
        if len(bad) == 1:
            return bad[0]
    return None


def _excludes(required: frozenset[int], value: ir.Value) -> bool:
    possible = _possible(value, _DEEPEST)
    return possible is not None and not possible & required


def _possible(value: ir.Value | None, depth: int) -> Ranks:
    """The ranks that a value can have, from what computes it."""
    node = None if value is None else value.producer()
    dims = None if value is None or value.is_graph_output() else shape_of(value)
    if dims is not None:
        return frozenset({len(dims)})
    if node is None or value is None or depth == 0 or has_reference_attribute(node):
        return None
    if is_op(node, *_SAME):
        return _possible(node.inputs[0], depth - 1)
    if is_op(node, "Squeeze", "Unsqueeze"):
        return _shifted(_possible(node.inputs[0], depth - 1), _added(node))
    if is_op(node, "If"):
        branches = [node.attributes[name].as_graph() for name in ("then_branch", "else_branch")]
        found = [_possible(branch.outputs[value.index() or 0], depth - 1) for branch in branches]
        return None if found[0] is None or found[1] is None else found[0] | found[1]
    return None


def _required(value: ir.Value, depth: int) -> Ranks:
    """The ranks that readers in the value's own graph insist on; those run whenever the value is computed."""
    required: Ranks = None
    for reader, index in value.uses():
        if depth == 0 or reader.graph is not value.graph or has_reference_attribute(reader):
            continue
        wanted = _wanted(reader, index, depth)
        if wanted is not None:
            required = wanted if required is None else required & wanted
    return required


def _wanted(reader: ir.Node, index: int, depth: int) -> Ranks:
    if is_op(reader, *_RECURRENT) and index in (0, 5, 6):
        return frozenset({3})
    if is_op(reader, "Conv", "ConvTranspose") and index == 0:
        dims = shape_of(reader.inputs[1])
        return None if dims is None or not is_constant(reader.inputs[1]) else frozenset({len(dims)})
    if is_op(reader, *_SAME) and index == 0:
        return _required(reader.outputs[0], depth - 1)
    if is_op(reader, "Squeeze", "Unsqueeze") and index == 0:
        return _shifted(_required(reader.outputs[0], depth - 1), None if (n := _added(reader)) is None else -n)
    return None


def _shifted(ranks: Ranks, by: int | None) -> Ranks:
    return None if ranks is None or by is None else frozenset(rank + by for rank in ranks)


def _added(node: ir.Node) -> int | None:
    """How many dims an Unsqueeze adds (a Squeeze takes away), None where the axes are not constant."""
    axes = attribute(node, "axes", None)
    if axes is None and len(node.inputs) > 1:
        axes = constant_value(node.inputs[1]) if is_constant(node.inputs[1]) else None
    if axes is None:
        return None
    return len(axes) if is_op(node, "Unsqueeze") else -len(axes)
