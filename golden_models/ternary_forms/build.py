"""One input, ten linears: every form in which ternary weights come, and two that are not ternary. One output a form.

Ternary: per_tensor, per_channel (Gemm, transB, bias), grouped (a scale for 32 inputs; the last group has 16),
transposed, cast_scale (int8 cast times a scale), dequantized (int8 DequantizeLinear), latent (the chain that trained
BitNet layers export), two_valued (only -s and +s). Not ternary: dense; almost (one weight is 1 % off).
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

K = 80
GRAPH = f"""
<ir_version: 8, opset_import: ["" : 17]>
ternary_forms (float[batch, {K}] x)
        => (float[batch, 12] per_tensor, float[batch, 10] per_channel, float[batch, 8] grouped,
            float[batch, 9] transposed, float[batch, 12] cast_scale, float[batch, 7] dequantized,
            float[batch, 16] latent, float[batch, 4] two_valued, float[batch, 12] dense, float[batch, 12] almost) {{
    [linear_per_tensor] per_tensor = MatMul (x, w_per_tensor)
    [linear_per_channel] per_channel = Gemm <transB = 1> (x, w_per_channel, bias)
    [linear_grouped] grouped = MatMul (x, w_grouped)
    turned = Transpose <perm = [1, 0]> (w_transposed)
    [linear_transposed] transposed = MatMul (x, turned)
    cast = Cast <to = 1> (w_cast_scale)
    scaled = Mul (cast, s_cast_scale)
    [linear_cast_scale] cast_scale = MatMul (x, scaled)
    expanded = DequantizeLinear <axis = 1> (w_dequantized, s_dequantized)
    [linear_dequantized] dequantized = MatMul (x, expanded)
    magnitude = Abs (w_latent)
    mean = ReduceMean <keepdims = 0> (magnitude)
    scale = Clip (mean, tiny)
    unit = Div (w_latent, scale)
    rounded = Round (unit)
    codes = Clip (rounded, minus_one, one)
    quantized = Mul (codes, scale)
    [linear_latent] latent = Gemm <transB = 1> (x, quantized)
    [linear_two_valued] two_valued = MatMul (x, w_two_valued)
    [linear_dense] dense = MatMul (x, w_dense)
    [linear_almost] almost = MatMul (x, w_almost)
}}
"""


def build() -> onnx.ModelProto:
    rng = np.random.default_rng(13)

    def codes(*shape: int) -> np.ndarray:
        return rng.integers(-1, 2, shape)

    group_scales = np.repeat(rng.uniform(0.05, 0.2, (3, 8)), 32, axis=0)[:K]
    floats = {
        "w_per_tensor": 0.1 * codes(K, 12),
        "w_per_channel": codes(10, K) * rng.uniform(0.05, 0.2, (10, 1)),
        "bias": rng.normal(0, 0.3, 10),
        "w_grouped": codes(K, 8) * group_scales,
        "w_transposed": codes(9, K) * rng.uniform(0.05, 0.2, (9, 1)),
        "s_cast_scale": rng.uniform(0.05, 0.2, 12),
        "s_dequantized": rng.uniform(0.05, 0.2, 7),
        "w_latent": rng.normal(0, 0.1, (16, K)),
        "tiny": np.array(1e-5),
        "minus_one": np.array(-1),
        "one": np.array(1),
        "w_two_valued": 0.15 * np.sign(rng.standard_normal((K, 4))),
        "w_dense": rng.normal(0, 0.1, (K, 12)),
        "w_almost": 0.1 * codes(K, 12),
    }
    floats["w_almost"][np.unravel_index(np.argmax(floats["w_almost"]), (K, 12))] *= 1.01
    tensors = {name: values.astype(np.float32) for name, values in floats.items()}
    tensors |= {"w_cast_scale": codes(K, 12).astype(np.int8), "w_dequantized": codes(K, 7).astype(np.int8)}
    model = onnx.parser.parse_model(GRAPH)
    model.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in tensors.items())
    return model


def feeds(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {"x": rng.standard_normal((rng.integers(1, 9), K), np.float32)}
