"""(x - max) - Log(ReduceSum(Exp(x - max)))."""

from __future__ import annotations

import onnx_ir as ir

from baker.model.graph import label
from baker.passes.fuse._match import Any, Op, ending, fault
from baker.passes.fuse._norm import axes_fault
from baker.passes.fuse._rule import FuseRule, substitute
from baker.pipeline.pass_base import Change
from baker.pipeline.rewrite import Match

_X = Any("x")
_BELOW = Op("Sub", _X, Op("ReduceMax", _X, name="the maximum"))
_LOG_SOFTMAX = Op("Sub", _BELOW, Op("Log", Op("ReduceSum", Op("Exp", _BELOW), name="the sum")))


class LogSoftmax(FuseRule):
    """Make a decomposed logarithm of a softmax over the last axis one LogSoftmax.

    Shapes: x any, float32 or float16; the reductions keep the last axis, which they run over.

        d = x - ReduceMax(x)
        d - Log(ReduceSum(Exp(d)))  =  LogSoftmax(x)

    Error: exact over the reals; float32 max|dy| <= 1e-6 * max|y|.
    Declines: another axis than the last, for which ONNX Runtime transposes x and takes up to 5 times as long; several
        axes; a step in between is read elsewhere; other types. Log(Softmax(x)) is left alone: where Softmax underflows
        it is -inf, and LogSoftmax is not.
    Source: Goodfellow et al. 2016, Deep Learning, section 4.1; ONNX LogSoftmax.
    """

    anchor = "Log"
    since = 13

    def match(self, node: ir.Node) -> Match | None:
        """Finds what the logarithm of a sum is subtracted from."""
        found = ending(node, _LOG_SOFTMAX)
        return None if found is None else Match(found=found)

    def check(self, match: Match) -> str | None:
        """The reductions must be those of a softmax that is as fast."""
        dtype = match.found.values["x"].dtype
        if dtype not in (ir.DataType.FLOAT, ir.DataType.FLOAT16):
            return f"ONNX Runtime has no faster LogSoftmax for {dtype}"
        return axes_fault(match.found, "the maximum", "the sum", single=True) or fault(match.found)

    def apply(self, match: Match) -> Change:
        """Puts a LogSoftmax in the place of the difference."""
        last, count = match.found.nodes[0], len(match.found.nodes)
        name = label(last)
        substitute(last, "LogSoftmax", [match.found.values["x"]], axis=-1)
        return Change(self.name, name, f"{count} nodes became LogSoftmax")
