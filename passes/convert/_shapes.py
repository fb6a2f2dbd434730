"""Split, Shape, Reshape and Trilu, downward: what they count or compute by themselves is spelt out."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from baker.model.graph import attribute, is_constant, shape_of
from baker.passes.convert._tools import (
    Refused,
    Rules,
    Step,
    become,
    behind,
    dtype_of,
    front,
    given,
    int64,
    known,
    put_input,
    trim_inputs,
)


def _split_down(node: ir.Node, step: Step) -> None:
    """Into equal parts but for the last one; before opset 18 that has to be spelt out."""
    node.attributes.pop("num_outputs", None)
    if given(node, 1) is not None:
        return
    trim_inputs(node)
    count, axis = len(node.outputs), int(attribute(node, "axis", 0))
    shape = shape_of(node.inputs[0])
    size = None if shape is None else shape[axis]
    if size is not None and size % count == 0:
        return
    if size is not None:
        part = -(-size // count)
        put_input(node, 1, step.constant(node, "split", int64(*[part] * (count - 1), size - part * (count - 1))))
        return
    put_input(node, 1, _parts(node, step, count, axis))


def _parts(node: ir.Node, step: Step, count: int, axis: int) -> ir.Value:
    """The sizes of the parts of a dim that is known when the model runs alone."""
    dims = front(node, "Shape", [node.inputs[0]])
    size = front(node, "Gather", [dims, step.constant(node, "axis", int64(axis))])
    rounded = front(node, "Add", [size, step.constant(node, "round", int64(count - 1))])
    part = front(node, "Div", [rounded, step.constant(node, "count", int64(count))])
    first = front(node, "Mul", [part, step.constant(node, "first", int64(count - 1))])
    last = front(node, "Sub", [size, first])
    many = front(node, "Expand", [part, step.constant(node, "many", int64(count - 1))])
    return front(node, "Concat", [many, last], {"axis": 0})


def _shape_down(node: ir.Node, step: Step) -> None:
    """Before opset 15 all dims come, so a Slice takes those that are wanted."""
    start, end = int(attribute(node, "start", 0)), attribute(node, "end", None)
    for name in ("start", "end"):
        node.attributes.pop(name, None)
    if start == 0 and end is None:
        return
    stop = np.iinfo(np.int64).max if end is None else int(end)
    behind(node, "Slice", step.constant(node, "start", int64(start)), step.constant(node, "end", int64(stop)))


def _reshape_down(node: ir.Node, step: Step) -> None:
    if attribute(node, "allowzero", 0) and (known(node, 1, "shape") == 0).any():
        raise Refused("allowzero=1 came with opset 14")
    node.attributes.pop("allowzero", None)


def _trilu_down(node: ir.Node, step: Step) -> None:
    """A mask of the triangle and a Where stand in for it."""
    shape, constant = shape_of(node.inputs[0]), given(node, 1) is None or is_constant(node.inputs[1])
    upper = bool(attribute(node, "upper", 1))
    zero = step.constant(node, "zero", np.zeros((), dtype_of(node).numpy()))
    if shape is None or shape[-1] is None or shape[-2] is None or not constant:
        mask = _computed_triangle(node, step, upper)
    else:
        offset = 0 if given(node, 1) is None else int(known(node, 1, "k").reshape(-1)[0])
        whole = np.ones((shape[-2], shape[-1]), bool)
        mask = step.constant(node, "mask", np.triu(whole, offset) if upper else np.tril(whole, offset))
    become(node, front(node, "Where", [mask, node.inputs[0], zero]))


def _computed_triangle(node: ir.Node, step: Step, upper: bool) -> ir.Value:
    """The mask of a matrix whose dims, or whose diagonal, are known when the model runs alone."""
    first, unit = (
        step.constant(node, "first", np.zeros((), np.int64)),
        step.constant(node, "unit", np.ones((), np.int64)),
    )
    dims = front(node, "Shape", [node.inputs[0]])
    counted = []
    for axis in (-2, -1):
        size = front(node, "Gather", [dims, step.constant(node, "axis", np.array(axis, np.int64))])
        counted.append(front(node, "Range", [first, size, unit]))
    rows = front(node, "Unsqueeze", [counted[0], step.constant(node, "axes", int64(1))])
    distance = front(node, "Sub", [counted[1], rows])
    offset = given(node, 1) or first
    outside = front(node, "Less" if upper else "Greater", [distance, offset])
    return front(node, "Not", [outside])


UP: Rules = {}
DOWN: Rules = {
    ("Reshape", 14): _reshape_down,
    ("Shape", 15): _shape_down,
    ("Split", 18): _split_down,
    ("Trilu", 14): _trilu_down,
}
