"""Random ternary layers for the kernel tests."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnxruntime as ort
from onnx import ModelProto

from baker.runtime.kernels import F32, I8, U8, custom_ops_library, pack_codes

MAX_M, MAX_N, MAX_K = 70, 300, 4100
GROUPS = (0, 0, 16, 48, 128, 1 << 20)


@dataclass(frozen=True)
class Layer:
    """x float32 (M, K), t int8 (N, K) and what TernaryMatMul makes of them."""

    x: F32
    t: I8
    scale: F32
    bias: F32 | None
    group: int

    @property
    def k(self) -> int:
        return self.t.shape[1]

    @property
    def codes(self) -> U8:
        return pack_codes(self.t)


def random_layer(rng: np.random.Generator, m: int, n: int, k: int, group: int, *, one_scale: bool, bias: bool) -> Layer:
    """Rows of very different sizes; where there are rows enough, one of zeros, one with NaN, one with Inf."""
    x = rng.standard_normal((m, k)) * 10.0 ** rng.uniform(-9, 9, (m, 1))
    x = x.astype(np.float32)
    for row, value in enumerate((0.0, np.nan, np.inf, -np.inf)):
        if m > row + 4:
            x[row, slice(None) if row == 0 else rng.integers(k)] = value
    shape = (n, -(-k // group)) if group else (1,) if one_scale else (n,)
    scale = rng.standard_normal(shape).astype(np.float32)
    t = rng.integers(-1, 2, (n, k)).astype(np.int8)
    return Layer(x, t, scale, rng.standard_normal(n).astype(np.float32) if bias else None, group)


def random_layers(seed: int, count: int) -> list[Layer]:
    """The corners of the range, then shapes over the whole of it, most drawn with small sizes as likely as large."""
    rng = np.random.default_rng(seed)
    corners = [(0, 5, 7), (1, 1, 1), (MAX_M, MAX_N, 65), (1, MAX_N, MAX_K), (9, 64, MAX_K), (8, 65, 16), (7, 63, 17)]
    tops = (MAX_M, MAX_N, MAX_K)
    drawn = [
        tuple(int(rng.integers(1, top + 1) if i % 8 == 0 else np.exp(rng.uniform(0, np.log(top + 1)))) for top in tops)
        for i in range(count)
    ]
    return [
        random_layer(rng, m, n, k, GROUPS[i % len(GROUPS)], one_scale=bool(i % 2), bias=bool(i % 3))
        for i, (m, n, k) in enumerate(corners + drawn)
    ]


def open_session(proto: ModelProto, threads: int = 1) -> ort.InferenceSession:
    """A session of a model with ternary layers."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    options.register_custom_ops_library(custom_ops_library())  # as a user of plain onnxruntime would
    return ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
