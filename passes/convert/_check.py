"""What a node's schema says: whether an operator set has it, as it stands."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TypeAlias

import onnx
import onnx_ir as ir

from baker.model.graph import label, standard_domain
from baker.model.operators import operator_fault


@functools.cache
def schema_of(op_type: str, version: int) -> onnx.defs.OpSchema | None:
    """The schema of an operator in an operator set, None where there is none or it is no longer there."""
    if not onnx.defs.has(op_type, version, ""):
        return None
    schema = onnx.defs.get_schema(op_type, version, "")
    return None if schema.deprecated else schema


@functools.cache
def since(op_type: str) -> int | None:
    """The operator set that an operator came with, None for one that ONNX lacks."""
    versions = _versions().get(op_type)
    return None if versions is None else versions[0]


@functools.cache
def _versions() -> dict[str, tuple[int, ...]]:
    found: dict[str, list[int]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if not schema.domain:
            found.setdefault(schema.name, []).append(schema.since_version)
    return {name: tuple(sorted(versions)) for name, versions in found.items()}


def changed_at(op_type: str, version: int) -> bool:
    """True when an operator has a schema of its own since this operator set."""
    return version in _versions().get(op_type, ())


def is_standard(node: ir.Node) -> bool:
    """True for a node of an operator that ONNX's own domain has or had."""
    return not standard_domain(node.domain) and since(node.op_type) is not None


def fault(node: ir.Node, version: int) -> str | None:
    """Returns why a node is no valid node of an operator set, or None: operator, attributes, inputs, types."""
    schema = schema_of(node.op_type, version)
    if schema is None:
        return None if operator_fault(node.op_type, "", version) is None else absence(node.op_type, version)
    for name in node.attributes:
        if name not in _attributes(node.op_type, version):
            return f"it has no attribute '{name}' in opset {version}"
    for name in _required(node.op_type, version):
        if name not in node.attributes:
            return f"its attribute '{name}' is missing, which opset {version} requires"
    return _count_fault(node, version) or type_fault(node, version)


@functools.cache
def _attributes(op_type: str, version: int) -> frozenset[str]:
    return frozenset(onnx.defs.get_schema(op_type, version, "").attributes)


@functools.cache
def _required(op_type: str, version: int) -> tuple[str, ...]:
    attributes = onnx.defs.get_schema(op_type, version, "").attributes
    return tuple(name for name, attribute in attributes.items() if attribute.required)


def absence(op_type: str, version: int) -> str | None:
    """Returns why an operator set lacks an operator."""
    first = since(op_type)
    if first is None:
        return None
    if version < first:
        return f"{op_type} does not exist before opset {first}"
    return f"{op_type} does not exist in opset {version} any more"


def _count_fault(node: ir.Node, version: int) -> str | None:
    singles, most_inputs, most_outputs = _formals(node.op_type, version)
    given = len(node.inputs)
    while given and node.inputs[given - 1] is None:
        given -= 1
    if given > most_inputs:
        name = _formal_name(node.op_type, given - 1)
        return f"it has {given} inputs{name}; in opset {version} {most_inputs} at most"
    for index, name in singles:
        if index >= given or node.inputs[index] is None:
            return f"its input '{name}' is missing, which opset {version} requires"
    if len(node.outputs) > most_outputs:
        used = [index for index, value in enumerate(node.outputs) if value.uses() or value.is_graph_output()]
        if used and used[-1] >= most_outputs:
            return f"its output {used[-1] + 1} is read; in opset {version} it has {most_outputs}"
    return None


@functools.cache
def _formals(op_type: str, version: int) -> tuple[tuple[tuple[int, str], ...], int, int]:
    """The inputs that have to be there, and the most inputs and outputs."""
    schema = onnx.defs.get_schema(op_type, version, "")
    single = onnx.defs.OpSchema.FormalParameterOption.Single
    there = tuple((index, formal.name) for index, formal in enumerate(schema.inputs) if formal.option == single)
    return there, schema.max_input, schema.max_output


def _formal_name(op_type: str, index: int) -> str:
    formals = onnx.defs.get_schema(op_type, "").inputs if onnx.defs.has(op_type) else ()
    return f" ('{formals[index].name}')" if index < len(formals) else ""


def type_fault(node: ir.Node, version: int) -> str | None:
    """Returns which type an operator set does not allow at an input or output of a node, or None."""
    schema = schema_of(node.op_type, version)
    if schema is None:
        return None
    inputs, outputs = _allowed(node.op_type, version)
    for values, types, many in ((node.inputs, *inputs), (node.outputs, *outputs)):
        for index, value in enumerate(values):
            if index >= len(types) and not many:
                break
            if value is None or value.type is None:
                continue
            text = type_text(value.type)
            if text not in types[min(index, len(types) - 1)]:
                return f"{node.op_type} does not take {text} ('{value.name}') in opset {version}"
    return None


_Types: TypeAlias = tuple[tuple[frozenset[str], ...], bool]


@functools.cache
def _allowed(op_type: str, version: int) -> tuple[_Types, _Types]:
    """The types of each input and each output; whether the last one may come more than once."""
    schema = onnx.defs.get_schema(op_type, version, "")
    variadic = onnx.defs.OpSchema.FormalParameterOption.Variadic

    def of(formals: Sequence[onnx.defs.OpSchema.FormalParameter]) -> _Types:
        many = bool(formals) and formals[-1].option == variadic
        return tuple(frozenset(formal.types) for formal in formals), many

    return of(schema.inputs), of(schema.outputs)


_TENSORS = {dtype: f"tensor({dtype.name.lower()})" for dtype in ir.DataType}


def type_text(type_: ir.TypeProtocol) -> str:
    """The type as ONNX's schemas write it: ``tensor(float)``, ``seq(tensor(int64))``."""
    if type(type_) is ir.TensorType:
        return _TENSORS[type_.dtype]
    if isinstance(type_, ir.SequenceType):
        return f"seq({type_text(type_.elem_type)})"
    if isinstance(type_, ir.OptionalType):
        return f"optional({type_text(type_.elem_type)})"
    return f"sparse_tensor({type_.dtype.name.lower()})"


def where(node: ir.Node) -> str:
    """A node for people, with its operator."""
    return f"'{label(node)}' ({node.op_type})"
