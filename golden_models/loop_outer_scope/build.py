"""A recurrent cell in a Loop: the body reads the outer weights, carries a state, and emits a scan output every step.

`steps` is an input, so nothing here is constant; `kernel` is read only inside the body and has to survive `cleanup`.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

GRAPH = """
<ir_version: 8, opset_import: ["" : 17]>
loop_outer_scope (float[batch, 8] x, int64 steps) => (float[batch, 12] state, float[steps, batch, 5] emitted) {
    [encode] start = MatMul (x, encoder)
    [recur] state, emitted = Loop (steps, , start) <
        body = cell (int64 i, bool going, float[batch, 12] before)
                => (bool going_on, float[batch, 12] after, float[batch, 5] out) {
            going_on = Identity (going)
            [mix] mixed = MatMul (before, kernel)
            moved = Add (mixed, start)
            after = Tanh (moved)
            [read] out = Gemm <transB = 1> (after, readout, readout_bias)
        }
    >
}
"""
SHAPES = {"encoder": (8, 12), "kernel": (12, 12), "readout": (5, 12), "readout_bias": (5,)}


def build() -> onnx.ModelProto:
    rng = np.random.default_rng(11)
    model = onnx.parser.parse_model(GRAPH)
    model.graph.initializer.extend(
        numpy_helper.from_array(rng.normal(0, 0.4, shape).astype(np.float32), name) for name, shape in SHAPES.items()
    )
    return model


def feeds(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {"x": rng.standard_normal((rng.integers(1, 5), 8), np.float32), "steps": np.array(rng.integers(1, 6))}
