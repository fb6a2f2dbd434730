"""LSTM, GRU and RNN that begin with zeros."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from baker.model.graph import (
    attribute,
    constant_value,
    has_reference_attribute,
    is_constant,
    is_op,
    label,
    remove_if_dead,
)
from baker.passes.fuse._rule import FuseRule
from baker.pipeline.pass_base import Change
from baker.pipeline.rewrite import Match

_STATES = {"LSTM": (5, 6), "GRU": (5,), "RNN": (5,)}
_MOVES = ("Expand", "Unsqueeze", "Squeeze", "Reshape", "Identity", "Transpose", "Slice", "Concat", "Tile", "Cast")
_MOST = 1 << 20  # elements that are read for a hope


class ZeroState(FuseRule):
    """Leave out the initial state of a recurrent layer where it is zero throughout, which is what an absent one is.

    Shapes: x (T, N, C), initial states (D, N, H); with them goes what computes their shape from x.

        LSTM(x, W, R, B, "", h0 = 0, c0 = 0) = LSTM(x, W, R, B)

    Error: 0.
    Declines: a state that is not known to be zero.
    Source: ONNX LSTM, GRU and RNN: "If not specified - assumed to be 0". torch.nn.LSTM exports zeros of N rows.
    """

    anchor = tuple(_STATES)

    def match(self, node: ir.Node) -> Match | None:
        """Finds the initial states that are there."""
        given = [at for at in _STATES[node.op_type] if at < len(node.inputs) and node.inputs[at] is not None]
        return Match(node=node, given=given) if given else None

    def check(self, match: Match) -> str | None:
        """At least one of them must be zero."""
        match.zero = [at for at in match.given if _is_zero(match.node.inputs[at])]
        return None if match.zero else "its initial state is not known to be zero"

    def apply(self, match: Match) -> Change:
        """Leaves them out."""
        node = match.node
        old = [node.inputs[at] for at in match.zero]
        for at in match.zero:
            node.replace_input_with(at, None)
        remove_if_dead(*old)
        return Change(self.name, label(node), f"{len(old)} initial states of zeros left out")


def _is_zero(value: ir.Value | None, depth: int = 8) -> bool:
    """True for a tensor of positive zeros, whatever its shape."""
    if is_constant(value):
        if value.const_value is not None and value.const_value.size > _MOST:
            return False
        array = constant_value(value)
        return array is not None and array.dtype.kind in "fiub" and not array.any() and not np.signbit(array).any()
    node = None if value is None else value.producer()
    if node is None or depth == 0 or has_reference_attribute(node):
        return False
    if is_op(node, "ConstantOfShape"):
        filled = attribute(node, "value", None)
        return filled is None or not filled.numpy().any()
    if not is_op(node, *_MOVES):
        return False
    moved = node.inputs if is_op(node, "Concat") else node.inputs[:1]
    return all(_is_zero(source, depth - 1) for source in moved)
