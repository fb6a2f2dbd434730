"""Attributes that became inputs, and back where the input is a constant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir

from baker.model.graph import Array, attribute, in_function, is_constant
from baker.passes.convert._tools import (
    Refused,
    Rule,
    Rules,
    Step,
    drop_input,
    dtype_of,
    front,
    given,
    known,
    put,
    put_input,
    rank_of,
    reference,
    trim_inputs,
)

_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")
_LARGEST = float(np.finfo(np.float32).max)  # the bounds of a Clip that has none, below opset 11
_CONSTANT_FOR = {
    ir.AttributeType.INTS: "value_ints",
    ir.AttributeType.INT: "value_int",
    ir.AttributeType.FLOATS: "value_floats",
    ir.AttributeType.FLOAT: "value_float",
}


def _to_input(name: str, index: int, kind: Any = np.int64, *, typed: bool = False) -> Rule:
    """The attribute becomes the input at an index; typed: of the first input's type."""

    def rule(node: ir.Node, step: Step) -> None:
        found = node.attributes.get(name)
        if found is None:
            return
        if found.is_ref():
            value = _parameter(node, found, typed)
        else:
            numbers = np.array(found.value, dtype_of(node).numpy() if typed else kind)
            value = step.constant(node, name, numbers)
        node.attributes.pop(name)
        put_input(node, index, value)

    return rule


def _parameter(node: ir.Node, found: ir.Attr, typed: bool) -> ir.Value:
    """A Constant that holds a parameter of the enclosing function (opset 12 and later know it)."""
    held = _CONSTANT_FOR.get(found.type)
    if held is None or not in_function(node) or found.ref_attr_name is None:
        raise Refused(f"its attribute '{found.name}' is a parameter of the enclosing function")
    constant = front(node, "Constant", [], {held: ir.RefAttr(held, found.ref_attr_name, found.type)})
    if typed and dtype_of(node) != ir.DataType.FLOAT:
        return front(node, "Cast", [constant], {"to": int(dtype_of(node))})
    return constant


def _to_attribute(name: str, index: int, make: Callable[[str, Array], ir.Attr]) -> Rule:
    """The constant input at an index becomes an attribute."""

    def rule(node: ir.Node, step: Step) -> None:
        value = given(node, index)
        if value is None:
            return
        parameter = reference(value)
        if parameter is not None and parameter.ref_attr_name is not None:
            put(node, name, ir.RefAttr(name, parameter.ref_attr_name, parameter.type))
        else:
            put(node, name, make(name, known(node, index, name).reshape(-1)))
        drop_input(step, node, index)

    return rule


def _ints(name: str, array: Array) -> ir.Attr:
    return ir.AttrInt64s(name, [int(item) for item in array])


def _int(name: str, array: Array) -> ir.Attr:
    return ir.AttrInt64(name, int(array[0]))


def _floats(name: str, array: Array) -> ir.Attr:
    return ir.AttrFloat32s(name, [float(item) for item in array])


def _float(name: str, array: Array) -> ir.Attr:
    return ir.AttrFloat32(name, float(array[0]))


def _all(*rules: Rule) -> Rule:
    def rule(node: ir.Node, step: Step) -> None:
        for each in rules:
            each(node, step)

    return rule


# ---- Clip, Pad -------------------------------------------------------------------------------------------------


def _clip_up(node: ir.Node, step: Step) -> None:
    for name, unbounded in (("min", -_LARGEST), ("max", _LARGEST)):
        found = node.attributes.get(name)
        if found is not None and not found.is_ref() and float(found.value) == unbounded:
            node.attributes.pop(name)
    _to_input("min", 1, typed=True)(node, step)
    _to_input("max", 2, typed=True)(node, step)


def _pad_up(node: ir.Node, step: Step) -> None:
    found = node.attributes.get("value")
    if found is not None and not found.is_ref() and float(found.value) == 0:
        node.attributes.pop("value")
    _to_input("pads", 1)(node, step)
    _to_input("value", 2, typed=True)(node, step)


def _pad_axes_down(node: ir.Node, step: Step) -> None:
    """Opset 18 pads chosen axes, before it all."""
    if given(node, 3) is None:
        return
    size = rank_of(node)
    axes = [int(axis) % size for axis in known(node, 3, "axes")]
    drop_input(step, node, 3)
    if is_constant(node.inputs[1]):
        full = np.zeros((2, size), np.int64)
        full[:, axes] = known(node, 1, "pads").reshape(2, len(axes))
        drop_input(step, node, 1)
        put_input(node, 1, step.constant(node, "pads", full.reshape(-1)))
        return
    places = np.full((2, size), 2 * len(axes), np.int64)  # where nothing is padded: the zero at the end
    places[0, axes], places[1, axes] = range(len(axes)), range(len(axes), 2 * len(axes))
    more = front(node, "Concat", [node.inputs[1], step.constant(node, "zero", np.zeros(1, np.int64))], {"axis": 0})
    node.replace_input_with(1, front(node, "Gather", [more, step.constant(node, "places", places.reshape(-1))]))


