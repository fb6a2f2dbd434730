"""What the versions of ONNX's file format (IR) allow, so that a model's can be lowered where it uses nothing newer."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
import onnx_ir as ir

from baker.errors import ModelError
from baker.model.graph import all_nodes, graphs, label, standard_domain

OLDEST_IR = 4
"""Below it every initializer has to be a graph input, so that callers could override weights: another interface."""

_FUNCTIONS, _DEFAULTS, _METADATA, _DEVICES = 8, 9, 10, 11
_TYPES = {
    ir.DataType.FLOAT8E4M3FN: 9,
    ir.DataType.FLOAT8E4M3FNUZ: 9,
    ir.DataType.FLOAT8E5M2: 9,
    ir.DataType.FLOAT8E5M2FNUZ: 9,
    ir.DataType.INT4: 10,
    ir.DataType.UINT4: 10,
    ir.DataType.FLOAT4E2M1: 11,
    ir.DataType.FLOAT8E8M0: 12,
    ir.DataType.INT2: 13,
    ir.DataType.UINT2: 13,
    ir.DataType.FLOAT6E2M3: 14,
    ir.DataType.FLOAT6E3M2: 14,
}
"""The IR version that each type came with; all others are older than `OLDEST_IR`."""


def least_ir(model: ir.Model) -> int:
    """The lowest IR version that onnx's checker takes for the model's operator sets."""
    imports = {standard_domain(domain): version for domain, version in model.opset_imports.items()}
    entries = [onnx.helper.make_opsetid(domain, version) for domain, version in imports.items()]
    return int(onnx.helper.find_min_ir_version_for(entries, ignore_unknown=True))


def to_ir(model: ir.Model, version: int) -> list[str]:
    """Sets the IR version, nothing else; returns what the user should hear.

    Metadata of nodes and values stays: readers of older files skip it.

    Raises:
        ModelError: the model holds something that came with a newer IR version; says what and which.
    """
    old, least = model.ir_version or 0, least_ir(model)
    if version < least:
        opset = model.opset_imports.get("", 0)
        raise ModelError(
            f"IR version {version} is too old for opset {opset}, which needs {least}. Say ir={least}, or a "
            "lower opset as well"
        )
    for needed, what in _needs(model) if version < old else ():
        if version < needed:
            raise ModelError(f"IR version {version} is too old: {what} came with IR version {needed}")
    model.ir_version = version
    if version < _METADATA <= old and _has_metadata(model):
        return [f"metadata of nodes and values came with IR version {_METADATA}; readers of {version} skip it"]
    return []


def _needs(model: ir.Model) -> Iterator[tuple[int, str]]:
    """What the model holds that is newer than `OLDEST_IR`, with the version that each came with."""
    for function in model.functions.values():
        yield _FUNCTIONS, f"local functions ('{function.name}')"
        for name, attribute in function.attributes.items():
            if attribute.value is not None:
                yield _DEFAULTS, f"the default of attribute '{name}' of function '{function.name}'"
    for graph in graphs(model):
        for value in (*graph.inputs, *graph.initializers.values(), *(out for node in graph for out in node.outputs)):
            if value.dtype is not None and value.dtype in _TYPES:
                yield _TYPES[value.dtype], f"{value.dtype.name.lower()} ('{value.name}')"
            if isinstance(value.type, (ir.OptionalType, ir.SparseTensorType)):
                yield _FUNCTIONS, f"optional and sparse types ('{value.name}')"
    for node in all_nodes(model):
        if node.overload:
            yield _METADATA, f"the overload of node '{label(node)}'"
        if node.device_configurations:
            yield _DEVICES, f"the device configuration of node '{label(node)}'"


def _has_metadata(model: ir.Model) -> bool:
    nodes = list(all_nodes(model))
    return any(node.metadata_props or any(value.metadata_props for value in node.outputs) for node in nodes)
