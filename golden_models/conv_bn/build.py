"""Conv + BatchNormalization, four ways: with a bias, without, with the bias given as "", and with auto_pad.

Dynamic batch. `fuse` folds all four BatchNormalizations, leaving Conv, Relu, Conv, LeakyRelu, Conv, Conv.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

GRAPH = """
<ir_version: 8, opset_import: ["" : 17]>
conv_bn (float[batch, 3, 16, 16] x) => (float[batch, 8, 6, 6] y) {
    [biased] c1 = Conv <strides = [2, 2], pads = [1, 1, 1, 1]> (x, w1, b1)
    n1 = BatchNormalization (c1, bn1_scale, bn1_bias, bn1_mean, bn1_var)
    r1 = Relu (n1)
    [unbiased] c2 = Conv (r1, w2)
    n2 = BatchNormalization <epsilon = 0.001> (c2, bn2_scale, bn2_bias, bn2_mean, bn2_var)
    r2 = LeakyRelu <alpha = 0.1> (n2)
    [empty_bias] c3 = Conv <kernel_shape = [1, 1]> (r2, w3, "")
    n3 = BatchNormalization (c3, bn3_scale, bn3_bias, bn3_mean, bn3_var)
    [auto_padded] c4 = Conv <auto_pad = "SAME_UPPER"> (n3, w4, b4)
    y = BatchNormalization <momentum = 0.5> (c4, bn4_scale, bn4_bias, bn4_mean, bn4_var)
}
"""
CONVS = {"1": (8, 3, 3, 3), "2": (8, 8, 3, 3), "3": (12, 8, 1, 1), "4": (8, 12, 3, 3)}


def build() -> onnx.ModelProto:
    rng, weights = np.random.default_rng(0), {}
    for key, shape in CONVS.items():
        weights[f"w{key}"] = rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
        weights[f"bn{key}_scale"] = rng.uniform(0.5, 1.5, shape[0])
        weights[f"bn{key}_bias"], weights[f"bn{key}_mean"] = rng.normal(0, 0.3, (2, shape[0]))
        weights[f"bn{key}_var"] = rng.uniform(0.5, 2, shape[0])
    weights["b1"], weights["b4"] = rng.normal(0, 0.3, (2, 8))
    model = onnx.parser.parse_model(GRAPH)
    model.graph.initializer.extend(numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items())
    return model


def feeds(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {"x": rng.standard_normal((rng.integers(1, 5), 3, 16, 16), np.float32)}
