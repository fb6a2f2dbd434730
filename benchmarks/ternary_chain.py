"""What ONNX Runtime adds to the ternary kernel: a chain of layers in one session against the same kernel called alone.

    python benchmarks/ternary_chain.py                       # 24 layers 2560 -> 6912 -> 2560 ..., M = 1: half a minute
    python benchmarks/ternary_chain.py --shape 768x768 --layers 64

Both sides run the same variant on 2-bit weights, one thread, each layer fed with the one before. cold: every layer has
weights of its own; warm: all layers of a shape share one. The kernel alone is called from Python, less what such a call
costs with a layer of one weight. One round times both sides, in random order.
"""

from __future__ import annotations

import argparse
import os
import time

import numpy as np
import onnxruntime as ort
from onnx import ModelProto, TensorProto, helper, numpy_helper
from report import interval, machine, markdown
from ternary_nodes import session_options

from baker import _kernels
from baker.runtime.kernels import pack_codes

Weights = list[tuple[np.ndarray, np.ndarray, int]]  # codes, scale, K


def layers(k: int, n: int, count: int, case: str) -> Weights:
    """Alternating K -> N and N -> K; weights of size 1/sqrt(K) keep the values where they are."""
    rng = np.random.default_rng(0)
    made: Weights = []
    for i in range(count):
        if case == "warm" and i >= 2:
            made.append(made[i % 2])
            continue
        depth, channels = (k, n) if i % 2 == 0 else (n, k)
        t = rng.integers(-1, 2, (channels, depth)).astype(np.int8)
        made.append((pack_codes(t), np.full(channels, (1.5 / depth) ** 0.5, np.float32), depth))
    return made


def model(weights: Weights) -> ModelProto:
    names = {id(codes): f"w{i}" for i, (codes, _, _) in enumerate(weights)}
    arrays = {names[id(codes)]: (codes, scale) for codes, scale, _ in weights}
    nodes = []
    for i, (codes, _, k) in enumerate(weights):
        inputs = [f"x{i}", names[id(codes)], f"{names[id(codes)]}.scale"]
        nodes.append(helper.make_node("TernaryMatMul", inputs, [f"x{i + 1}"], domain="ai.baker", K=k))
    initializers = [
        numpy_helper.from_array(array, name + end)
        for name, pair in arrays.items()
        for array, end in zip(pair, ("", ".scale"), strict=True)
    ]
    ends = [
        helper.make_tensor_value_info("x0", TensorProto.FLOAT, ["rows", weights[0][2]]),
        helper.make_tensor_value_info(f"x{len(weights)}", TensorProto.FLOAT, None),
    ]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], initializers)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("ai.baker", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def session(weights: Weights) -> ort.InferenceSession:
    return ort.InferenceSession(
        model(weights).SerializeToString(), session_options(), providers=["CPUExecutionProvider"]
    )


def call_cost(rounds: int) -> float:
    """Seconds of a call from Python that multiplies next to nothing."""
    one = _kernels.TernaryWeights(np.uint8([[0x55]]), np.ones(1, np.float32), None, 1, 0)
    x, taken = np.ones((1, 1), np.float32), []
    for _ in range(100 * rounds):
        start = time.perf_counter()
        one.multiply(x)
        taken.append(time.perf_counter() - start)
    return float(np.median(taken))


def measure(weights: Weights, m: int, rounds: int) -> list[tuple[float, float]]:
    """(session, kernel alone) seconds a layer, a pair a round."""
    opened, count = session(weights), len(weights)
    packed = {id(codes): _kernels.TernaryWeights(codes, scale, None, k, 0) for codes, scale, k in weights}
    alone = [packed[id(codes)] for codes, _, _ in weights]
    rng, overhead = np.random.default_rng(1), call_cost(rounds)
    x = rng.standard_normal((m, weights[0][2])).astype(np.float32)

    def run_session() -> np.ndarray:
        return opened.run(None, {"x0": x})[0]

    def run_alone() -> np.ndarray:
        y = x
        for layer in alone:
            (y,) = layer.multiply(y)
        return y

    if not np.array_equal(run_session(), run_alone()):
        raise SystemExit("ternary_chain.py: the two sides computed different numbers; nothing was measured")
    pairs = []
    for _ in range(rounds):
        taken = {}
        for side in rng.permutation(2):
            start = time.perf_counter()
            (run_session, run_alone)[side]()
            taken[side] = (time.perf_counter() - start) / count
        pairs.append((taken[0], taken[1] - overhead))
    return pairs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="2560x6912", help="KxN of the first layer")
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--rows", type=int, default=1, help="M")
    parser.add_argument("--rounds", type=int, default=60)
    args = parser.parse_args()
    k, n = map(int, args.shape.split("x"))
    os.environ["BAKER_TERNARY_LAYOUT"] = "2"  # what the kernel called alone reads
    print(machine())
    rows = []
    for case in ("warm", "cold"):
        pairs = measure(layers(k, n, args.layers, case), args.rows, args.rounds)
        ours, alone = (f"{np.median(side) * 1e6:.2f}" for side in zip(*pairs, strict=True))
        ratio, low, high = interval([a / b for a, b in pairs])
        rows.append([case, ours, alone, f"{ratio:.3f} [{low:.3f}, {high:.3f}]"])
    print(markdown(["weights", "in the chain, us a layer", "kernel alone, us", "ratio"], rows))


if __name__ == "__main__":
    main()
