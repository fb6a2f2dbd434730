"""Arithmetic with a constant that changes nothing."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from baker.model.graph import constant_value, is_constant, shape_of
from baker.passes.fuse._rule import BypassRule
from baker.passes.fuse._runtime import fused
from baker.pipeline.rewrite import Match

_RIGHT = {"Add": 0, "Sub": 0, "Mul": 1, "Div": 1, "Pow": 1, "Max": -np.inf, "Min": np.inf, "And": True, "Or": False}
_LEFT = {"Add": 0, "Mul": 1, "Max": -np.inf, "Min": np.inf, "And": True, "Or": False}


class NeutralOperand(BypassRule):
    """Remove arithmetic with a constant that changes nothing.

    Shapes: the constant has no dim that would make the result larger than x; x's dims are known where it matters.

        x + 0 = x - 0 = x * 1 = x / 1 = x ** 1 = max(x, -inf) = min(x, inf) = x         x and true = x or false = x

    Error: 0; only -0 + 0 becomes -0 instead of 0.
    Declines: a constant that broadcasts x to another shape, or may; a scale or shift that ONNX Runtime fuses into what
        makes x.
    Source: ONNX broadcasting.
    """

    anchor = tuple(_RIGHT)

    def match(self, node: ir.Node) -> Match | None:
        """Finds a neutral constant on either side."""
        if len(node.inputs) != 2:
            return None
        left, right = node.inputs
        for neutral, source, constant in ((_RIGHT, left, right), (_LEFT, right, left)):
            wanted = neutral.get(node.op_type)
            if wanted is None or source is None or not is_constant(constant) or not _small(constant):
                continue
            array = constant_value(constant)
            if array is not None and array.dtype.kind in "fiub" and array.size and bool(np.all(array == wanted)):
                return Match(node=node, source=source, constant=constant, why=f"its operand is {wanted} throughout")
        return None

    def check(self, match: Match) -> str | None:
        """The result must have x's shape and type."""
        if match.source.dtype != match.node.outputs[0].dtype:
            return "the result is of another type"
        reason = broadcast_fault(match.source, match.constant)
        return reason or fused(match.node) or super().check(match)


def broadcast_fault(source: ir.Value, operand: ir.Value) -> str | None:
    """Why an operand may change the shape of the source, or None."""
    dims, other = source.shape, operand.shape
    if other is None:
        return "the shape of the operand is unknown"
    if not other.rank():
        return None
    if dims is None:
        return "the rank of its input is unknown"
    if len(other) > len(dims):
        return "the operand broadcasts it to more dims"
    for dim, size in zip(reversed(dims), reversed(other), strict=False):
        if size != 1 and not _same(dim, size):
            if not isinstance(size, int):
                return "the shape of the operand is unknown"
            return f"the operand broadcasts it, {shape_of(source)} against {shape_of(operand)}"
    return None


def _same(a: int | ir.SymbolicDim, b: int | ir.SymbolicDim) -> bool:
    """True for equal numbers, and for two dims of one symbol."""
    return a == b and (isinstance(a, int) or a.value is not None)


def _small(constant: ir.Value) -> bool:
    """True for constants of at most 1 Mi elements: reading larger ones for a hope costs too much."""
    return constant.const_value is None or int(constant.const_value.size) <= 1 << 20
