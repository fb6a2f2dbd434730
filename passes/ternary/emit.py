"""What a ternary layer becomes: `ai.baker::TernaryMatMul`, or ONNX Runtime's own `MatMulNBits`.

`kernel=ort` writes `com.microsoft::MatMulNBits` (bits=2, accuracy_level=4) itself rather than the standard INT2
DequantizeLinear -> MatMul that ONNX Runtime would fuse to it, because

- that fusion (1.32) reads past the packed weight and is silently wrong unless N is a multiple of 4; the op is right;
- INT2 needs opset 25, and raising the opset rewrites, and inlines, the whole model for the sake of one layer;
- the fusion quantizes activations at one optimization level and not at another, the op always does;
- the op takes a bias, any K, and blocks of 128 where per-tensor INT2 is fused to blocks of 32 (2.5 times slower).

Its price: the layer runs in ONNX Runtime alone, as ours does, but without a library.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from baker.model.graph import Array, constant_before, constant_value, emit, graph_of, remove_if_dead, replace_value
from baker.model.operators import BAKER_DOMAIN
from baker.model.qparams import pack_int2
from baker.passes.ternary.activation import Activation
from baker.passes.ternary.linear import Linear
from baker.passes.ternary.weights import TernaryWeight
from baker.runtime.kernels import pack_codes, pack_trits

ORT_DOMAIN = "com.microsoft"

_BLOCKS = (128, 64, 32)
"""Block sizes along K that MatMulNBits has int8 kernels for, fastest first; others run 200 times slower."""

_INT8_ACTIVATIONS = 4  # MatMulNBits' accuracy_level; level 0 multiplies floats, 200 times slower


@dataclass
class Emitter:
    """Writes ternary layers into one model; one weight of several layers is stored once a graph.

    Args:
        kernel: ``baker`` or ``ort``.
        per_byte: weights stored in a byte by ``baker``: 4, of two bits each, or 5, as digits of base 3.
    """

    model: ir.Model
    kernel: str
    per_byte: int = 4
    _stored: dict[tuple[int, str, str, str, tuple[int, ...]], ir.Value] = field(default_factory=dict)

    def replace(self, layer: Linear, activation: Activation, weight: TernaryWeight, hint: str) -> ir.Node:
        """Puts a ternary layer in place of a linear one and removes what nobody reads any more.

        Args:
            hint: what the new weight is named after.

        Returns:
            The node that multiplies.
        """
        before = layer.result.producer() or layer.node
        build = self._baker if self.kernel == "baker" else self._ort
        return self.settle(layer, before, build(before, activation, weight, layer, hint))

    def settle(self, layer: Linear, before: ir.Node, node: ir.Node) -> ir.Node:
        """Puts what a node makes in the place of the layer's result, and removes what nobody reads any more."""
        product = node.outputs[0]
        if layer.addend is not None:
            product = emit(before, "Add", [product, layer.addend], name=f"{node.name}_add").outputs[0]
        product.type, product.shape = layer.result.type, layer.result.shape
        name = layer.result.name
        replace_value(layer.result, product)
        remove_if_dead(layer.result)
        product.name = name
        self._import(node)
        return node

    def _baker(
        self, before: ir.Node, activation: Activation, weight: TernaryWeight, layer: Linear, hint: str
    ) -> ir.Node:
        pack = pack_codes if self.per_byte == 4 else pack_trits
        inputs = [
            activation.source,
            self._store(before, f"{hint}.ternary", pack(weight.codes)),
            self._store(before, f"{hint}.scale", weight.scale),
        ]
        if layer.bias is not None:
            inputs.append(self._bias(before, layer, layer.bias, hint))
        packing = None if self.per_byte == 4 else self.per_byte
        attributes = {"K": weight.codes.shape[1], "group": weight.group, "weights_per_byte": packing}
        return emit(before, "TernaryMatMul", inputs, attributes, domain=BAKER_DOMAIN, name=layer.node.name)

    def _ort(self, before: ir.Node, activation: Activation, weight: TernaryWeight, layer: Linear, hint: str) -> ir.Node:
        block = block_of(weight.group)
        inputs: list[ir.Value | None] = [
            activation.plain,
            self._store(before, f"{hint}.ternary", pack_blocks(weight.codes, block)),
            self._store(before, f"{hint}.scale", block_scales(weight, block)),
        ]
        if layer.bias is not None:
            inputs += [None, None, self._bias(before, layer, layer.bias, hint)]  # no zero points, no g_idx
        channels, depth = weight.codes.shape
        attributes = {"K": depth, "N": channels, "bits": 2, "block_size": block, "accuracy_level": _INT8_ACTIVATIONS}
        return emit(before, "MatMulNBits", inputs, attributes, domain=ORT_DOMAIN, name=layer.node.name)

    def _bias(self, before: ir.Node, layer: Linear, bias: Array, hint: str) -> ir.Value:
        """The model's own bias where it is just that, else a new one."""
        stored = constant_value(layer.bias_value)
        if layer.bias_value is not None and stored is not None and stored.shape == bias.shape:
            return layer.bias_value
        return self._store(before, f"{hint}.bias", bias)

    def _store(self, before: ir.Node, hint: str, array: Array) -> ir.Value:
        array = np.ascontiguousarray(array)
        digest = hashlib.sha256(array.data).hexdigest()
        key = (id(graph_of(before)), hint, digest, array.dtype.str, array.shape)
        if key not in self._stored:
            self._stored[key] = constant_before(before, hint, array)
        return self._stored[key]

    def _import(self, node: ir.Node) -> None:
        self.model.opset_imports.setdefault(node.domain, 1)
        for function in self.model.functions.values():
            if any(inner.domain == node.domain for inner in function.all_nodes()):
                function.opset_imports.setdefault(node.domain, 1)


def stored_bytes(weight: TernaryWeight, per_byte: int = 4) -> int:
    """Bytes of codes, each row padded to a whole byte, and float32 scales."""
    channels, depth = weight.codes.shape
    return int(channels * -(-depth // per_byte) + 4 * weight.scale.size)


def block_of(group: int) -> int:
    """The block size along K for a scale group.

    Raises:
        ValueError: none divides the group.
    """
    for block in _BLOCKS:
        if group % block == 0:
            return block
    raise ValueError(f"kernel=ort needs scale groups of a multiple of {_BLOCKS[-1]} weights, this weight has {group}")


def pack_blocks(codes: Array, block: int) -> Array:
    """Packs codes [N, K] as MatMulNBits' B: uint8 [N, ceil(K / block), block / 4], t + 2, first weight in the low bits.

    Padding is 2, which stands for zero (the default zero point of 2 bits).
    """
    channels, depth = codes.shape
    padded = np.full((channels, -(-depth // block) * block), 2, np.uint8)
    padded[:, :depth] = codes + 2
    return pack_int2(padded).reshape(channels, -1, block // 4)


def block_scales(weight: TernaryWeight, block: int) -> Array:
    """MatMulNBits' scales: float32 [N, ceil(K / block)]."""
    channels, depth = weight.codes.shape
    count = -(-depth // block)
    if weight.group:
        return np.repeat(weight.scale, weight.group // block, axis=1)[:, :count]
    return np.ascontiguousarray(np.broadcast_to(weight.scale.reshape(-1, 1), (channels, count)))
