"""ConvTranspose + BatchNormalization: plain with a bias, grouped without one, depthwise. Weights are (C, M/g, *k).

`fuse` folds all three; scaling the wrong axis of the grouped weight is the classic mistake.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

GRAPH = """
<ir_version: 8, opset_import: ["" : 14]>
conv_transpose_bn (float[batch, 6, 5, 5] x) => (float[batch, 12, 22, 22] y) {
    [plain] c1 = ConvTranspose <strides = [2, 2], pads = [1, 1, 1, 1], output_padding = [1, 1]> (x, w1, b1)
    n1 = BatchNormalization (c1, bn1_scale, bn1_bias, bn1_mean, bn1_var)
    r1 = Relu (n1)
    [grouped] c2 = ConvTranspose <group = 2, strides = [2, 2]> (r1, w2)
    n2 = BatchNormalization (c2, bn2_scale, bn2_bias, bn2_mean, bn2_var)
    r2 = Relu (n2)
    [depthwise] c3 = ConvTranspose <group = 12> (r2, w3, b3)
    y = BatchNormalization (c3, bn3_scale, bn3_bias, bn3_mean, bn3_var)
}
"""
CONVS = {"1": ((6, 8, 3, 3), 8), "2": ((8, 6, 2, 2), 12), "3": ((12, 1, 3, 3), 12)}  # weight shape, output channels


def build() -> onnx.ModelProto:
    rng, weights = np.random.default_rng(3), {}
    for key, (shape, channels) in CONVS.items():
        weights[f"w{key}"] = rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
        weights[f"b{key}"] = rng.normal(0, 0.3, channels)
        weights[f"bn{key}_scale"] = rng.uniform(0.5, 1.5, channels)
        weights[f"bn{key}_bias"], weights[f"bn{key}_mean"] = rng.normal(0, 0.3, (2, channels))
        weights[f"bn{key}_var"] = rng.uniform(0.5, 2, channels)
    del weights["b2"]  # the grouped one has none
    model = onnx.parser.parse_model(GRAPH)
    model.graph.initializer.extend(numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items())
    return model


def feeds(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {"x": rng.standard_normal((rng.integers(1, 4), 6, 5, 5), np.float32)}
