"""What a function's body computes of constants and fixed dims, for the older operators want it as an attribute."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import onnx_ir as ir

from baker.model.graph import Array, attribute, constant_value, is_constant, is_op, remove_node, shape_of
from baker.passes.convert._tools import Step, int64, rank
from baker.passes.fold.evaluate import EvaluationError, Known, evaluate, may_evaluate

_MOST = 1024
"""Elements of a result, or of an input, up to which it is computed here; the rest is left to ``fold``."""


def fold_constants(nodes: Sequence[ir.Node], results: Collection[ir.Value], step: Step) -> list[ir.Node]:
    """Makes constants of what is known, apart from the results; returns the nodes that are left."""
    left: list[ir.Node] = []
    for node in nodes:
        arrays = None if set(node.outputs) & set(results) else _computed(node, step.version)
        if arrays is None:
            left.append(node)
            continue
        for value, array in zip(node.outputs, arrays, strict=True):
            value.replace_all_uses_with(step.constant(node, "value", array))
        remove_node(node)
    return _without_unread(left, results)


def _computed(node: ir.Node, version: int) -> list[Array] | None:
    dims = _dims(node)
    if dims is not None:
        return [dims]
    if not may_evaluate(node) or not all(value is None or _is_small(value) for value in node.inputs):
        return None
    given = [None if array is None else Known.of(array) for array in map(constant_value, node.inputs)]
    try:
        known = evaluate(node, given, version)
        if any(one.nbytes > _MOST * 8 for one in known):
            return None
        return [one.array for one in known]
    except EvaluationError:
        return None


def _is_small(value: ir.Value) -> bool:
    tensor = value.const_value
    return is_constant(value) and tensor is not None and tensor.size <= _MOST


def _dims(node: ir.Node) -> Array | None:
    """The dims that a Shape gives, where they are fixed; the rank that the Size of a Shape is."""
    if is_op(node, "Size"):
        source = None if node.inputs[0] is None else node.inputs[0].producer()
        size = rank(source.inputs[0]) if is_op(source, "Shape") and not source.attributes else None
        return None if size is None else np.array(size, np.int64)
    shape = shape_of(node.inputs[0]) if is_op(node, "Shape") else None
    if shape is None:
        return None
    wanted = shape[slice(attribute(node, "start", None), attribute(node, "end", None))]
    known = [dim for dim in wanted if dim is not None]
    return int64(*known) if len(known) == len(wanted) else None


def _without_unread(nodes: Sequence[ir.Node], results: Collection[ir.Value]) -> list[ir.Node]:
    kept: list[ir.Node] = []
    for node in reversed(nodes):
        if any(value.uses() or value in results for value in node.outputs):
            kept.append(node)
        else:
            remove_node(node)
    return kept[::-1]
