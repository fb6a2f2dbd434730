"""(x - mean) / sqrt(variance + epsilon) * scale + bias."""

from __future__ import annotations

import onnx_ir as ir

from baker.model.graph import label
from baker.passes.fuse._match import (
    Any,
    Found,
    Number,
    OneOf,
    Op,
    Pattern,
    Power,
    Product,
    ending,
    fault,
    precision,
    unlike,
)
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

_X, _SCALE = Any("x"), Any("scale")
_MEAN = Op("ReduceMean", _X, name="mean")
_DEVIATION = Op("Sub", _X, _MEAN)
_VARIANCE = Op("ReduceMean", Power(_DEVIATION, 2, EXPONENT.name), name="variance")
_LAYER_NORM = over_root(_DEVIATION, _VARIANCE)
_SCALED_FIRST = over_root(_DEVIATION, _VARIANCE, _SCALE)
_MOMENTS = Op(  # as TensorFlow's tf.nn.batch_normalization has it
    "Add",
    over_root(_X, _VARIANCE, _SCALE),
    Op("Sub", Any("bias"), over_root(_MEAN, _VARIANCE, _SCALE)),
)
_ROOT = Op("Sqrt", _VARIANCE)
_NEAR = {
    "epsilon is added behind the square root": OneOf(
        Op("Div", _DEVIATION, Op("Add", _ROOT, EPSILON)),
        Product(_DEVIATION, Op("Reciprocal", Op("Add", _ROOT, EPSILON))),
    ),
    "the variance is multiplied by a number, so it is the unbiased one": OneOf(
        over_root(_DEVIATION, Product(_VARIANCE, Number("n / (n - 1)"))),
        over_root(_DEVIATION, Product(_VARIANCE, Number("n"), Number("1 / (n - 1)"))),
    ),
}


class LayerNormalization(FuseRule):
    """Make a decomposed layer normalization one LayerNormalization.

    Shapes: x of known dims on its last, normalized axes; scale and bias of just these dims, constant or not, or absent;
        float32, or float16 and bfloat16, also with a Cast to float32 in front and one back behind.

        d = x - ReduceMean(x)
        d / Sqrt(ReduceMean(d^2) + epsilon) * scale + bias  =  LayerNormalization(x, scale, bias, epsilon)

    Error: exact over the reals; float32 max|dy| <= 4e-6 * max|y|.
    Declines: other axes than the last, or not the same; an exponent other than 2; epsilon behind the root; the unbiased
        variance; a step in between is read elsewhere; a missing scale too large to write down; float64, at which ONNX
        Runtime 1.32 is 4 times as slow as at the parts.
    Source: Ba et al. 2016, arXiv:1607.06450; ONNX LayerNormalization.
    """

    anchor = "ReduceMean"
    since = 17

    def match(self, node: ir.Node) -> Match | None:
        """Finds what is divided by a root behind a mean."""
        if not any(reader.op_type == "Sub" for reader, _ in node.outputs[0].uses()):
            return None
        for pattern in (_LAYER_NORM, _SCALED_FIRST, _MOMENTS):
            found = _around(node, pattern)
            if found is not None:
                return Match(found=found, near=None)
        for reason, pattern in _NEAR.items():
            if _around(node, pattern) is not None:
                return Match(near=reason)
        return None

    def check(self, match: Match) -> str | None:
        """Axes, numbers, types and dims must be those of a LayerNormalization."""
        if match.near is not None:
            return str(match.near)
        found = match.found
        reason = (
            axes_fault(found, "mean", "variance") or unlike(found, NUMBERS, precision(found.values["x"].dtype))
        ) or fault(found)
        if reason is not None:
            return reason
        dims = last_dims(found, "mean")
        if dims is None:
            return "the dims of the normalized axes are unknown"
        match.tail = tail_of(found, dims, shifts=True)
        given = (match.tail.scale, match.tail.bias)
        if not all(value is None or fits(value, match.tail) for value in given):
            return f"scale or bias does not have the dims {list(dims)}"
        if match.tail.source.dtype not in (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16):
            return f"ONNX Runtime is slower at LayerNormalization in {match.tail.source.dtype} than at its parts"
        return ones_fault(match.tail, self.facts)

    def apply(self, match: Match) -> Change:
        """Puts a LayerNormalization in the place of the last node."""
        tail, count = match.tail, len({*match.found.nodes, *match.tail.nodes})
        name = label(tail.last)
        inputs = [tail.source, tail.operand(tail.scale, "scale")]
        inputs += [] if tail.bias is None else [tail.operand(tail.bias, "bias")]
        epsilon = match.found.numbers[EPSILON.name]
        substitute(tail.last, "LayerNormalization", inputs, axis=-len(tail.dims), epsilon=epsilon)
        return Change(self.name, name, f"{count} nodes became LayerNormalization")


def _around(mean: ir.Node, pattern: Pattern) -> Found | None:
    found = ending(mean, pattern)
    return found if found is not None and found.values["mean"] is mean.outputs[0] else None
