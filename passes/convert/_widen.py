"""A type that the older operator set lacks is computed in a wider one that it has, where that gives the same."""

from __future__ import annotations

import onnx_ir as ir

from baker.model.graph import is_op
from baker.passes.convert._check import type_fault
from baker.passes.convert._tools import Step, behind, feed

_INT, _LONG, _FLOAT, _DOUBLE = ir.DataType.INT32, ir.DataType.INT64, ir.DataType.FLOAT, ir.DataType.DOUBLE
_WIDER = {
    ir.DataType.BOOL: (_INT,),
    ir.DataType.INT8: (_INT, _FLOAT),
    ir.DataType.UINT8: (_INT, _FLOAT),
    ir.DataType.INT16: (_INT, _FLOAT),
    ir.DataType.UINT16: (_INT, _FLOAT),
    ir.DataType.INT32: (_LONG, _DOUBLE),
    ir.DataType.UINT32: (_LONG, _DOUBLE),
    ir.DataType.BFLOAT16: (_FLOAT,),
    ir.DataType.FLOAT16: (_FLOAT,),
}
_SELECTING = frozenset(
    (
        *("Abs", "ArgMax", "ArgMin", "Ceil", "Clip", "Equal", "Floor", "Greater", "IsInf", "IsNaN", "Less", "Max"),
        *("MaxPool", "Min", "Neg", "ReduceMax", "ReduceMin", "Relu", "Sign", "TopK", "Where"),
    )
)
"""Operators whose result is an input's element, or a fact about them, so that a wider type changes nothing."""
_WRAPPING = frozenset(("Add", "Mul", "Sub"))
"""Operators whose last bits do not depend on the first ones, so that an overflow is the same after a narrowing Cast."""


def widen(node: ir.Node, step: Step) -> bool:
    """Puts Casts around a node of a type that the older operator set lacks; False, with nothing changed, if it can't.

    bool and -1 to 1 stay what they are; wider than 64 bits there is nothing.
    """
    if not is_op(node, *_SELECTING, *_WRAPPING):
        return False
    source = next((value.dtype for value in node.inputs if value is not None and value.dtype in _WIDER), None)
    for kind in _WIDER[source] if source is not None else ():
        if source is None or not _fits(node, source, kind):
            continue
        if not _allowed(node, source, kind, step.version - 1):
            continue
        for index, value in enumerate(node.inputs):
            if value is not None and value.dtype == source and not _stays(node, index):
                feed(node, index, "Cast", to=int(kind))
                made = node.inputs[index]
                assert made is not None
                made.type, made.shape = ir.TensorType(kind), value.shape
        for index, value in enumerate(node.outputs):
            if value.dtype == source and (value.uses() or value.is_graph_output()) and index not in _facts(node):
                behind(node, "Cast", output=index, to=int(source)).type = ir.TensorType(kind)
        return True
    return False


def _fits(node: ir.Node, source: ir.DataType, kind: ir.DataType) -> bool:
    if is_op(node, *_WRAPPING):
        return kind in (_INT, _LONG) and source != ir.DataType.BOOL
    return not (is_op(node, "Neg", "Abs", "Relu", "Clip") and source == ir.DataType.BOOL)


def _stays(node: ir.Node, index: int) -> bool:
    return is_op(node, "Where") and index == 0


def _facts(node: ir.Node) -> tuple[int, ...]:
    """Outputs whose type does not follow from the inputs'."""
    if is_op(node, "Equal", "Greater", "Less", "IsInf", "IsNaN", "ArgMax", "ArgMin"):
        return (0,)
    return (1,) if is_op(node, "MaxPool", "TopK") else ()


def _allowed(node: ir.Node, source: ir.DataType, kind: ir.DataType, version: int) -> bool:
    """Tries the wider type on the values."""
    facts = {value for index, value in enumerate(node.outputs) if index in _facts(node)}
    inputs = [value for index, value in enumerate(node.inputs) if not _stays(node, index)]
    touched = {value for value in (*inputs, *node.outputs) if value is not None and value.dtype == source}
    kept = {value: value.type for value in touched - facts}
    for value in kept:
        value.type = ir.TensorType(kind)
    try:
        return type_fault(node, version) is None
    finally:
        for value, type_ in kept.items():
            value.type = type_