def _pad_down(node: ir.Node, step: Step) -> None:
    _to_attribute("value", 2, _float)(node, step)
    _to_attribute("pads", 1, _ints)(node, step)


# ---- Slice, TopK, DFT, Reduce ----------------------------------------------------------------------------------


def _slice_down(node: ir.Node, step: Step) -> None:
    if given(node, 4) is not None and any(known(node, 4, "steps") != 1):
        raise Refused("a Slice has no steps before opset 10")
    drop_input(step, node, 4)
    for name, index in (("axes", 3), ("ends", 2), ("starts", 1)):
        _to_attribute(name, index, _ints)(node, step)


def _dft_up(node: ir.Node, step: Step) -> None:
    if "axis" not in node.attributes:
        put(node, "axis", 1)  # the default of opset 17; opset 20 has -2
    _to_input("axis", 2)(node, step)


def _dft_down(node: ir.Node, step: Step) -> None:
    axis = -2 if given(node, 2) is None else int(known(node, 2, "axis").reshape(-1)[0])
    put(node, "axis", axis + rank_of(node) if axis < 0 else axis)
    drop_input(step, node, 2)


def _reduce_down(node: ir.Node, step: Step) -> None:
    """Without axes everything is reduced, unless ``noop_with_empty_axes`` says that nothing is."""
    noop, axes = attribute(node, "noop_with_empty_axes", 0), given(node, 1)
    empty = axes is None or (reference(axes) is None and not len(known(node, 1, "axes")))
    if noop and empty:
        raise Refused(f"noop_with_empty_axes came with opset {step.version}")
    node.attributes.pop("noop_with_empty_axes", None)
    if empty:
        drop_input(step, node, 1)
        return
    _to_attribute("axes", 1, _ints)(node, step)


def _optional_up(node: ir.Node, step: Step) -> None:
    """An empty list of axes meant all of them as an attribute; as an input Squeeze would take it at its word."""
    found = node.attributes.get("axes")
    if found is not None and not found.is_ref() and not found.value:
        node.attributes.pop("axes")
    _to_input("axes", 1)(node, step)


def _reshape_up(node: ir.Node, step: Step) -> None:
    node.attributes.pop("consumed_inputs", None)
    _to_input("shape", 1)(node, step)


# ---- Split -----------------------------------------------------------------------------------------------------


def _split_up(node: ir.Node, step: Step) -> None:
    """Opset 18 wants to be told into how many equal parts."""
    if given(node, 1) is None:
        trim_inputs(node)
        put(node, "num_outputs", len(node.outputs))


def _split_1_up(node: ir.Node, step: Step) -> None:
    _to_attribute("split", 1, _ints)(node, step)


def _top_k_up(node: ir.Node, step: Step) -> None:
    """The attribute is a number, the input a vector of one."""
    found = node.attributes.get("k")
    if found is not None and not found.is_ref():
        put(node, "k", ir.AttrInt64s("k", [int(found.value)]))
    _to_input("k", 1)(node, step)


UP: Rules = {
    ("Clip", 11): _clip_up,
    ("DFT", 20): _dft_up,
    ("Pad", 11): _pad_up,
    ("Reshape", 5): _reshape_up,
    ("Slice", 10): _all(_to_input("starts", 1), _to_input("ends", 2), _to_input("axes", 3)),
    ("Split", 2): _split_1_up,
    ("Split", 13): _to_input("split", 1),
    ("Split", 18): _split_up,
    ("Squeeze", 13): _optional_up,
    ("TopK", 10): _top_k_up,
    ("Unsqueeze", 13): _to_input("axes", 1),
    ("Upsample", 9): _to_input("scales", 1, np.float32),
    ("ReduceSum", 13): _optional_up,
    **{(f"Reduce{name}", 18): _optional_up for name in _REDUCTIONS},
}

DOWN: Rules = {
    ("Clip", 11): _all(_to_attribute("max", 2, _float), _to_attribute("min", 1, _float)),
    ("DFT", 20): _dft_down,
    ("Pad", 11): _pad_down,
    ("Pad", 18): _pad_axes_down,
    ("Slice", 10): _slice_down,
    ("Split", 13): _to_attribute("split", 1, _ints),
    ("Squeeze", 13): _to_attribute("axes", 1, _ints),
    ("TopK", 10): _to_attribute("k", 1, _int),
    ("Unsqueeze", 13): _to_attribute("axes", 1, _ints),
    ("Upsample", 9): _to_attribute("scales", 1, _floats),
    ("ReduceSum", 13): _reduce_down,
    **{(f"Reduce{name}", 18): _reduce_down for name in _REDUCTIONS},
}
