"""Gemm or MatMul, then BatchNormalization."""

from __future__ import annotations

import onnx_ir as ir

from baker.model.graph import is_op, label, shape_of
from baker.passes.fuse._absorb import absorbed, refusal
from baker.passes.fuse._batch_norm import affine_of, inference_fault, type_fault
from baker.passes.fuse._linear import Affine, channels, fault, linear_producer
from baker.passes.fuse._rule import FuseRule, apart, substitute
from baker.pipeline.pass_base import Change
from baker.pipeline.rewrite import Match


class MatmulBatchNorm(FuseRule):
    """Fold an inference-mode BatchNormalization into the Gemm or MatMul that feeds it; a MatMul becomes a Gemm.

    Shapes: x (M, K), B (K, N) or transposed, C one row or absent; gamma, beta, mean, var (N,). A MatMul of more dims
    has its channels on another axis than BatchNormalization's and is left alone.

        s  = gamma / sqrt(var + eps)
        B' = B * s        C' = (beta_gemm * C - mean) * s + beta

    Error: exact over the reals; float32 max|dy| <= 4e-6 * max|y|.
    Declines: the product is read elsewhere; a parameter is not constant, or of another type than B; training mode;
        a C of several rows; a MatMul that is not known to be 2-D, or below opset 11.
    Source: Jacob et al. 2018, arXiv:1712.05877, section 3.2.
    """

    anchor = "BatchNormalization"

    def match(self, node: ir.Node) -> Match | None:
        """Finds the Gemm or MatMul in front of a BatchNormalization."""
        linear = linear_producer(node.inputs[0])
        return Match(norm=node, linear=linear) if is_op(linear, "Gemm", "MatMul") else None

    def check(self, match: Match) -> str | None:
        """Both must be foldable, and nobody else may read what is between them."""
        linear, norm = match.linear, match.norm
        reason = inference_fault(norm, self.facts.opset) or fault(linear) or type_fault(norm, linear.inputs[1].dtype)
        reason = reason or apart(linear, norm)
        if reason is not None:
            return reason
        if is_op(linear, "MatMul") and (self.facts.opset < 11 or len(shape_of(linear.inputs[0]) or ()) != 2):
            return "MatMul is not known to be 2-D" if self.facts.opset >= 11 else "Gemm needs a bias below opset 11"
        match.affine = affine_of(norm)
        if match.affine.scale.shape != (channels(linear),):
            return f"{match.affine.scale.size} parameters for {channels(linear)} channels"
        scaled = match.affine if is_op(linear, "Gemm") else Affine(match.affine.scale, match.affine.shift * 0)
        return refusal(match, linear, scaled, [(value, norm) for value in norm.inputs[1:5]], self.facts.room)

    def apply(self, match: Match) -> Change:
        """Folds scale and shift into B and C."""
        name, linear = label(match.norm), match.linear
        if is_op(linear, "MatMul"):
            linear = substitute(linear, "Gemm", list(linear.inputs))
        absorbed(match, linear, match.affine, match.norm)
        return Change(self.name, name, f"folded into Gemm '{label(linear)}'")
