"""The places of a model where a single fault can be made: see `mutants`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from baker.model.graph import all_nodes, attribute, constant_value, graphs, is_op, label, subgraphs

EPSILON, MASK = 1e-4, 1e4
"""A constant below the one is an epsilon, one above the other the -inf of a mask."""

_COMMUTATIVE = frozenset(("Add", "And", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Equal", "Max", "Mean", "Min", "Mul"))
_COMMUTATIVE |= {"Or", "Sum", "Xor"}
_NEUTRAL = ("Identity", "Dropout", "Constant", "Shape", "Size", "If", "Loop", "Scan")
_FLAGS = frozenset(
    ("count_include_pad", "exclusive", "reverse", "largest", "transA", "transB", "fmod", "linear_before_reset")
)
_TEXTS = {
    "SAME_UPPER": "SAME_LOWER", "SAME_LOWER": "SAME_UPPER", "DCR": "CRD", "CRD": "DCR", "none": "tanh", "tanh": "none",
    "constant": "edge", "edge": "reflect", "reflect": "edge", "nearest": "linear", "linear": "nearest",
    "half_pixel": "asymmetric", "asymmetric": "half_pixel", "align_corners": "half_pixel",
    "pytorch_half_pixel": "asymmetric", "round_prefer_floor": "floor", "floor": "ceil", "ceil": "floor",
    "forward": "reverse", "reverse": "forward",
}  # fmt: skip
_IGNORED = frozenset(("momentum", "cubic_coeff_a", "extrapolation_value", "seed", "spatial", "training_mode"))

Change = Callable[[ir.Model], None]


@dataclass(frozen=True)
class Site:
    """A place where a fault of some kind can be made; ``nodes`` compute something else then, by their number."""

    kind: str
    what: str
    change: Change = field(compare=False)
    nodes: tuple[int, ...] = ()


# ---- places ----------------------------------------------------------------------------------------------------


def sites(model: ir.Model) -> Iterator[Site]:
    """Every place where a fault can be made."""
    for index, node in enumerate(all_nodes(model)):
        yield from _drops(index, node)
        yield from _swaps(index, node)
        yield from _attributes(index, node, model.graph.opset_imports.get("", 1))
        yield from _indices(index, node)
    numbers = {node: index for index, node in enumerate(all_nodes(model))}
    for depth, graph in enumerate(graphs(model)):
        yield from _weights(depth, graph, numbers)


def _nth(model: ir.Model, index: int) -> ir.Node:
    return list(all_nodes(model))[index]


def _drops(index: int, node: ir.Node) -> Iterator[Site]:
    if node.op_type in _NEUTRAL or not node.outputs or any(value.uses() for value in node.outputs[1:]):
        return
    if any(value.is_graph_output() for value in node.outputs[1:]) or subgraphs(node):
        return
    for position, value in enumerate(node.inputs):
        if value is not None and constant_value(value) is None and _alike(value, node.outputs[0]):
            yield Site("drop", f"{_named(node)} gives its input {position}", _drop(index, position), (index,))


def _alike(one: ir.Value, other: ir.Value) -> bool:
    return one.dtype is not None and one.dtype == other.dtype and one.shape is not None and one.shape == other.shape


def _drop(index: int, position: int) -> Change:
    def change(model: ir.Model) -> None:
        node = _nth(model, index)
        source = node.inputs[position]
        node.op_type, node.domain = "Identity", ""
        node.attributes.clear()
        node.resize_inputs(1)
        node.replace_input_with(0, source)
        node.resize_outputs(1)

    return change


def _swaps(index: int, node: ir.Node) -> Iterator[Site]:
    if node.op_type in _COMMUTATIVE:
        return
    for one, other in combinations(range(len(node.inputs)), 2):
        a, b = node.inputs[one], node.inputs[other]
        if a is None or b is None or a is b or not _alike(a, b):
            continue
        x, y = constant_value(a), constant_value(b)
        if x is None or y is None or not np.array_equal(x, y):
            yield Site(
                "swap", f"{_named(node)} has inputs {one} and {other} swapped", _swap(index, one, other), (index,)
            )


def _swap(index: int, one: int, other: int) -> Change:
    def change(model: ir.Model) -> None:
        node = _nth(model, index)
        a, b = node.inputs[one], node.inputs[other]
        node.replace_input_with(one, b)
        node.replace_input_with(other, a)

    return change


# ---- attributes ------------------------------------------------------------------------------------------------


def _attributes(index: int, node: ir.Node, opset: int) -> Iterator[Site]:
    for name, value in _settings(node, opset).items():
        if name in _IGNORED or (node.op_type == "Gemm" and name == "beta" and len(node.inputs) < 3):
            continue
        for changed in _others(name, value, node):
            text = f"{_named(node)} has {name} {changed} instead of {value}"
            yield Site("attribute", text, _set(index, name, changed), (index,))


def _settings(node: ir.Node, opset: int) -> dict[str, Any]:
    """The node's attributes, and the defaults of those it lacks."""
    found: dict[str, Any] = {}
    if not node.domain and onnx.defs.has(node.op_type, opset):
        for name, known in onnx.defs.get_schema(node.op_type, opset).attributes.items():
            if known.default_value.type:
                found[name] = onnx.helper.get_attribute_value(known.default_value)
    scalars = (ir.AttributeType.FLOAT, ir.AttributeType.INT, ir.AttributeType.INTS, ir.AttributeType.STRING)
    present = [one for one in node.attributes.values() if not one.is_ref() and one.type in scalars]
    found |= {one.name: attribute(node, one.name, None) for one in present}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in found.items()}


