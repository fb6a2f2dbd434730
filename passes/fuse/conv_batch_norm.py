"""Conv or ConvTranspose, then BatchNormalization."""

from __future__ import annotations

import onnx_ir as ir

from baker.model.graph import is_op, label
from baker.passes.fuse._absorb import absorbed, refusal
from baker.passes.fuse._batch_norm import affine_of, inference_fault, type_fault
from baker.passes.fuse._linear import CONVS, channels, fault, linear_producer
from baker.passes.fuse._rule import FuseRule, apart
from baker.pipeline.pass_base import Change
from baker.pipeline.rewrite import Match


class ConvBatchNorm(FuseRule):
    """Fold an inference-mode BatchNormalization into the Conv or ConvTranspose that feeds it.

    Shapes: W (M, C/g, *k), for ConvTranspose (C, M/g, *k), 1 to 3 spatial dims; b, gamma, beta, mean, var (M,).

        s  = gamma / sqrt(var + eps)
        W' = W * s[:, None, ...]        b' = (b - mean) * s + beta

    A weight that others read too is copied, and the copy is folded into.

    Error: exact over the reals; float32 max|dy| <= 4e-6 * max|y|.
    Declines: the Conv's output is read elsewhere; a parameter is not constant, or of another type than the weight;
        training mode; a number that overflows; a copy of a shared weight beyond 64 KiB and the growth limit.
    Source: Jacob et al. 2018, arXiv:1712.05877, section 3.2.
    """

    anchor = "BatchNormalization"

    def match(self, node: ir.Node) -> Match | None:
        """Finds the Conv in front of a BatchNormalization."""
        conv = linear_producer(node.inputs[0])
        return Match(norm=node, conv=conv) if is_op(conv, *CONVS) else None

    def check(self, match: Match) -> str | None:
        """Both must be foldable, and nobody else may read what is between them."""
        conv, norm = match.conv, match.norm
        reason = (
            inference_fault(norm, self.facts.opset)
            or fault(conv)
            or type_fault(norm, conv.inputs[1].dtype)
            or apart(conv, norm)
        )
        if reason is not None:
            return reason
        match.affine = affine_of(norm)
        if match.affine.scale.shape != (channels(conv),):
            return f"{match.affine.scale.size} parameters for {channels(conv)} channels"
        return refusal(match, conv, match.affine, [(value, norm) for value in norm.inputs[1:5]], self.facts.room)

    def apply(self, match: Match) -> Change:
        """Folds scale and shift into weight and bias."""
        name = label(match.norm)
        absorbed(match, match.conv, match.affine, match.norm)
        return Change(self.name, name, f"folded into {match.conv.op_type} '{label(match.conv)}'")
