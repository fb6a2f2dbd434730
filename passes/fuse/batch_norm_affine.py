"""BatchNormalization, then Add, Sub, Mul or Div with a constant."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from baker.model.graph import label, shape_of
from baker.passes.fuse._batch_norm import inference_fault, parameter_types, type_fault
from baker.passes.fuse._elementwise import AFFINE, step_of
from baker.passes.fuse._linear import per_channel, read
from baker.passes.fuse._rule import FuseRule, apart, bypass, finite_in, renew
from baker.pipeline.pass_base import Change
from baker.pipeline.rewrite import Match


class BatchNormAffine(FuseRule):
    """Fold a scalar or per-channel Add, Sub, Mul or Div into the BatchNormalization in front of it.

    Shapes: x (N, C, *), gamma and beta (C,); c is one number or has C elements on axis 1 and 1 on all others.

        y * c:  gamma' = gamma * c    beta' = beta * c            y + c:  beta' = beta + c

    Error: exact over the reals; float32 max|dy| <= 4e-6 * max|y|.
    Declines: BatchNormalization in training mode, with parameters that are not constant, of several types, or read
        elsewhere behind it; c of another shape or type; a number that overflows.
    Source: the distributive law. DenseNet and Inception as exported from Caffe2 have a Mul and an Add behind each one.
    """

    anchor = AFFINE

    def match(self, node: ir.Node) -> Match | None:
        """Finds the BatchNormalization in front of an element-wise node."""
        step = step_of(node)
        norm = None if step is None else step.source.producer()
        return Match(step=step, norm=norm) if norm is not None and norm.op_type == "BatchNormalization" else None

    def check(self, match: Match) -> str | None:
        """Both must be foldable, and nobody else may read what is between them."""
        step, norm = match.step, match.norm
        dtype = step.constant.dtype
        reason = inference_fault(norm, self.facts.opset) or apart(norm, step.node)
        reason = reason or (type_fault(norm, dtype) if parameter_types(norm) != {dtype} else None)
        dims, size = shape_of(norm.inputs[0]), (shape_of(norm.inputs[1]) or (0,))[0]
        if reason is not None or dims is None or size is None:
            return reason or "the rank of its input is unknown"
        affine = step.affine(lambda array: per_channel(array, size, 1 - len(dims), len(dims)))
        if affine is None:
            return "the constant is not one number or one per channel, or divides"
        gamma, beta = read(norm.inputs[1]), read(norm.inputs[2])
        match.gamma = finite_in(gamma.astype(np.float64) * affine.scale, gamma.dtype)
        match.beta = finite_in(beta.astype(np.float64) * affine.scale + affine.shift, beta.dtype)
        return None if match.gamma is not None and match.beta is not None else f"a parameter does not fit {dtype}"

    def apply(self, match: Match) -> Change:
        """Folds the step into scale and bias."""
        step, norm = match.step, match.norm
        name = label(step.node)
        if not np.array_equal(match.gamma, read(norm.inputs[1])):
            renew(norm, 1, match.gamma, "scale")
        renew(norm, 2, match.beta, "bias")
        bypass(step.node, norm.outputs[0])
        return Change(self.name, name, f"{step.node.op_type} folded into BatchNormalization '{label(norm)}'")
