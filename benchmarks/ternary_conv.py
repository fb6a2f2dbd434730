"""Is a ternary Conv by im2col over TernaryMatMul worth it? Against ONNX Runtime's Conv in float32 and in int8.

    python benchmarks/ternary_conv.py

Six Convs of ResNet-50 and MobileNet-v2, batch 1, 1 thread, one node a session (the smallest takes 100 us and more).
``ternary`` is NCHW in, NCHW out: Pad, a Slice for each tap, Concat, Transpose, TernaryMatMul, Transpose; a 1 x 1 Conv
of stride 1 has the two Transposes alone. ``product`` is its TernaryMatMul by itself, on an activation that is there
as rows: what a network that is NHWC throughout could reach at best. One round runs each once, in a new random order.
"""

from __future__ import annotations

import random
import statistics
import time
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort
from onnx import ModelProto, TensorProto, helper, numpy_helper
from ternary_nodes import session_options

from baker.runtime.kernels import pack_codes

ROUNDS = 31
SCALE = np.float32(0.05)


@dataclass(frozen=True)
class Conv:
    """channels -> filters, k x k, over size x size pixels, padded by k // 2."""

    name: str
    channels: int
    filters: int
    size: int
    k: int = 1
    stride: int = 1

    @property
    def out(self) -> int:
        """Pixels a side of the output."""
        return (self.size + 2 * (self.k // 2) - self.k) // self.stride + 1

    @property
    def depth(self) -> int:
        """Products summed for one output."""
        return self.channels * self.k * self.k


CONVS = (
    Conv("ResNet-50 1 x 1", 64, 256, 56),
    Conv("ResNet-50 1 x 1, late", 512, 2048, 7),
    Conv("ResNet-50 3 x 3", 64, 64, 56, 3),
    Conv("ResNet-50 3 x 3, late", 256, 256, 14, 3),
    Conv("ResNet-50 3 x 3, stride 2", 128, 128, 56, 3, 2),
    Conv("MobileNet-v2 1 x 1", 96, 576, 14),
)


def fp32(conv: Conv, t: np.ndarray) -> ModelProto:
    """Conv on NCHW."""
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[conv.k // 2] * 4, strides=[conv.stride] * 2)
    return model(conv, [node], {"w": t * SCALE})


def int8(conv: Conv, t: np.ndarray) -> ModelProto:
    """QLinearConv on NCHW of uint8, as inside a network that `quantize` made int8."""
    names = ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz"]
    node = helper.make_node("QLinearConv", names, ["y"], pads=[conv.k // 2] * 4, strides=[conv.stride] * 2)
    arrays = {"xs": np.float32(0.02), "xz": np.uint8(128), "w": t, "ws": np.full(len(t), SCALE), "wz": np.int8(0)}
    arrays["wz"] = np.zeros(len(t), np.int8)
    return model(conv, [node], {**arrays, "ys": np.float32(0.2), "yz": np.uint8(128)}, TensorProto.UINT8)


def ternary(conv: Conv, t: np.ndarray) -> ModelProto:
    """im2col in graph operators, NCHW in and out."""
    arrays: dict[str, np.ndarray] = dict(matrix(t))
    nodes, columns = [], "x"
    if conv.k > 1 or conv.stride > 1:
        half, span = conv.k // 2, conv.stride * (conv.out - 1) + 1
        arrays["pads"] = np.array([0, 0, half, half, 0, 0, half, half])
        arrays |= {"axes": np.array([2, 3]), "steps": np.array([conv.stride] * 2)}
        nodes.append(helper.make_node("Pad", ["x", "pads"], ["padded"]))
        taps = []
        for i in range(conv.k * conv.k):
            start = np.array([i // conv.k, i % conv.k])
            arrays |= {f"start{i}": start, f"end{i}": start + span}
            nodes.append(helper.make_node("Slice", ["padded", f"start{i}", f"end{i}", "axes", "steps"], [f"tap{i}"]))
            taps.append(f"tap{i}")
        nodes.append(helper.make_node("Concat", taps, ["columns"], axis=1))
        columns = "columns"
    nodes.append(helper.make_node("Transpose", [columns], ["rows"], perm=[0, 2, 3, 1]))
    nodes.append(linear(conv, "rows", "product"))
    nodes.append(helper.make_node("Transpose", ["product"], ["y"], perm=[0, 3, 1, 2]))
    return model(conv, nodes, arrays)


def product(conv: Conv, t: np.ndarray) -> ModelProto:
    """The product of the im2col alone."""
    shape = (1, conv.out, conv.out, conv.depth)
    return model(conv, [linear(conv, "x", "y")], matrix(t), shape=shape)


def matrix(t: np.ndarray) -> dict[str, np.ndarray]:
    """(filters, channels, k, k) as codes of (filters, k * k * channels), taps outermost."""
    flat = np.ascontiguousarray(t.transpose(0, 2, 3, 1).reshape(len(t), -1))
    return {"codes": pack_codes(flat), "scale": np.full(len(t), SCALE)}


def linear(conv: Conv, x: str, y: str):
    return helper.make_node("TernaryMatMul", [x, "codes", "scale"], [y], domain="ai.baker", K=conv.depth, group=0)


def model(conv: Conv, nodes, arrays, kind=TensorProto.FLOAT, shape=None) -> ModelProto:
    shape = shape or (1, conv.channels, conv.size, conv.size)
    x, y = helper.make_tensor_value_info("x", kind, shape), helper.make_tensor_value_info("y", kind, None)
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "conv", [x], [y], tensors)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("ai.baker", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def session(proto: ModelProto) -> ort.InferenceSession:
    return ort.InferenceSession(proto.SerializeToString(), session_options(), providers=["CPUExecutionProvider"])


def times(conv: Conv) -> dict[str, float]:
    """Median microseconds of each contestant."""
    rng = np.random.default_rng(0)
    t = rng.integers(-1, 2, (conv.filters, conv.channels, conv.k, conv.k)).astype(np.int8)
    x = rng.standard_normal((1, conv.channels, conv.size, conv.size)).astype(np.float32)
    rows = rng.standard_normal((1, conv.out, conv.out, conv.depth)).astype(np.float32)
    quantized = np.clip(np.rint(x / 0.02) + 128, 0, 255).astype(np.uint8)
    feeds = {"fp32": x, "int8": quantized, "ternary": x, "product": rows}
    builders = {"fp32": fp32, "int8": int8, "ternary": ternary, "product": product}
    sessions = {name: session(build(conv, t)) for name, build in builders.items()}
    expected, got = (sessions[name].run(None, {"x": x})[0] for name in ("fp32", "ternary"))
    error = np.linalg.norm(got - expected) / np.linalg.norm(expected)
    if error > 0.03:
        raise SystemExit(f"{conv.name}: the im2col computes something else, relative error {error:.3f}")
    took: dict[str, list[float]] = {name: [] for name in sessions}
    order = list(sessions)
    for _ in range(ROUNDS):
        random.shuffle(order)
        for name in order:
            start = time.perf_counter()
            sessions[name].run(None, {"x": feeds[name]})
            took[name].append(time.perf_counter() - start)
    return {name: 1e6 * statistics.median(one) for name, one in took.items()}


def main() -> None:
    random.seed(0)
    print("| Conv | float32 us | int8 us | ternary us | its product us | ternary / int8 | product / int8 |")
    print("|---|---|---|---|---|---|---|")
    for conv in CONVS:
        us = times(conv)
        cells = [f"{us[name]:.0f}" for name in ("fp32", "int8", "ternary", "product")]
        ratios = [f"{us[name] / us['int8']:.2f}" for name in ("ternary", "product")]
        shape = f"{conv.name}: {conv.channels} -> {conv.filters}, {conv.size} x {conv.size}"
        print("| " + " | ".join([shape, *cells, *ratios]) + " |")


if __name__ == "__main__":
    main()
