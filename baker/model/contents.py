"""Shape arithmetic: what is known of a small integer tensor, element by element, before the model runs.

An element is a size (an int or an expression over dims, see `baker.model.dims`), or None. So
``Concat(Gather(Shape(x), 0), [8, 15])`` is ``(batch, 8, 15)``, and a Reshape to it can do without the arithmetic. Truth
values are 0 and 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir

from baker.model.dims import (
    Dim,
    ExpressionDim,
    Size,
    add,
    floor_divide,
    lowest,
    maximum,
    minimum,
    multiply,
    named,
    subtract,
    symbol,
)
from baker.model.graph import Array, attribute, has_reference_attribute, standard_domain
from baker.model.marks import INFERRED

Elements: TypeAlias = np.ndarray[Any, np.dtype[np.object_]]
"""A 0-D or 1-D array of `Element`."""
Element: TypeAlias = Size | None
_Rule: TypeAlias = Callable[[ir.Node, Mapping[int, Elements]], Elements | None]

MOST = 64
"""Elements; a longer vector is no shape."""
_INTEGERS = {ir.DataType.INT64, ir.DataType.INT32}
_LARGEST = 2**31 - 1  # beyond it int32 arithmetic would wrap
_LARGEST_64 = 2**62


def dims_of(value: ir.Value | None) -> Elements | None:
    """The dims of a value as elements, None when the rank is unknown; a dim without a name gets one.

    What an output of the graph declares of itself is not believed, but what was inferred of it is.
    """
    if value is None:
        return None
    shape = value.meta.get(INFERRED) if value.is_graph_output() else value.shape
    if shape is None:
        return None
    return array_of([_size(value, axis, dim) for axis, dim in enumerate(shape)])


def _size(value: ir.Value, axis: int, dim: int | ir.SymbolicDim) -> Size:
    if isinstance(dim, ExpressionDim):
        return dim.size
    if isinstance(dim, int) and dim >= 0:  # some exporters write -1 for any size
        return dim
    return (
        symbol(dim.value)
        if not isinstance(dim, int) and dim.value is not None and named(dim.value)
        else symbol(f"{value.name}.shape[{axis}]")
    )


def elements_of(array: Array) -> Elements | None:
    """A small integer array as elements, else None."""
    if array.dtype.kind not in "ib" or array.ndim > 1 or array.size > MOST:
        return None
    return array_of([int(item) for item in array]) if array.ndim else scalar_of(int(array))


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
    return None if found is None or found.ndim > 1 or found.size > MOST else found


def array_of(items: list[Element]) -> Elements:
    """A vector of elements."""
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array


def scalar_of(item: Element) -> Elements:
    """One element without dims."""
    array = np.empty((), dtype=object)
    array[()] = item
    return array


def slice_indices(start: int, end: int, step: int, size: int) -> list[int]:
    """ONNX Slice semantics: negative bounds count from the end, then they are clamped."""
    start, end = (bound + size if bound < 0 else bound for bound in (start, end))
    low, high = (0, size) if step > 0 else (-1, size - 1)
    start = min(max(start, 0), high)
    end = min(max(end, low), size if step > 0 else size - 1)
    return list(range(start, end, step))


def _shape(node: ir.Node, inputs: Mapping[int, Elements]) -> Elements | None:
    dims = dims_of(node.inputs[0])
    return None if dims is None else dims[attribute(node, "start", 0) : attribute(node, "end", None)]


def _count(node: ir.Node, inputs: Mapping[int, Elements]) -> Elements | None:
    dims = dims_of(node.inputs[0])
    return None if dims is None else scalar_of(multiply(*dims.tolist()))


def _same(node: ir.Node, inputs: Mapping[int, Elements]) -> Elements | None:
    return inputs.get(0)


def _cast(node: ir.Node, inputs: Mapping[int, Elements]) -> Elements | None:
    target = attribute(node, "to", 0)
    if not isinstance(target, int):  # a name, before opset 6
        return None
    data, to = inputs.get(0), ir.DataType(target)
    if data is not None and to == ir.DataType.BOOL:
        return _each(lambda item: _truth(item), data)
    if data is None or to not in _INTEGERS:
        return None
    largest = _largest(node)
    return _each(lambda item: _in_range(item, largest), data)


def _truth(item: Size) -> Element:
    low = lowest(item)
    return int(item != 0) if isinstance(item, int) else 1 if low is not None and low > 0 else None


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
    return array_of([data[item] for item in picked]) if index.ndim else scalar_of(data[picked[0]])


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
    return None if step == 0 else data[slice_indices(start, end, step, data.size)]


def _filled(node: ir.Node, inputs: Mapping[int, Elements]) -> Elements | None:
    target = inputs.get(0)
    shape = None if target is None else integers(target)
    value = attribute(node, "value", None)
    fill = np.zeros(1, np.float32) if value is None else value.numpy()
    if shape is None or len(shape) > 1 or fill.dtype.kind not in "ib" or any(not 0 <= n <= MOST for n in shape):
        return None
    item = int(fill.reshape(-1)[0])
    return array_of([item] * shape[0]) if shape else scalar_of(item)


def _product(node: ir.Node, inputs: Mapping[int, Elements]) -> Elements | None:
    data = inputs.get(0)
    axes = inputs.get(1)
    if data is None or data.ndim != 1 or not all(isinstance(item, int | Dim) for item in data.tolist()):
        return None
    if (len(node.inputs) > 1 and node.inputs[1] is not None and axes is None) or attribute(node, "axes", [0])[
        0
    ] not in (
        0,
        -1,
    ):
        return None
    total = scalar_of(multiply(*data.tolist()))
    return total.reshape(1) if attribute(node, "keepdims", 1) else total


def _where(node: ir.Node, inputs: Mapping[int, Elements]) -> Elements | None:
    given = [inputs.get(index) for index in range(3)]
    known = [one for one in given if one is not None]
    if len(known) != 3 or len({one.size for one in known} - {1}) > 1:
        return None
    test, yes, no = np.broadcast_arrays(*known)
    items = [
        b if b == c else b if a == 1 else c if a == 0 else None
        for a, b, c in zip(*(one.reshape(-1).tolist() for one in (test, yes, no)), strict=True)
    ]
    return array_of(items).reshape(test.shape)


def _each(compute: Callable[[Size], Element], data: Elements) -> Elements:
    items = [compute(item) if isinstance(item, int | Dim) else None for item in data.reshape(-1).tolist()]
    return array_of(items).reshape(data.shape)


def _pairwise(compute: Callable[[Size, Size], Element]) -> _Rule:
    """Element-wise arithmetic on all inputs, from the left."""

    def both(left: Elements, right: Elements, largest: int) -> Elements:
        left, right = np.broadcast_arrays(left, right)
        pairs = zip(left.reshape(-1).tolist(), right.reshape(-1).tolist(), strict=True)
        items = [
            _in_range(compute(a, b), largest) if isinstance(a, int | Dim) and isinstance(b, int | Dim) else None
            for a, b in pairs
        ]
        return array_of(items).reshape(left.shape)

    def rule(node: ir.Node, inputs: Mapping[int, Elements]) -> Elements | None:
        given = [one for index in range(len(node.inputs)) if (one := inputs.get(index)) is not None]
        if len(given) != len(node.inputs) or not given or len({one.size for one in given} - {1}) > 1:
            return None
        largest = _largest(node)
        return reduce(lambda left, right: both(left, right, largest), given)

    return rule


def _largest(node: ir.Node) -> int:
    return _LARGEST_64 if node.outputs[0].dtype == ir.DataType.INT64 else _LARGEST


def _in_range(item: Element, largest: int) -> Element:
    return None if isinstance(item, int) and abs(item) > largest else item


def _divide(a: Size, b: Size) -> Element:
    """ONNX truncates towards zero, which is rounding down where nothing is negative."""
    if isinstance(a, int) and isinstance(b, int):
        return None if b == 0 else abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
    low, divisor = lowest(a), lowest(b)
    return floor_divide(a, b) if low is not None and low >= 0 and divisor is not None and divisor >= 0 else None


def _modulo(a: Size, b: Size) -> Element:
    if isinstance(a, int) and isinstance(b, int) and a >= 0 and b > 0:
        return a % b
    low = lowest(a)
    if low is None or low < 0 or not isinstance(b, int) or b < 1:
        return None
    whole = floor_divide(a, b)
    covered = None if whole is None else multiply(whole, b)
    return None if covered is None else subtract(a, covered)


def _compare(holds: Callable[[int], bool], above: tuple[int, bool], below: tuple[int, bool]) -> _Rule:
    """A comparison by the difference d = a - b.

    Args:
        above: a number, and what the comparison is for d at or above it.
        below: a number, and what the comparison is for -d at or above it.
    """

    def compute(a: Size, b: Size) -> Element:
        difference = subtract(a, b)
        if difference is None or isinstance(difference, int):
            return None if difference is None else int(holds(difference))
        for (least, answer), side in ((above, difference), (below, multiply(difference, -1))):
            bound = lowest(side)
            if bound is not None and bound >= least:
                return int(answer)
        return None

    return _pairwise(compute)


def _inverted(item: Size) -> Element:
    return 1 - item if isinstance(item, int) else None


_RULES: dict[str, _Rule] = {
    "Shape": _shape,
    "Size": _count,
    "Identity": _same,
    "Cast": _cast,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Reshape": _reshape,
    "Concat": _concat,
    "Gather": _gather,
    "Slice": _slice,
    "ConstantOfShape": _filled,
    "ReduceProd": _product,
    "Where": _where,
    "Add": _pairwise(add),
    "Sub": _pairwise(subtract),
    "Mul": _pairwise(multiply),
    "Div": _pairwise(_divide),
    "Mod": _pairwise(_modulo),
    "Min": _pairwise(minimum),
    "Max": _pairwise(maximum),
    "Equal": _compare(lambda d: d == 0, (1, False), (1, False)),
    "Greater": _compare(lambda d: d > 0, (1, True), (0, False)),
    "GreaterOrEqual": _compare(lambda d: d >= 0, (0, True), (1, False)),
    "Less": _compare(lambda d: d < 0, (0, False), (1, True)),
    "LessOrEqual": _compare(lambda d: d <= 0, (1, False), (0, True)),
    "Not": lambda node, inputs: None if (data := inputs.get(0)) is None else _each(_inverted, data),
}