def _others(name: str, value: Any, node: ir.Node) -> Iterator[Any]:
    if isinstance(value, float):
        if abs(value) < MASK:
            yield value * 100 if "epsilon" in name else value * 1.1 or 0.1
    elif isinstance(value, str):
        yield from [_TEXTS[value]] if value in _TEXTS else []
    elif isinstance(value, int):
        yield from _other_ints(name, value, node)
    elif name == "perm":
        for one, other in combinations(range(len(value)), 2):
            swapped = list(value)
            swapped[one], swapped[other] = swapped[other], swapped[one]
            yield swapped
    elif name == "pads":
        yield from _shifted_pads(list(value))
    elif name in ("dilations", "axes") and not any(value[1:]):
        yield [item + 1 for item in value]


def _other_ints(name: str, value: int, node: ir.Node) -> Iterator[int]:
    if name in _FLAGS:
        yield 1 - value
    elif name == "p":
        yield 3 - value
    elif name == "axis":
        rank = len(node.inputs[0].shape) if node.inputs and node.inputs[0] is not None and node.inputs[0].shape else 0
        yield from (axis for axis in range(rank) if axis not in (value, value + rank))


def _shifted_pads(pads: list[int]) -> Iterator[list[int]]:
    half = len(pads) // 2
    for axis in range(half):
        for begin, end in ((axis, axis + half), (axis + half, axis)):
            if pads[begin] > 0:
                shifted = list(pads)
                shifted[begin] -= 1
                shifted[end] += 1
                yield shifted


def _set(index: int, name: str, value: Any) -> Change:
    def change(model: ir.Model) -> None:
        _nth(model, index).attributes[name] = ir.convenience.convert_attribute(name, value)

    return change


# ---- constants -------------------------------------------------------------------------------------------------


def _weights(depth: int, graph: ir.Graph, numbers: Mapping[ir.Node, int]) -> Iterator[Site]:
    for name, value in graph.initializers.items():
        array = None if value.is_graph_input() or not value.uses() else constant_value(value)
        if array is None or value.dtype is None or not value.dtype.is_floating_point() or not array.size:
            continue
        top = float(np.abs(array.astype(np.float64)).max())
        if 0 < top < MASK:
            factor = 1.01 if top >= EPSILON else 100
            shown = f"'{name}' {list(array.shape)}"
            readers = tuple(numbers[node] for node, _ in value.uses())
            yield Site("weight", f"{shown} is {factor:g} times as large", _scaled(depth, name, factor, False), readers)
            if array.size > 1:
                text = f"{shown}: its largest is {factor:g} times that"
                yield Site("element", text, _scaled(depth, name, factor, True), readers)


def _scaled(depth: int, name: str, factor: float, only_largest: bool) -> Change:
    def change(model: ir.Model) -> None:
        value = list(graphs(model))[depth].initializers[name]
        array = value.const_value.numpy().copy()
        place = np.unravel_index(np.abs(array.astype(np.float64)).argmax(), array.shape) if only_largest else ...
        array[place] = (array[place].astype(np.float64) * factor).astype(array.dtype)
        value.const_value = ir.tensor(array, name=name)

    return change


def _indices(index: int, node: ir.Node) -> Iterator[Site]:
    for position, value in enumerate(node.inputs):
        array = constant_value(value)
        if array is None or array.dtype.kind not in "iu" or not 0 < array.size <= 64 or array.dtype.itemsize < 4:
            continue
        for changed in _near(array, is_op(node, "Reshape", "Expand")):
            text = f"{_named(node)} has input {position} {changed.tolist()} instead of {array.tolist()}"
            yield Site("index", text[:160], _replace(index, position, changed), (index,))
    if is_op(node, "Slice") and len(node.inputs) > 2:
        starts, ends = constant_value(node.inputs[1]), constant_value(node.inputs[2])
        if starts is not None and ends is not None and (np.abs(ends) < 2**31 - 1).all():
            for step in (-1, 1):
                text = f"{_named(node)} is moved by {step}"
                yield Site(
                    "index", text, _both(_replace(index, 1, starts + step), _replace(index, 2, ends + step)), (index,)
                )


def _near(array: np.ndarray, is_shape: bool) -> Iterator[np.ndarray]:
    flat = array.ravel()
    for place in range(flat.size):
        for step in (-1, 1):
            if abs(int(flat[place])) < 2**31 - 1:
                changed = flat.copy()
                changed[place] += step
                yield changed.reshape(array.shape)
    for one, other in combinations(range(flat.size if is_shape else 0), 2):
        if flat[one] != flat[other]:
            changed = flat.copy()
            changed[[one, other]] = flat[[other, one]]
            yield changed.reshape(array.shape)


def _replace(index: int, position: int, array: np.ndarray) -> Change:
    def change(model: ir.Model) -> None:
        node = _nth(model, index)
        graph = model.graph
        name = f"mutant_{index}_{position}"
        value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
        value.shape, value.type = ir.Shape(array.shape), ir.TensorType(ir.DataType.from_numpy(array.dtype))
        graph.register_initializer(value)
        node.replace_input_with(position, value)

    return change


def _both(one: Change, other: Change) -> Change:
    def change(model: ir.Model) -> None:
        one(model)
        other(model)

    return change


def _named(node: ir.Node) -> str:
    return f"{node.op_type} '{label(node)}'"
