"""Operators that compute: their output dims."""

from __future__ import annotations

from collections.abc import Sequence

from baker.model.contents import Element
from baker.model.dims import add, ceil_divide, floor_divide, maximum, multiply, subtract
from baker.model.graph import constant_value
from baker.model.shape_rules._known import Dims, Known, Results, joined, plus, product


def element_wise_dims(known: Known) -> Results | None:
    """All inputs, broadcast."""
    found: Dims = []
    for index in range(len(known.node.inputs)):
        dims = known.dims(index)
        if dims is None:
            return None
        found = joined(found, dims)
    return [found]


def same_dims(known: Known) -> Results | None:
    """The first input's dims."""
    return [known.dims(0)]


def like_indices_dims(known: Known) -> Results | None:
    """The second input's dims."""
    return [known.dims(1)]


def rank_dims(known: Known) -> Results | None:
    """One dim: how many dims there are."""
    dims = known.dims(0)
    count = None if dims is None else len(range(len(dims))[known.attribute("start", 0) : known.attribute("end", None)])
    return [[count]]


def pad_dims(known: Known) -> Results | None:
    """More at both ends."""
    dims = known.dims(0)
    pads = known.contents(1) if known.given(1) else list(known.attribute("pads", ())) or None
    axes = known.ints(3) if known.given(3) else None if dims is None else list(range(len(dims)))
    if dims is None or pads is None or axes is None or len(pads) != 2 * len(axes):
        return None if dims is None else [[None] * len(dims)]
    result = list(dims)
    for place, axis in enumerate(axes):
        result[axis] = plus(dims[axis], plus(pads[place], pads[place + len(axes)]))
    return [result]


def resize_dims(known: Known) -> Results | None:
    """Given sizes, or dims times scales."""
    dims, scales = known.dims(0), None
    if dims is None or "axes" in known.node.attributes:
        return None if dims is None else [[None] * len(dims)]
    if known.given(3):
        sizes = known.contents(3)
        fits = sizes is not None and len(sizes) == len(dims)
        kept = known.attribute("keep_aspect_ratio_policy", "stretch") in ("stretch", b"stretch")
        return [list(sizes) if fits and kept and sizes is not None else [None] * len(dims)]
    for value in known.node.inputs[1:3]:  # opset 10 has no region of interest before the scales
        array = constant_value(value)
        if array is not None and array.dtype.kind == "f" and array.size == len(dims):
            scales = array.tolist()
    if known.node.op_type == "Upsample":
        scales = scales or known.attribute("scales", None)
    if scales is None or len(scales) != len(dims):
        return [[None] * len(dims)]
    return [[_scaled(dim, scale) for dim, scale in zip(dims, scales, strict=True)]]


def _scaled(dim: Element, scale: float) -> Element:
    """floor(dim * scale) for scales that float32 multiplies by exactly."""
    if dim is None or not 0 < scale <= 1024:
        return None
    if scale == int(scale):
        return multiply(dim, int(scale))
    below = 1 / scale
    return floor_divide(dim, int(below)) if below == int(below) and int(below) & (int(below) - 1) == 0 else None


def range_dims(known: Known) -> Results | None:
    """How many steps there are."""
    bounds = [known.contents(index) for index in range(3)]
    items = [one[0] for one in bounds if one is not None and len(one) == 1]
    start, limit, step = items if len(items) == 3 else (None, None, None)
    if start is None or limit is None or not isinstance(step, int) or step < 1:
        return [[None]]
    length = subtract(limit, start)
    steps = None if length is None else ceil_divide(length, step)
    return [[None if steps is None else maximum(0, steps)]]


def constant_of_shape_dims(known: Known) -> Results | None:
    """What it is told."""
    target = known.contents(0)
    if target is None or any(isinstance(item, int) and item < 0 for item in target):
        return None
    return [list(target)]


def matmul_dims(known: Known) -> Results | None:
    """Rows of A, columns of B, the rest broadcast."""
    a, b = known.dims(0), known.dims(1)
    if a is None or b is None or not a or not b:
        return None
    rows, columns = a[-2:-1] if len(a) > 1 else [], b[-1:] if len(b) > 1 else []
    return [[*joined(a[:-2], b[:-2]), *rows, *columns]]


def ternary_matmul_dims(known: Known) -> Results | None:
    """Those of X with the channels last: all of them, or cut into several outputs."""
    x, codes = known.dims(0), known.dims(1)
    if not x or codes is None or len(codes) != 2:
        return None
    sizes = list(known.attribute("splits", ())) or codes[:1]
    return [[*x[:-1], size] for size in sizes]


def gemm_dims(known: Known) -> Results | None:
    """Rows and columns."""
    a, b = known.dims(0), known.dims(1)
    if a is None or b is None or len(a) != 2 or len(b) != 2:
        return None
    return [[a[1 if known.attribute("transA", 0) else 0], b[0 if known.attribute("transB", 0) else 1]]]


def reduce_dims(known: Known) -> Results | None:
    """Axes gone, or 1."""
    dims, axes = known.dims(0), known.ints(1, "axes")
    if dims is None or (axes is None and known.given(1)):
        return None
    if not axes:
        if known.attribute("noop_with_empty_axes", 0):
            return [dims]
        axes = list(range(len(dims)))
    return [_without(dims, axes, known.attribute("keepdims", 1))]


def arg_dims(known: Known) -> Results | None:
    """One axis gone, or 1."""
    dims = known.dims(0)
    return None if dims is None else [_without(dims, [known.attribute("axis", 0)], known.attribute("keepdims", 1))]


