"""Add, Sub, Mul and Div with a constant as one affine step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from baker.model.graph import Array, constant_value, is_constant, is_op
from baker.passes.fuse._linear import Affine

AFFINE = ("Add", "Sub", "Mul", "Div")

_ONE, _ZERO = np.ones(()), np.zeros(())
_BEHIND: dict[str, Callable[[Array], tuple[Array, Array]]] = {  # value op constant -> scale, shift
    "Add": lambda c: (_ONE, c),
    "Sub": lambda c: (_ONE, -c),
    "Mul": lambda c: (c, _ZERO),
    "Div": lambda c: (1 / c, _ZERO),
}
_BEFORE: dict[str, Callable[[Array], tuple[Array, Array]]] = {  # constant op value
    "Add": lambda c: (_ONE, c),
    "Sub": lambda c: (-_ONE, c),
    "Mul": lambda c: (c, _ZERO),
}


@dataclass(frozen=True)
class Step:
    """An element-wise node with one constant operand.

    Attributes:
        node: the node.
        source: the operand that is not constant.
        constant: the one that is.
        first: the constant is the left operand.
    """

    node: ir.Node
    source: ir.Value
    constant: ir.Value
    first: bool

    def affine(self, reshape: Callable[[Array], Array | None]) -> Affine | None:
        """The step as scale and shift.

        Args:
            reshape: brings the constant to () or (channels,) float64, or says None where it is neither.
        """
        array = constant_value(self.constant)
        vector = None if array is None else reshape(array)
        kinds = _BEFORE if self.first else _BEHIND
        if vector is None or self.node.op_type not in kinds:
            return None
        with np.errstate(divide="ignore"):  # 1/0: the rule declines what is not finite
            return Affine(*kinds[self.node.op_type](vector))


def step_of(node: ir.Node | None) -> Step | None:
    """The affine step that a node is, None where both operands or neither are constant."""
    if not is_op(node, *AFFINE) or len(node.inputs) != 2:
        return None
    left, right = node.inputs
    if left is None or right is None or is_constant(left) == is_constant(right):
        return None
    first = is_constant(left)
    return Step(node, right, left, first) if first else Step(node, left, right, first)
