"""Operators that move elements, or take some of them: their output dims."""

from __future__ import annotations

from baker.model.contents import Element, slice_indices
from baker.model.dims import Size, add, ceil_divide, floor_divide, lowest, maximum, minimum, multiply, subtract
from baker.model.shape_rules._known import Dims, Known, Results, joined, plus, product

_FAR = 2**31 - 1  # a bound of Slice from here on means: to the end


def transpose_dims(known: Known) -> Results | None:
    """Axes in another order."""
    dims = known.dims(0)
    if dims is None:
        return None
    order = known.attribute("perm", tuple(reversed(range(len(dims)))))
    return [[dims[axis] for axis in order]] if sorted(order) == list(range(len(dims))) else None


def reshape_dims(known: Known) -> Results | None:
    """The target, its 0 and -1 filled in."""
    dims, target = known.dims(0), known.contents(1)
    if target is None:
        return None
    result: Dims = []
    for axis, item in enumerate(target):
        if item == 0 and not known.attribute("allowzero", 0):
            item = dims[axis] if dims is not None and axis < len(dims) else None
        result.append(item)
    if result.count(-1) > 1 or any(isinstance(item, int) and item < -1 for item in result):
        return None
    if -1 in result:
        axis = result.index(-1)
        result[axis] = None if dims is None else _left(dims, [*result[:axis], *result[axis + 1 :]])
    elif None in result and result.count(None) == 1 and dims is not None:
        axis = result.index(None)
        if target[axis] is None:  # it may be a -1
            result[axis] = _left(dims, [*result[:axis], *result[axis + 1 :]])
    return [result]


def _left(dims: Dims, others: Dims) -> Element:
    """The dim that is left for the -1 of a Reshape."""
    dims = list(dims)
    rest: Dims = []
    for item in others:
        if item in dims and item is not None:
            dims.remove(item)
        else:
            rest.append(item)
    above, below = product(dims), product(rest)
    return None if above is None or below is None or below == 0 else floor_divide(above, below)


def flatten_dims(known: Known) -> Results | None:
    """Two dims: the product before the axis, and that behind it."""
    dims = known.dims(0)
    if dims is None:
        return None
    axis = known.attribute("axis", 1)
    axis = axis + len(dims) if axis < 0 else axis
    return [[product(dims[:axis]), product(dims[axis:])]]


def squeeze_dims(known: Known) -> Results | None:
    """Without axes of 1."""
    dims, axes = known.dims(0), known.ints(1, "axes")
    if dims is None or (axes is None and (known.given(1) or not all(isinstance(dim, int) for dim in dims))):
        return None
    if axes is None:
        return [[dim for dim in dims if dim != 1]]
    gone = {axis + len(dims) if axis < 0 else axis for axis in axes}
    return [[dim for axis, dim in enumerate(dims) if axis not in gone]]


def unsqueeze_dims(known: Known) -> Results | None:
    """With more axes of 1."""
    dims, axes = known.dims(0), known.ints(1, "axes")
    if dims is None or axes is None:
        return None
    rank = len(dims) + len(axes)
    new = {axis + rank if axis < 0 else axis for axis in axes}
    if len(new) != len(axes) or not new <= set(range(rank)):
        return None
    old = iter(dims)
    return [[1 if axis in new else next(old) for axis in range(rank)]]


def expand_dims(known: Known) -> Results | None:
    """Broadcast to the target."""
    dims, target = known.dims(0), known.contents(1)
    if dims is None or target is None or any(isinstance(item, int) and item < 0 for item in target):
        return None
    return [joined(dims, target)]


def tile_dims(known: Known) -> Results | None:
    """Each dim times its repeats."""
    dims, repeats = known.dims(0), known.contents(1)
    if dims is None or repeats is None or len(dims) != len(repeats):
        return None
    return [[product(pair) for pair in zip(dims, repeats, strict=True)]]


def concat_dims(known: Known) -> Results | None:
    """The sum along the axis; the others are the same."""
    parts = [known.dims(index) for index in range(len(known.node.inputs))]
    first = next((part for part in parts if part is not None), None)
    axis = known.attribute("axis", None)
    if first is None or axis is None or not -len(first) <= axis < len(first):
        return None
    axis, result = axis % len(first), list(first)
    if any(part is not None and len(part) != len(first) for part in parts):
        return None
    for place in range(len(first)):
        sizes = [None if part is None else part[place] for part in parts]
        if place != axis:  # ONNX Runtime takes an empty input of other dims, so that two names need not be equal
            numbers = [size for size in sizes if isinstance(size, int)]
            result[place] = numbers[0] if numbers else sizes[0] if all(size == sizes[0] for size in sizes) else None
            continue
        total: Element = 0
        for size in sizes:
            total = plus(total, size)
        result[place] = total
    return [result]


