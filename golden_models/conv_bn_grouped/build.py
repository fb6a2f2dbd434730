"""Grouped and depthwise Conv + BatchNormalization + ReLU6, pooled to a vector: a slice of MobileNet. Dynamic batch.

`fuse` folds all four; `quantize` must keep each clipped range inside the Clip for the Convs to run as integers.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

GRAPH = """
<ir_version: 8, opset_import: ["" : 13]>
conv_bn_grouped (float[batch, 8, 12, 12] x) => (float[batch, 12] y) {
    [grouped] c1 = Conv <group = 2, pads = [1, 1, 1, 1]> (x, w1, b1)
    n1 = BatchNormalization (c1, bn1_scale, bn1_bias, bn1_mean, bn1_var)
    r1 = Clip (n1, zero, six)
    [depthwise] c2 = Conv <group = 16, pads = [1, 1, 1, 1], strides = [2, 2]> (r1, w2)
    n2 = BatchNormalization (c2, bn2_scale, bn2_bias, bn2_mean, bn2_var)
    r2 = Clip (n2, zero, six)
    [multiplied] c3 = Conv <group = 16, pads = [2, 2, 2, 2]> (r2, w3)
    n3 = BatchNormalization (c3, bn3_scale, bn3_bias, bn3_mean, bn3_var)
    r3 = Clip (n3, zero, six)
    [pointwise] c4 = Conv (r3, w4)
    n4 = BatchNormalization (c4, bn4_scale, bn4_bias, bn4_mean, bn4_var)
    pooled = GlobalAveragePool (n4)
    y = Flatten (pooled)
}
"""
CONVS = {"1": (16, 4, 3, 3), "2": (16, 1, 3, 3), "3": (32, 1, 5, 5), "4": (12, 32, 1, 1)}


def build() -> onnx.ModelProto:
    rng, weights = np.random.default_rng(1), {"zero": np.zeros(()), "six": np.full((), 6)}
    for key, shape in CONVS.items():
        weights[f"w{key}"] = rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
        weights[f"bn{key}_scale"] = rng.uniform(0.5, 1.5, shape[0])
        weights[f"bn{key}_bias"], weights[f"bn{key}_mean"] = rng.normal(0, 0.3, (2, shape[0]))
        weights[f"bn{key}_var"] = rng.uniform(0.5, 2, shape[0])
    weights["b1"] = rng.normal(0, 0.3, 16)
    model = onnx.parser.parse_model(GRAPH)
    model.graph.initializer.extend(numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items())
    return model


def feeds(rng: np.random.Generator) -> dict[str, np.ndarray]:
    bias = rng.normal(0, 1, (1, 8, 1, 1))  # differs from feed to feed, so that the pooled output moves
    return {"x": (rng.standard_normal((rng.integers(1, 5), 8, 12, 12)) + bias).astype(np.float32)}
