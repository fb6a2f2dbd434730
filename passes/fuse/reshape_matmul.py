"""Reshape to a matrix, MatMul or Gemm, and Reshape back."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from baker.model.graph import attribute, emit, has_reference_attribute, is_constant, is_op, label, shape_of
from baker.passes.fuse._linear import read
from baker.passes.fuse._rule import FLOATS, FuseRule, apart, bypass, renew
from baker.pipeline.pass_base import Change
from baker.pipeline.rewrite import Match


class ReshapeMatmul(FuseRule):
    """Multiply a tensor of several dims as it is, instead of making it a matrix before and undoing that behind.

    Shapes: x (..., K) of 3 dims or more, B (K, N) or transposed and constant, C one row or absent; the result (..., N).

        Reshape(Gemm(Reshape(x, (-1, K)), B, C), (..., N)) = MatMul(x, B) + C
        Reshape(MatMul(Reshape(x, (-1, K)), B), (..., N))  = MatMul(x, B)

    Measured in ONNX Runtime, both forms take the same time: it makes the one of the other.

    Error: exact over the reals; float32 max|dy| <= 4e-6 * max|y|.
    Declines: what is in between is read elsewhere; other dims than those of x behind, or not known to be; alpha, beta
        or transA; a B to be transposed that is not constant, or read elsewhere; a C of several rows.
    Source: ONNX MatMul, numpy.matmul's rules for stacks of matrices.
    """

    anchor = "Reshape"

    def match(self, node: ir.Node) -> Match | None:
        """Finds the product in front of a Reshape, and the Reshape in front of that."""
        product = None if node.inputs[0] is None else node.inputs[0].producer()
        if not is_op(product, "MatMul", "Gemm") or product.inputs[0] is None or has_reference_attribute(product):
            return None
        first = product.inputs[0].producer()
        return Match(first=first, product=product, node=node) if is_op(first, "Reshape") else None

    def check(self, match: Match) -> str | None:
        """The dims must be those of x but for the last, and the Gemm a plain one."""
        first, product, node = match.first, match.product, match.node
        x, weight = first.inputs[0], shape_of(product.inputs[1])
        flat = shape_of(first.outputs[0])
        if weight is None or len(weight) != 2 or flat is None or len(flat) != 2:
            return f"{product.op_type} is not known to be 2-D"
        size = weight[0 if attribute(product, "transB", 0) else 1]
        if node.outputs[0].is_graph_output() or not _same_but_last(x, node.outputs[0], flat[1], size):
            return "the dims of the result are not known to be those of x but for the last"
        reason = _gemm_fault(product) if is_op(product, "Gemm") else None
        if reason is None and x.dtype not in FLOATS:
            reason = f"x is {x.dtype}, not a float type"
        return reason or apart(first, product) or apart(product, node)

    def apply(self, match: Match) -> Change:
        """Leaves MatMul, and Add where there is a C."""
        first, product, node = match.first, match.product, match.node
        name = label(product)
        if attribute(product, "transB", 0):
            renew(product, 1, np.ascontiguousarray(read(product.inputs[1]).T), "weight")
        bias = product.inputs[2] if len(product.inputs) > 2 else None
        result = emit(node, "MatMul", [first.inputs[0], product.inputs[1]], name=product.name).outputs[0]
        _describe(result, node.outputs[0])
        if bias is not None:
            result = emit(node, "Add", [result, bias], name=f"{name}_bias").outputs[0]
            _describe(result, node.outputs[0])
        bypass(node, result)
        return Change(self.name, name, f"{product.op_type} between Reshapes became MatMul{' and Add' if bias else ''}")


def _describe(value: ir.Value, like: ir.Value) -> None:
    value.type, value.shape = like.type, like.shape


def _same_but_last(x: ir.Value, y: ir.Value, inner: int | None, outer: int | None) -> bool:
    """True when x is (..., inner) and y (..., outer), 3 dims or more, with the same dims in front.

    One of those may be unknown: the number of elements tells that it is the same.
    """
    if x.shape is None or y.shape is None or len(x.shape) != len(y.shape) or len(x.shape) < 3:
        return False
    pairs = list(zip(x.shape[:-1], y.shape[:-1], strict=True))
    same = [a == b and a != 0 and (isinstance(a, int) or a.value is not None) for a, b in pairs]
    if any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in pairs) or same.count(False) > 1:
        return False
    return bool(inner) and bool(outer) and x.shape[-1] == inner and y.shape[-1] == outer


def _gemm_fault(gemm: ir.Node) -> str | None:
    if attribute(gemm, "alpha", 1.0) != 1 or attribute(gemm, "beta", 1.0) != 1 or attribute(gemm, "transA", 0):
        return "Gemm has alpha, beta or transA"
    weight = gemm.inputs[1]
    if attribute(gemm, "transB", 0) and (not is_constant(weight) or len(weight.uses()) != 1):
        return "B is transposed, and not constant or read elsewhere"
    bias = gemm.inputs[2] if len(gemm.inputs) > 2 else None
    if bias is None:
        return None
    dims = shape_of(bias)
    return None if dims is not None and (len(dims) < 2 or dims[0] == 1) else "C is, or may be, more than one row"
