"""Vectors of sizes that hold the same: computed once.

Exporters ask for the same dim again and again, of whichever tensor is at hand::

    Gather(Shape(x), 0) = Gather(Shape(y), 0)        where y is computed from x and keeps that dim
"""

from __future__ import annotations

import onnx_ir as ir

from baker.model.contents import integers
from baker.model.graph import can_replace, label, remove_if_dead, replace_value
from baker.passes.fold.analysis import Analysis, scopes
from baker.pipeline.pass_base import Change, PassContext


def share_contents(model: ir.Model, analysis: Analysis, context: PassContext) -> list[Change]:
    """Lets readers of a computed shape read the first one of the same graph that holds the same, element by element."""
    changes: list[Change] = []
    for graph, _ in list(scopes(model)):
        first: dict[object, ir.Value] = {}
        for node in list(graph):
            key = None if node.graph is not graph else _key(node, analysis)
            if key is None:
                continue
            value = node.outputs[0]
            earlier = first.get(key)
            if earlier is None or earlier.graph is not graph:
                first[key] = value
            elif can_replace(value, earlier) and context.admits("same-contents", label(node)):
                what = f"{node.op_type} removed: '{earlier.name}' holds the same, {list(analysis.elements[value].flat)}"
                changes.append(Change("same-contents", label(node), what))
                replace_value(value, earlier)
                remove_if_dead(value)
                context.did(model, changes[-1])
    return changes


def _key(node: ir.Node, analysis: Analysis) -> object:
    """What a node's first output holds, None where that is not known or a constant anyway."""
    value = node.outputs[0] if node.outputs else None
    elements = None if value is None else analysis.elements.get(value)
    if value is None or elements is None or value.dtype is None or integers(elements) is not None:
        return None
    items = elements.reshape(-1).tolist()
    return None if any(item is None for item in items) else (value.dtype, elements.ndim, *items)
