"""One Conv weight and bias read by two Convs, each with its own BatchNormalization (a siamese stem), and a tied linear.

`fuse` must give each Conv its own folded copy: folding in place breaks the twin. `tied` is read by two MatMuls and,
transposed, by a Gemm: quantized along two different axes.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

GRAPH = """
<ir_version: 8, opset_import: ["" : 17]>
shared_weight (float[batch, 3, 12, 12] left, float[batch, 3, 12, 12] right)
        => (float[batch, 12] y, float[batch, 12] echoed) {
    [conv_left] cl = Conv <pads = [1, 1, 1, 1]> (left, w, b)
    nl = BatchNormalization (cl, left_scale, left_bias, left_mean, left_var)
    rl = Relu (nl)
    [conv_right] cr = Conv <pads = [1, 1, 1, 1]> (right, w, b)
    nr = BatchNormalization (cr, right_scale, right_bias, right_mean, right_var)
    rr = Relu (nr)
    both = Sub (rl, rr)
    pooled = MaxPool <kernel_shape = [12, 12]> (both)
    flat = Flatten (pooled)
    [encode] code = MatMul (flat, tied)
    y = Tanh (code)
    [decode] back = Gemm <transB = 1> (y, tied)
    echoed = MatMul (back, tied)
}
"""


def build() -> onnx.ModelProto:
    rng = np.random.default_rng(6)
    weights = {"w": rng.normal(0, 0.3, (8, 3, 3, 3)), "b": rng.normal(0, 0.3, 8), "tied": rng.normal(0, 0.3, (8, 12))}
    for key in ("left", "right"):
        weights[f"{key}_scale"] = rng.uniform(0.5, 1.5, 8)
        weights[f"{key}_bias"], weights[f"{key}_mean"] = rng.normal(0, 0.3, (2, 8))
        weights[f"{key}_var"] = rng.uniform(0.5, 2, 8)
    model = onnx.parser.parse_model(GRAPH)
    model.graph.initializer.extend(numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items())
    return model


def feeds(rng: np.random.Generator) -> dict[str, np.ndarray]:
    left, right = rng.standard_normal((2, rng.integers(1, 4), 3, 12, 12), np.float32)
    return {"left": left, "right": right}
