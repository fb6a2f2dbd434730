"""Conv, ConvTranspose, Gemm or MatMul, then Add, Sub, Mul or Div with a constant."""

from __future__ import annotations

import onnx_ir as ir

from baker.model.graph import label
from baker.passes.fuse._absorb import absorbed, refusal
from baker.passes.fuse._elementwise import AFFINE, step_of
from baker.passes.fuse._linear import channel_axis, channels, fault, linear_producer, per_channel
from baker.passes.fuse._rule import FuseRule, apart
from baker.pipeline.pass_base import Change
from baker.pipeline.rewrite import Match


class LinearAffine(FuseRule):
    """Fold a scalar or per-channel Add, Sub, Mul or Div into the linear node that feeds it.

    Shapes: y has its M channels on axis 1 (Conv, ConvTranspose, Gemm) or on the last axis (MatMul, which takes a scale
    but has no bias); c is one number or has M elements on that axis and 1 on all others.

        y * c:  W' = W * c    b' = b * c            y + c:  b' = b + c

    An Add leaves the weight as it is, also a shared one.

    Error: exact over the reals; float32 max|dy| <= 4e-6 * max|y|.
    Declines: the linear node's output is read elsewhere; c is of another shape or type; c - y needs no fold of its own
        (it is one: scale -1); c / y; a number that overflows; a copy of a shared weight beyond the growth limit.
    Source: the distributive law; as onnxscript's conv_affine rule, which takes scalars only.
    """

    anchor = AFFINE

    def match(self, node: ir.Node) -> Match | None:
        """Finds the linear node in front of an element-wise one."""
        step = step_of(node)
        linear = None if step is None else linear_producer(step.source)
        return None if linear is None else Match(step=step, linear=linear)

    def check(self, match: Match) -> str | None:
        """Both must be foldable, and nobody else may read what is between them."""
        step, linear = match.step, match.linear
        reason = fault(linear) or apart(linear, step.node)
        if reason is not None:
            return reason
        dtype = linear.inputs[1].dtype
        if step.constant.dtype != dtype:
            return f"the constant is {step.constant.dtype}, the weight {dtype}"
        axis, rank = channel_axis(linear)
        match.affine = step.affine(lambda array: per_channel(array, channels(linear), axis, rank))
        if match.affine is None:
            return "the constant is not one number or one per output channel, or divides"
        return refusal(match, linear, match.affine, [(step.constant, step.node)], self.facts.room)

    def apply(self, match: Match) -> Change:
        """Folds the step into weight and bias."""
        name, op_type = label(match.step.node), match.step.node.op_type
        absorbed(match, match.linear, match.affine, match.step.node)
        return Change(self.name, name, f"{op_type} folded into {match.linear.op_type} '{label(match.linear)}'")
