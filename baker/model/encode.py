"""The in-memory model as an ONNX message: without invented names, inferred shapes, or a copy of the weights.

onnx_ir's own serializer writes every inferred type and made-up name, and copies every weight. Here a `TensorPolicy`
decides what is written for a tensor, so that one walk serves saving, shape inference and reading a model anew.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, cast

import onnx
import onnx_ir as ir
from onnx_ir import serde

from baker.model.dims import named
from baker.model.graph import subgraphs
from baker.model.marks import DECLARED, INVENTED, QUANTIZATION, Declaration, is_lowered, source_name
from baker.model.operators import BAKER_DOMAIN

_FUNCTION_VALUE_INFO_SINCE = 10  # IR version; before it, exporters put it under made-up names into the main graph


class TensorPolicy(Protocol):
    """Decides what is written for a tensor: all of it, its header, or a placeholder."""

    def initializer(self, tensor: ir.TensorProtocol, name: str, graph: ir.Graph) -> onnx.TensorProto:
        """Returns the message for an initializer of this graph."""

    def attribute(self, tensor: ir.TensorProtocol) -> onnx.TensorProto:
        """Returns the message for a tensor inside a node."""


def model_proto(model: ir.Model, tensors: TensorPolicy, names: Mapping[ir.Value, str] | None = None) -> onnx.ModelProto:
    """Returns the model as a message that shares nothing with it.

    Args:
        tensors: what to write for each tensor.
        names: values to be written under another name; see `saved_names`.
    """
    proto = onnx.ModelProto(ir_version=model.ir_version)
    for field in ("producer_name", "producer_version", "domain", "model_version", "doc_string"):
        if getattr(model, field):
            setattr(proto, field, getattr(model, field))
    _opsets(proto, model.opset_imports)
    _properties(proto, model.metadata_props)
    encoder = _Encoder(tensors, names or {}, is_lowered(model), model.ir_version)
    encoder.graph(proto.graph, model.graph, nested=False)
    for function in model.functions.values():
        encoder.function(proto.functions.add(), function)
        if model.ir_version < _FUNCTION_VALUE_INFO_SINCE:
            encoder.old_function_value_info(proto.graph, function)
    for configuration in model.device_configurations:
        proto.configuration.append(serde.serialize_model_configuration(configuration))
    return proto


def saved_names(model: ir.Model) -> dict[ir.Value, str]:
    """Returns the source's names of values that `lower` renamed, where they are free in every scope they reach."""
    restored: dict[ir.Value, str] = {}
    taken: set[str] = set()

    def visit(graph: ir.Graph) -> None:
        own = {value.name or "" for value in _defined(graph)} - taken
        taken.update(own)
        for value in _defined(graph):
            name = source_name(value)
            if name and name not in taken:
                restored[value] = name
                taken.add(name)
                own.add(name)
        for node in graph:
            for inner in subgraphs(node):
                visit(inner)
        taken.difference_update(own)

    visit(model.graph)
    for function in model.functions.values():
        visit(function.graph)
    return restored


def _defined(graph: ir.Graph) -> list[ir.Value]:
    return [*graph.inputs, *graph.initializers.values(), *(value for node in graph for value in node.outputs)]


