"""A node that is linear in a constant weight, and what a scale and shift behind or before it make of that weight.

    Conv            W (M, C/g, *k)     b (M,)       output channels: axis 1
    ConvTranspose   W (C, M/g, *k)     b (M,)       output channels: axis 1
    Gemm            B (K, N) or (N, K) C (N,)       output channels: axis 1 of 2
    MatMul          B (K, N)           none         output channels: the last axis

Everything is computed in float64 and rounded once to the weight's own type.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from baker.model.graph import Array, attribute, constant_value, is_constant, is_op, overridable, shape_of
from baker.model.pages import PIECE, release, rows_of, stored
from baker.passes.fuse._rule import FLOATS, finite_in, growth, renew

CONVS = ("Conv", "ConvTranspose")
LINEAR = (*CONVS, "Gemm", "MatMul")


@dataclass(frozen=True)
class Affine:
    """y -> y * scale + shift, float64; each is () or (channels,)."""

    scale: Array
    shift: Array

    @property
    def scales(self) -> bool:
        """True when the scale is not 1 everywhere."""
        return not bool(np.all(self.scale == 1))


UNCHANGED = Affine(np.ones(()), np.zeros(()))


def linear_producer(value: ir.Value | None) -> ir.Node | None:
    """The Conv, ConvTranspose, Gemm or MatMul that gives a value."""
    node = None if value is None else value.producer()
    return node if is_op(node, *LINEAR) else None


def fault(node: ir.Node) -> str | None:
    """Why a linear node's weight and bias can't be folded into, or None."""
    weight, bias = node.inputs[1], bias_of(node)
    if not is_constant(weight):
        return overridable(weight) or f"the weight of {node.op_type} is not constant"
    if weight.dtype not in FLOATS:
        return f"the weight is {weight.dtype}, not a float type"
    if bias is not None and not is_constant(bias):
        return overridable(bias) or f"the bias of {node.op_type} is not constant"
    if bias is not None and bias.dtype != weight.dtype:
        return f"the bias is {bias.dtype}, the weight {weight.dtype}"
    rank = len(shape_of(weight) or ())
    if rank < 3 if is_op(node, *CONVS) else rank != 2:
        return f"the weight of {node.op_type} has {rank} dims"
    return None


def bias_of(node: ir.Node) -> ir.Value | None:
    """The bias of a linear node; an absent one may be "" or left out."""
    return node.inputs[2] if len(node.inputs) > 2 and not is_op(node, "MatMul") else None


def channels(node: ir.Node) -> int:
    """The number of output channels."""
    dims = shape_of(node.inputs[1]) or ()
    if is_op(node, "Conv"):
        return int(dims[0] or 0)
    if is_op(node, "ConvTranspose"):
        return int(dims[1] or 0) * int(attribute(node, "group", 1))
    return int((dims[0] if is_op(node, "Gemm") and attribute(node, "transB", 0) else dims[1]) or 0)


def channel_axis(node: ir.Node) -> tuple[int, int | None]:
    """The axis of the output channels, counted from the end as a negative number, and the output's rank."""
    if is_op(node, *CONVS):
        rank = len(shape_of(node.inputs[1]) or ())
        return 1 - rank, rank
    if is_op(node, "Gemm"):
        return -1, 2
    dims = shape_of(node.outputs[0])
    return -1, None if dims is None else len(dims)


def per_channel(array: Array, size: int, axis: int, rank: int | None) -> Array | None:
    """A constant operand of an output as () or (size,) in float64, None when it is anything else.

    Args:
        axis: the channel axis, negative.
        rank: the output's rank; None when unknown, then the operand must not need to know it.
    """
    if array.ndim > (rank if rank is not None else 1 if axis == -1 else 0):
        return None
    if array.size == 1:
        return array.reshape(()).astype(np.float64)
    if array.ndim < -axis or array.shape[axis] != size or array.size != size:
        return None
    return array.reshape(size).astype(np.float64)


