"""An operator that is an ONNX function is replaced by its body where the older operator set lacks it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import onnx
import onnx_ir as ir

from baker.model.graph import can_replace, emit, graph_of, in_function, is_op, replace_value, subgraphs, unique_name
from baker.model.marks import INVENTED
from baker.passes.convert._constants import fold_constants
from baker.passes.convert._tools import Step


def inline(node: ir.Node, step: Step) -> list[ir.Node] | None:
    """Replaces a node by the body that its schema gives it in the newer operator set of a step.

    Returns:
        The new nodes in order; they stand at the same operator set. None, with nothing changed, where the schema has
        no body for the node.
    """
    proto = _body(node, step.version)
    if proto is None:
        return None
    places = _produced(proto)
    read = {index for index, value in enumerate(node.outputs) if value.uses() or value.is_graph_output()}
    if not read <= places.keys():
        return None
    function = ir.from_proto(proto)
    assert isinstance(function, ir.Function)
    _bind_attributes(function.graph, node, step.version)
    results = {index: function.outputs[place] for index, place in places.items() if index in read}
    _bind_inputs(function, node)
    made = fold_constants(_move(function, node, step), results.values(), step)
    made += _hand_over(node, results)
    kept = _without_dead(made)
    if kept:
        kept[-1].name, kept[-1].doc_string = node.name, node.doc_string
        kept[-1].meta.update(node.meta)
    return kept


def _produced(proto: onnx.FunctionProto) -> dict[int, int]:
    """The outputs that the body has, as {index: place among those}; the others are taken out.

    onnx leaves an output in the signature although a node without a use for it gets no body for it.
    """
    made = {name for node in proto.node for name in node.output} | set(proto.input)
    kept = [index for index, name in enumerate(proto.output) if name in made]
    names = [proto.output[index] for index in kept]
    del proto.output[:]
    proto.output.extend(names)
    return {index: place for place, index in enumerate(kept)}


def _move(function: ir.Function, node: ir.Node, step: Step) -> list[ir.Node]:
    """Puts the nodes of a body in front of a node; its constants become initializers where those are allowed."""
    graph, hint = graph_of(node), node.outputs[0].name or node.op_type
    made = list(function)
    results = set(function.outputs)
    function.outputs.clear()
    moved: list[ir.Node] = []
    for inner in made:
        function.remove(inner)
        constant = None
        if is_op(inner, "Constant") and not in_function(node) and inner.outputs[0] not in results:
            constant = ir.convenience.get_const_tensor(inner.outputs[0])
        if constant is not None:
            inner.outputs[0].replace_all_uses_with(step.constant(node, inner.outputs[0].name or "", constant.numpy()))
            continue
        graph.insert_before(node, inner)
        inner.metadata_props.update(node.metadata_props)
        moved.append(inner)
    _rename(graph, moved, hint)
    return moved


def _body(node: ir.Node, version: int) -> onnx.FunctionProto | None:
    schema: Any = onnx.defs.get_schema(node.op_type, version, "")  # onnx's stubs lack what follows
    if version in schema.function_opset_versions:
        text = schema.get_function_with_opset_version(version)
    elif version in schema.context_dependent_function_opset_versions:
        types = [_type(value) for value in node.inputs]
        if any(proto is None for proto in types):
            return None
        plain = ir.to_proto(node).SerializeToString()
        text = schema.get_context_dependent_function_with_opset_version(version, plain, types)
    else:
        return None
    if not text:
        return None
    found = onnx.FunctionProto()
    found.ParseFromString(text if isinstance(text, bytes) else text.SerializeToString())
    return found if found.node else None


def _type(value: ir.Value | None) -> bytes | None:
    """A type for the schema's builder; an absent input has an empty one."""
    if value is None:
        return b""
    if value.type is None:
        return None
    proto = ir.serde.serialize_type(value.type)
    if value.shape is not None and isinstance(value.type, ir.TensorType):
        ir.serde.serialize_shape_into(proto, value.shape)
    return bytes(proto.SerializeToString())


def _bind_attributes(graph: ir.Graph, caller: ir.Node, version: int) -> None:
    """Reference attributes take the caller's value, else the schema's default, else they are absent."""
    defaults = onnx.defs.get_schema(caller.op_type, version, "").attributes
    for inner in list(graph):
        for name, found in list(inner.attributes.items()):
            if found.is_ref():
                _bind(inner, name, found, caller, defaults)
        for nested in subgraphs(inner):
            _bind_attributes(nested, caller, version)


def _bind(inner: ir.Node, name: str, found: ir.Attr, caller: ir.Node, defaults: object) -> None:
    wanted = found.ref_attr_name or ""
    inner.attributes.pop(name)
    value = caller.attributes.get(wanted)
    if value is None:
        schema = defaults.get(wanted) if isinstance(defaults, dict) else None
        if schema is None or not schema.default_value.name:
            return
        value = ir.from_proto(schema.default_value)
    if value.is_ref():
        inner.attributes[name] = ir.RefAttr(name, value.ref_attr_name or "", value.type)
    else:
        inner.attributes[name] = ir.Attr(name, value.type, value.value)


def _bind_inputs(function: ir.Function, node: ir.Node) -> None:
    for index, formal in enumerate(function.inputs):
        actual = node.inputs[index] if index < len(node.inputs) else None
        if actual is not None:
            formal.replace_all_uses_with(actual, replace_graph_outputs=True)
            continue
        for reader, place in list(formal.uses()):
            reader.replace_input_with(place, None)


def _rename(graph: ir.Graph, nodes: Iterable[ir.Node], hint: str) -> None:
    for node in nodes:
        node.name = unique_name(graph, f"{hint}_{node.op_type}")
        node.meta[INVENTED] = True
        for value in node.outputs:
            value.name = unique_name(graph, f"{hint}_{value.name or 'out'}")
            value.meta[INVENTED] = True
        for nested in subgraphs(node):
            for value in nested.inputs:
                value.name = unique_name(graph, f"{hint}_{value.name or 'in'}")
            _rename(graph, nested, hint)


def _hand_over(node: ir.Node, results: Mapping[int, ir.Value]) -> list[ir.Node]:
    """The results take the names and types of the node's outputs; returns further nodes that this took."""
    more: list[ir.Node] = []
    taken: set[ir.Value] = set()
    for index, new in results.items():
        old, name = node.outputs[index], node.outputs[index].name
        if new in taken or new.producer() is None or new.graph is not node.graph or not can_replace(old, new):
            made = emit(node, "Identity", [new])
            more.append(made)
            new = made.outputs[0]
        taken.add(new)
        graph_output = old.is_graph_output()
        new.type, new.shape = old.type, old.shape
        new.metadata_props.update(old.metadata_props)
        if not graph_output:
            new.meta.pop(INVENTED, None)
            new.meta.update(old.meta)
        replace_value(old, new)
        if not graph_output:
            old.name = None
            new.name = name
    graph_of(node).remove(node, safe=True)
    return more


def _without_dead(nodes: Sequence[ir.Node]) -> list[ir.Node]:
    """Removes what only further outputs of the function would have read."""
    kept: list[ir.Node] = []
    for node in reversed(nodes):
        if any(value.uses() or value.is_graph_output() for value in node.outputs):
            kept.append(node)
        else:
            graph_of(node).remove(node, safe=True)
    return kept[::-1]
