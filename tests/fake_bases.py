"""Models to make fakes of: each of another kind, small, with seeded weights."""

from __future__ import annotations

import numpy as np
import onnx
from helpers import seeded

HEAD = '<ir_version: 10, opset_import: ["" : 20]>\n'

TEXTS = {
    "cnn": """cnn (float[N, 3, 12, 12] x) => (float[N, 10] y, float[N, 8] features) {
        a = Conv<pads = [1, 1, 1, 1]>(x, w1, b1)  r = Relu(a)  s = Conv(r, w2)  m = Abs(s)  c = Clip(m, low, high)
        g = GlobalAveragePool(c)  features = Flatten(g)  y = Gemm(features, w3, b3) }""",
    "saturated_softmax": """net (float[N, 16] x) => (float[N, 10] y) {
        a = MatMul(x, w1)  r = Relu(a)  h = MatMul(r, w2)  s = Mul(h, big)  y = Softmax(s) }""",
    "integer_input": """net (int64[N, T] ids) => (float[N, T, 12] y) {
        e = Gather(table, ids)  a = MatMul(e, w1)  r = Relu(a)  y = MatMul(r, w2) }""",
    "two_inputs": """net (float[N, 16] x, float[N, 16] z) => (float[N, 8] y) {
        a = MatMul(x, w1)  b = MatMul(z, w2)  s = Add(a, b)  r = Relu(s)  y = MatMul(r, w3) }""",
    "common_mode": """net (float[N, 16] x) => (float[N, 8] y) {
        a = MatMul(x, w1)  r = Relu(a)  h = MatMul(r, w2)  y = Add(h, offset) }""",
    "fixed_shapes": """net (float[4, 16] x) => (float[4, 8] y) {
        a = MatMul(x, w1)  r = Relu(a)  c = Abs(r)  d = Clip(c, low, high)  y = MatMul(d, w2) }""",
    "sequence": """net (float[N, T, 16] x) => (float[N, T, 8] y, float[N, 8] pooled) {
        a = MatMul(x, w1)  n = LayerNormalization<axis = -1>(a, g1, b1)  r = Gelu(n)  y = MatMul(r, w2)
        pooled = ReduceMean<keepdims = 0>(y, axes) }""",
}

LIMITS = {"low": np.float32(0.1), "high": np.float32(1.5)}
WEIGHTS: dict[str, dict[str, np.ndarray | np.float32]] = {
    "cnn": {
        "w1": seeded(8, 3, 3, 3) * np.float32(0.3),
        "b1": seeded(8, seed=1),
        "w2": seeded(8, 8, 3, 3, seed=2) * np.float32(0.2),
        "w3": seeded(8, 10, seed=3),
        "b3": seeded(10, seed=4),
        **LIMITS,
    },
    "saturated_softmax": {"w1": seeded(16, 32), "w2": seeded(32, 10, seed=1), "big": np.float32(50)},
    "integer_input": {"table": seeded(50, 16), "w1": seeded(16, 32, seed=1), "w2": seeded(32, 12, seed=2)},
    "two_inputs": {"w1": seeded(16, 32), "w2": seeded(16, 32, seed=1), "w3": seeded(32, 8, seed=2)},
    "common_mode": {
        "w1": seeded(16, 32),
        "w2": seeded(32, 8, seed=1) * np.float32(0.05),
        "offset": 100 + seeded(8, seed=2),
    },
    "fixed_shapes": {"w1": seeded(16, 32), "w2": seeded(32, 8, seed=1), **LIMITS},
    "sequence": {
        "w1": seeded(16, 32),
        "g1": 1 + seeded(32, seed=5) * np.float32(0.1),
        "b1": seeded(32, seed=6),
        "w2": seeded(32, 8, seed=1),
        "axes": np.array([1]),
    },
}


def base(name: str) -> onnx.ModelProto:
    """One of `TEXTS`, with its weights."""
    model = onnx.parser.parse_model(HEAD + TEXTS[name])
    for key, array in WEIGHTS[name].items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), key))
    onnx.checker.check_model(model)
    return model
