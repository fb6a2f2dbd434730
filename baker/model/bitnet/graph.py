"""A BitNet b1.58 decoder as an ONNX graph of standard operators, with a cache of keys and values.

    input_ids int64 [batch, sequence], past_key_values.N.{key, value} float32 [batch, kv heads, past, head dim]
    -> logits float32 [batch, sequence, vocabulary], present.N.{key, value} [batch, kv heads, past + sequence, head dim]

The first call gives a past of 0; each further one what the call before gave as present. Samples of a batch are of one
length: there is no mask for padding. A linear layer is, per row of its input (Ma et al. 2024, arXiv:2402.17764):

    s = 127 / max(max|x|, 1e-5)
    y = (clip(round(x * s), -128, 127) / s) @ W,    W = DequantizeLinear(codes, 1) * scale

Layers that read the same tensor share its quantization. The scale stands apart since ONNX Runtime 1.32 makes a product
with the output of a DequantizeLinear a MatMulNBits, which rounds the rows once more, in blocks: 5e-3 of the largest y.
Normalizations stand where BitNet 2B-4T has them: in front of attention and MLP, and once more in front of the
projections that end them (Wang et al. 2025, arXiv:2504.12285).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir

from baker.model.bitnet.config import BitNetConfig
from baker.model.bitnet.weights import TernaryMatrix
from baker.model.graph import Array

OPSET, IR_VERSION = 23, 11
"""The first with RMSNormalization, RotaryEmbedding and Attention."""

_LEVELS = 127.0
_SMALLEST_ABSMAX = 1e-5
_FLOAT, _INT64 = ir.DataType.FLOAT, ir.DataType.INT64


class Weights(Protocol):
    """Where the numbers come from; shapes are checked at once, nothing is read before it is needed."""

    def matrix(self, name: str, channels: int, depth: int) -> TernaryMatrix:
        """The weight of a linear layer."""

    def floats(self, name: str, shape: tuple[int, ...]) -> Callable[[], Array]:
        """A tensor that is kept in floating point."""


class Builder:
    """A graph under construction: nodes in order, weights by name."""

    def __init__(self) -> None:
        self.nodes: list[ir.Node] = []
        self.weights: dict[str, ir.Value] = {}

    def op(self, op_type: str, inputs: Sequence[ir.Value | None], name: str, **attributes: Any) -> ir.Value:
        """A node of one output."""
        return self.node(op_type, inputs, (name,), **attributes)[0]

    def node(
        self, op_type: str, inputs: Sequence[ir.Value | None], names: Sequence[str], **attributes: Any
    ) -> Sequence[ir.Value]:
        """A node; its name is that of its first output."""
        outputs = [ir.Value(name=name) for name in names]
        self.nodes.append(ir.node(op_type, inputs, attributes, outputs=outputs, name=names[0]))
        return outputs

    def weight(self, name: str, shape: tuple[int, ...], dtype: ir.DataType, read: Callable[[], Array]) -> ir.Value:
        """An initializer that is read when it is needed; one of each name."""
        if name not in self.weights:
            tensor = ir.LazyTensor(lambda: ir.Tensor(read(), dtype), dtype, ir.Shape(shape), name=name)
            self.weights[name] = ir.Value(
                name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype), const_value=tensor
            )
        return self.weights[name]

    def constant(self, name: str, array: Any, dtype: ir.DataType = _FLOAT) -> ir.Value:
        """A small initializer."""
        data = np.asarray(array, dtype.numpy())
        return self.weight(name, data.shape, dtype, lambda: data)

    def model(self, inputs: Sequence[ir.Value], outputs: Sequence[ir.Value]) -> ir.Model:
        """All of it."""
        initializers, imports = list(self.weights.values()), {"": OPSET}
        graph = ir.Graph(
            inputs, outputs, nodes=self.nodes, initializers=initializers, opset_imports=imports, name="bitnet"
        )
        return ir.Model(graph, ir_version=IR_VERSION, producer_name="baker")


def build(config: BitNetConfig, weights: Weights) -> ir.Model:
    """Returns the model; its large initializers are `ir.LazyTensor`.

    Raises:
        ModelError: by ``weights``: a tensor is missing or of the wrong shape.
    """
    builder = Builder()
    ids = _typed("input_ids", _INT64, ["batch", "sequence"])
    past = _past(config, 0)
    embedding_name = "model.embed_tokens.weight"
    embedding = _float_weight(builder, weights, embedding_name, (config.vocabulary, config.hidden))
    shared = _Positions(builder, config, ids, past[0])
    x, present = builder.op("Gather", [embedding, ids], "embed_tokens", axis=0), []
    for layer in range(config.layers):  # as many as the file has weights for: the first that is missing ends it
        block = _Block(builder, config, weights, shared, layer)
        normed = block.norm(x, "input_layernorm")
        past += _past(config, layer) if layer else []
        attended, *cache = block.attention(normed, past[2 * layer :])
        x = builder.op("Add", [x, attended], f"layers.{layer}.attended")
        x = builder.op("Add", [x, block.mlp(block.norm(x, "post_attention_layernorm"))], f"layers.{layer}.output")
        present += cache
    gamma = _float_weight(builder, weights, "model.norm.weight", (config.hidden,))
    x = builder.op("RMSNormalization", [x, gamma], "norm", axis=-1, epsilon=config.epsilon)
    head_name = embedding_name if config.tied else "lm_head.weight"
    head = _float_weight(builder, weights, head_name, (config.vocabulary, config.hidden))
    outputs = [_logits(builder, config, shared, x, head), *present]
    return builder.model([ids, *past], outputs)


_KINDS = ("key", "value")


def _past(config: BitNetConfig, layer: int) -> list[ir.Value]:
    """The inputs of a layer's keys and values."""
    shape: list[int | str] = ["batch", config.kv_heads, "past", config.head_dim]
    return [_typed(f"past_key_values.{layer}.{kind}", _FLOAT, shape) for kind in _KINDS]