@dataclass(frozen=True)
class _Encoder:
    """Writes graphs and functions; ``declared_only`` leaves out every type that the source did not give."""

    tensors: TensorPolicy
    names: Mapping[ir.Value, str]
    declared_only: bool
    ir_version: int

    def name(self, value: ir.Value | None) -> str:
        return "" if value is None else self.names.get(value, value.name or "")

    def graph(self, proto: onnx.GraphProto, graph: ir.Graph, *, nested: bool = True) -> None:
        if graph.name:
            proto.name = graph.name
        if graph.doc_string:
            proto.doc_string = graph.doc_string
        _properties(proto, graph.metadata_props)
        annotated: list[ir.Value] = []
        for value in graph.inputs:
            self._value(proto.input.add(), value, self._interface_type(value, nested=nested))
            annotated.append(value)
        for value in graph.initializers.values():
            if value.const_value is not None:
                proto.initializer.append(self.tensors.initializer(value.const_value, self.name(value), graph))
            if not value.is_graph_input():
                # Its tensor says what type it has; only documentation needs an entry of its own.
                self._value_info(proto, value, None)
                annotated.append(value)
        for node in graph:
            self._node(proto.node.add(), node)
            for value in node.outputs:
                if not value.is_graph_output():
                    self._value_info(proto, value, self._saved_type(value) or _ours(node, value))
                annotated.append(value)
        for value in graph.outputs:
            self._value(proto.output.add(), value, self._interface_type(value, nested=nested))
        for value in annotated:
            self._annotation(proto, value)

    def function(self, proto: onnx.FunctionProto, function: ir.Function) -> None:
        proto.name = function.name
        if function.domain:
            proto.domain = function.domain
        if function.overload:
            proto.overload = function.overload
        if function.doc_string:
            proto.doc_string = function.doc_string
        _opsets(proto, function.opset_imports)
        _properties(proto, function.metadata_props)
        proto.input.extend(self.name(value) for value in function.inputs)
        proto.output.extend(self.name(value) for value in function.outputs)
        for attribute in function.attributes.values():
            if attribute.value is None:
                proto.attribute.append(attribute.name)
            else:
                self._attribute(proto.attribute_proto.add(), attribute)
        for node in function.graph:
            self._node(proto.node.add(), node)
        if self.ir_version >= _FUNCTION_VALUE_INFO_SINCE:
            for value in _function_values(function):
                self._value_info(proto, value, self._saved_type(value))

    def old_function_value_info(self, proto: onnx.GraphProto, function: ir.Function) -> None:
        """Writes the value_info of a function the way the exporter did before functions could have one."""
        for value in _function_values(function):
            name = f"{function.domain}::{function.name}/{self.name(value)}"
            self._value_info(proto, value, self._saved_type(value), name)

    def _node(self, proto: onnx.NodeProto, node: ir.Node) -> None:
        proto.op_type = node.op_type
        if node.domain:
            proto.domain = node.domain
        name = source_name(node)
        if name is None:
            name = node.name
        if name:
            proto.name = name
        if node.overload:
            proto.overload = node.overload
        if node.doc_string:
            proto.doc_string = node.doc_string
        _properties(proto, node.metadata_props)
        proto.input.extend(self.name(value) for value in node.inputs)
        outputs = [self.name(value) for value in node.outputs]
        while outputs and not outputs[-1]:
            outputs.pop()
        proto.output.extend(outputs)
        for attribute in node.attributes.values():
            self._attribute(proto.attribute.add(), attribute)
        for configuration in node.device_configurations:
            proto.device_configurations.append(serde.serialize_node_device_configuration(configuration))

    def _attribute(self, proto: onnx.AttributeProto, attribute: ir.Attr) -> None:
        kind = attribute.type
        if attribute.is_ref():
            serde.serialize_reference_attribute_into(proto, attribute)
            return
        if kind == ir.AttributeType.TENSOR:
            proto.t.CopyFrom(self.tensors.attribute(attribute.as_tensor()))
        elif kind == ir.AttributeType.TENSORS:
            proto.tensors.extend(self.tensors.attribute(tensor) for tensor in attribute.as_tensors())
        elif kind == ir.AttributeType.GRAPH:
            self.graph(proto.g, attribute.as_graph())
        elif kind == ir.AttributeType.GRAPHS:
            for graph in attribute.as_graphs():
                self.graph(proto.graphs.add(), graph)
        else:
            serde.serialize_attribute_into(proto, attribute)
            return
        proto.name = attribute.name
        proto.type = cast("onnx.AttributeProto.AttributeType", kind.value)
        if attribute.doc_string:
            proto.doc_string = attribute.doc_string

    def _saved_type(self, value: ir.Value) -> Declaration | None:
        """Returns the type that the file gives a value: the source's while it fits, else none."""
        declared = value.meta.get(DECLARED)
        if isinstance(declared, Declaration):
            return declared if _fits(declared, value) else None
        if self.declared_only or value.meta.get(INVENTED) or (value.type is None and value.shape is None):
            return None
        return Declaration(value.type, value.shape)

    def _interface_type(self, value: ir.Value, *, nested: bool) -> Declaration:
        """Returns the type of an input or output; a subgraph's may go without one, as in the source."""
        saved = self._saved_type(value)
        if saved is None and value.meta.get(INVENTED) and nested:
            return Declaration(None, None)
        return saved or Declaration(value.type, value.shape)

    def _value_info(
        self,
        proto: onnx.GraphProto | onnx.FunctionProto,
        value: ir.Value,
        declared: Declaration | None,
        name: str | None = None,
    ) -> None:
        if not value.name or (declared is None and not value.metadata_props and not value.doc_string):
            return
        self._value(proto.value_info.add(), value, declared or Declaration(value.type, value.shape), name)

    def _value(
        self, proto: onnx.ValueInfoProto, value: ir.Value, declared: Declaration, name: str | None = None
    ) -> None:
        proto.name = self.name(value) if name is None else name
        if declared.type is not None:
            serde.serialize_type_into(proto.type, declared.type)
            if declared.shape is not None:
                serde.serialize_shape_into(proto.type, declared.shape)
        if value.doc_string:
            proto.doc_string = value.doc_string
        _properties(proto, value.metadata_props)

    def _annotation(self, proto: onnx.GraphProto, value: ir.Value) -> None:
        parameters = value.meta.get(QUANTIZATION)
        if parameters:
            annotation = proto.quantization_annotation.add(tensor_name=self.name(value))
            for key in sorted(parameters):
                annotation.quant_parameter_tensor_names.add(key=key, value=parameters[key])


