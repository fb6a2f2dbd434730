"""Gemm and MatMul + BatchNormalization: transB with alpha and beta, MatMul alone, MatMul with an Add between.

`fuse` folds all three BatchNormalizations.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

GRAPH = """
<ir_version: 8, opset_import: ["" : 17]>
gemm_bn (float[batch, 24] x) => (float[batch, 10] y) {
    [scaled] g1 = Gemm <transB = 1, alpha = 0.5, beta = 2.0> (x, w1, b1)
    n1 = BatchNormalization (g1, bn1_scale, bn1_bias, bn1_mean, bn1_var)
    r1 = Relu (n1)
    [bare] g2 = MatMul (r1, w2)
    n2 = BatchNormalization (g2, bn2_scale, bn2_bias, bn2_mean, bn2_var)
    r2 = Relu (n2)
    [added] g3 = MatMul (r2, w3)
    a3 = Add (g3, b3)
    y = BatchNormalization (a3, bn3_scale, bn3_bias, bn3_mean, bn3_var)
}
"""
SHAPES = {"w1": (32, 24), "b1": (1, 32), "w2": (32, 16), "w3": (16, 10), "b3": (10,)}
CHANNELS = {"bn1": 32, "bn2": 16, "bn3": 10}


def build() -> onnx.ModelProto:
    rng = np.random.default_rng(5)
    weights = {k: rng.normal(0, 0.3, s) for k, s in SHAPES.items()}
    for key, channels in CHANNELS.items():
        weights[f"{key}_scale"] = rng.uniform(0.5, 1.5, channels)
        weights[f"{key}_bias"], weights[f"{key}_mean"] = rng.normal(0, 0.3, (2, channels))
        weights[f"{key}_var"] = rng.uniform(0.5, 2, channels)
    model = onnx.parser.parse_model(GRAPH)
    model.graph.initializer.extend(numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items())
    return model


def feeds(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {"x": rng.standard_normal((rng.integers(1, 9), 24), np.float32)}
