"""x * (1 + erf(x / sqrt(2))) / 2, and its form with tanh."""

from __future__ import annotations

import math

import onnx_ir as ir

from baker.model.graph import label
from baker.passes.fuse._match import Any, Number, OneOf, Op, Power, Product, adds_dims, ending, fault, precision, unlike
from baker.passes.fuse._rule import FuseRule, substitute
from baker.pipeline.pass_base import Change
from baker.pipeline.rewrite import Match

_X = Any("x")
_CUBIC = Number("the cubic coefficient")
_ROOT = Number("the factor inside tanh")
_ONE = Number("the summand")
_CUBE = OneOf(Power(_X, 3, "the exponent of x"), Product(_X, Op("Pow", _X, Number("the exponent"))))
_SQUARE = Power(_X, 2, "the exponent")
_GATES = {
    "Erf": Op("Erf", Product(_X, Number("the factor inside erf"))),
    "Tanh": Op(
        "Tanh",
        OneOf(
            Product(Op("Add", _X, Product(_CUBE, _CUBIC)), _ROOT),
            Product(_X, Op("Add", Number("the summand inside tanh"), Product(_SQUARE, _CUBIC)), _ROOT),
        ),
    ),
}
_HALVED = {kind: Product(_X, Op("Add", gate, _ONE), Number("the factor")) for kind, gate in _GATES.items()}
_DOUBLED = {kind: Product(_X, Op("Add", gate, _ONE)) for kind, gate in _GATES.items()}
_NUMBERS = {
    "the factor": 0.5,
    "the summand": 1.0,
    "the factor inside erf": math.sqrt(0.5),
    "the factor inside tanh": math.sqrt(2 / math.pi),
    "the cubic coefficient": 0.044715,
    "the summand inside tanh": 1.0,
    "the exponent": 2.0,
    "the exponent of x": 3.0,
}


class Gelu(FuseRule):
    """Make a decomposed GELU, by erf or by tanh, one Gelu.

    Shapes: x any, float; the numbers one element each, without more dims than x.

        x/2 * (1 + erf(x / sqrt(2)))                           =  Gelu(x)
        x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 * x^3)))    =  Gelu(x, approximate = "tanh")

    Products may stand in any order and nesting, x / sqrt(2) may be a Div, and x^3 a Pow or products.

    Error: exact over the reals, but for the numbers' rounding; float32 max|dy| <= 4e-6 * max|y|.
    Declines: a number is another than those above; a step in between is read elsewhere; the factor 1/2 is missing.
    Source: Hendrycks and Gimpel 2016, arXiv:1606.08415; ONNX Gelu.
    """

    anchor = tuple(_GATES)
    since = 20

    def match(self, node: ir.Node) -> Match | None:
        """Finds the products around an Erf or a Tanh."""
        found = ending(node, _HALVED[node.op_type]) or ending(node, _DOUBLED[node.op_type])
        return None if found is None else Match(found=found, kind=node.op_type)

    def check(self, match: Match) -> str | None:
        """The numbers must be those of a GELU, and nobody else may read what is in between."""
        found, x = match.found, match.found.values["x"]
        if "the factor" not in found.numbers:
            return "the factor 1/2 is missing"
        return unlike(found, _NUMBERS, precision(x.dtype)) or adds_dims(found, x) or fault(found)

    def apply(self, match: Match) -> Change:
        """Puts a Gelu in the place of the last product."""
        last, approximate = match.found.nodes[0], "tanh" if match.kind == "Tanh" else None
        name, count = label(last), len(match.found.nodes)
        substitute(last, "Gelu", [match.found.values["x"]], approximate=approximate)
        return Change(self.name, name, f"{count} nodes around {match.kind} became Gelu")
