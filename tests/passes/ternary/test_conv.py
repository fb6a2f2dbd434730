"""Ternary Conv: declined by `ternary` for a measured reason; `quantize` keeps its weights to float32 rounding."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from helpers import seeded
from ternary_tools import Sketch, ops, ternary

from baker.passes.quantize import Quantize
from baker.pipeline.pass_base import PassContext


def conv(op_type: str = "Conv", k: int = 3) -> tuple[ir.Model, np.ndarray]:
    """A Conv (or ConvTranspose) 16 -> 16 with ternary weights, a scale a channel."""
    t = np.random.default_rng(0).integers(-1, 2, (16, 16, k, k))
    w = (t * np.random.default_rng(1).uniform(0.05, 0.2, (16, 1, 1, 1))).astype(np.float32)
    sketch = Sketch((1, 16, 8, 8))
    return sketch.model(sketch.op(op_type, sketch.x, sketch.weight(w), kernel_shape=[k, k])), w


@pytest.mark.parametrize("op_type", ["Conv", "ConvTranspose"])
def test_ternary_leaves_it_alone_and_says_why(op_type: str):
    model, _ = conv(op_type)
    result = ternary(model)
    assert ops(model) == [op_type] and not result.changes
    (declined,) = result.declined
    assert op_type in declined.reason and "MatMul and Gemm" in declined.reason
    assert ("benchmarks/ternary_conv.py" in declined.reason) == (op_type == "Conv")


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("static", [False, True])
def test_quantize_stores_its_weights_without_loss(k: int, static: bool):
    model, w = conv(k=k)
    feeds = [{"x": seeded(1, 16, 8, 8, seed=seed)} for seed in range(2)]
    result = Quantize().run(model, PassContext(calibration=feeds if static else (), threads=1))
    assert len(result.changes) >= 1
    (restored,) = [
        node
        for node in model.graph
        if node.op_type == "DequantizeLinear"
        and node.inputs[0].const_value is not None
        and node.inputs[0].const_value.dtype == ir.DataType.INT8
    ]
    q, scale = (value.const_value.numpy() for value in restored.inputs[:2])
    assert set(np.unique(q)) == {-127, 0, 127}
    np.testing.assert_allclose(q * scale.reshape(-1, 1, 1, 1), w, rtol=2e-7, atol=0)
