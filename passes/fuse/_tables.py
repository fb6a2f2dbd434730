"""The cosines and sines of rotary embeddings: how models compute, duplicate and broadcast them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from baker.model.graph import Array, attribute, constant_before, constant_value, emit, is_constant, is_op
from baker.passes.fuse._dims import ONE, Dim, Dims, number
from baker.passes.fuse._rule import axes_of, scalar
from baker.passes.fuse._symbols import Symbols

Step = tuple[str, dict[str, Any], Array | None]
"""An operator of one tensor, its attributes, and its other operand."""


@dataclass(frozen=True)
class Table:
    """One half of a table of cosines or sines.

    Attributes:
        source: what the half is made of, where it is no constant.
        array: the half, where it is one: (batch or 1, sequence, size / 2), or rows of size / 2 for ``positions``.
        steps: what is applied to the source, the first one last.
        positions: the rows to take, (batch, sequence).
        dims: of the half.
    """

    dims: Dims
    source: ir.Value | None = None
    array: Array | None = None
    steps: tuple[Step, ...] = ()
    positions: ir.Value | None = None


def table_of(value: ir.Value, symbols: Symbols, interleaved: bool, whole: bool) -> Table | str:
    """Reads a table that is broadcast to (batch, heads, sequence, size).

    Args:
        interleaved: each number stands twice in a row, else the whole half stands twice.
        whole: the table has both; without, it is one half as it is.
    """
    half = _halves(interleaved) if whole else _as_it_is
    steps: list[Step] = []
    for _ in range(8):
        dims, node = symbols.dims(value), value.producer()
        if dims is None or len(dims) > 4 or len(dims) < 2:
            break
        if is_constant(value):
            array = constant_value(value)
            found = None if array is None else half(array)
            return (
                Table(tuple(map(_dim, found.shape)), array=found, steps=tuple(steps)) if found is not None else _UNEQUAL
            )
        if not whole and not is_op(node, "Unsqueeze"):
            return Table(dims, value, steps=tuple(steps))
        if is_op(node, "Concat") and not interleaved and _is_double(node, len(dims)):
            return Table(symbols.dims(node.inputs[0]) or (), node.inputs[0], steps=tuple(steps))
        if is_op(node, "Gather") and attribute(node, "axis", 0) == 0:
            return _gathered(node, half, tuple(steps), symbols)
        step = None if node is None else _step(node)
        if node is None or step is None:
            break
        steps.append(step)
        value = _main(node)
    return _UNEQUAL


_UNEQUAL = "the two halves of a table are not known to be equal"


def _dim(size: int) -> Dim:
    return ONE if size == 1 else frozenset({size})


def _as_it_is(array: Array) -> Array | None:
    return array


def _halves(interleaved: bool) -> Callable[[Array], Array | None]:
    def half(array: Array) -> Array | None:
        size = array.shape[-1] // 2
        pair = (array[..., 0::2], array[..., 1::2]) if interleaved else (array[..., :size], array[..., size:])
        return np.ascontiguousarray(pair[0]) if np.array_equal(*pair) else None

    return half


def _is_double(node: ir.Node, rank: int) -> bool:
    first, *more = node.inputs
    return attribute(node, "axis", 0) in (-1, rank - 1) and len(more) == 1 and more[0] is first


def _main(node: ir.Node) -> ir.Value:
    index = 1 if is_op(node, "Mul") and scalar(node.inputs[0]) is not None else 0
    value = node.inputs[index]
    assert value is not None  # _step knows the node, and none of those has optional inputs
    return value


def _step(node: ir.Node) -> Step | None:
    """An operator that does the same to a half as to the whole, None for any other."""
    if is_op(node, "Cos", "Sin"):
        return node.op_type, {}, None
    if is_op(node, "Cast"):
        return "Cast", {"to": attribute(node, "to", 0)}, None
    if is_op(node, "Unsqueeze"):
        axes = axes_of(node)
        return ("Unsqueeze", {}, np.array(axes, np.int64)) if axes in ([0], [1], [0, 1]) and _first(node) else None
    if is_op(node, "Mul") and sum(scalar(each) is not None for each in node.inputs) == 1:
        factor = next(each for each in node.inputs if scalar(each) is not None)
        array = constant_value(factor)
        return ("Mul", {}, array.reshape(())) if array is not None and array.ndim <= 2 else None
    return None


def _first(node: ir.Node) -> bool:
    return len(node.inputs) == 2  # since opset 13


def _gathered(
    node: ir.Node, half: Callable[[Array], Array | None], steps: tuple[Step, ...], symbols: Symbols
) -> Table | str:
    """Rows of a constant table, by positions: negative ones, too, which the operator would not take itself."""
    table, positions = constant_value(node.inputs[0]), node.inputs[1]
    found = None if table is None or table.ndim != 2 else half(table)
    dims = symbols.dims(positions)
    if found is None or positions is None or dims is None or len(dims) != 2:
        return _UNEQUAL
    return Table((*dims, _dim(found.shape[-1])), array=found, steps=steps, positions=positions)


def fitted(table: Table, dims: Dims) -> Table | str:
    """Checks a half against x of (batch, heads, sequence, size), and drops the axis of heads of a constant."""
    found = table.dims
    for name, _, axes in table.steps[::-1]:
        if name == "Unsqueeze" and axes is not None:
            new, rest = [int(axis) for axis in axes], iter(found)
            found = tuple(ONE if axis in new else next(rest) for axis in range(len(found) + len(new)))
    found = (ONE,) * (4 - len(found)) + found
    if len(found) != 4 or found[1] != ONE or found[2] != dims[2] or found[0] not in (ONE, dims[0]):
        return "a table is not known to be broadcast over the heads alone, at the length of the sequence"
    if table.array is None or table.positions is not None:
        return replace(table, dims=found)
    array = table.array.reshape(-1, *table.array.shape[-2:])
    return replace(table, array=array, dims=found)


def build(table: Table, x: ir.Value, batch: Dim, before: ir.Node, symbols: Symbols) -> ir.Value:
    """Makes the half as (batch, sequence, size / 2) in front of a node."""
    steps = [step for step in table.steps[::-1] if step[0] != "Unsqueeze"]
    if table.array is not None:
        value = constant_before(before, "table", table.array)
        if table.positions is not None:
            value = _emitted(before, "Gather", [value, table.positions], value.dtype, {"axis": 0})
    else:
        assert table.source is not None
        value = table.source
    for op_type, attributes, other in steps:
        more = [] if other is None else [constant_before(before, "factor", other)]
        kind = ir.DataType(attributes["to"]) if op_type == "Cast" else value.dtype
        value = _emitted(before, op_type, [value, *more], kind, attributes)
    rank = len(symbols.dims(table.source) or ()) if table.source is not None else 3
    if rank != 3:
        axes = constant_before(before, "axes", np.array([1 if rank == 4 else 0], np.int64))
        value = _emitted(before, "Squeeze" if rank == 4 else "Unsqueeze", [value, axes], value.dtype)
    return value if table.dims[0] == batch else _expanded(value, symbols.input_with(batch) or (x, 0), batch, before)


def _expanded(value: ir.Value, place: tuple[ir.Value, int], batch: Dim, before: ir.Node) -> ir.Value:
    size = number(batch)
    if size is not None:
        target = constant_before(before, "batch", np.array([size, 1, 1], np.int64))
    else:
        root, axis = place
        length = _emitted(before, "Shape", [root], ir.DataType.INT64, {"start": axis, "end": axis + 1})
        ones = constant_before(before, "ones", np.ones(2, np.int64))
        target = _emitted(before, "Concat", [length, ones], ir.DataType.INT64, {"axis": 0})
        length.shape, target.shape = ir.Shape([1]), ir.Shape([3])
    return _emitted(before, "Expand", [value, target], value.dtype)


def _emitted(
    before: ir.Node,
    op_type: str,
    inputs: list[ir.Value],
    dtype: ir.DataType | None,
    attributes: dict[str, Any] | None = None,
) -> ir.Value:
    value = emit(before, op_type, inputs, attributes, name="rotary_table").outputs[0]
    value.type = None if dtype is None else ir.TensorType(dtype)
    return value
