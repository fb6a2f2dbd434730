"""Add, Sub, Mul or Div with a constant, then Conv, ConvTranspose, Gemm or MatMul."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from baker.model.graph import Array, attribute, is_op, label, remove_if_dead, shape_of
from baker.model.pages import release, rows_of
from baker.passes.fuse._elementwise import AFFINE, step_of
from baker.passes.fuse._linear import (
    CONVS,
    LINEAR,
    UNCHANGED,
    absorb,
    fault,
    file_growth,
    new_bias,
    per_channel,
    read,
    scaled,
    sums,
)
from baker.passes.fuse._rule import SMALL_COPY, FuseRule, apart, finite_in
from baker.passes.fuse._runtime import fused
from baker.pipeline.pass_base import Change
from baker.pipeline.rewrite import Match


class AffineLinear(FuseRule):
    """Fold a scalar or per-channel Add, Sub, Mul or Div into the linear node that reads it.

    Shapes: x has its C channels on axis 1 (Conv, ConvTranspose) or on the last axis (Gemm, MatMul); c is one number or
    has C elements on that axis and 1 on all others.

        (x * c) W:  W' = W * c (input channels)         (x + c) W:  b' = b + sum over inputs of W * c

    A scale goes through padding, since 0 * c = 0; a shift does not, and is taken only by a Conv without padding.

    Error: exact over the reals; float32 max|dy| <= 4e-6 * max|y|.
    Declines: the step's output is read elsewhere; c is of another shape or type; a shift into a padded Conv, a
        ConvTranspose or a MatMul; a scale per channel into a weight that is ternary or quantized; a number that
        overflows; a copy of a shared weight beyond the growth limit; a step that ONNX Runtime fuses into what makes x.
    Source: the distributive law; as onnxscript's affine_conv rule, which takes scalars only.
    """

    anchor = LINEAR

    def match(self, node: ir.Node) -> Match | None:
        """Finds the element-wise node in front of a linear one."""
        source = node.inputs[0]
        step = None if source is None else step_of(source.producer())
        return None if step is None or step.node.op_type not in AFFINE else Match(step=step, linear=node)

    def check(self, match: Match) -> str | None:
        """Both must be foldable, and nobody else may read what is between them."""
        step, linear = match.step, match.linear
        reason = fault(linear) or apart(step.node, linear) or fused(step.node)
        if reason is not None:
            return reason
        if step.constant.dtype != linear.inputs[1].dtype:
            return f"the constant is {step.constant.dtype}, the weight {linear.inputs[1].dtype}"
        match.affine = step.affine(lambda array: _per_input(array, linear, step.source))
        if match.affine is None:
            return "the constant is not one number or one per input channel, or divides"
        return self.numbers(match, step.node, [step.constant])

    def numbers(self, match: Match, before: ir.Node, constants: Sequence[ir.Value | None]) -> str | None:
        """Works out weight and bias; why they can't be, or None.

        Args:
            match: holds ``linear`` and the ``affine`` step before it.
            before: the node of that step, and what it reads besides its input.
        """
        linear, affine = match.linear, match.affine
        if np.any(affine.shift != 0) and _pads(linear):
            return f"a shift does not go through the padding of {linear.op_type}"
        if affine.scale.ndim and _on_a_grid(linear):
            return "the weight takes a few values only, ternary or quantized ones, and would no longer"
        if np.any(affine.shift != 0) and (is_op(linear, "MatMul") or new_bias(linear, UNCHANGED) is None):
            return f"{linear.op_type} has no bias of one row"
        more = file_growth(linear, affine, [(constant, before) for constant in constants])
        if more > max(self.facts.room, SMALL_COPY):
            return f"the file would grow by {more} bytes"
        dtype = read(linear.inputs[1]).dtype
        match.weight = _scaled(linear, affine.scale) if affine.scales else None
        match.bias = _shifted_bias(linear, affine.shift) if np.any(affine.shift != 0) else None
        if (affine.scales and match.weight is None) or (
            match.bias is not None and finite_in(match.bias, dtype) is None
        ):
            return f"a weight or bias does not fit {dtype}"
        return None

    def apply(self, match: Match) -> Change:
        """Folds the step into weight and bias."""
        return self.fold(match, match.step.node, match.step.source)

    def fold(self, match: Match, before: ir.Node, source: ir.Value) -> Change:
        """Gives the linear node its new weight and bias, and lets it read the source of the node before it."""
        linear, name = match.linear, label(before)
        absorb(linear, match.weight, match.bias)
        between = before.outputs[0]
        linear.replace_input_with(0, source)
        remove_if_dead(between)
        return Change(self.name, name, f"{before.op_type} folded into {linear.op_type} '{label(linear)}'")


def _per_input(array: Array, linear: ir.Node, source: ir.Value) -> Array | None:
    """A constant operand as () or (input channels,) in float64; None when it is neither or makes its source larger."""
    dims, weight = shape_of(source), shape_of(linear.inputs[1])
    if array.ndim and (dims is None or array.ndim > len(dims)):
        return None
    if array.size == 1:
        return array.reshape(()).astype(np.float64)
    if dims is None or weight is None or (is_op(linear, *CONVS) and len(dims) != len(weight)):
        return None
    if is_op(linear, "Gemm") and attribute(linear, "transA", 0):
        return None
    axis = 1 - len(weight) if is_op(linear, *CONVS) else -1
    size = input_channels(linear, weight)
    return per_channel(array, size, axis, len(dims)) if dims[axis] == size else None


def input_channels(linear: ir.Node, weight: tuple[int | None, ...]) -> int:
    if is_op(linear, "Conv"):
        return int(weight[1] or 0) * int(attribute(linear, "group", 1))
    if is_op(linear, "Gemm") and attribute(linear, "transB", 0):
        return int(weight[1] or 0)
    return int(weight[0] or 0)


def _on_a_grid(linear: ir.Node) -> bool:
    """True when each output channel of the weight has at most a quarter as many magnitudes as numbers.

    A scale per output channel or for all keeps such a weight ternary, or int8; one per input channel does not.
    """
    weight = read(linear.inputs[1])
    if is_op(linear, "Conv") or (is_op(linear, "Gemm") and attribute(linear, "transB", 0)):
        sample = weight[:: max(1, len(weight) // 8)].reshape(-1, weight[0].size)
    else:
        sample = _columns(weight, slice(None, None, max(1, weight.shape[1] // 8)))
    return all(4 * len(np.unique(np.abs(row))) <= row.size for row in sample)


def _columns(weight: Array, columns: slice) -> Array:
    """Some of the channels on axis 1, flat; looking for them all over a large weight must not keep it in memory."""
    found = []
    for rows in rows_of(weight.shape, weight.itemsize):
        found.append(np.moveaxis(weight[rows, columns], 1, 0).reshape(len(range(weight.shape[1])[columns]), -1))
        release()
    return np.concatenate(found, axis=1)


def _pads(linear: ir.Node) -> bool:
    """True when a constant added to every input does not reach every output alike."""
    if is_op(linear, "ConvTranspose"):
        return True
    if not is_op(linear, "Conv"):
        return False
    return attribute(linear, "auto_pad", "NOTSET") not in ("NOTSET", "VALID") or any(attribute(linear, "pads", ()))


def _scaled(linear: ir.Node, factor: Array) -> Array | None:
    """The weight with every input channel scaled, as `scaled` gives it."""
    weight = read(linear.inputs[1])
    by_group, wide = _by_input(linear, weight, factor)
    return scaled(by_group, wide, weight.shape)


def _by_input(linear: ir.Node, weight: Array, factor: Array) -> tuple[Array, Array]:
    """The weight, and a number for each input channel so that it broadcasts to it; a Conv's split into its groups."""
    if factor.ndim == 0:
        return weight, factor
    spatial = [1] * (weight.ndim - 2)
    if is_op(linear, "Conv"):
        group = int(attribute(linear, "group", 1))
        by_group = weight.reshape(group, weight.shape[0] // group, *weight.shape[1:])
        return by_group, factor.reshape(group, 1, weight.shape[1], *spatial)
    transposed = is_op(linear, "Gemm") and attribute(linear, "transB", 0)
    return weight, factor.reshape(1, -1) if transposed else factor.reshape(-1, 1, *spatial)


def _shifted_bias(linear: ir.Node, shift: Array) -> Array:
    """The bias (output channels,) that a shift of the input makes, float64."""
    weight, wide = _by_input(linear, read(linear.inputs[1]), shift)
    if is_op(linear, "Conv"):
        added = sums(weight, wide, range(2 if weight.ndim > read(linear.inputs[1]).ndim else 1, weight.ndim)).reshape(
            -1
        )
    else:
        added = sums(weight, wide, [1 if is_op(linear, "Gemm") and attribute(linear, "transB", 0) else 0])
        added = added * float(attribute(linear, "alpha", 1.0))
    old = new_bias(linear, UNCHANGED)
    bias: Array = added if old is None else added + old
    return bias