def new_weight(node: ir.Node, scale: Array) -> Array | None:
    """The weight with every output channel scaled in float64, rounded to its type; None when a number does not fit."""
    weight = read(node.inputs[1])
    if is_op(node, "ConvTranspose") and scale.ndim:
        group = int(attribute(node, "group", 1))
        by_group = weight.reshape(group, weight.shape[0] // group, *weight.shape[1:])
        factor = scale.reshape(group, 1, weight.shape[1], *[1] * (weight.ndim - 2))
        return scaled(by_group, factor, weight.shape)
    if is_op(node, "Conv"):
        return scaled(weight, scale.reshape(-1, *[1] * (weight.ndim - 1)))
    return scaled(weight, scale.reshape(-1, 1) if is_op(node, "Gemm") and attribute(node, "transB", 0) else scale)


def scaled(weight: Array, factor: Array, shape: tuple[int, ...] | None = None) -> Array | None:
    """The product in float64, rounded to the weight's type; None when a number does not fit. Both stay where they are.

    A large weight is worked off bit by bit, so that float64 takes no memory that the weight does not.

    Args:
        factor: float64, broadcasts to the weight.
        shape: of the result, if not the weight's.
    """

    def parts() -> Iterator[Array]:
        wide = np.broadcast_to(factor, weight.shape)
        for index in _blocks(weight):
            rounded = finite_in(weight[index].astype(np.float64) * wide[index], weight.dtype)
            if rounded is None:
                raise _DoesNotFit
            yield rounded

    try:
        product = stored(weight.shape, weight.dtype, parts())
    except _DoesNotFit:
        return None
    return product if shape is None else product.reshape(shape)


def sums(weight: Array, factor: Array, axes: Sequence[int]) -> Array:
    """The sum of the float64 product over some axes, worked off as by `scaled`.

    Args:
        factor: float64, broadcasts to the weight.
    """
    keep = [axis for axis in range(weight.ndim) if axis not in axes]
    total = np.zeros([weight.shape[axis] for axis in keep])
    wide = np.broadcast_to(factor, weight.shape)
    for index in _blocks(weight):
        whole = (*index, *[slice(None)] * (weight.ndim - len(index)))
        part = (weight[whole].astype(np.float64) * wide[whole]).sum(axis=tuple(axes))
        total[tuple(whole[axis] for axis in keep)] += part
        release()
    return total


class _DoesNotFit(Exception):
    """Ends an attempt to scale a weight."""


def _blocks(weight: Array) -> Iterator[tuple[slice, ...]]:
    """Cuts a weight into blocks that lie one behind the other: of rows or, where one row is large, inside of each."""
    if weight.nbytes <= PIECE:
        yield ()
        return
    if weight.ndim == 1 or weight[0].nbytes <= PIECE:
        for rows in rows_of(weight.shape, weight.itemsize):
            yield (rows,)
        return
    for row in range(len(weight)):
        for index in _blocks(weight[row]):
            yield (slice(row, row + 1), *index)


def new_bias(node: ir.Node, affine: Affine) -> Array | None:
    """The bias (channels,) behind an affine step, float64; None when a Gemm's C is more than one row."""
    size = channels(node)
    bias = bias_of(node)
    old = np.zeros(()) if bias is None else read(bias).astype(np.float64)
    if is_op(node, "Gemm"):
        if old.size != 1 and not (old.size == size and old.shape[-1:] == (size,)):
            return None
        old = old.reshape(-1) * float(attribute(node, "beta", 1.0))
    with np.errstate(invalid="ignore"):  # what is not finite is refused where it is to be stored
        return np.array(np.broadcast_to(old * affine.scale + affine.shift, (size,)))


def file_growth(node: ir.Node, affine: Affine, others: list[tuple[ir.Value | None, ir.Node]]) -> int:
    """Bytes by which the file grows when the affine step moves into the weight and bias."""
    weight, bias = node.inputs[1], bias_of(node)
    itemsize = read(weight).dtype.itemsize
    new = 0 if is_op(node, "MatMul") else channels(node) * itemsize
    dying = [*others, (bias, node)]
    if affine.scales:
        new += int(np.prod([dim or 0 for dim in shape_of(weight) or ()])) * itemsize
        dying.append((weight, node))
    return growth(new, dying)


def absorb(node: ir.Node, weight: Array | None, bias: Array | None) -> None:
    """Gives a linear node a new weight, of its type, and a new bias, to be rounded to it; None leaves one as it is."""
    dtype = read(node.inputs[1]).dtype
    hint = node.inputs[1].name if node.inputs[1] is not None else node.op_type
    if weight is not None:
        renew(node, 1, weight, "weight")
    if bias is not None:
        renew(node, 2, bias.astype(dtype), f"{hint}_bias")
        if is_op(node, "Gemm"):
            node.attributes.pop("beta", None)


def read(value: ir.Value | None) -> Array:
    """The array of a value that is known to be constant."""
    array = constant_value(value)
    assert array is not None, "fault() asks for constants"
    return array
