"""(x - mean) / sqrt(variance + epsilon) over the spatial axes, with a scale and a shift per channel."""

from __future__ import annotations

import onnx_ir as ir

from baker.model.graph import Array, constant_before, constant_value, label, shape_of
from baker.passes.fuse._match import Any, OneOf, Op, Power, ending, fault, precision, unlike
from baker.passes.fuse._norm import EPSILON, EXPONENT, NUMBERS, axes_fault, last_axes, over_root
from baker.passes.fuse._rule import FuseRule, substitute
from baker.pipeline.pass_base import Change
from baker.pipeline.rewrite import Match

_X = Any("x")
_MEAN = Op("ReduceMean", _X, name="mean")
_DEVIATION = Op("Sub", _X, _MEAN)
_VARIANCE = Op("ReduceMean", Power(_DEVIATION, 2, EXPONENT.name), name="variance")
_SCALE = Any("scale", constant=True)
_SCALED = OneOf(Op("Mul", over_root(_DEVIATION, _VARIANCE), _SCALE), over_root(_DEVIATION, _VARIANCE, _SCALE))
_INSTANCE_NORM = Op("Add", _SCALED, Any("bias", constant=True))


class InstanceNormalization(FuseRule):
    """Make a decomposed instance normalization one InstanceNormalization.

    Shapes: x (N, C, *spatial) of known rank and C, float32; scale and bias constants (C, 1, ...), over all of whose
        spatial axes mean and variance run.

        d = x - ReduceMean(x)
        d / Sqrt(ReduceMean(d^2) + epsilon) * scale + bias  =  InstanceNormalization(x, scale, bias, epsilon)

    Error: exact over the reals; float32 max|dy| <= 4e-6 * max|y|.
    Declines: other axes; an exponent other than 2; a scale or bias that is not one per channel; a step in between is
        read elsewhere; other types, for which ONNX Runtime has no InstanceNormalization.
    Source: Ulyanov et al. 2016, arXiv:1607.08022; ONNX InstanceNormalization.
    """

    anchor = "ReduceMean"
    since = 6

    def match(self, node: ir.Node) -> Match | None:
        """Finds a normalization whose scale and shift are constants with spatial dims of 1."""
        if not any(reader.op_type == "Sub" for reader, _ in node.outputs[0].uses()):
            return None
        found = ending(node, _INSTANCE_NORM)
        if found is None or found.values["mean"] is not node.outputs[0]:
            return None
        scale, bias = (_vector(found.values[name]) for name in ("scale", "bias"))
        return None if scale is None or bias is None else Match(found=found, scale=scale, bias=bias)

    def check(self, match: Match) -> str | None:
        """Axes, numbers, types and dims must be those of an InstanceNormalization."""
        found, x = match.found, match.found.values["x"]
        reason = axes_fault(found, "mean", "variance") or unlike(found, NUMBERS, precision(x.dtype)) or fault(found)
        if reason is not None:
            return reason
        dims, mean = shape_of(x), found.values["mean"].producer()
        axes = None if mean is None else last_axes(mean)
        if dims is None or axes is None or len(axes) != len(dims) - 2:
            return "the axes are not all those behind the channels, or the rank is unknown"
        if any(value.size != dims[1] or value.ndim != len(dims) - 1 for value in (match.scale, match.bias)):
            return "scale and bias are not one per channel"
        if x.dtype != ir.DataType.FLOAT:
            return f"ONNX Runtime has no InstanceNormalization for {x.dtype}"
        return None

    def apply(self, match: Match) -> Change:
        """Puts an InstanceNormalization in the place of the shift."""
        last = match.found.nodes[0]
        name = label(last)
        inputs = [match.found.values["x"]]
        inputs += [constant_before(last, hint, getattr(match, hint).reshape(-1)) for hint in ("scale", "bias")]
        substitute(last, "InstanceNormalization", inputs, epsilon=match.found.numbers[EPSILON.name])
        return Change(self.name, name, f"{len(match.found.nodes)} nodes became InstanceNormalization")


def _vector(value: ir.Value) -> Array | None:
    """A constant of dims (1, ..., C, 1, ..., 1) as (C, 1, ..., 1); None for another one."""
    array = constant_value(value)
    if array is None or array.size < 2 or max(array.shape) != array.size or array.shape[-1] != 1:
        return None
    return array.reshape(array.shape[array.shape.index(array.size) :])
