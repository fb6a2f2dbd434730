"""Linear layers with int4 or int8 weights, for what ternary would hurt.

int4 is ``com.microsoft::MatMulNBits`` (bits=4, accuracy_level=4), which ONNX Runtime fuses an INT4 DequantizeLinear ->
MatMul to. It is written itself for the same reasons as the 2-bit one (see `emit`): no opset 21 for the sake of one
layer, a bias, any K, and int8 activations at every optimization level. int8 is DynamicQuantizeLinear -> MatMulInteger,
as `quantize` writes it without calibration data; or, in blocks whose rows an embedding can read, MatMulNBits of 8
bits.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import onnx_ir as ir

from baker.model.graph import Array, emit, graph_of
from baker.model.qparams import quantize, weight_qparams
from baker.passes.ternary.activation import Activation
from baker.passes.ternary.compensate import compensated
from baker.passes.ternary.emit import ORT_DOMAIN, Emitter
from baker.passes.ternary.linear import Linear
from baker.passes.ternary.rounding import INT4

BLOCK = 64
"""Weights along K that share an int4 scale. Of 32 they lose a sixth less and run 1.1 to 1.3 times as long."""

_BLOCKS = (128, 64, 32)
"""Fastest first: with 8 bits, one row of 32768 x 2048 takes 2.48, 2.68 and 2.97 ms, DynamicQuantizeMatMul 2.61 ms."""

OFFSETS = {2: 2, 4: 8, 8: 128}
"""What MatMulNBits takes for zero where it is given no zero points, by bits."""

INT8_OPSET = 11
"""The first operator set with DynamicQuantizeLinear."""

_INT8_ACTIVATIONS = 4  # MatMulNBits' accuracy_level


@dataclass(frozen=True)
class IntWeight:
    """``W[n, k] = codes[n, k] * scale[n, k // group]``.

    Attributes:
        bits: 4 or 8.
        codes: int8 [N, K].
        scale: float32 [N, ceil(K / group)], or [N] where group is 0.
        group: weights along K that share a scale; 0: a whole channel.
    """

    bits: Literal[4, 8]
    codes: Array
    scale: Array
    group: int = 0

    @property
    def kind(self) -> str:
        """What shares a scale, in words."""
        return f"group {self.group}" if self.group else "per channel"

    @property
    def nbytes(self) -> int:
        """Bytes stored: codes, padded to whole groups, and scales."""
        channels, depth = self.codes.shape
        stored = -(-depth // self.group) * self.group if self.group else depth
        return int(channels * stored * self.bits // 8 + 4 * self.scale.size)

    def dequantized(self) -> Array:
        """The matrix in float32 [N, K]."""
        scale = self.scale[:, None]
        if self.group:
            scale = np.repeat(self.scale, self.group, axis=1)[:, : self.codes.shape[1]]
        return np.asarray(self.codes.astype(np.float32) * scale)


def int4(weight: Array, hessian: Array | None) -> IntWeight:
    """Rounds a matrix [N, K] to int4, with the layer's inputs in mind where their correlation [K, K] is known."""
    if hessian is None:
        codes, scale = INT4.nearest(weight, BLOCK)
        return IntWeight(4, codes, scale, BLOCK)
    rounded = compensated(weight, hessian, BLOCK, INT4)
    return IntWeight(4, rounded.codes, rounded.scale, BLOCK)


def int8(weight: Array) -> IntWeight:
    """Rounds a matrix [N, K] to int8, a scale a channel, as `quantize` does."""
    qparams = weight_qparams(weight, 0)
    return IntWeight(8, quantize(weight, qparams), qparams.scale)


def block_of(depth: int) -> int:
    """The block size along K of MatMulNBits where scales do not ask for one: the fastest among those that pad least."""
    return min(_BLOCKS, key=lambda block: -(-depth // block) * block)


def int8_in_blocks(weight: Array) -> IntWeight:
    """Rounds a matrix [N, K] to int8, a scale for each block of MatMulNBits."""
    channels, depth = weight.shape
    block = block_of(depth)
    padded = np.pad(weight, ((0, 0), (0, -depth % block))).reshape(-1, block)
    qparams = weight_qparams(padded, 0)
    codes = quantize(padded, qparams).reshape(channels, -1)[:, :depth]
    return IntWeight(8, np.ascontiguousarray(codes), qparams.scale.reshape(channels, -1), block)


@dataclass
class IntegerEmitter(Emitter):
    """Writes int4 and int8 layers; layers that read one activation share its quantization."""

    _quantized: dict[tuple[ir.Value, int], ir.Node] = field(default_factory=dict)

    def exchange(self, layer: Linear, activation: Activation, weight: IntWeight, hint: str) -> ir.Node:
        """Puts an int4 or int8 layer in place of a linear one; see `Emitter.replace`."""
        before = layer.result.producer() or layer.node
        build = self._in_blocks if weight.group else self._int8
        return self.settle(layer, before, build(before, layer, activation, weight, hint))

    def _in_blocks(
        self, before: ir.Node, layer: Linear, activation: Activation, weight: IntWeight, hint: str
    ) -> ir.Node:
        inputs: list[ir.Value | None] = [
            activation.plain,
            self._store(before, f"{hint}.int{weight.bits}", packed(weight)),
            self._store(before, f"{hint}.scale", weight.scale),
        ]
        if layer.bias is not None:
            inputs += [None, None, self._bias(before, layer, layer.bias, hint)]  # no zero points, no g_idx
        channels, depth = weight.codes.shape
        shape = {"K": depth, "N": channels, "bits": weight.bits, "block_size": weight.group}
        attributes = {**shape, "accuracy_level": _INT8_ACTIVATIONS}
        return emit(before, "MatMulNBits", inputs, attributes, domain=ORT_DOMAIN, name=layer.node.name)

    def _int8(self, before: ir.Node, layer: Linear, activation: Activation, weight: IntWeight, hint: str) -> ir.Node:
        quantized, step, zero = self._activation(before, activation.plain).outputs
        codes = self._store(before, f"{hint}.int8", weight.codes.T)
        scale = self._store(before, f"{hint}.scale", weight.scale)
        name = layer.node.name or "linear"
        product = emit(before, "MatMulInteger", [quantized, codes, zero], name=f"{name}_MatMulInteger").outputs[0]
        real = emit(before, "Cast", [product], {"to": ir.DataType.FLOAT}, name=f"{name}_Cast").outputs[0]
        factor = emit(before, "Mul", [step, scale], name=f"{name}_scale").outputs[0]
        last = emit(before, "Mul", [real, factor], name=f"{name}_Mul")
        if layer.bias is None:
            return last
        return emit(before, "Add", [last.outputs[0], self._bias(before, layer, layer.bias, hint)], name=f"{name}_Add")

    def _activation(self, before: ir.Node, value: ir.Value) -> ir.Node:
        key = (value, id(graph_of(before)))
        if key not in self._quantized:
            name = f"{value.name or 'activation'}_DynamicQuantizeLinear"
            self._quantized[key] = emit(before, "DynamicQuantizeLinear", [value], outputs=3, name=name)
        return self._quantized[key]


def packed(weight: IntWeight) -> Array:
    """MatMulNBits' B: uint8 [N, ceil(K / block), block * bits / 8], code + 8 or + 128, padding zero.

    The first weight of a byte is in the low bits.
    """
    channels, depth = weight.codes.shape
    offset = OFFSETS[weight.bits]
    padded = np.full((channels, -(-depth // weight.group) * weight.group), offset, np.uint8)
    padded[:, :depth] = weight.codes.view(np.uint8) + np.uint8(offset)  # modulo 256
    if weight.bits == 4:
        padded = padded[:, 0::2] | padded[:, 1::2] << 4
    return padded.reshape(channels, -1, weight.group * weight.bits // 8)
