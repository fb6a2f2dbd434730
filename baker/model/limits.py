"""Bounds on what a model would make of memory and time, where its constants already tell."""

from __future__ import annotations

import onnx_ir as ir

from baker.errors import ModelError, ResourceError
from baker.model.graph import Array, all_nodes, attribute, constant_value, has_reference_attribute, is_op
from baker.model.marks import quoted
from baker.model.tensors import MAX_RANK, tensor_nbytes

MAX_TENSOR_BYTES = 4 << 30
"""One tensor of a running model. The weights of a model are not held to it: they exist already."""
MAX_TRIPS = 1_000_000_000
"""Iterations of a Loop that nothing but its trip count ends; an empty one takes minutes."""


def check_constants(model: ir.Model) -> None:
    """Looks at the constants that say how much to allocate and how often to repeat.

    Raises:
        ModelError: a ConstantOfShape of negative size.
        ResourceError: a ConstantOfShape over `MAX_TENSOR_BYTES`, a Loop over `MAX_TRIPS`.
    """
    for node in all_nodes(model):
        if is_op(node, "ConstantOfShape"):
            _check_fill(node)
        elif is_op(node, "Loop"):
            _check_loop(node)


def _check_fill(node: ir.Node) -> None:
    dims = constant_value(node.inputs[0]) if node.inputs else None
    if dims is None:
        return
    if dims.size > MAX_RANK or (dims < 0).any():
        raise ModelError(f"ConstantOfShape {_shown(node)}: {_listed(dims)} is no shape")
    # A value that is a parameter of the enclosing function has a type that is not known here: float is usual.
    value = None if has_reference_attribute(node) else attribute(node, "value", None)
    dtype = ir.DataType.FLOAT if value is None else value.dtype
    check_size(node, dtype, tuple(int(dim) for dim in dims.reshape(-1)))


def _check_loop(node: ir.Node) -> None:
    trips = constant_value(node.inputs[0]) if node.inputs and node.inputs[0] is not None else None
    endless = bool(node.inputs) and node.inputs[0] is None
    if not endless and (trips is None or trips.size != 1 or int(trips.reshape(-1)[0]) <= MAX_TRIPS):
        return
    body = None if has_reference_attribute(node) else attribute(node, "body", None)
    if isinstance(body, ir.Graph) and _starts(node) and _always_continues(body):
        count = "without end" if trips is None else f"{int(trips.reshape(-1)[0])} times"
        raise ResourceError(f"Loop {_shown(node)} repeats {count}; the limit is {MAX_TRIPS}")


def _starts(node: ir.Node) -> bool:
    condition = node.inputs[1] if len(node.inputs) > 1 else None
    return condition is None or _is_true(condition)


def _always_continues(body: ir.Graph) -> bool:
    """True when the body's condition is constantly true, or the one it was given."""
    if not body.outputs:
        return False
    condition = body.outputs[0]
    while is_op(producer := condition.producer(), "Identity") and producer.inputs[0] is not None:
        condition = producer.inputs[0]
    return (len(body.inputs) > 1 and condition is body.inputs[1]) or _is_true(condition)


def _is_true(value: ir.Value) -> bool:
    array = constant_value(value)
    return array is not None and array.size == 1 and bool(array.reshape(-1)[0])


def check_size(node: ir.Node, dtype: ir.DataType, dims: tuple[int, ...]) -> None:
    """Looks at what a node's output takes, before anything of that size is folded or run.

    Raises:
        ResourceError: more than `MAX_TENSOR_BYTES`.
    """
    if dtype in (ir.DataType.STRING, ir.DataType.UNDEFINED) or any(dim < 0 for dim in dims):
        return
    size = tensor_nbytes(dtype, dims)
    if size > MAX_TENSOR_BYTES:
        raise ResourceError(
            f"{node.op_type} {_shown(node)} makes a tensor of shape {list(dims)}, {size / 2**30:.1f} GiB; "
            f"the limit is {MAX_TENSOR_BYTES >> 30} GiB"
        )


def _shown(node: ir.Node) -> str:
    return quoted(node.name or next((value.name for value in node.outputs if value.name), ""))


def _listed(array: Array) -> str:
    return str(array.reshape(-1)[:8].tolist())
