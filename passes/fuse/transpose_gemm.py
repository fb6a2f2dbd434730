"""Transpose of a matrix, then MatMul or Gemm."""

from __future__ import annotations

import onnx_ir as ir

from baker.model.graph import attribute, has_reference_attribute, is_constant, is_op, label, remove_if_dead, shape_of
from baker.passes.fuse._rule import FLOATS, FuseRule, apart, substitute
from baker.passes.fuse.transpose import perm_of
from baker.pipeline.pass_base import Change
from baker.pipeline.rewrite import Match

_FLAGS = ("transA", "transB")


class TransposeGemm(FuseRule):
    """Let Gemm transpose its operand; a MatMul of two matrices becomes a Gemm.

    Shapes: A (M, K) and B (K, N), one of them transposed by a node of its own.

        Gemm(Transpose(A), B) = Gemm(A, B, transA = 1)          MatMul(A, Transpose(B)) = Gemm(A, B, transB = 1)

    Error: exact over the reals; float32 max|dy| <= 4e-6 * max|y|.
    Declines: the Transpose is read elsewhere; MatMul is not known to be 2-D; a constant that `fold` transposes; an A
        where B is a constant weight, since `quantize` and `ternary` know no such layer; other types than float ones;
        opset below 11, where Gemm must have a C.
    Source: ONNX Gemm.
    """

    anchor = ("Gemm", "MatMul")

    def match(self, node: ir.Node) -> Match | None:
        """Finds the Transpose in front of a factor."""
        if has_reference_attribute(node):
            return None
        for index, value in enumerate(node.inputs[:2]):
            first = None if value is None else value.producer()
            if is_op(first, "Transpose") and first.inputs[0] is not None and node.inputs[0] is not node.inputs[1]:
                return Match(first=first, index=index, node=node)
        return None

    def check(self, match: Match) -> str | None:
        """The Transpose must be of a matrix, for this product alone."""
        first, node = match.first, match.node
        if perm_of(first) != [1, 0]:
            return "it transposes no matrix"
        dims = [shape_of(value) for value in node.inputs[:2]]
        if is_op(node, "MatMul") and any(found is None or len(found) != 2 for found in dims):
            return "MatMul is not known to be 2-D"
        if is_op(node, "MatMul") and self.facts.opset < 11:
            return "Gemm must have a C below opset 11"
        if is_constant(first.inputs[0]) and len(first.inputs[0].uses()) == 1:
            return "fold stores a constant that is transposed"
        if match.index == 0 and is_constant(node.inputs[1]):
            return "its weight is constant: transA would hide the layer from quantize and ternary"
        if first.inputs[0].dtype not in FLOATS:
            return f"the factors are {first.inputs[0].dtype}, not a float type"
        return apart(first, node)

    def apply(self, match: Match) -> Change:
        """Sets transA or transB."""
        first, node, name = match.first, match.node, label(match.first)
        old = node.inputs[match.index]
        if is_op(node, "MatMul"):
            inputs = list(node.inputs)
            inputs[match.index] = first.inputs[0]
            node = substitute(node, "Gemm", inputs, **{_FLAGS[match.index]: 1})
        else:
            flag = _FLAGS[match.index]
            node.attributes.add(ir.AttrInt64(flag, 1 - int(attribute(node, flag, 0))))
            node.replace_input_with(match.index, first.inputs[0])
        remove_if_dead(old)
        return Change(self.name, name, f"folded into {_FLAGS[match.index]} of Gemm '{label(node)}'")
