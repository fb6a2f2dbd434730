"""x * Sigmoid(alpha * x)."""

from __future__ import annotations

import onnx_ir as ir

from baker.model.graph import label
from baker.passes.fuse._match import Any, Number, OneOf, Op, Product, adds_dims, ending, fault
from baker.passes.fuse._rule import FuseRule, substitute
from baker.pipeline.pass_base import Change
from baker.pipeline.rewrite import Match

_X = Any("x")
_SWISH = Product(_X, Op("Sigmoid", OneOf(_X, Product(_X, Number("alpha")))))


class Swish(FuseRule):
    """Make the product of x and its own Sigmoid one Swish, which is SiLU, or quick GELU with alpha = 1.702.

    Shapes: x any, float; alpha one number, without more dims than x.

        x * Sigmoid(alpha * x)  =  Swish(x, alpha)

    Error: exact over the reals; float32 max|dy| <= 4e-7 * max|x|.
    Declines: the Sigmoid is read elsewhere; ``fuse{opset=24}`` was not asked for: ONNX Runtime 1.32 fuses Sigmoid and
        Mul, but expands Swish, and takes up to 2.8 times as long; a model of opset 25 or later, where it can't do that.
    Source: Ramachandran et al. 2017, arXiv:1710.05941; ONNX Swish.
    """

    anchor = "Sigmoid"
    since = 24

    def match(self, node: ir.Node) -> Match | None:
        """Finds the product of a Sigmoid and what it reads."""
        found = ending(node, _SWISH)
        return None if found is None else Match(found=found)

    def check(self, match: Match) -> str | None:
        """Swish has to be worth its price to whoever runs the pass."""
        if self.facts.accepted < self.since:
            return "ONNX Runtime is slower at Swish than at Sigmoid and Mul: fuse{opset=24} asks for it all the same"
        if self.facts.opset > self.since:
            return f"ONNX Runtime 1.32 can't run Swish in a model of opset {self.facts.opset}"
        return adds_dims(match.found, match.found.values["x"]) or fault(match.found)

    def apply(self, match: Match) -> Change:
        """Puts a Swish in the place of the product."""
        last, alpha = match.found.nodes[0], match.found.numbers.get("alpha", 1.0)
        name = label(last)
        substitute(last, "Swish", [match.found.values["x"]], alpha=None if alpha == 1 else alpha)
        return Change(self.name, name, "Mul and Sigmoid became Swish")
