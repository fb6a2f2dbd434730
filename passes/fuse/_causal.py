"""Masks that hide from each query what comes after it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from baker.model.graph import Array, attribute, constant_value, is_constant, is_op
from baker.passes.fuse._dims import ONE, Dims
from baker.passes.fuse._rule import axes_of, ints, scalar
from baker.passes.fuse._scores import Scores
from baker.passes.fuse._symbols import Symbols


def is_causal(scores: Scores, dims: Dims, symbols: Symbols, hidden: float) -> bool:
    """True when the mask of (batch, heads, Q, K) leaves key j to query i exactly where j <= i.

    Args:
        hidden: an addend from which on, downwards, nothing is left of a score.
    """
    if scores.chosen is not None:
        visible = scores.chosen.condition if scores.chosen.fill <= hidden else None
        fits = visible is not None and _fits(visible, dims, symbols)
        return fits and visible is not None and _lower(visible) is (not scores.chosen.inverse)
    mask = scores.mask
    if mask is None or not _fits(mask, dims, symbols):
        return False
    if is_constant(mask):
        array = constant_value(mask)
        return array is not None and _is_triangle(array == 0) and bool((array[array != 0] <= hidden).all())
    node = _unviewed(mask).producer()
    if not is_op(node, "Where") or node.inputs[0] is None:
        return False
    then, other = (scalar(value) for value in node.inputs[1:])
    if then is None or other is None:
        return False
    lower = _lower(node.inputs[0])
    return (lower is True and then == 0 and other <= hidden) or (lower is False and other == 0 and then <= hidden)


def _fits(mask: ir.Value, dims: Dims, symbols: Symbols) -> bool:
    found = symbols.dims(mask)
    return found is not None and found[-2:] == dims[2:] and all(dim == ONE for dim in found[:-2])


def _unviewed(value: ir.Value) -> ir.Value:
    """The matrix before axes were put in front of it."""
    node = value.producer()
    while is_op(node, "Unsqueeze") and node.inputs[0] is not None:
        axes = axes_of(node)
        if axes is None or sorted(axes) != list(range(len(axes))):
            break
        value = node.inputs[0]
        node = value.producer()
    return value


def _lower(condition: ir.Value) -> bool | None:
    """True for the lower triangle with the diagonal, False for all but it, None for anything else."""
    condition = _unviewed(condition)
    if is_constant(condition):
        array = constant_value(condition)
        if array is None or array.dtype.kind != "b":
            return None
        return True if _is_triangle(array) else False if _is_triangle(~array) else None
    node = condition.producer()
    if is_op(node, "Not") and node.inputs[0] is not None:
        inner = _lower(node.inputs[0])
        return None if inner is None else not inner
    if is_op(node, "Equal"):
        left, right = node.inputs
        matrix, number = (left, scalar(right)) if scalar(right) is not None else (right, scalar(left))
        found = None if matrix is None or number != 0 else _triangle(matrix)
        return None if found is None else not found
    if is_op(node, "Cast") and attribute(node, "to", 0) == ir.DataType.BOOL:
        return None if node.inputs[0] is None else _triangle(node.inputs[0])
    return _triangle(condition)


def _triangle(value: ir.Value) -> bool | None:
    """Where a matrix is not 0: True for the lower triangle with the diagonal, False for all but it."""
    node = _unviewed(value).producer()
    if not is_op(node, "Trilu") or node.inputs[0] is None or not _is_filled(node.inputs[0]):
        return None
    offset = ints(node.inputs[1]) if len(node.inputs) > 1 and node.inputs[1] is not None else [0]
    upper = bool(attribute(node, "upper", 1))
    if offset == [1 if upper else 0]:
        return not upper
    return None


def _is_filled(value: ir.Value) -> bool:
    """True when no element can be 0."""
    node = value.producer()
    if is_op(node, "Expand") and node.inputs[0] is not None:
        value = node.inputs[0]
    elif is_op(node, "ConstantOfShape"):
        tensor = attribute(node, "value", None)
        return tensor is not None and bool(np.all(tensor.numpy() != 0))
    array = constant_value(value)
    return array is not None and bool(np.all(array != 0))


def _is_triangle(visible: Array) -> bool:
    return visible.ndim >= 2 and bool((visible == np.tri(*visible.shape[-2:], dtype=np.bool_)).all())
