"""Two ResNet blocks, Conv + BatchNormalization unfused: an identity shortcut, then a strided projection shortcut.

`fuse` folds five BatchNormalizations; `quantize` must put a Q between Conv and Add for every Conv to run as integers.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

GRAPH = """
<ir_version: 8, opset_import: ["" : 13]>
residual_block (float[batch, 16, 14, 14] x) => (float[batch, 10] logits) {
    [conv1] c1 = Conv <pads = [1, 1, 1, 1]> (x, w1)
    n1 = BatchNormalization (c1, bn1_scale, bn1_bias, bn1_mean, bn1_var)
    r1 = Relu (n1)
    [conv2] c2 = Conv <pads = [1, 1, 1, 1]> (r1, w2)
    n2 = BatchNormalization (c2, bn2_scale, bn2_bias, bn2_mean, bn2_var)
    s2 = Add (n2, x)
    r2 = Relu (s2)
    [conv3] c3 = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (r2, w3)
    n3 = BatchNormalization (c3, bn3_scale, bn3_bias, bn3_mean, bn3_var)
    r3 = Relu (n3)
    [conv4] c4 = Conv <pads = [1, 1, 1, 1]> (r3, w4)
    n4 = BatchNormalization (c4, bn4_scale, bn4_bias, bn4_mean, bn4_var)
    [projection] c5 = Conv <strides = [2, 2]> (r2, w5)
    n5 = BatchNormalization (c5, bn5_scale, bn5_bias, bn5_mean, bn5_var)
    s4 = Add (n4, n5)
    r4 = Relu (s4)
    pooled = GlobalAveragePool (r4)
    flat = Flatten (pooled)
    [head] logits = Gemm <transB = 1> (flat, w6, b6)
}
"""
CONVS = {"1": (16, 16, 3, 3), "2": (16, 16, 3, 3), "3": (32, 16, 3, 3), "4": (32, 32, 3, 3), "5": (32, 16, 1, 1)}


def build() -> onnx.ModelProto:
    rng, weights = np.random.default_rng(7), {}
    for key, shape in CONVS.items():
        weights[f"w{key}"] = rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
        weights[f"bn{key}_scale"] = rng.uniform(0.5, 1.5, shape[0])
        weights[f"bn{key}_bias"], weights[f"bn{key}_mean"] = rng.normal(0, 0.3, (2, shape[0]))
        weights[f"bn{key}_var"] = rng.uniform(0.5, 2, shape[0])
    weights["w6"], weights["b6"] = rng.normal(0, 0.3, (10, 32)), rng.normal(0, 0.3, 10)
    model = onnx.parser.parse_model(GRAPH)
    model.graph.initializer.extend(numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items())
    return model


def feeds(rng: np.random.Generator) -> dict[str, np.ndarray]:
    bias = rng.normal(0, 1, (1, 16, 1, 1))  # differs from feed to feed, so that the pooled output moves
    return {"x": (rng.standard_normal((rng.integers(1, 5), 16, 14, 14)) + bias).astype(np.float32)}