def split_dims(known: Known) -> Results | None:
    """The parts of one axis."""
    dims, axis = known.dims(0), known.attribute("axis", 0)
    if dims is None or not -len(dims) <= axis < len(dims):
        return None
    axis, count = axis % len(dims), len(known.node.outputs)
    parts: list[Element] | None
    if known.given(1) or "split" in known.node.attributes:
        parts = known.contents(1) if known.given(1) else list(known.attribute("split", ()))
    else:
        size = dims[axis]
        part = None if size is None else ceil_divide(size, count)
        taken = None if part is None else multiply(part, count - 1)
        last = None if size is None or taken is None else subtract(size, taken)
        parts = [part] * (count - 1) + [last if count > 1 else size]
    if parts is None or len(parts) != count:
        return None
    return [[*dims[:axis], part, *dims[axis + 1 :]] for part in parts]


def gather_dims(known: Known) -> Results | None:
    """The indices' dims in the place of the axis."""
    dims, index, axis = known.dims(0), known.dims(1), known.attribute("axis", 0)
    if dims is None or index is None or not -len(dims) <= axis < len(dims):
        return None
    axis %= len(dims)
    return [[*dims[:axis], *index, *dims[axis + 1 :]]]


def gather_nd_dims(known: Known) -> Results | None:
    """What each index leaves of the data."""
    dims, index, batch = known.dims(0), known.dims(1), known.attribute("batch_dims", 0)
    depth = index[-1] if index else None
    if dims is None or index is None or not isinstance(depth, int):
        return None
    return [[*index[:-1], *dims[batch + depth :]]]


def slice_dims(known: Known) -> Results | None:
    """A part of some axes."""
    dims = known.dims(0)
    if dims is None:
        return None
    if known.opset < 10:
        bounds: list[list[Element] | None] = [list(known.attribute(name, ())) for name in ("starts", "ends")]
        axes = list(known.attribute("axes", range(len(bounds[0] or ()))))
        steps: list[Element] | None = [1] * len(axes)
    else:
        bounds = [known.contents(1), known.contents(2)]
        count = known.dims(1)
        if count is None or not isinstance(count[0], int):
            return None
        given = known.ints(3) if known.given(3) else list(range(count[0]))
        steps = known.contents(4) if known.given(4) else [1] * count[0]
        if given is None:
            return [[None] * len(dims)]
        axes = given
    starts, ends = (one or [None] * len(axes) for one in bounds)
    result = list(dims)
    for axis, start, end, step in zip(axes, starts, ends, steps or [None] * len(axes), strict=False):
        result[axis] = _cut(dims[axis], start, end, step)
    return [result]


def _cut(size: Element, start: Element, end: Element, step: Element) -> Element:
    """How much of an axis a Slice takes."""
    if size is None or start is None or end is None or not isinstance(step, int) or step == 0:
        return None
    if isinstance(size, int) and isinstance(start, int) and isinstance(end, int):
        return len(slice_indices(start, end, step, size))
    if step < 0:
        whole = isinstance(start, int) and isinstance(end, int) and (start == -1 or start >= _FAR) and end <= -_FAR
        return size if whole and step == -1 else None
    low = lowest(start)
    if isinstance(end, int) and end >= _FAR and low is not None and low >= 0:
        length = subtract(size, start)  # what is negative then is 0 below
        steps = None if length is None else ceil_divide(length, step)
        return None if steps is None else maximum(0, steps)
    first, last = _bound(size, start), _bound(size, end)
    length = None if first is None or last is None else subtract(last, first)
    steps = None if length is None else ceil_divide(length, step)
    return None if steps is None else maximum(0, steps)


def _bound(size: Size, bound: Size) -> Element:
    if isinstance(bound, int) and bound >= _FAR:
        return size
    low = lowest(bound)
    if low is not None and low >= 0:
        return minimum(bound, size)
    if not isinstance(bound, int):
        return None
    counted = add(size, bound)
    return None if counted is None else maximum(0, counted)
