"""A BitNet b1.58 language model of any size with random latent weights, written as PyTorch's exporter writes one."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

EPSILON, THETA = 1e-6, 10000.0
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


@dataclass(frozen=True)
class Size:
    """Sizes of a Llama-like decoder whose blocks have ternary linears.

    Attributes:
        width: of the residual stream, heads · 64.
        hidden: of the gated MLP.
        vocabulary: rows of the float embedding and of the float head.
    """

    width: int = 2048
    hidden: int = 5504
    layers: int = 4
    vocabulary: int = 256
    head: int = 64

    @property
    def heads(self) -> int:
        return self.width // self.head

    @property
    def ternary_weights(self) -> int:
        return self.layers * (4 * self.width**2 + 3 * self.width * self.hidden)


@dataclass
class Writer:
    """Collects nodes and initializers; every method returns the name of a value."""

    rng: np.random.Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[TensorProto] = field(default_factory=list)
    stored: dict[str, str] = field(default_factory=dict)

    def op(self, kind: str, *inputs: str, out: str = "", **attributes: object) -> str:
        name = out or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name, **attributes))
        return name

    def halves(self, x: str) -> tuple[str, str]:
        names = [f"split_{len(self.nodes)}_{part}" for part in (0, 1)]
        self.nodes.append(helper.make_node("Split", [x], names, names[0], axis=-1, num_outputs=2))
        return names[0], names[1]

    def weight(self, name: str, array: np.ndarray) -> str:
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def number(self, value: float | list[int] | int) -> str:
        """A constant, stored once: a float32 scalar, an int64 scalar or an int64 vector."""
        if str(value) not in self.stored:
            dtype = np.float32 if isinstance(value, float) else np.int64
            self.stored[str(value)] = self.weight(f"constant_{len(self.stored)}", np.array(value, dtype))
        return self.stored[str(value)]

    def norm(self, x: str, name: str, width: int) -> str:
        """RMSNorm in the seven operators that it is exported as."""
        scale = self.weight(f"{name}.weight", self.rng.uniform(0.5, 1.5, width).astype(np.float32))
        mean = self.op("ReduceMean", self.op("Pow", x, self.number(2.0)), self.number([-1]), keepdims=1)
        root = self.op("Reciprocal", self.op("Sqrt", self.op("Add", mean, self.number(EPSILON))))
        return self.op("Mul", self.op("Mul", x, root), scale)

    def quantized(self, x: str) -> str:
        """Fake int8, one scale a token: round(x · 127 / absmax) · absmax / 127."""
        absmax = self.op("ReduceMax", self.op("Abs", x), self.number([-1]), keepdims=1)
        clipped = self.op("Clip", absmax, self.number(1e-5))
        scale = self.op("Mul", self.op("Reciprocal", clipped), self.number(127.0))
        rounded = self.op("Round", self.op("Mul", x, scale))
        return self.op("Div", self.op("Clip", rounded, self.number(-128.0), self.number(127.0)), scale)

    def linear(self, x_q: str, name: str, inputs: int, outputs: int) -> str:
        """A bias-free product with the ternary form of a latent weight; x_q is quantized."""
        latent = self.rng.standard_normal((outputs, inputs), np.float32) * np.float32(0.02)
        stored = self.weight(f"{name}.weight", latent)
        mean = self.op("ReduceMean", self.op("Abs", stored), keepdims=0)
        scale = self.op("Reciprocal", self.op("Clip", mean, self.number(1e-5)))
        rounded = self.op("Round", self.op("Mul", stored, scale))
        ternary = self.op("Div", self.op("Clip", rounded, self.number(-1.0), self.number(1.0)), scale)
        return self.op("MatMul", x_q, self.op("Transpose", ternary, perm=[1, 0]), out=name)


def cache_names(prefix: str, size: Size) -> list[str]:
    """Of the cache's tensors, float32 (batch, heads, past, head), in the order of the model's inputs and outputs."""
    return [f"{prefix}_{part}_{index}" for index in range(size.layers) for part in ("key", "value")]


def angles(w: Writer, size: Size) -> tuple[str, str, str]:
    """Cosines and sines (sequence, head), and the causal mask (sequence, past + sequence)."""
    sequence = w.op("Squeeze", w.op("Shape", "tokens", start=1, end=2))
    past = w.op("Shape", "past_key_0", start=2, end=3)
    every = w.op("Range", w.number(0), w.op("Add", sequence, w.op("Squeeze", past)), w.number(1))
    here = w.op("Slice", every, past, w.number([2**63 - 1]), w.number([0]), w.number([1]))
    positions = w.op("Unsqueeze", here, w.number([1]))
    mask = w.op("Where", w.op("LessOrEqual", every, positions), w.number(0.0), w.number(-1e9))
    frequencies = THETA ** (-np.arange(0, size.head, 2, dtype=np.float32) / size.head)
    table = w.weight("frequencies", np.concatenate([frequencies, frequencies]).astype(np.float32))
    turn = w.op("Mul", w.op("Cast", positions, to=FLOAT), table)
    return w.op("Cos", turn), w.op("Sin", turn), mask


def rotated(w: Writer, x: str, cos: str, sin: str) -> str:
    first, second = w.halves(x)
    turned = w.op("Concat", w.op("Neg", second), first, axis=-1)
    return w.op("Add", w.op("Mul", x, cos), w.op("Mul", turned, sin))


def attention(w: Writer, x: str, index: int, size: Size, shared: tuple[str, str, str, str, str]) -> str:
    """The first half of a block, without the residual."""
    cos, sin, mask, split, merged = shared
    name, width = f"layers.{index}.attention", size.width
    x_q = w.quantized(w.norm(x, f"{name}.norm", width))
    query, key, value = (
        w.op("Transpose", w.op("Reshape", w.linear(x_q, f"{name}.{part}", width, width), split), perm=[0, 2, 1, 3])
        for part in ("query", "key", "value")
    )
    turned = rotated(w, key, cos, sin)
    keys = w.op("Concat", f"past_key_{index}", turned, axis=2, out=f"present_key_{index}")
    values = w.op("Concat", f"past_value_{index}", value, axis=2, out=f"present_value_{index}")
    product = w.op("MatMul", rotated(w, query, cos, sin), w.op("Transpose", keys, perm=[0, 1, 3, 2]))
    scores = w.op("Add", w.op("Mul", product, w.number(size.head**-0.5)), mask)
    mixed = w.op("MatMul", w.op("Softmax", scores, axis=-1), values)
    joined = w.op("Reshape", w.op("Transpose", mixed, perm=[0, 2, 1, 3]), merged)
    return w.linear(w.quantized(w.norm(joined, f"{name}.out_norm", width)), f"{name}.out", width, width)


def mlp(w: Writer, x: str, index: int, size: Size) -> str:
    """The second half of a block, without the residual: down(norm(silu(gate) · up))."""
    name = f"layers.{index}.mlp"
    x_q = w.quantized(w.norm(x, f"{name}.norm", size.width))
    gate, up = (w.linear(x_q, f"{name}.{part}", size.width, size.hidden) for part in ("gate", "up"))
    product = w.op("Mul", w.op("Mul", gate, w.op("Sigmoid", gate)), up)
    inner = w.quantized(w.norm(product, f"{name}.down_norm", size.hidden))
    return w.linear(inner, f"{name}.down", size.hidden, size.width)


def build(size: Size, seed: int = 0) -> onnx.ModelProto:
    """Tokens int64 (batch, sequence) and a cache -> logits float32 (batch, sequence, vocabulary), and the longer cache.

    The same numbers for the same seed; 4 bytes a weight.
    """
    w = Writer(np.random.default_rng(seed))
    cos, sin, mask = angles(w, size)
    rows, columns = (w.op("Shape", "tokens", start=axis, end=axis + 1) for axis in (0, 1))
    split = w.op("Concat", rows, columns, w.number([size.heads]), w.number([size.head]), axis=0)
    merged = w.op("Concat", rows, columns, w.number([size.width]), axis=0)
    shape = (size.vocabulary, size.width)
    x = w.op("Gather", w.weight("embedding.weight", w.rng.standard_normal(shape, np.float32)), "tokens", axis=0)
    for index in range(size.layers):
        x = w.op("Add", x, attention(w, x, index, size, (cos, sin, mask, split, merged)))
        x = w.op("Add", x, mlp(w, x, index, size))
    head = w.weight("head.weight", w.rng.standard_normal(shape[::-1], np.float32) / np.float32(size.width**0.5))
    w.op("MatMul", w.norm(x, "norm", size.width), head, out="logits")
    return _model(w, size)


def _model(w: Writer, size: Size) -> onnx.ModelProto:
    def cache(prefix: str, length: str) -> list[onnx.ValueInfoProto]:
        shape = ["batch", size.heads, length, size.head]
        return [helper.make_tensor_value_info(name, FLOAT, shape) for name in cache_names(prefix, size)]

    tokens = helper.make_tensor_value_info("tokens", INT64, ["batch", "sequence"])
    logits = helper.make_tensor_value_info("logits", FLOAT, ["batch", "sequence", size.vocabulary])
    inputs, outputs = [tokens, *cache("past", "past")], [logits, *cache("present", "past + sequence")]
    graph = helper.make_graph(w.nodes, "ternary_lm", inputs, outputs, w.weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def write(size: Size, file: Path, seed: int = 0) -> None:
    """Builds the model and saves it, the weights in a file beside it."""
    onnx.save(build(size, seed), file, save_as_external_data=True, location=f"{file.name}.data", size_threshold=1024)
