"""What rounding a weight shifts a layer's result by on average, to be taken off its bias again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from baker.model.graph import Array, attribute, is_op
from baker.passes.quantize.layers import Layer


@dataclass
class ChannelMean:
    """The mean of each channel of a tensor over any number of arrays.

    Attributes:
        axis: the channel axis.
        mean: float64 (channels,), weighted by the elements seen; empty before the first array.
        count: elements per channel.
        dims: dims of the last array.
    """

    axis: int
    mean: Array = field(default_factory=lambda: np.empty(0))
    count: int = 0
    dims: tuple[int, ...] = ()

    def add(self, array: Array) -> None:
        """Takes an array of any size along the other axes; one without elements, or of another width, is ignored."""
        channels = array.shape[self.axis]
        if array.size == 0 or (self.count and self.mean.size != channels):
            return
        others = tuple(i for i in range(array.ndim) if i != self.axis % array.ndim)
        found, more = array.mean(axis=others, dtype=np.float32), array.size // channels
        total = self.count + more
        before = self.mean if self.count else np.zeros(channels)
        self.mean = before + (found - before) * (more / total)
        self.count, self.dims = total, array.shape


def channel_axis(layer: Layer) -> int | None:
    """The axis of a layer's input that its weight sums over, or None where no correction is made.

    A MatMul without a bias Add has no place for one; neither has a batch of weights, or a weight on the left.
    """
    if is_op(layer.node, "Conv"):
        return 1
    if is_op(layer.node, "Gemm"):
        return 0 if attribute(layer.node, "transA", 0) else 1
    return -1 if layer.bias is not None and layer.axis is not None else None


def shift(layer: Layer, error: Array, seen: ChannelMean) -> Array:
    """E[(Wq - W) x] per output channel, float32, for inputs of the channel means that were seen.

    A Conv's taps that fall on padding see zeros; each tap counts as often as it falls inside.

    Args:
        error: Wq - W, of the layer's weight shape.
        seen: of the layer's input.

    Source: Nagel et al. 2019, arXiv:1906.04721, section 4.2, with measured means.
    """
    if not is_op(layer.node, "Conv"):
        rows = error if layer.axis == 0 else error.T
        return np.asarray(rows @ seen.mean.astype(np.float32))
    taps = inside(layer.node, error.shape[2:], seen.dims[2:])
    groups = int(attribute(layer.node, "group", 1))
    expected = (seen.mean.reshape(groups, -1, 1) * taps.reshape(-1)).reshape(groups, -1, 1).astype(np.float32)
    return np.asarray(np.matmul(error.reshape(groups, error.shape[0] // groups, -1), expected)).reshape(-1)


def inside(node: ir.Node, kernel: Sequence[int], dims: Sequence[int]) -> Array:
    """How often each tap of a Conv falls inside its input rather than on padding: shape (*kernel), 0 to 1.

    Args:
        kernel: spatial dims of the weight.
        dims: spatial dims of the input.
    """
    rank = len(kernel)
    strides = attribute(node, "strides", (1,) * rank)
    dilations = attribute(node, "dilations", (1,) * rank)
    pads = attribute(node, "pads", (0,) * 2 * rank)
    mode = attribute(node, "auto_pad", "NOTSET")
    shares = np.ones(())
    for axis, (k, n, stride, dilation) in enumerate(zip(kernel, dims, strides, dilations, strict=True)):
        reach = (k - 1) * dilation + 1
        begin, end = pads[axis], pads[axis + rank]
        if mode == "VALID":
            begin, end = 0, 0
        elif mode.startswith("SAME"):
            both = max((math.ceil(n / stride) - 1) * stride + reach - n, 0)
            begin = both // 2 if mode == "SAME_UPPER" else both - both // 2
            end = both - begin
        starts = np.arange(max((n + begin + end - reach) // stride + 1, 1)) * stride - begin
        places = starts[None, :] + dilation * np.arange(k)[:, None]
        shares = np.multiply.outer(shares, np.mean((places >= 0) & (places < n), axis=1))
    return np.asarray(shares)