def _without(dims: Dims, axes: Sequence[int], keep: int) -> Dims:
    gone = {axis + len(dims) if axis < 0 else axis for axis in axes}
    kept: Dims = [1 if axis in gone else dim for axis, dim in enumerate(dims)]
    return kept if keep else [dim for axis, dim in enumerate(kept) if axis not in gone]


def conv_dims(known: Known) -> Results | None:
    """Places of the window."""
    dims, weight = known.dims(0), known.dims(1)
    if dims is None or weight is None or len(dims) != len(weight):
        return None
    windows = _windows(known, dims[2:], known.attribute("kernel_shape", None) or weight[2:])
    return None if windows is None else [[dims[0], weight[0], *windows]]


def pool_dims(known: Known) -> Results | None:
    """Places of the window, for each channel."""
    dims, kernel = known.dims(0), known.attribute("kernel_shape", None)
    if dims is None or kernel is None or len(dims) != len(kernel) + 2:
        return None
    windows = _windows(known, dims[2:], kernel)
    if windows is None or known.attribute("ceil_mode", 0):
        windows = [None] * len(kernel)
    return [[*dims[:2], *windows]] * len(known.node.outputs)


def _windows(known: Known, sizes: Dims, kernel: Sequence[Element]) -> Dims | None:
    """How many places a window has along each axis."""
    rank = len(sizes)
    strides, dilations = (known.attribute(name, (1,) * rank) for name in ("strides", "dilations"))
    pads, mode = known.attribute("pads", (0,) * (2 * rank)), known.attribute("auto_pad", "NOTSET")
    mode = mode.decode() if isinstance(mode, bytes) else mode
    if len(kernel) != rank or len(pads) != 2 * rank:
        return None
    result: Dims = []
    for axis, (size, width, stride, dilation) in enumerate(zip(sizes, kernel, strides, dilations, strict=True)):
        if size is None or not isinstance(width, int):
            result.append(None)
        elif mode in ("SAME_UPPER", "SAME_LOWER"):
            result.append(ceil_divide(size, stride))
        else:
            around = 0 if mode == "VALID" else pads[axis] + pads[axis + rank]
            free = add(size, around - (width - 1) * dilation - 1)
            steps = None if free is None else floor_divide(free, stride)
            result.append(plus(steps, 1))
    return result


def conv_transpose_dims(known: Known) -> Results | None:
    """The input that has so many places of the window."""
    dims, weight = known.dims(0), known.dims(1)
    if dims is None or weight is None or len(dims) != len(weight) or "output_shape" in known.node.attributes:
        return None
    rank = len(dims) - 2
    strides, dilations = (known.attribute(name, (1,) * rank) for name in ("strides", "dilations"))
    pads, more = known.attribute("pads", (0,) * (2 * rank)), known.attribute("output_padding", (0,) * rank)
    if known.attribute("auto_pad", "NOTSET") not in ("NOTSET", b"NOTSET"):
        return [[dims[0], product([weight[1], known.attribute("group", 1)]), *[None] * rank]]
    result: Dims = [dims[0], product([weight[1], known.attribute("group", 1)])]
    for axis in range(rank):
        width = weight[axis + 2]
        if not isinstance(width, int):
            result.append(None)
            continue
        fixed = (width - 1) * dilations[axis] + 1 + more[axis] - pads[axis] - pads[axis + rank] - strides[axis]
        result.append(plus(product([dims[axis + 2], strides[axis]]), fixed))
    return [result]


def global_pool_dims(known: Known) -> Results | None:
    """1 along each axis of space."""
    dims = known.dims(0)
    return None if dims is None else [[*dims[:2], *[1] * (len(dims) - 2)]]


def depth_to_space_dims(known: Known) -> Results | None:
    """Channels for space, or the other way round."""
    dims, block = known.dims(0), known.attribute("blocksize", None)
    if dims is None or len(dims) != 4 or not block:
        return None
    n, c, h, w = dims
    if known.node.op_type == "DepthToSpace":
        return [[n, None if c is None else floor_divide(c, block * block), product([h, block]), product([w, block])]]
    halves: Dims = [None if one is None else floor_divide(one, block) for one in (h, w)]
    return [[n, product([c, block * block]), *halves]]


def attention_dims(known: Known) -> Results | None:
    """Y of the standard Attention; of what it gives beside that only the rank."""
    query, value = known.dims(0), known.dims(2)
    if query is None or value is None or len(query) != len(value):
        return None
    more: Results = [[None] * 4] * (len(known.node.outputs) - 1)
    if len(query) == 4:
        return [[*query[:3], value[3]], *more]
    heads, groups = known.attribute("q_num_heads", None), known.attribute("kv_num_heads", None)
    wide = value[-1]
    if not heads or not groups or wide is None:
        return [[*query[:2], None], *more]
    head = floor_divide(wide, groups)
    return [[*query[:2], product([head, heads])], *more]


def either_branch_dims(known: Known) -> Results | None:
    """An If's outputs: what both branches agree on. Dims hold the then-branch's outputs, then the else-branch's."""
    results: Results = []
    count = len(known.node.outputs)
    if known.dims(2 * count - 1) is None and len(known.node.attributes) < 2:
        return None
    for index in range(count):
        yes, no = known.dims(index), known.dims(index + count)
        if yes is None or no is None or len(yes) != len(no):
            results.append(None)
            continue
        results.append([a if a == b else None for a, b in zip(yes, no, strict=True)])
    return results
