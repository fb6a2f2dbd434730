"""Conv + BatchNormalization that must NOT be fused, or not by touching what others see. One output a case.

exposed: the Conv's result is itself an output. read_twice: another node reads it. given: the scale is an input, not a
constant. weight_out: the weight is an output. overridable: the weight is an initializer that the caller may replace.
training: this BatchNormalization uses the batch's own statistics (ONNX Runtime updates own_mean and own_var in place,
so that nobody else may read them). edge: a Pad in edge mode is no zero padding.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

GRAPH = """
<ir_version: 8, opset_import: ["" : 17]>
conv_bn_declines (float[batch, 3, 8, 8] x, float[4] given_scale, float[4, 3, 3, 3] w_overridable)
        => (float[batch, 4, 6, 6] exposed, float[batch, 4, 6, 6] exposed_bn, float[batch, 4, 6, 6] read_twice,
            float[batch, 4, 6, 6] given, float[4, 3, 3, 3] w_weight_out, float[batch, 4, 6, 6] weight_out,
            float[batch, 4, 6, 6] overridable, float[batch, 4, 6, 6] training, float[batch, 4, 8, 8] edge) {
    [conv_exposed] exposed = Conv (x, w_exposed)
    exposed_bn = BatchNormalization (exposed, scale, bias, mean, var)
    [conv_read_twice] c2 = Conv (x, w_read_twice)
    n2 = BatchNormalization (c2, scale, bias, mean, var)
    read_twice = Mul (c2, n2)
    [conv_given] c3 = Conv (x, w_given)
    given = BatchNormalization (c3, given_scale, bias, mean, var)
    [conv_weight_out] c4 = Conv (x, w_weight_out)
    weight_out = BatchNormalization (c4, scale, bias, mean, var)
    [conv_overridable] c5 = Conv (x, w_overridable)
    overridable = BatchNormalization (c5, scale, bias, mean, var)
    [conv_training] c6 = Conv (x, w_training)
    training, new_mean, new_var = BatchNormalization <training_mode = 1> (c6, scale, bias, own_mean, own_var)
    padded = Pad <mode = "edge"> (x, pads)
    [conv_edge] edge = Conv (padded, w_edge)
}
"""
WEIGHTS = ("w_exposed", "w_read_twice", "w_given", "w_weight_out", "w_overridable", "w_training", "w_edge")


def build() -> onnx.ModelProto:
    rng = np.random.default_rng(8)
    weights = {key: rng.normal(0, 0.3, (4, 3, 3, 3)) for key in WEIGHTS}
    weights |= {
        "own_mean": np.zeros(4),
        "own_var": np.ones(4),
        "scale": rng.uniform(0.5, 1.5, 4),
        "bias": rng.normal(0, 0.3, 4),
        "mean": rng.normal(0, 0.3, 4),
        "var": rng.uniform(0.5, 2, 4),
    }
    model = onnx.parser.parse_model(GRAPH)
    model.graph.initializer.extend(numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items())
    model.graph.initializer.append(numpy_helper.from_array(np.array([0, 0, 1, 1, 0, 0, 1, 1]), "pads"))
    return model


def feeds(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {
        "x": rng.standard_normal((rng.integers(1, 5), 3, 8, 8), np.float32),
        "given_scale": rng.uniform(0.5, 1.5, 4).astype(np.float32),
    }
