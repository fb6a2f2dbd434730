"""Cast to the type that is there, and Casts in a row."""

from __future__ import annotations

import onnx_ir as ir

from baker.model.graph import attribute, has_reference_attribute, is_op
from baker.passes.fuse._rule import BypassRule
from baker.pipeline.rewrite import Match

_BITS = {  # signed, integer bits, significand bits: a type holds another where it has no less of each
    ir.DataType.BOOL: (0, 1, 0),
    ir.DataType.UINT8: (0, 8, 0),
    ir.DataType.INT8: (1, 7, 0),
    ir.DataType.UINT16: (0, 16, 0),
    ir.DataType.INT16: (1, 15, 0),
    ir.DataType.UINT32: (0, 32, 0),
    ir.DataType.INT32: (1, 31, 0),
    ir.DataType.UINT64: (0, 64, 0),
    ir.DataType.INT64: (1, 63, 0),
}
_FLOATS = {ir.DataType.FLOAT16: (11, 16), ir.DataType.BFLOAT16: (8, 128), ir.DataType.FLOAT: (24, 128)}
_FLOATS |= {ir.DataType.DOUBLE: (53, 1024)}  # significand bits, largest exponent


class Cast(BypassRule):
    """Remove a Cast to the type that its input has, or that undoes a Cast to a type that holds every value.

    Shapes: any.

        Cast(x, type of x) = x             Cast(Cast(x, wider), type of x) = x

    Error: 0.
    Declines: the type in between loses bits (int64 -> int32 -> int64, float -> float16 -> float).
    Source: ONNX Cast.
    """

    anchor = "Cast"

    def match(self, node: ir.Node) -> Match | None:
        """Finds a Cast that ends where it, or the Cast before it, began."""
        source = node.inputs[0]
        if source is None or source.dtype is None or has_reference_attribute(node):
            return None
        target = ir.DataType(attribute(node, "to", 0))
        if source.dtype == target:
            return Match(node=node, source=source, why=f"its input is {target} already", between=None)
        first = source.producer()
        if not is_op(first, "Cast") or first.inputs[0] is None or first.inputs[0].dtype != target:
            return None
        why = f"{target} was cast to {source.dtype} and back"
        return Match(node=node, source=first.inputs[0], why=why, between=source.dtype)

    def check(self, match: Match) -> str | None:
        """What is between two Casts must hold every value."""
        if match.between is not None and not holds(match.between, match.source.dtype):
            return f"{match.between} does not hold every {match.source.dtype}"
        return super().check(match)


def holds(wide: ir.DataType | None, narrow: ir.DataType | None) -> bool:
    """True when every value of one type is a value of the other."""
    if wide in _FLOATS and narrow in _FLOATS:
        return all(a >= b for a, b in zip(_FLOATS[wide], _FLOATS[narrow], strict=True))
    if wide in _FLOATS and narrow in _BITS:
        significand, exponent = _FLOATS[wide]
        return _BITS[narrow][1] <= min(significand, exponent)
    if wide in _BITS and narrow in _BITS:
        return _BITS[wide][0] >= _BITS[narrow][0] and _BITS[wide][1] >= _BITS[narrow][1]
    return False
