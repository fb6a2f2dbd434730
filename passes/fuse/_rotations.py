"""The forms in which models write a rotary embedding."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from baker.model.graph import attribute, is_op
from baker.passes.fuse._dims import Dims, number
from baker.passes.fuse._rule import axes_of, ints, scalar
from baker.passes.fuse._slices import cuts_of
from baker.passes.fuse._symbols import Symbols


@dataclass(frozen=True)
class Rotation:
    """What turns x by tables of cosines and sines.

    Attributes:
        x: (batch, heads, sequence, size).
        nodes: all that become one, the last one first.
        whole: the tables have each number twice.
        interleaved: pairs stand side by side, else half the size apart.
    """

    x: ir.Value
    cos: ir.Value
    sin: ir.Value
    nodes: tuple[ir.Node, ...]
    whole: bool
    interleaved: bool = False


@dataclass(frozen=True)
class Part:
    """``source[..., start:stop:step]``."""

    source: ir.Value
    node: ir.Node
    start: int
    stop: int
    step: int


def part_of(value: ir.Value | None, symbols: Symbols) -> Part | None:
    """Reads a cut of the last axis."""
    node = None if value is None else value.producer()
    dims = None if node is None or not node.inputs else symbols.dims(node.inputs[0])
    size = number(dims[-1]) if dims else None
    if value is None or node is None or dims is None or size is None or node.inputs[0] is None:
        return None
    if is_op(node, "Slice"):
        cuts = cuts_of(node) or {}
        cut = cuts.get(-1, cuts.get(len(dims) - 1))
        if len(cuts) != 1 or cut is None or cut.step < 1:
            return None
        start, stop = (min(bound + size if bound < 0 else bound, size) for bound in (cut.start, cut.end))
        return Part(node.inputs[0], node, start, stop, cut.step)
    if not is_op(node, "Split") or attribute(node, "axis", 0) not in (-1, len(dims) - 1):
        return None
    given = ints(node.inputs[1]) if len(node.inputs) > 1 else list(attribute(node, "split", ())) or None
    count = len(node.outputs)
    sizes = given or ([size // count] * count if size % count == 0 else None)
    if sizes is None or len(sizes) != count:
        return None
    index = list(node.outputs).index(value)
    return Part(node.inputs[0], node, sum(sizes[:index]), sum(sizes[: index + 1]), 1)


def rotation_of(node: ir.Node, symbols: Symbols) -> Rotation | None:
    """Reads ``x * cos + rotated(x) * sin``, or the two halves of it joined; None for anything else."""
    return _sum(node, symbols) if is_op(node, "Add") else _joined(node, symbols)


def _sum(node: ir.Node, symbols: Symbols) -> Rotation | None:
    first, second = (None if each is None else each.producer() for each in node.inputs)
    for straight, turned in ((first, second), (second, first)):
        if not is_op(straight, "Mul") or not is_op(turned, "Mul"):
            continue
        for value, sin in (turned.inputs, tuple(reversed(turned.inputs))):
            found = None if value is None else _turned(value, symbols)
            if found is None or sin is None or found[0] not in straight.inputs:
                continue
            x, nodes, interleaved = found
            (cos,) = [each for each in straight.inputs if each is not x] or [x]
            if cos is not None:
                return Rotation(x, cos, sin, (node, straight, turned, *nodes), True, interleaved)
    return None


def _turned(value: ir.Value, symbols: Symbols) -> tuple[ir.Value, tuple[ir.Node, ...], bool] | None:
    """Reads (-x2, x1): x, the nodes, and whether the pairs are side by side."""
    node, views = value.producer(), list[ir.Node]()
    interleaved = is_op(node, "Reshape")
    if is_op(node, "Reshape"):
        views.append(node)
        node = None if node.inputs[0] is None else node.inputs[0].producer()
    if not is_op(node, "Concat") or len(node.inputs) != 2 or not _is_last(node, symbols):
        return None
    negative, positive = node.inputs
    if interleaved:
        outer = [None if each is None else each.producer() for each in (negative, positive)]
        if not all(is_op(each, "Unsqueeze") and axes_of(each) in ([-1], [4]) for each in outer):
            return None
        views += [each for each in outer if each is not None]
        negative, positive = (None if each is None else each.inputs[0] for each in outer)
    minus = None if negative is None else negative.producer()
    if minus is None or not (is_op(minus, "Neg") or (is_op(minus, "Mul") and scalar(minus.inputs[1]) == -1)):
        return None
    x = _pair(part_of(positive, symbols), part_of(minus.inputs[0], symbols), interleaved, symbols)
    if x is None or (interleaved and symbols.dims(value) != symbols.dims(x[0])):
        return None
    nodes = dict.fromkeys([*views[:1], node, *views[1:], minus, *x[1]])
    return x[0], tuple(nodes), interleaved


def _pair(
    first: Part | None, second: Part | None, interleaved: bool, symbols: Symbols
) -> tuple[ir.Value, tuple[ir.Node, ...]] | None:
    """What two parts are the halves of, or its even and odd columns."""
    if first is None or second is None or first.source is not second.source:
        return None
    dims = symbols.dims(first.source)
    size = number(dims[-1]) if dims else None
    if size is None or size % 2:
        return None
    half, cuts = size // 2, [(part.start, part.stop, part.step) for part in (first, second)]
    odd = cuts[1] in ((1, size, 2), (1, size - 1, 2)) and size > 2
    fits = cuts[0] in ((0, size, 2), (0, size - 1, 2)) and cuts[1] == (1, size, 2) if interleaved else None
    if fits is None:
        fits = cuts == [(0, half, 1), (half, size, 1)]
    return (first.source, (first.node, second.node)) if fits and (odd or not interleaved) else None


def _is_last(node: ir.Node, symbols: Symbols) -> bool:
    dims = symbols.dims(node.inputs[0])
    return dims is not None and attribute(node, "axis", 0) in (-1, len(dims) - 1)


def _joined(node: ir.Node, symbols: Symbols) -> Rotation | None:
    """Reads Concat(x1 * cos - x2 * sin, x2 * cos + x1 * sin)."""
    if not is_op(node, "Concat") or len(node.inputs) != 2 or not _is_last(node, symbols):
        return None
    real, imaginary = (None if each is None else each.producer() for each in node.inputs)
    if not is_op(real, "Sub") or not is_op(imaginary, "Add"):
        return None
    products = [None if each is None else each.producer() for each in (*real.inputs, *imaginary.inputs)]
    if not all(is_op(each, "Mul") for each in products):
        return None
    minuend, subtrahend, *rest = [each for each in products if each is not None]
    for first, cos in (minuend.inputs, tuple(reversed(minuend.inputs))):
        for second, sin in (subtrahend.inputs, tuple(reversed(subtrahend.inputs))):
            pair = _pair(part_of(first, symbols), part_of(second, symbols), False, symbols)
            wanted = [{second, cos}, {first, sin}]
            if pair is None or cos is None or sin is None:
                continue
            if [set(each.inputs) for each in rest] in (wanted, wanted[::-1]):
                nodes = dict.fromkeys([node, real, imaginary, minuend, subtrahend, *rest, *pair[1]])
                return Rotation(pair[0], cos, sin, tuple(nodes), False)
    return None


def dims_of_heads(x: ir.Value, symbols: Symbols) -> Dims | None:
    """(batch, heads, sequence, size), None for another rank or an unknown or odd size."""
    dims = symbols.dims(x)
    size = number(dims[3]) if dims is not None and len(dims) == 4 else None
    return None if size is None or size % 2 else dims
