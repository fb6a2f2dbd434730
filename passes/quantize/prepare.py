"""What the layers need before they are looked at: weights that are constants, and operators by their usual names."""

from __future__ import annotations

import onnx_ir as ir

from baker.errors import ModelError
from baker.model.graph import is_constant, is_op, label, remove_if_dead, set_initializer
from baker.model.operators import repeats
from baker.passes.fold import evaluate_constants
from baker.passes.quantize.layers import is_weight
from baker.passes.quantize.placement import placement_of
from baker.pipeline.pass_base import Change
from baker.runtime.session import run, session

_MOST_NODES = 64


def prepare(model: ir.Model) -> list[Change]:
    """Evaluates what is constant, and every weight behind arithmetic on constants; makes a Sum of two an Add.

    Folding stops where the file would grow: at ``Cast(int8) * scale``, say, a float weight in a quarter of its bytes.
    int8 needs that weight's values and takes no more room, so here it is evaluated nevertheless, for the layers of
    the main graph alone.
    """
    changes = evaluate_constants(model, growth_limit=0)
    for node in list(model.graph):
        if is_op(node, "Sum") and len(node.inputs) == 2:
            node.op_type = "Add"  # the same function; only Add has an integer kernel
            changes.append(Change("sum-add", label(node), "Sum of two -> Add"))
        if placement_of(node, "layer") is None:
            continue
        for index in (0, 1):
            value = node.inputs[index]
            if value is not None and not is_weight(value) and _is_computed_ahead(value):
                changes += _settle(model, node, index, value)
    return changes


def _is_computed_ahead(value: ir.Value) -> bool:
    """True when only constants and operators that always give the same result lead to the value."""
    pending, seen = [value], set[ir.Node]()
    while pending:
        current = pending.pop()
        if is_constant(current):
            continue
        node = current.producer()
        if node is None or not repeats(node) or is_op(node, "QuantizeLinear", "DequantizeLinear"):
            return False
        if len(seen) > _MOST_NODES:
            return False
        if node not in seen:
            seen.add(node)
            pending += [read for read in node.inputs if read is not None]
    return bool(seen)


def _settle(model: ir.Model, node: ir.Node, index: int, value: ir.Value) -> list[Change]:
    graph = ir.convenience.extract(model.graph, [], [value])
    try:
        (array,) = run(
            session(ir.Model(graph, ir_version=model.ir_version or 8), optimize=False, threads=1), {}
        ).values()
    except ModelError:  # not for ONNX Runtime to compute: the layer's weight stays what it is, and is declined as that
        return []
    producer = value.producer()
    name = label(node) if producer is None else label(producer)
    stored = set_initializer(model.graph, value.name or "weight", array)
    node.replace_input_with(index, stored)
    remove_if_dead(value)
    dims = "x".join(map(str, array.shape))
    return [Change("evaluate", name, f"weight of {label(node)} became a constant: {dims} {array.dtype}")]