class _Positions:
    """What all layers share: the mask, the angles of the rotary embedding, and sizes."""

    def __init__(self, builder: Builder, config: BitNetConfig, ids: ir.Value, past: ir.Value) -> None:
        self.batch = builder.op("Shape", [ids], "batch_size", start=0, end=1)
        self.length = builder.op("Shape", [ids], "sequence_length", start=1, end=2)
        before = builder.op("Shape", [past], "past_length", start=2, end=3)
        total = builder.op("Add", [before, self.length], "total_length")
        first, last = (builder.op("Squeeze", [value], f"{value.name}_scalar") for value in (before, total))
        zero, one = (builder.constant(name, i, _INT64) for i, name in enumerate(("zero", "one")))
        queries = builder.op("Range", [first, last, one], "query_positions")
        keys = builder.op("Range", [zero, last, one], "key_positions")
        rows = builder.op("Unsqueeze", [queries, builder.constant("axis_1", [1], _INT64)], "query_rows")
        self.mask = builder.op("LessOrEqual", [keys, rows], "causal_mask")
        places = builder.op("Cast", [rows], "query_places", to=_FLOAT)
        exponents = np.arange(0, config.head_dim, 2, dtype=np.float32) / np.float32(config.head_dim)
        speeds = builder.constant("inverse_frequencies", np.float32(1) / np.float32(config.theta) ** exponents)
        angles = builder.op("Mul", [places, speeds], "angles")
        half = builder.constant("half_head_dim", [config.head_dim // 2], _INT64)
        shape = builder.op("Concat", [self.batch, self.length, half], "angles_shape", axis=0)
        self.rotation = [
            builder.op("Expand", [builder.op(kind, [angles], kind.lower()), shape], f"{kind.lower()}_cache")
            for kind in ("Cos", "Sin")
        ]


class _Block:
    """One layer."""

    def __init__(
        self, builder: Builder, config: BitNetConfig, weights: Weights, shared: _Positions, layer: int
    ) -> None:
        self.builder, self.config, self.weights, self.shared = builder, config, weights, shared
        self.layer, self.place = layer, f"layers.{layer}"

    def norm(self, x: ir.Value, name: str, width: int = 0) -> ir.Value:
        """RMSNormalization over the last axis; ``width`` 0 is the hidden size."""
        gamma = _float_weight(
            self.builder, self.weights, f"model.{self.place}.{name}.weight", (width or self.config.hidden,)
        )
        inputs = [x, gamma]
        return self.builder.op("RMSNormalization", inputs, f"{self.place}.{name}", axis=-1, epsilon=self.config.epsilon)

    def quantized(self, x: ir.Value) -> ir.Value:
        """Each row rounded to int8 and back."""
        op, constant, name = self.builder.op, self.builder.constant, x.name
        absolute = op("Abs", [x], f"{name}.abs")
        last = constant("last_axis", [-1], _INT64)
        absmax = op("ReduceMax", [absolute, last], f"{name}.absmax", keepdims=1)
        absmax = op("Clip", [absmax, constant("smallest_absmax", _SMALLEST_ABSMAX)], f"{name}.clipped_absmax")
        scale = op("Div", [constant("levels", _LEVELS), absmax], f"{name}.levels_per_unit")
        rounded = op("Round", [op("Mul", [x, scale], f"{name}.scaled")], f"{name}.rounded")
        limits = [constant("lowest_level", -_LEVELS - 1), constant("levels", _LEVELS)]
        return op("Div", [op("Clip", [rounded, *limits], f"{name}.levels"), scale], f"{name}.quantized")

    def linear(self, x: ir.Value, name: str, channels: int, depth: int) -> ir.Value:
        """A product with a ternary weight."""
        builder, name = self.builder, f"{self.place}.{name}"
        found = self.weights.matrix(f"model.{name}", channels, depth)
        codes = builder.weight(f"model.{name}.weight", (depth, channels), ir.DataType.INT8, found.codes)
        scale = builder.weight(f"model.{name}.weight_scale", (), _FLOAT, found.scale)
        signs = builder.op("DequantizeLinear", [codes, builder.constant("unit", 1.0)], f"{name}.signs")
        return builder.op("MatMul", [x, builder.op("Mul", [signs, scale], f"{name}.matrix")], name)

    def attention(self, x: ir.Value, past: Sequence[ir.Value]) -> Sequence[ir.Value]:
        """Causal attention over past and present -> what is added, and the new keys and values."""
        config, name = self.config, f"{self.place}.self_attn"
        x = self.quantized(x)
        q, k, v = (
            self.linear(x, f"self_attn.{kind}_proj", width, config.hidden)
            for kind, width in (("q", config.width), ("k", config.kv_width), ("v", config.kv_width))
        )
        turned = [
            self.builder.op("RotaryEmbedding", [value, *self.shared.rotation], f"{value.name}.rotated", num_heads=heads)
            for value, heads in ((q, config.heads), (k, config.kv_heads))
        ]
        y, *cache = self.builder.node(
            "Attention",
            [*turned, v, self.shared.mask, *past],
            (name, *(f"present.{self.layer}.{kind}" for kind in _KINDS)),
            q_num_heads=config.heads,
            kv_num_heads=config.kv_heads,
        )
        for value in cache:
            value.type = ir.TensorType(_FLOAT)
            value.shape = ir.Shape(["batch", config.kv_heads, "total", config.head_dim])
        y = self.quantized(self.norm(y, "self_attn.attn_sub_norm", config.width))
        return self.linear(y, "self_attn.o_proj", config.hidden, config.width), *cache

    def mlp(self, x: ir.Value) -> ir.Value:
        """down(norm(act(gate(x)) * up(x)))."""
        config, op = self.config, self.builder.op
        x = self.quantized(x)
        gate, up = (self.linear(x, f"mlp.{kind}_proj", config.inner, config.hidden) for kind in ("gate", "up"))
        inner = op("Relu" if config.activation == "relu2" else "Sigmoid", [gate], f"{gate.name}.bent")
        other = inner if config.activation == "relu2" else gate
        inner = op("Mul", [inner, other], f"{gate.name}.{config.activation}")
        inner = op("Mul", [inner, up], f"{self.place}.mlp.gated")
        inner = self.quantized(self.norm(inner, "mlp.ffn_sub_norm", config.inner))
        return self.linear(inner, "mlp.down_proj", config.hidden, config.inner)


def _logits(builder: Builder, config: BitNetConfig, shared: _Positions, x: ir.Value, head: ir.Value) -> ir.Value:
    """x [batch, sequence, hidden] times head [vocabulary, hidden], as a Gemm: a transposed copy would double it."""
    rows = builder.op("Reshape", [x, builder.constant("rows", [-1, config.hidden], _INT64)], "norm_rows")
    flat = builder.op("Gemm", [rows, head], "lm_head", transB=1)
    width = builder.constant("vocabulary", [config.vocabulary], _INT64)
    shape = builder.op("Concat", [shared.batch, shared.length, width], "logits_shape", axis=0)
    logits = builder.op("Reshape", [flat, shape], "logits")
    logits.type, logits.shape = ir.TensorType(_FLOAT), ir.Shape(["batch", "sequence", config.vocabulary])
    return logits


def _float_weight(builder: Builder, weights: Weights, name: str, shape: tuple[int, ...]) -> ir.Value:
    return builder.weight(name, shape, _FLOAT, weights.floats(name, shape))


def _typed(name: str, dtype: ir.DataType, shape: Sequence[int | str]) -> ir.Value:
    return ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype))
