"""Max, Min and Clip of types that an older operator set has no kernel for, and Clip by computed bounds."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from baker.model.graph import is_constant, is_op
from baker.passes.convert._tools import Step, become, front, given

_WHOLE = frozenset(kind for kind in ir.DataType if kind.name.startswith(("INT", "UINT")) and kind.bitwidth == 64)
_FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16)


def compare(node: ir.Node, step: Step) -> bool:
    """Says a Max, Min or Clip of int64 with Less and Where; False, with nothing changed, for anything else.

    Not for floating-point numbers: NaN compares as nothing.
    """
    if not is_op(node, "Clip", "Max", "Min") or step.version != 12:
        return False
    if any(value is not None and value.dtype not in _WHOLE for value in node.inputs):
        return False
    result = _extreme(node, node.op_type == "Max", node.inputs) if node.op_type != "Clip" else _clipped(node)
    if result is None:
        return False
    become(node, result)
    return True


def _clipped(node: ir.Node) -> ir.Value | None:
    """ONNX has the upper bound win where the bounds cross."""
    result, low, high = node.inputs[0], given(node, 1), given(node, 2)
    if low is not None:
        result = _extreme(node, True, (result, low))
    if high is not None:
        result = _extreme(node, False, (result, high))
    return None if result is node.inputs[0] else result


def _extreme(node: ir.Node, largest: bool, values: Sequence[ir.Value | None]) -> ir.Value | None:
    result = values[0]
    for value in values[1:]:
        less = front(node, "Less", [result, value])
        result = front(node, "Where", [less, value, result] if largest else [less, result, value])
    return None if result is values[0] else result


def clip_computed(node: ir.Node, step: Step) -> bool:
    """Says a Clip whose bounds are no constants with Max and Min; False, with nothing changed, for any other.

    Before opset 11 the bounds are attributes. Max and Min broadcast since opset 8.
    """
    bounds = [value for value in (given(node, 1), given(node, 2)) if value is not None]
    if not is_op(node, "Clip") or step.version != 11 or step.target < 8 or all(map(is_constant, bounds)):
        return False
    result = node.inputs[0]
    if result is None or result.dtype not in _FLOATS:
        return False
    for index, op_type in ((1, "Max"), (2, "Min")):
        if given(node, index) is not None:
            result = front(node, op_type, [result, node.inputs[index]])
            result.type = node.outputs[0].type
    become(node, result)
    return True
