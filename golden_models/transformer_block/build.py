"""A BERT layer as exporters leave it: attention, LayerNorm and GELU in pieces, reshapes computed from Shape. Opset 14.

Dynamic batch and sequence; an additive mask comes as an input. Weight MatMuls: query, key, value, out, up, down.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

WIDTH, HEADS, HIDDEN = 48, 4, 192
NORM = """
    {0}_mean = ReduceMean <axes = [-1], keepdims = 1> ({1})
    {0}_centered = Sub ({1}, {0}_mean)
    {0}_squared = Pow ({0}_centered, two)
    {0}_var = ReduceMean <axes = [-1], keepdims = 1> ({0}_squared)
    {0}_var_eps = Add ({0}_var, eps)
    {0}_std = Sqrt ({0}_var_eps)
    {0}_unit = Div ({0}_centered, {0}_std)
    {0}_scaled = Mul ({0}_unit, {0}_scale)
    {0} = Add ({0}_scaled, {0}_bias)
"""
LINEAR = """
    [{0}_matmul] {0}_product = MatMul ({1}, {0}_weight)
    {0} = Add ({0}_bias, {0}_product)
"""
SPLIT = """
    {0}_heads = Reshape ({0}, split_shape)
    {0}_split = Transpose <perm = {1}> ({0}_heads)
"""
GRAPH = f"""
<ir_version: 8, opset_import: ["" : 14]>
transformer_block (float[batch, sequence, {WIDTH}] x, float[batch, 1, 1, sequence] mask)
        => (float[batch, sequence, {WIDTH}] y) {{
    dims = Shape (x)
    batch_dim = Gather (dims, zero)
    sequence_dim = Gather (dims, one_index)
    batch_1d = Unsqueeze (batch_dim, axis_0)
    sequence_1d = Unsqueeze (sequence_dim, axis_0)
    split_shape = Concat <axis = 0> (batch_1d, sequence_1d, heads, head_width)
    merge_shape = Concat <axis = 0> (batch_1d, sequence_1d, width)
    {"".join(LINEAR.format(name, "x") for name in ("query", "key", "value"))}
    {SPLIT.format("query", [0, 2, 1, 3])} {SPLIT.format("key", [0, 2, 3, 1])} {SPLIT.format("value", [0, 2, 1, 3])}
    scores = MatMul (query_split, key_split)
    scaled = Div (scores, root)
    masked = Add (scaled, mask)
    attention = Softmax <axis = -1> (masked)
    context = MatMul (attention, value_split)
    rows = Transpose <perm = [0, 2, 1, 3]> (context)
    merged = Reshape (rows, merge_shape)
    {LINEAR.format("out", "merged")}
    residual1 = Add (out, x)
    {NORM.format("norm1", "residual1")} {LINEAR.format("up", "norm1")}
    gelu_in = Div (up, root2)
    gelu_erf = Erf (gelu_in)
    gelu_sum = Add (gelu_erf, one)
    gelu_product = Mul (up, gelu_sum)
    gelu = Mul (gelu_product, half)
    {LINEAR.format("down", "gelu")}
    residual2 = Add (down, norm1)
    {NORM.format("y", "residual2")}
}}
"""
LINEARS = {
    "query": (WIDTH, WIDTH),
    "key": (WIDTH, WIDTH),
    "value": (WIDTH, WIDTH),
    "out": (WIDTH, WIDTH),
    "up": (WIDTH, HIDDEN),
    "down": (HIDDEN, WIDTH),
}
SCALARS = {"two": 2, "eps": 1e-5, "one": 1, "half": 0.5, "root2": np.sqrt(2), "root": np.sqrt(WIDTH // HEADS)}
SHAPES = {"zero": 0, "one_index": 1, "axis_0": [0], "heads": [HEADS], "head_width": [WIDTH // HEADS], "width": [WIDTH]}


def build() -> onnx.ModelProto:
    rng = np.random.default_rng(9)
    weights = {key: np.asarray(value) for key, value in SCALARS.items()}
    for key, shape in LINEARS.items():
        weights[f"{key}_weight"] = rng.normal(0, 1.5 / np.sqrt(shape[0]), shape)
        weights[f"{key}_bias"] = rng.normal(0, 0.1, shape[1])
    for key in ("norm1", "y"):
        weights[f"{key}_scale"], weights[f"{key}_bias"] = rng.uniform(0.5, 1.5, WIDTH), rng.normal(0, 0.1, WIDTH)
    model = onnx.parser.parse_model(GRAPH)
    tensors = {k: v.astype(np.float32) for k, v in weights.items()}
    tensors |= {key: np.array(value, np.int64) for key, value in SHAPES.items()}
    model.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in tensors.items())
    return model


def feeds(rng: np.random.Generator) -> dict[str, np.ndarray]:
    batch, sequence = rng.integers(1, 4), rng.integers(4, 24)
    hidden = np.arange(sequence) >= rng.integers(2, sequence + 1, (batch, 1, 1, 1))  # padding at the end of each row
    return {"x": rng.standard_normal((batch, sequence, WIDTH), np.float32), "mask": np.float32(-1e4) * hidden}
