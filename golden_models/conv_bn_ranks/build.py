"""1-D and 3-D Conv + BatchNormalization on two inputs (a signal of any length, a volume), with Conv biases.

`fuse` folds all three BatchNormalizations.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

GRAPH = """
<ir_version: 8, opset_import: ["" : 15]>
conv_bn_ranks (float[batch, 4, length] signal, float[1, 2, 6, 7, 8] volume)
        => (float[batch, 6, length] from_signal, float[1, 5, 4, 5, 6] from_volume) {
    [conv_1d] c1 = Conv <pads = [1, 1]> (signal, w1, b1)
    n1 = BatchNormalization (c1, bn1_scale, bn1_bias, bn1_mean, bn1_var)
    r1 = Relu (n1)
    [conv_1d_grouped] c2 = Conv <group = 2, pads = [2, 2], dilations = [2]> (r1, w2)
    from_signal = BatchNormalization (c2, bn2_scale, bn2_bias, bn2_mean, bn2_var)
    [conv_3d] c3 = Conv (volume, w3, b3)
    n3 = BatchNormalization (c3, bn3_scale, bn3_bias, bn3_mean, bn3_var)
    from_volume = Relu (n3)
}
"""
CONVS = {"1": (8, 4, 3), "2": (6, 4, 3), "3": (5, 2, 3, 3, 3)}


def build() -> onnx.ModelProto:
    rng, weights = np.random.default_rng(2), {}
    for key, shape in CONVS.items():
        weights[f"w{key}"] = rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
        weights[f"b{key}"] = rng.normal(0, 0.3, shape[0])
        weights[f"bn{key}_scale"] = rng.uniform(0.5, 1.5, shape[0])
        weights[f"bn{key}_bias"], weights[f"bn{key}_mean"] = rng.normal(0, 0.3, (2, shape[0]))
        weights[f"bn{key}_var"] = rng.uniform(0.5, 2, shape[0])
    del weights["b2"]  # the grouped one has none
    model = onnx.parser.parse_model(GRAPH)
    model.graph.initializer.extend(numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items())
    return model


def feeds(rng: np.random.Generator) -> dict[str, np.ndarray]:
    batch, length = rng.integers(1, 4), rng.integers(5, 20)
    return {
        "signal": rng.standard_normal((batch, 4, length), np.float32),
        "volume": rng.standard_normal((1, 2, 6, 7, 8), np.float32),
    }
