"""x * HardSigmoid(x, 1/6, 1/2)."""

from __future__ import annotations

import onnx_ir as ir

from baker.model.graph import attribute, is_op, label
from baker.passes.fuse._rule import FuseRule, apart, substitute
from baker.pipeline.pass_base import Change
from baker.pipeline.rewrite import Match


class HardSwish(FuseRule):
    """Make the product of x and its own HardSigmoid one HardSwish.

    Shapes: x any, float.

        x * HardSigmoid(x, alpha = 1/6, beta = 1/2)  =  HardSwish(x)

    Error: exact over the reals; float32 max|dy| <= 4e-7 * max|x|.
    Declines: another alpha or beta; the HardSigmoid is read elsewhere.
    Source: Howard et al. 2019, arXiv:1905.02244, section 5.2; ONNX HardSwish.
    """

    anchor = "HardSigmoid"
    since = 14

    def match(self, node: ir.Node) -> Match | None:
        """Finds the product of a HardSigmoid with its own input."""
        readers = [reader for reader, _ in node.outputs[0].uses()]
        reader = readers[0] if readers else None
        if not is_op(reader, "Mul") or set(reader.inputs) != {node.inputs[0], node.outputs[0]}:
            return None
        return Match(gate=node, product=reader)

    def check(self, match: Match) -> str | None:
        """Only one alpha and beta make a HardSwish."""
        alpha, beta = attribute(match.gate, "alpha", 0.2), attribute(match.gate, "beta", 0.5)
        if abs(alpha - 1 / 6) > 1e-7 or abs(beta - 0.5) > 1e-7:
            return f"alpha and beta are {alpha:g} and {beta:g}, not 1/6 and 1/2"
        return apart(match.gate, match.product)

    def apply(self, match: Match) -> Change:
        """Puts a HardSwish in the place of the product."""
        name = label(match.product)
        substitute(match.product, "HardSwish", [match.gate.inputs[0]])
        return Change(self.name, name, "Mul and HardSigmoid became HardSwish")
