"""Two passes: one of baker's kind, and one that knows onnx-ir only."""

from __future__ import annotations

import onnx_ir as ir

from baker import Change, Fidelity, Match, Pass, PassContext, PassResult, Rewrite, apply_rewrites
from baker.model.graph import can_replace, is_op, label, remove_if_dead, replace_value


class NegNeg(Rewrite):
    """Replace Neg(Neg(x)) by x.

    Shapes: any.
    Error: none; negation only flips the sign bit.
    Declines: x cannot take over the name of a graph output; the node is skipped.
    Source: the ONNX operator specification, Neg.
    """

    anchor = "Neg"

    def __init__(self, skip: tuple[str, ...]) -> None:
        self.skip = skip

    def match(self, node: ir.Node) -> Match | None:
        """Finds a Neg that reads another one."""
        inner = node.inputs[0].producer() if node.inputs[0] is not None else None
        return Match(outer=node, inner=inner) if is_op(inner, "Neg") else None

    def check(self, match: Match) -> str | None:
        """Asks whether x may stand where the outer Neg's output stood."""
        if label(match.outer) in self.skip:
            return "skipped, as asked for"
        if not can_replace(match.outer.outputs[0], match.inner.inputs[0]):
            return "its output belongs to the interface"
        return None

    def apply(self, match: Match) -> Change:
        """Lets the readers of the outer Neg read x."""
        name = label(match.outer)
        replace_value(match.outer.outputs[0], match.inner.inputs[0])
        remove_if_dead(match.outer.outputs[0])
        return Change(self.name, name, "Neg(Neg(x)) -> x")


class DoubleNegation(Pass):
    """Remove pairs of negations.

    Attributes:
        skip: names of nodes to leave alone.
    """

    name = "double_negation"
    fidelity = Fidelity.EXACT
    skip: tuple[str, ...] = ()

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        """Applies the rule to a fixpoint."""
        changes, declined = apply_rewrites(model, [NegNeg(self.skip)], context)
        return PassResult(model, changes, declined)


class SignedProducerPass(ir.passes.InPlacePass):
    """Write a producer name into the model; an onnx-ir pass that has never heard of baker."""

    def __init__(self, producer: str = "negation") -> None:
        super().__init__()
        self.producer = producer

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Sets the name if it is another one."""
        modified = model.producer_name != self.producer
        model.producer_name = self.producer
        return ir.passes.PassResult(model, modified)
