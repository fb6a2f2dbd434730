"""Transpose, element-wise operators, and the Transpose that undoes the first."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from baker.model.graph import constant_value, is_constant, is_op, label, remove_if_dead, shape_of
from baker.passes.fuse._rule import FuseRule, bypass, renew
from baker.passes.fuse.transpose import perm_of
from baker.pipeline.pass_base import Change
from baker.pipeline.rewrite import Match

_UNARY = frozenset(
    {
        *("Abs", "Neg", "Exp", "Log", "Sqrt", "Reciprocal", "Floor", "Ceil", "Round", "Sign", "Not", "Cast", "Clip"),
        *("Relu", "LeakyRelu", "Elu", "Selu", "Celu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Softplus"),
        *("Softsign", "Erf", "Gelu", "Mish", "Sin", "Cos", "Identity", "ThresholdedRelu"),
    }
)
_BINARY = frozenset({"Add", "Sub", "Mul", "Div", "Pow", "Max", "Min"})
_MOST = 16  # operators between two Transposes


class TransposeElementwise(FuseRule):
    """Remove two Transposes that undo each other, with element-wise operators between them.

    Shapes: x of any rank; the operators have one operand, or a second one that is constant: it is transposed, too.

        Transpose(f(Transpose(x, p) + c), q) = f(x + Transpose(c, q))          where q undoes p

    Error: 0.
    Declines: what is in between is read elsewhere; a constant of several elements that others read; Transposes that do
        not undo each other; the result gives a graph output its name and can't hand it on.
    Source: element-wise operators do not look at where an element stands.
    """

    anchor = "Transpose"

    def match(self, node: ir.Node) -> Match | None:
        """Finds a Transpose at the other end of a chain of element-wise operators."""
        chain: list[ir.Node] = []
        at = _before(node)
        while at is not None and len(chain) < _MOST and _is_elementwise(at):
            chain.append(at)
            at = _before(at)
        if not chain or not is_op(at, "Transpose") or at.inputs[0] is None:
            return None
        return Match(first=at, chain=chain[::-1], node=node)

    def check(self, match: Match) -> str | None:
        """The Transposes must undo each other, for this chain alone."""
        first, node = match.first, match.node
        p, q = perm_of(first), perm_of(node)
        if p is None or q is None or len(p) != len(q) or [p[axis] for axis in q] != sorted(p):
            return "the Transposes do not undo each other"
        for step, then in zip([first, *match.chain], [*match.chain, node], strict=True):
            value = step.outputs[0]
            if (
                value.is_graph_output()
                or step.graph is not node.graph
                or {reader for reader, _ in value.uses()} != {then}
            ):
                return f"the output of {label(step)} is read elsewhere"
        for step in match.chain:
            constant = _constant_operand(step)
            size = shape_of(constant)
            if constant is None or size is None or len(size) == 0:
                continue
            if len(size) > len(p):
                return f"the constant of {label(step)} has more dims than x"
            if any(dim != 1 for dim in size) and len(constant.uses()) != 1:
                return f"the constant of {label(step)} is read elsewhere"
        match.perm = q
        return None

    def apply(self, match: Match) -> Change:
        """Removes both, and transposes the constants in between."""
        first, node, perm = match.first, match.node, match.perm
        name, transposed = label(node), first.outputs[0]
        start = match.chain[0]
        for index, value in enumerate(start.inputs):
            if value is transposed:
                start.replace_input_with(index, first.inputs[0])
        for step in match.chain:
            _transpose_constant(step, perm)
            value = step.outputs[0]
            if value.shape is not None and len(value.shape) == len(perm):
                value.shape = ir.Shape([value.shape[axis] for axis in perm])
        bypass(node, match.chain[-1].outputs[0])
        remove_if_dead(transposed)
        return Change(self.name, name, f"Transposes around {len(match.chain)} element-wise operators removed")


def _before(node: ir.Node) -> ir.Node | None:
    """The producer of the operand that is not constant."""
    if node.op_type in _BINARY:
        values = [value for value in node.inputs if value is not None and not is_constant(value)]
        return values[0].producer() if len(values) == 1 else None
    return None if node.inputs[0] is None else node.inputs[0].producer()


def _is_elementwise(node: ir.Node) -> bool:
    if is_op(node, *_UNARY):
        return True
    return is_op(node, *_BINARY) and len(node.inputs) == 2


def _constant_operand(node: ir.Node) -> ir.Value | None:
    return next((value for value in node.inputs if is_constant(value)), None) if node.op_type in _BINARY else None


def _transpose_constant(node: ir.Node, perm: list[int]) -> None:
    constant = _constant_operand(node)
    array = constant_value(constant)
    if constant is None or array is None or array.size == 1:
        return
    whole = array.reshape([1] * (len(perm) - array.ndim) + list(array.shape))
    renew(node, list(node.inputs).index(constant), np.ascontiguousarray(whole.transpose(perm)), "constant")
