"""x / sqrt(mean of squares + epsilon) * scale."""

from __future__ import annotations

import onnx_ir as ir

from baker.model.graph import is_op, label
from baker.passes.fuse._match import Any, Op, Power, ending, fault, precision, unlike
from baker.passes.fuse._norm import (
    EPSILON,
    EXPONENT,
    NUMBERS,
    axes_fault,
    fits,
    last_dims,
    ones_fault,
    over_root,
    tail_of,
)
from baker.passes.fuse._rule import FuseRule, substitute
from baker.pipeline.pass_base import Change
from baker.pipeline.rewrite import Match

_X = Any("x")
_MEAN_SQUARE = Op("ReduceMean", Power(_X, 2, EXPONENT.name), name="mean of squares")
_RMS_NORM = over_root(_X, _MEAN_SQUARE)
_SCALED_FIRST = over_root(_X, _MEAN_SQUARE, Any("scale"))


class RmsNormalization(FuseRule):
    """Make a decomposed root mean square normalization one RMSNormalization.

    Shapes: x of known dims on its last, normalized axes; scale of just these dims, constant or not, or absent;
        float32, or float16, also with a Cast to float32 in front and one back behind.

        x / Sqrt(ReduceMean(x^2) + epsilon) * scale  =  RMSNormalization(x, scale, epsilon)

    Error: exact over the reals; float32 max|dy| <= 4e-6 * max|y|.
    Declines: other axes than the last; an exponent other than 2; a step in between is read elsewhere; a missing scale
        too large to write down; float64 and bfloat16, at which ONNX Runtime 1.32 is slower or which it lacks.
    Source: Zhang and Sennrich 2019, arXiv:1910.07467; ONNX RMSNormalization.
    """

    anchor = "ReduceMean"
    since = 23

    def match(self, node: ir.Node) -> Match | None:
        """Finds what is divided by the root of its mean square."""
        found = ending(node, _RMS_NORM) or ending(node, _SCALED_FIRST)
        return None if found is None or _is_deviation(found.values["x"]) else Match(found=found)

    def check(self, match: Match) -> str | None:
        """Axes, numbers, types and dims must be those of an RMSNormalization."""
        found = match.found
        reason = (
            axes_fault(found, "mean of squares") or unlike(found, NUMBERS, precision(found.values["x"].dtype))
        ) or fault(found)
        if reason is not None:
            return reason
        dims = last_dims(found, "mean of squares")
        if dims is None:
            return "the dims of the normalized axes are unknown"
        match.tail = tail_of(found, dims, shifts=False)
        if match.tail.scale is not None and not fits(match.tail.scale, match.tail):
            return f"the scale does not have the dims {list(dims)}"
        if match.tail.source.dtype not in (ir.DataType.FLOAT, ir.DataType.FLOAT16):
            return f"ONNX Runtime has no faster RMSNormalization for {match.tail.source.dtype}"
        return ones_fault(match.tail, self.facts)

    def apply(self, match: Match) -> Change:
        """Puts an RMSNormalization in the place of the last node."""
        tail, count = match.tail, len({*match.found.nodes, *match.tail.nodes})
        name = label(tail.last)
        inputs = [tail.source, tail.operand(tail.scale, "scale")]
        epsilon = match.found.numbers[EPSILON.name]
        substitute(tail.last, "RMSNormalization", inputs, axis=-len(tail.dims), epsilon=epsilon)
        return Change(self.name, name, f"{count} nodes became RMSNormalization")


def _is_deviation(value: ir.Value) -> bool:
    """True for x - mean: then it is the second half of a layer normalization, which a rule of its own makes."""
    node = value.producer()
    mean = node.inputs[1].producer() if is_op(node, "Sub") and node.inputs[1] is not None else None
    return node is not None and is_op(mean, "ReduceMean") and mean.inputs[0] is node.inputs[0]