def _function_values(function: ir.Function) -> list[ir.Value]:
    return [*function.inputs, *(value for node in function.graph for value in node.outputs)]


def _ours(node: ir.Node, value: ir.Value) -> Declaration | None:
    """The type of what an operator of baker's makes, as far as it is known: no other tool can infer it."""
    if node.domain != BAKER_DOMAIN or value.type is None:
        return None
    if value.shape is None:
        return Declaration(value.type, None)
    made_up = re.compile(r"=|unk__\d+\Z|.*\.shape\[")  # an expression, or a name that inference gave
    dims = [
        dim if isinstance(dim, int) or (dim.value and named(dim.value) and not made_up.match(dim.value)) else None
        for dim in value.shape
    ]
    return Declaration(value.type, ir.Shape(dims))


def _fits(declared: Declaration, value: ir.Value) -> bool:
    """False when a pass has since given the value another element type or shape."""
    if declared.type is not None and value.type is not None and declared.type != value.type:
        return False
    if declared.shape is None or value.shape is None:
        return True
    if len(declared.shape) != len(value.shape):
        return False
    pairs = zip(declared.shape, value.shape, strict=True)
    return not any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in pairs)


def _opsets(proto: onnx.ModelProto | onnx.FunctionProto, imports: Mapping[str, int]) -> None:
    for domain, version in imports.items():
        # A domain of "" is left out, as torch does: two bytes that say nothing.
        proto.opset_import.add(version=version, **({"domain": domain} if domain else {}))


def _properties(
    proto: onnx.ModelProto | onnx.FunctionProto | onnx.GraphProto | onnx.NodeProto | onnx.ValueInfoProto,
    properties: Mapping[str, str],
) -> None:
    for key in sorted(properties):
        proto.metadata_props.add(key=key, value=properties[key])
