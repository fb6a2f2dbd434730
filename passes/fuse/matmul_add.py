"""MatMul, then Add with one row."""

from __future__ import annotations

import onnx_ir as ir

from baker.model.graph import is_op, label, shape_of
from baker.model.marks import INVENTED, RENAMED
from baker.passes.fuse._elementwise import step_of
from baker.passes.fuse._rule import FLOATS, FuseRule, apart, substitute
from baker.pipeline.pass_base import Change
from baker.pipeline.rewrite import Match


class MatmulAdd(FuseRule):
    """Make a 2-D MatMul and the constant row that is added to it one Gemm.

    Shapes: A (M, K), B (K, N), c of 1 or N elements on the last axis and 1 on all others, at most 2-D.

        A B + c  =  Gemm(A, B, c)

    Error: exact over the reals; float32 max|dy| <= 4e-6 * max|y|.
    Declines: the product is read elsewhere; A or B is not known to be 2-D, N not known; c of another shape or type.
    Source: ONNX Gemm, version 7 and later.
    """

    anchor = "Add"

    def match(self, node: ir.Node) -> Match | None:
        """Finds the MatMul in front of an Add with a constant."""
        step = step_of(node)
        matmul = None if step is None else step.source.producer()
        return Match(step=step, matmul=matmul) if is_op(matmul, "MatMul") else None

    def check(self, match: Match) -> str | None:
        """Gemm takes matrices of one float type and a bias that broadcasts to their product alone."""
        step, matmul = match.step, match.matmul
        left, right = (shape_of(value) for value in matmul.inputs)
        if left is None or right is None or len(left) != 2 or len(right) != 2 or self.facts.opset < 7:
            return "MatMul is not known to be 2-D"
        if step.constant.dtype not in FLOATS or any(value.dtype != step.constant.dtype for value in matmul.inputs):
            return f"the constant is {step.constant.dtype}, the factors are {matmul.inputs[0].dtype}"
        dims = shape_of(step.constant) or ()
        row = (*([1] * (2 - len(dims))), *dims)
        if len(dims) > 2 or row[0] != 1 or row[1] not in (1, right[1]) or right[1] is None:
            return "the constant is not one row of the product"
        return apart(matmul, step.node)

    def apply(self, match: Match) -> Change:
        """Puts a Gemm in the place of both; it keeps the MatMul's name, by which users know the layer."""
        step, matmul = match.step, match.matmul
        name = label(step.node)
        matrices, product = list(matmul.inputs), label(matmul)
        gemm = substitute(step.node, "Gemm", [*matrices, step.constant])
        _take_name(gemm, matmul)
        return Change(self.name, name, f"MatMul '{product}' and Add became Gemm '{label(gemm)}'")


def _take_name(gemm: ir.Node, matmul: ir.Node) -> None:
    """Names the Gemm after the MatMul, which is gone, where the model's author named that; its words go first."""
    gemm.metadata_props.update(matmul.metadata_props)
    gemm.doc_string = matmul.doc_string or gemm.doc_string
    if matmul.meta.get(INVENTED):
        return
    gemm.name = matmul.name
    for mark in (INVENTED, RENAMED):
        gemm.meta.pop(mark, None)
        if mark in matmul.meta:
            gemm.meta[mark] = matmul.meta[mark]
