"""What a node's schema says: whether an operator set has it, as it stands."""

from __future__ import annotations

import functools
from collections.abc import Iterator

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
        if name not in schema.attributes:
            return f"it has no attribute '{name}' in opset {version}"
    for name, attribute in schema.attributes.items():
        if attribute.required and name not in node.attributes:
            return f"its attribute '{name}' is missing, which opset {version} requires"
    return _count_fault(node, schema, version) or type_fault(node, version)


def absence(op_type: str, version: int) -> str | None:
    """Returns why an operator set lacks an operator."""
    first = since(op_type)
    if first is None:
        return None
    if version < first:
        return f"{op_type} does not exist before opset {first}"
    return f"{op_type} does not exist in opset {version} any more"


def _count_fault(node: ir.Node, schema: onnx.defs.OpSchema, version: int) -> str | None:
    given = len(node.inputs)
    while given and node.inputs[given - 1] is None:
        given -= 1
    if given > schema.max_input:
        name = _formal_name(node.op_type, given - 1)
        return f"it has {given} inputs{name}; in opset {version} {schema.max_input} at most"
    for index, formal in enumerate(schema.inputs):
        single = formal.option == onnx.defs.OpSchema.FormalParameterOption.Single
        if single and (index >= given or node.inputs[index] is None):
            return f"its input '{formal.name}' is missing, which opset {version} requires"
    used = [index for index, value in enumerate(node.outputs) if value.uses() or value.is_graph_output()]
    if used and used[-1] >= schema.max_output:
        return f"its output {used[-1] + 1} is read; in opset {version} it has {schema.max_output}"
    return None


def _formal_name(op_type: str, index: int) -> str:
    formals = onnx.defs.get_schema(op_type, "").inputs if onnx.defs.has(op_type) else ()
    return f" ('{formals[index].name}')" if index < len(formals) else ""


def type_fault(node: ir.Node, version: int) -> str | None:
    """Returns which type an operator set does not allow at an input or output of a node, or None."""
    schema = schema_of(node.op_type, version)
    if schema is None:
        return None
    for value, allowed in (*_typed(node.inputs, schema.inputs), *_typed(node.outputs, schema.outputs)):
        if allowed and value.type is not None and type_text(value.type) not in allowed:
            return f"{node.op_type} does not take {type_text(value.type)} ('{value.name}') in opset {version}"
    return None


def _typed(values: object, formals: object) -> Iterator[tuple[ir.Value, frozenset[str]]]:
    assert isinstance(values, (list, tuple)) and isinstance(formals, (list, tuple))
    variadic = onnx.defs.OpSchema.FormalParameterOption.Variadic
    for index, value in enumerate(values):
        place = min(index, len(formals) - 1)
        if place < 0 or (index > place and formals[place].option != variadic):
            return
        if value is not None:
            yield value, frozenset(formals[place].types)


def type_text(type_: ir.TypeProtocol) -> str:
    """The type as ONNX's schemas write it: ``tensor(float)``, ``seq(tensor(int64))``."""
    if isinstance(type_, ir.SequenceType):
        return f"seq({type_text(type_.elem_type)})"
    if isinstance(type_, ir.OptionalType):
        return f"optional({type_text(type_.elem_type)})"
    kind = "sparse_tensor" if isinstance(type_, ir.SparseTensorType) else "tensor"
    return f"{kind}({type_.dtype.name.lower()})"


def where(node: ir.Node) -> str:
    """A node for people, with its operator."""
    return f"'{label(node)}' ({node.op_type})"
