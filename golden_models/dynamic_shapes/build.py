"""A sentence encoder with dynamic batch and sequence: embedding, positions sliced by length, Conv1d + BN, masked mean.

`hidden` keeps both dynamic dims, `logits` one. The integer inputs have ranges: tokens 0..49, lengths 1..sequence.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

VOCABULARY, WIDTH, LONGEST = 50, 16, 32
GRAPH = f"""
<ir_version: 8, opset_import: ["" : 17]>
dynamic_shapes (int64[batch, sequence] tokens, int64[batch] lengths)
        => (float[batch, sequence, {WIDTH}] hidden, float[batch, 5] logits) {{
    [embed] embedded = Gather (embedding, tokens)
    dims = Shape (tokens)
    length = Slice (dims, axis_1, axis_2)
    positions = Slice (position, axis_0, length, axis_0)
    placed = Add (embedded, positions)
    channels_first = Transpose <perm = [0, 2, 1]> (placed)
    [conv] convolved = Conv <pads = [1, 1]> (channels_first, conv_weight, conv_bias)
    normal = BatchNormalization (convolved, bn_scale, bn_bias, bn_mean, bn_var)
    active = Relu (normal)
    channels_last = Transpose <perm = [0, 2, 1]> (active)
    [project] projected = MatMul (channels_last, weight)
    hidden = Add (projected, bias)
    last = Squeeze (length, axis_0)
    steps = Range (zero, last, one)
    limits = Unsqueeze (lengths, axis_1)
    inside = Less (steps, limits)
    inside_float = Cast <to = 1> (inside)
    weights = Unsqueeze (inside_float, axis_2)
    kept = Mul (hidden, weights)
    total = ReduceSum <keepdims = 0> (kept, axis_1)
    count = ReduceSum <keepdims = 0> (weights, axis_1)
    mean = Div (total, count)
    [head] logits = Gemm <transB = 1> (mean, head_weight, head_bias)
}}
"""
SHAPES = {
    "embedding": (VOCABULARY, WIDTH),
    "position": (LONGEST, WIDTH),
    "conv_weight": (24, WIDTH, 3),
    "conv_bias": (24,),
    "bn_bias": (24,),
    "bn_mean": (24,),
    "weight": (24, WIDTH),
    "bias": (WIDTH,),
    "head_weight": (5, WIDTH),
    "head_bias": (5,),
}
INTEGERS = {"axis_0": [0], "axis_1": [1], "axis_2": [2], "zero": 0, "one": 1}


def build() -> onnx.ModelProto:
    rng = np.random.default_rng(12)
    weights = {name: rng.normal(0, 0.5, shape) for name, shape in SHAPES.items()}
    weights |= {"bn_scale": rng.uniform(0.5, 1.5, 24), "bn_var": rng.uniform(0.5, 2, 24)}
    tensors = {k: v.astype(np.float32) for k, v in weights.items()}
    tensors |= {name: np.array(values, np.int64) for name, values in INTEGERS.items()}
    model = onnx.parser.parse_model(GRAPH)
    model.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in tensors.items())
    return model


def feeds(rng: np.random.Generator) -> dict[str, np.ndarray]:
    batch, sequence = rng.integers(1, 5), rng.integers(2, LONGEST + 1)
    return {"tokens": rng.integers(0, VOCABULARY, (batch, sequence)), "lengths": rng.integers(1, sequence + 1, batch)}
