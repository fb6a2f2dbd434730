"""Shape arithmetic: what is known of a small integer tensor, element by element, before the model runs.

An element is an int, the name of a dim (a symbol of shape inference, or one axis of one value), or None. So
``Concat(Gather(Shape(x), 0), [8, 15])`` is ``('batch', 8, 15)``, and a Reshape to it can do without the arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir

from baker.model.graph import Array, attribute, has_reference_attribute, standard_domain

Elements: TypeAlias = np.ndarray[Any, np.dtype[np.object_]]
"""A 0-D or 1-D array of `Element`."""

_MOST = 64  # elements; a longer vector is no shape
_INTEGERS = {ir.DataType.INT64, ir.DataType.INT32}
_LARGEST = 2**31 - 1  # beyond it int32 arithmetic would wrap; no dim is that long


@dataclass(frozen=True)
class Axis:
    """The size of one axis of a value that shape inference has no name for."""

    value: int  # id(): two axes are one only where the value is
    axis: int


Element: TypeAlias = int | str | Axis | None


def dims_of(value: ir.Value | None) -> Elements | None:
    """The dims of a value as elements, None when the rank is unknown."""
    if value is None or value.shape is None:
        return None
    dims: list[Element] = []
    for axis, dim in enumerate(value.shape):
        name = dim if isinstance(dim, int) else dim.value
        dims.append(Axis(id(value), axis) if name is None else name)
    return _array(dims)


def elements_of(array: Array) -> Elements | None:
    """A small integer array as elements, else None."""
    if array.dtype.kind != "i" or array.ndim > 1 or array.size > _MOST:
        return None
    return _array([int(item) for item in array]) if array.ndim else _scalar(int(array))


def integers(elements: Elements) -> list[int] | None:
    """The elements as ints when all of them are known."""
    items = elements.reshape(-1).tolist()
    return items if all(isinstance(item, int) for item in items) else None


def propagate(node: ir.Node, inputs: Mapping[int, Elements]) -> Elements | None:
    """What is known of the first output, from the elements of some inputs (by index), or None."""
    rule = _RULES.get(node.op_type)
    if rule is None or standard_domain(node.domain) or has_reference_attribute(node):
        return None
    found = rule(node, inputs)
    return None if found is None or found.ndim > 1 or found.size > _MOST else found


def _array(items: list[Element]) -> Elements:
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array


def _scalar(item: Element) -> Elements:
    array = np.empty((), dtype=object)
    array[()] = item
    return array


def _shape(node: ir.Node, inputs: Mapping[int, Elements]) -> Elements | None:
    dims = dims_of(node.inputs[0])
    return None if dims is None else dims[attribute(node, "start", 0) : attribute(node, "end", None)]


def _size(node: ir.Node, inputs: Mapping[int, Elements]) -> Elements | None:
    dims = dims_of(node.inputs[0])
    known = None if dims is None else integers(dims)
    return None if known is None else _scalar(int(np.prod(known, dtype=np.int64)))


def _same(node: ir.Node, inputs: Mapping[int, Elements]) -> Elements | None:
    return inputs.get(0)


def _cast(node: ir.Node, inputs: Mapping[int, Elements]) -> Elements | None:
    data = inputs.get(0)
    if data is None or ir.DataType(attribute(node, "to", 0)) not in _INTEGERS:
        return None
    return _array([_in_range(item) for item in data.reshape(-1).tolist()]).reshape(data.shape)


def _unsqueeze(node: ir.Node, inputs: Mapping[int, Elements]) -> Elements | None:
    data = inputs.get(0)
    return None if data is None or data.ndim else data.reshape(1)


def _squeeze(node: ir.Node, inputs: Mapping[int, Elements]) -> Elements | None:
    data = inputs.get(0)
    return None if data is None or data.size != 1 else data.reshape(())


def _reshape(node: ir.Node, inputs: Mapping[int, Elements]) -> Elements | None:
    data, target = inputs.get(0), inputs.get(1)
    shape = None if target is None else integers(target)
    if data is None or shape is None or len(shape) > 1:
        return None
    return data.reshape(()) if not shape else data.reshape(-1)


def _concat(node: ir.Node, inputs: Mapping[int, Elements]) -> Elements | None:
    parts = [inputs.get(index) for index in range(len(node.inputs))]
    if any(part is None or part.ndim != 1 for part in parts):
        return None
    return np.concatenate([part for part in parts if part is not None])


def _gather(node: ir.Node, inputs: Mapping[int, Elements]) -> Elements | None:
    data, index = inputs.get(0), inputs.get(1)
    picked = None if index is None else integers(index)
    if data is None or index is None or picked is None or data.ndim != 1:
        return None
    if any(not -data.size <= item < data.size for item in picked):
        return None
    return _array([data[item] for item in picked]) if index.ndim else _scalar(data[picked[0]])


def _slice(node: ir.Node, inputs: Mapping[int, Elements]) -> Elements | None:
    data = inputs.get(0)
    if data is None or data.ndim != 1 or len(node.inputs) < 3:  # below opset 10 the bounds are attributes
        return None
    bounds: list[int] = []
    for index, default in ((1, None), (2, None), (4, 1)):
        given = index < len(node.inputs) and node.inputs[index] is not None
        items = integers(inputs[index]) if given and index in inputs else None
        if given and (items is None or len(items) != 1):
            return None
        bounds.append(items[0] if items else default or 1)
    start, end, step = bounds
    if step == 0:
        return None
    return data[_slice_indices(start, end, step, data.size)]


def _slice_indices(start: int, end: int, step: int, size: int) -> list[int]:
    """ONNX Slice semantics: negative bounds count from the end, then they are clamped."""
    start, end = (bound + size if bound < 0 else bound for bound in (start, end))
    low, high = (0, size) if step > 0 else (-1, size - 1)
    start = min(max(start, 0), high)
    end = min(max(end, low), size if step > 0 else size - 1)
    return list(range(start, end, step))


def _neutral(
    neutral: int, both: Callable[[int, int], int | None]
) -> Callable[[ir.Node, Mapping[int, Elements]], Elements | None]:
    """Element-wise arithmetic: ints are computed, and the neutral operand on the right keeps a symbol."""

    def rule(node: ir.Node, inputs: Mapping[int, Elements]) -> Elements | None:
        left, right = inputs.get(0), inputs.get(1)
        if left is None or right is None or (left.shape != right.shape and 1 not in (left.size, right.size)):
            return None
        left, right = np.broadcast_arrays(left, right)
        items: list[Element] = []
        for a, b in zip(left.reshape(-1).tolist(), right.reshape(-1).tolist(), strict=True):
            if isinstance(a, int) and isinstance(b, int):
                items.append(_in_range(both(a, b)))
            else:
                items.append(a if b == neutral else None)
        return _array(items).reshape(left.shape)

    return rule


def _in_range(item: Element) -> Element:
    return None if isinstance(item, int) and abs(item) > _LARGEST else item


def _divide(a: int, b: int) -> int | None:
    return None if b == 0 else abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)  # ONNX truncates towards zero


_RULES: dict[str, Callable[[ir.Node, Mapping[int, Elements]], Elements | None]] = {
    "Shape": _shape,
    "Size": _size,
    "Identity": _same,
    "Cast": _cast,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Reshape": _reshape,
    "Concat": _concat,
    "Gather": _gather,
    "Slice": _slice,
    "Add": _neutral(0, lambda a, b: a + b),
    "Sub": _neutral(0, lambda a, b: a - b),
    "Mul": _neutral(1, lambda a, b: a * b),
    "Div": _neutral(1, _divide),
}
