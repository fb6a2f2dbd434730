"""Exp(x - max) / ReduceSum(Exp(x - max))."""

from __future__ import annotations

import onnx_ir as ir

from baker.model.graph import label
from baker.passes.fuse._match import Any, OneOf, Op, Product, ending, fault
from baker.passes.fuse._norm import axes_fault
from baker.passes.fuse._rule import FuseRule, substitute
from baker.pipeline.pass_base import Change
from baker.pipeline.rewrite import Match

_X = Any("x")
_EXP = Op("Exp", Op("Sub", _X, Op("ReduceMax", _X, name="the maximum")))
_SUM = Op("ReduceSum", _EXP, name="the sum")
_SOFTMAX = OneOf(Op("Div", _EXP, _SUM), Product(_EXP, Op("Reciprocal", _SUM)))
_BARE = Op("Exp", _X)
_UNSAFE = Op("Div", _BARE, Op("ReduceSum", _BARE))


class Softmax(FuseRule):
    """Make a decomposed softmax over the last axis one Softmax.

    Shapes: x any, float32 or float16; the reductions keep the last axis, which they run over.

        e = Exp(x - ReduceMax(x))
        e / ReduceSum(e)  =  Softmax(x)

    Error: exact over the reals; float32 max|dy| <= 1e-6 * max|y|.
    Declines: another axis than the last, for which ONNX Runtime transposes x and takes up to 5 times as long; several
        axes; the maximum is not subtracted, since Exp then overflows where Softmax does not; a step in between is read
        elsewhere; float64, at which ONNX Runtime is slower.
    Source: Goodfellow et al. 2016, Deep Learning, section 4.1; ONNX Softmax.
    """

    anchor = "Exp"
    since = 13

    def match(self, node: ir.Node) -> Match | None:
        """Finds the quotient of an Exp and its sum."""
        found = ending(node, _SOFTMAX)
        if found is not None:
            return Match(found=found, safe=True)
        found = ending(node, _UNSAFE)
        return None if found is None else Match(found=found, safe=False)

    def check(self, match: Match) -> str | None:
        """The reductions must be those of a softmax that is as fast."""
        if not match.safe:
            return "the maximum is not subtracted: Exp overflows where Softmax does not"
        dtype = match.found.values["x"].dtype
        if dtype not in (ir.DataType.FLOAT, ir.DataType.FLOAT16):
            return f"ONNX Runtime is slower at Softmax in {dtype} than at its parts"
        return axes_fault(match.found, "the maximum", "the sum", single=True) or fault(match.found)

    def apply(self, match: Match) -> Change:
        """Puts a Softmax in the place of the quotient."""
        last, count = match.found.nodes[0], len(match.found.nodes)
        name = label(last)
        substitute(last, "Softmax", [match.found.values["x"]], axis=-1)
        return Change(self.name, name, f"{count} nodes became Softmax")
