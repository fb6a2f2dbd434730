"""BatchNormalization, then Conv, ConvTranspose, Gemm or MatMul."""

from __future__ import annotations

import onnx_ir as ir

from baker.model.graph import attribute, is_op, shape_of
from baker.passes.fuse._batch_norm import affine_of, inference_fault, type_fault
from baker.passes.fuse._linear import CONVS, LINEAR, fault
from baker.passes.fuse._rule import apart
from baker.passes.fuse.affine_linear import AffineLinear, input_channels
from baker.pipeline.pass_base import Change
from baker.pipeline.rewrite import Match


class BatchNormLinear(AffineLinear):
    """Fold an inference-mode BatchNormalization into the linear node that reads it.

    Shapes: x has its C channels on axis 1: of a Conv or ConvTranspose, or of a matrix that a Gemm or MatMul reads;
    gamma, beta, mean, var (C,).

        s = gamma / sqrt(var + eps)          t = beta - mean * s
        W' = W * s (input channels)          b' = b + sum over inputs of W * t

    The shift does not go through padding, since 0 + t is not 0: only a Conv without padding takes it.

    Error: exact over the reals; float32 max|dy| <= 4e-6 * max|y|.
    Declines: the normalized tensor is read elsewhere; training mode; a parameter is not constant, or of another type
        than the weight; a shift into a padded Conv, a ConvTranspose or a MatMul; a weight that is ternary or
        quantized; a number that overflows; a copy of a shared weight beyond the growth limit.
    Source: Jacob et al. 2018, arXiv:1712.05877, section 3.2, the other way round.
    """

    anchor = LINEAR

    def match(self, node: ir.Node) -> Match | None:
        """Finds the BatchNormalization in front of a linear node."""
        norm = None if node.inputs[0] is None else node.inputs[0].producer()
        return Match(norm=norm, linear=node) if is_op(norm, "BatchNormalization") else None

    def check(self, match: Match) -> str | None:
        """Both must be foldable, and nobody else may read what is between them."""
        norm, linear = match.norm, match.linear
        reason = inference_fault(norm, self.facts.opset) or fault(linear) or type_fault(norm, linear.inputs[1].dtype)
        reason = reason or apart(norm, linear)
        if reason is not None:
            return reason
        if not is_op(linear, *CONVS) and len(shape_of(norm.inputs[0]) or ()) != 2:
            return f"{linear.op_type} is not known to read a matrix"
        if is_op(linear, "Gemm") and attribute(linear, "transA", 0):
            return "Gemm transposes what is normalized"
        match.affine = affine_of(norm)
        size = input_channels(linear, shape_of(linear.inputs[1]) or ())
        if match.affine.scale.shape != (size,):
            return f"{match.affine.scale.size} parameters for {size} channels"
        return self.numbers(match, norm, norm.inputs[1:5])

    def apply(self, match: Match) -> Change:
        """Folds scale and shift into weight and bias."""
        return self.fold(match, match.norm, match.norm.inputs[0])
