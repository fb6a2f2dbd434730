"""x * HardSigmoid(x, 1/6, 1/2), and x * Clip(x + 3, 0, 6) / 6."""

from __future__ import annotations

import onnx_ir as ir

from baker.model.graph import attribute, is_op, label
from baker.passes.fuse._match import Any, Found, Number, Op, Product, adds_dims, ending, fault, precision, unlike
from baker.passes.fuse._rule import FuseRule, apart, substitute
from baker.pipeline.pass_base import Change
from baker.pipeline.rewrite import Match

_X = Any("x")
_CLIP = Op("Clip", Op("Add", _X, Number("the summand")), Number("the lower bound"), Number("the upper bound"))
_CLIPPED = Product(_X, _CLIP, Number("the factor"))
_NUMBERS = {"the summand": 3.0, "the lower bound": 0.0, "the upper bound": 6.0, "the factor": 1 / 6}


class HardSwish(FuseRule):
    """Make the product of x and its own HardSigmoid one HardSwish.

    Shapes: x any, float; the second form float32, its numbers one element each, without more dims than x.

        x * HardSigmoid(x, alpha = 1/6, beta = 1/2)  =  HardSwish(x)
        x * Clip(x + 3, 0, 6) / 6                    =  HardSwish(x)        in any order of the products

    Error: exact over the reals; float32 max|dy| <= 4e-7 * max|x|.
    Declines: another alpha or beta, or other numbers; a step in between is read elsewhere.
    Source: Howard et al. 2019, arXiv:1905.02244, section 5.2; ONNX HardSwish.
    """

    anchor = ("HardSigmoid", "Clip")
    since = 14

    def match(self, node: ir.Node) -> Match | None:
        """Finds the product of a HardSigmoid, or of what makes one, with its own input."""
        if is_op(node, "Clip"):
            found = ending(node, _CLIPPED)
            return None if found is None else Match(found=found, product=found.nodes[0], x=found.values["x"])
        readers = [reader for reader, _ in node.outputs[0].uses()]
        reader = readers[0] if readers else None
        if not is_op(reader, "Mul") or set(reader.inputs) != {node.inputs[0], node.outputs[0]}:
            return None
        return Match(found=None, gate=node, product=reader, x=node.inputs[0])

    def check(self, match: Match) -> str | None:
        """Only one alpha and beta make a HardSwish."""
        if match.found is not None:
            return _clip_fault(match.found)
        alpha, beta = attribute(match.gate, "alpha", 0.2), attribute(match.gate, "beta", 0.5)
        if abs(alpha - 1 / 6) > 1e-7 or abs(beta - 0.5) > 1e-7:
            return f"alpha and beta are {alpha:g} and {beta:g}, not 1/6 and 1/2"
        return apart(match.gate, match.product)

    def apply(self, match: Match) -> Change:
        """Puts a HardSwish in the place of the product."""
        name = label(match.product)
        what = "Mul and HardSigmoid" if match.found is None else "Add, Clip, Mul and Div"
        substitute(match.product, "HardSwish", [match.x])
        return Change(self.name, name, f"{what} became HardSwish")


def _clip_fault(found: Found) -> str | None:
    x = found.values["x"]
    if x.dtype != ir.DataType.FLOAT:
        return f"ONNX Runtime has no HardSigmoid for {x.dtype}"
    return unlike(found, _NUMBERS, precision(x.dtype)) or adds_dims(found, x) or fault(found)
