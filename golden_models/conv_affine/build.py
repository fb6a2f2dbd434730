"""Conv followed by per-channel Mul and Add, constants on either side, as PaddleOCR and frozen BatchNorms export it.

`fuse` folds per-channel and scalar constants; `spatial` varies over the picture and must stay.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

GRAPH = """
<ir_version: 8, opset_import: ["" : 13]>
conv_affine (float[batch, 3, 10, 10] x) => (float[batch, 6, 6, 6] y, float[batch, 6, 6, 6] z) {
    [unbiased] c1 = Conv <pads = [1, 1, 1, 1]> (x, w1)
    m1 = Mul (c1, scale1)
    a1 = Add (shift1, m1)
    r1 = Relu (a1)
    [biased] c2 = Conv (r1, w2, b2)
    a2 = Add (c2, shift2)
    m2 = Mul (half, a2)
    r2 = Relu (m2)
    [last] c3 = Conv (r2, w3)
    y = Add (c3, shift3)
    z = Mul (y, spatial)
}
"""
CONVS = {"w1": (8, 3, 3, 3), "w2": (8, 8, 3, 3), "w3": (6, 8, 3, 3)}
SHAPES = {
    "scale1": (1, 8, 1, 1),
    "shift1": (8, 1, 1),
    "b2": (8,),
    "shift2": (1, 8, 1, 1),
    "shift3": (6, 1, 1),
    "spatial": (6, 6),
}


def build() -> onnx.ModelProto:
    rng = np.random.default_rng(4)
    weights = {k: rng.standard_normal(s) * np.sqrt(2 / np.prod(s[1:])) for k, s in CONVS.items()}
    weights |= {k: rng.uniform(-1, 1.5, s) for k, s in SHAPES.items()} | {"half": np.full((), 0.5)}
    model = onnx.parser.parse_model(GRAPH)
    model.graph.initializer.extend(numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items())
    return model


def feeds(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {"x": rng.standard_normal((rng.integers(1, 5), 3, 10, 10), np.float32)}
