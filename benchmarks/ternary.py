"""TernaryMatMul against ONNX Runtime's own MatMul kernels, one op at a time, in ONNX Runtime sessions.

    python benchmarks/ternary.py --k 4096 --n 4096 --rows 1,8,32,128

Every contestant multiplies the same (rows, K) input with a (K, N) weight. One round times every contestant once, in a
new random order; a table row gives the median time and how many times slower the rival is (median over rounds of the
ratio within a round, with its 95 % bootstrap interval).

* warm: one node; the session runs once untimed, then ``--inner`` times. The weights are as near as the caches allow.
* cold: ``--nodes`` nodes with weights of their own in one session, so that each node's weights come from memory.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from report import machine, markdown, speedup

from baker.runtime.kernels import available_isas, custom_ops_library, pack_codes


@dataclass(frozen=True)
class Layer:
    """A ternary layer: t int8 (N, K) and one float32 scale a channel (N,)."""

    t: np.ndarray
    scale: np.ndarray


Initializers = list[tuple[str, np.ndarray]]
Builder = Callable[[Layer, str], tuple[onnx.NodeProto, Initializers]]


def ternary(layer: Layer, name: str, group: int = 0) -> tuple[onnx.NodeProto, Initializers]:
    k = layer.t.shape[1]
    scale = np.repeat(layer.scale[:, None], -(-k // group), axis=1) if group else layer.scale
    inputs = ["x", f"{name}.codes", f"{name}.scale"]
    node = helper.make_node("TernaryMatMul", inputs, [name], name, domain="ai.baker", K=k, group=group)
    return node, [(inputs[1], pack_codes(layer.t)), (inputs[2], scale)]


def ternary_grouped(layer: Layer, name: str) -> tuple[onnx.NodeProto, Initializers]:
    return ternary(layer, name, group=128)


def fp32(layer: Layer, name: str) -> tuple[onnx.NodeProto, Initializers]:
    weight = np.ascontiguousarray((layer.t * layer.scale[:, None]).T)
    return helper.make_node("MatMul", ["x", f"{name}.w"], [name], name), [(f"{name}.w", weight)]


def int8(layer: Layer, name: str) -> tuple[onnx.NodeProto, Initializers]:
    inputs = ["x", f"{name}.w", f"{name}.scale", f"{name}.zero"]
    node = helper.make_node("DynamicQuantizeMatMul", inputs, [name], name, domain="com.microsoft")
    weight = np.ascontiguousarray(layer.t.T)
    return node, [(inputs[1], weight), (inputs[2], layer.scale), (inputs[3], np.zeros(len(layer.scale), np.int8))]


def bits2(layer: Layer, name: str) -> tuple[onnx.NodeProto, Initializers]:
    n, k = layer.t.shape
    if k % 128:
        raise SystemExit("ternary.py: the 2-bit rival needs K to be a multiple of 128; leave it out of --against")
    inputs = ["x", f"{name}.q", f"{name}.scale", f"{name}.zero"]
    attributes = {"K": k, "N": n, "bits": 2, "block_size": 128, "accuracy_level": 4}
    node = helper.make_node("MatMulNBits", inputs, [name], name, domain="com.microsoft", **attributes)
    blocks = k // 128
    zeros = np.full((n, -(-blocks // 4)), 0x55, np.uint8)
    codes = pack_codes(layer.t).reshape(n, blocks, 32)
    return node, [(inputs[1], codes), (inputs[2], np.repeat(layer.scale, blocks)), (inputs[3], zeros.reshape(-1))]


CONTESTANTS: dict[str, Builder] = {
    "ternary": ternary,
    "ternary-g128": ternary_grouped,
    "ort-fp32": fp32,
    "ort-int8": int8,
    "ort-2bit": bits2,
}


def session(build: Builder, layers: list[Layer], threads: int) -> ort.InferenceSession:
    """One session with a node for each layer; all read x, each has an output of its own."""
    n, k = layers[0].t.shape
    built = [build(layer, f"y{i}") for i, layer in enumerate(layers)]
    graph = helper.make_graph(
        [node for node, _ in built],
        "bench",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", k])],
        [helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, ["rows", n]) for i in range(len(layers))],
        [numpy_helper.from_array(array, name) for _, arrays in built for name, array in arrays],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("ai.baker", 1), helper.make_opsetid("com.microsoft", 1)]
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.register_custom_ops_library(custom_ops_library())
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def bound(candidate: ort.InferenceSession, x: np.ndarray, n: int) -> Callable[[], None]:
    """A call that runs the session into arrays that already exist, so that no allocation is timed."""
    binding = candidate.io_binding()
    binding.bind_cpu_input("x", x)
    for output in candidate.get_outputs():
        y = ort.OrtValue.ortvalue_from_numpy(np.empty((x.shape[0], n), np.float32))
        binding.bind_ortvalue_output(output.name, y)
    return lambda: candidate.run_with_iobinding(binding)


def agree(sessions: dict[str, ort.InferenceSession], x: np.ndarray) -> None:
    """A time is worth something only if the contestants compute the same product (int8 activations cost about 1 %)."""
    results = {name: candidate.run(["y0"], {"x": x})[0] for name, candidate in sessions.items()}
    ours = results["ternary"]
    for name, got in results.items():
        error = float(np.linalg.norm(got - ours) / np.linalg.norm(ours))
        if not error < 0.03:
            raise SystemExit(f"ternary.py: {name} differs from ternary by {error:.3f} (relative L2); nothing was timed")


def measure(
    calls: dict[str, Callable[[], None]], rounds: int, inner: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Microseconds a call, one row a round: {contestant: (rounds,)}."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    for _ in range(rounds):
        for index in rng.permutation(len(names)):
            call = calls[names[index]]
            call()
            start = time.perf_counter()
            for _ in range(inner):
                call()
            times[names[index]].append((time.perf_counter() - start) / inner * 1e6)
    return {name: np.array(values) for name, values in times.items()}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--k", type=int, default=4096)
    parser.add_argument("--n", type=int, default=4096)
    parser.add_argument("--rows", default="1,128", help="comma-separated values of M")
    parser.add_argument("--against", default="ort-fp32", help=f"comma-separated, of {', '.join(CONTESTANTS)}")
    parser.add_argument("--case", choices=["warm", "cold"], default="warm")
    parser.add_argument("--nodes", type=int, default=16, help="layers in a cold session")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--inner", type=int, default=4, help="timed calls in a round")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    rng = np.random.default_rng(args.seed)
    nodes = args.nodes if args.case == "cold" else 1
    layers = [
        Layer(rng.integers(-1, 2, (args.n, args.k)).astype(np.int8), rng.random(args.n, np.float32) / 64)
        for _ in range(nodes)
    ]
    names = ["ternary", *(name for name in args.against.split(",") if name)]
    sessions = {name: session(CONTESTANTS[name], layers, args.threads) for name in names}
    print(f"{machine()}, kernel {available_isas()[0]}, {args.threads} thread(s)")
    print(f"K = {args.k}, N = {args.n}, {args.case}, {nodes} node(s), {args.rounds} rounds of {args.inner}\n")
    table: list[list[str]] = []
    for m in (int(value) for value in args.rows.split(",")):
        x = rng.standard_normal((m, args.k), np.float32)
        agree(sessions, x)
        calls = {name: bound(candidate, x, args.n) for name, candidate in sessions.items()}
        times = {name: value / nodes for name, value in measure(calls, args.rounds, args.inner, rng).items()}
        for name, value in times.items():
            median = float(np.median(value))
            gops = 2 * m * args.k * args.n / median / 1e3
            table.append([str(m), name, f"{median:.1f}", f"{gops:.0f}", speedup(value / times["ternary"])])
    print(markdown(["M", "contestant", "µs an op", "GOPS", "times ternary [95 %]"], table))


if __name__ == "__main__":
    main()
