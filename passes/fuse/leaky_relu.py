"""Max(x, alpha * x), and the same by Where."""

from __future__ import annotations

import onnx_ir as ir

from baker.model.graph import label
from baker.passes.fuse._match import Any, Number, OneOf, Op, Product, adds_dims, fault
from baker.passes.fuse._rule import FuseRule, substitute
from baker.pipeline.pass_base import Change
from baker.pipeline.rewrite import Match

_X, _ZERO = Any("x"), Number("zero")
_LEAK = Product(_X, Number("alpha"))
_MORE, _LESS = ("Greater", "GreaterOrEqual"), ("Less", "LessOrEqual")
_ABOVE = OneOf(*(Op(op, _X, _ZERO) for op in _MORE), *(Op(op, _ZERO, _X) for op in _LESS))
_BELOW = OneOf(*(Op(op, _X, _ZERO) for op in _LESS), *(Op(op, _ZERO, _X) for op in _MORE))
_LARGER = Op("Max", _X, _LEAK)
_CHOSEN = OneOf(Op("Where", _ABOVE, _X, _LEAK), Op("Where", _BELOW, _LEAK, _X))


class LeakyRelu(FuseRule):
    """Make the larger of x and a part of x, or a choice between them by the sign of x, one LeakyRelu.

    Shapes: x any, float32; alpha and 0 one number each, without more dims than x.

        Max(x, alpha * x)              =  LeakyRelu(x, alpha)       0 <= alpha <= 1
        Where(x > 0, x, alpha * x)     =  LeakyRelu(x, alpha)

    Error: 0 for finite x.
    Declines: a threshold other than 0; Max with an alpha outside 0..1, which is another function; a step in between is
        read elsewhere; other types than float32, for which ONNX Runtime has no LeakyRelu.
    Source: Maas et al. 2013; ONNX LeakyRelu.
    """

    anchor = ("Max", "Where")
    since = 6

    def match(self, node: ir.Node) -> Match | None:
        """Finds the choice between a value and a multiple of it."""
        if len(node.inputs) != (2 if node.op_type == "Max" else 3):
            return None
        found = next((_LARGER if node.op_type == "Max" else _CHOSEN).find(node.outputs[0]), None)
        return None if found is None else Match(found=found, node=node)

    def check(self, match: Match) -> str | None:
        """The numbers must be those of a leaky ReLU."""
        found, x = match.found, match.found.values["x"]
        alpha, zero = found.numbers["alpha"], found.numbers.get("zero", 0.0)
        if zero != 0:
            return f"the threshold is {zero:g}, not 0"
        if match.node.op_type == "Max" and not 0 <= alpha <= 1:
            return f"alpha is {alpha:g}, outside 0..1"
        if x.dtype != ir.DataType.FLOAT:
            return f"ONNX Runtime has no LeakyRelu for {x.dtype}"
        return adds_dims(found, x) or fault(found)

    def apply(self, match: Match) -> Change:
        """Puts a LeakyRelu in the place of the choice."""
        name = label(match.node)
        substitute(match.node, "LeakyRelu", [match.found.values["x"]], alpha=match.found.numbers["alpha"])
        return Change(self.name, name, f"{match.node.op_type} and Mul became LeakyRelu")
