"""Element types in the bodies of local functions, which hold for every call."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from baker.model.graph import all_nodes, subgraphs
from baker.model.shapes import infer_shapes


def infer_functions(model: ir.Model) -> None:
    """Gives values in function bodies the type that they have wherever the function is called.

    Where calls differ, or a type is not known, the values stay without one. Shapes may differ from call to call.
    """
    waiting = dict(model.functions)
    while waiting:
        calls = _calls(model)
        ready = {key: calls[key] for key in waiting if key in calls and _types(calls[key]) is not None}
        if not ready:
            return
        for key, nodes in ready.items():
            _infer(model, waiting.pop(key), nodes)


def _calls(model: ir.Model) -> Mapping[ir.OperatorIdentifier, list[ir.Node]]:
    found: dict[ir.OperatorIdentifier, list[ir.Node]] = {}
    for node in all_nodes(model):
        if node.op_identifier() in model.functions:
            found.setdefault(node.op_identifier(), []).append(node)
    return found


def _types(calls: list[ir.Node]) -> list[ir.TypeProtocol] | None:
    """The types of the inputs, None where they are unknown or differ."""
    for node in calls:
        if any(value is None or value.type is None for value in node.inputs):
            return None
    lists = [[value.type for value in node.inputs if value is not None and value.type is not None] for node in calls]
    return lists[0] if all(types == lists[0] for types in lists) else None


def _infer(model: ir.Model, function: ir.Function, calls: list[ir.Node]) -> None:
    types = _types(calls) or []
    body = function.graph.clone()
    _bind(body, calls[0], function)
    for value, type_ in zip(body.inputs, types, strict=False):
        value.type, value.shape = type_, calls[0].inputs[body.inputs.index(value)].shape  # type: ignore[union-attr]
    body.opset_imports.update(function.opset_imports)
    others = [other for other in model.functions.values() if other is not function]
    probe = ir.Model(body, ir_version=model.ir_version, functions=others)
    infer_shapes(probe)
    _copy(body, function.graph)


def _bind(graph: ir.Graph, call: ir.Node, function: ir.Function) -> None:
    """Parameters take the value of a call, so that inference is not in their way."""
    for node in graph:
        for name, found in list(node.attributes.items()):
            if found.is_ref():
                value = call.attributes.get(found.ref_attr_name or "") or function.attributes.get(
                    found.ref_attr_name or ""
                )
                node.attributes.pop(name)
                if value is not None and not value.is_ref():
                    node.attributes[name] = ir.Attr(name, value.type, value.value)
        for inner in subgraphs(node):
            _bind(inner, call, function)


def _copy(source: ir.Graph, target: ir.Graph) -> None:
    for known, value in zip(source.inputs, target.inputs, strict=True):
        value.type = value.type or known.type
    for found, node in zip(source, target, strict=True):
        for known, value in zip(found.outputs, node.outputs, strict=True):
            value.type = value.type or known.type
        for left, right in zip(subgraphs(found), subgraphs(node), strict=True):
            _copy(left, right)
