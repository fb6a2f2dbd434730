"""What each merge around ternary layers is worth: a chain with it against the same chain without, in ONNX Runtime.

    python benchmarks/ternary_merge.py                      # K = 768 and 2048, M = 1 and 32: about two minutes
    python benchmarks/ternary_merge.py --merge silu --k 2560 --rows 8

A chain has at least 16 ternary layers K x K with weights of their own; the merged one is made by the rule of the
`ternary` pass. One thread, ONNX Runtime's optimizer on. One round runs both sides, in random order; the ratio is time
without over time with the merge, the median over rounds and its 95 % bootstrap interval.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from onnx import NodeProto, TensorProto, helper, numpy_helper
from report import interval, machine, markdown
from ternary_nodes import session_options

from baker.model.lower import lower
from baker.passes.ternary.merge import RULES
from baker.pipeline.pass_base import PassContext
from baker.pipeline.rewrite import apply_rewrites
from baker.runtime.kernels import pack_codes

LAYERS = 24  # 2, 3 and 4 divide it
TOLERANCE = 0.3  # a last bit may become a step of int8, and grows along a chain of random layers


class Chain:
    """A graph in which each step reads what the one before made."""

    def __init__(self, k: int) -> None:
        self.k, self.rng = k, np.random.default_rng(0)
        self.nodes: list[NodeProto] = []
        self.arrays: dict[str, np.ndarray] = {}

    def op(self, op_type: str, *inputs: str, domain: str = "", **attributes: object) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [name], name, domain=domain, **attributes))
        return name

    def constant(self, array: np.ndarray) -> str:
        name = f"c{len(self.arrays)}"
        self.arrays[name] = array
        return name

    def linear(self, x: str, gain: float = 1.0) -> str:
        """A layer that keeps the size of the values, times a gain."""
        t = self.rng.integers(-1, 2, (self.k, self.k)).astype(np.int8)
        scale = np.full(self.k, gain * (1.5 / self.k) ** 0.5, np.float32)
        codes = self.constant(pack_codes(t))
        return self.op("TernaryMatMul", x, codes, self.constant(scale), domain="ai.baker", K=self.k)

    def model(self, result: str) -> ir.Model:
        ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", self.k]) for name in ("x", result)]
        weights = [numpy_helper.from_array(array, name) for name, array in self.arrays.items()]
        graph = helper.make_graph(self.nodes, "chain", ends[:1], ends[1:], weights)
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid("ai.baker", 1)]
        return lower(helper.make_model(graph, opset_imports=opsets, ir_version=10))


def siblings(count: int) -> Callable[[Chain, str], str]:
    return lambda chain, x: chain.op("Mean", *(chain.linear(x) for _ in range(count)))


def activated(op_type: str, **attributes: object) -> Callable[[Chain, str], str]:
    """A layer whose gain makes up for what the activation takes away."""

    def step(chain: Chain, x: str) -> str:
        y = chain.linear(x, gain=1.6)
        if op_type == "Silu":
            return chain.op("Mul", y, chain.op("Sigmoid", y))
        return chain.op(op_type, y, **attributes)

    return step


def normalized(count: int) -> Callable[[Chain, str], str]:
    def step(chain: Chain, x: str) -> str:
        gamma = chain.constant(chain.rng.uniform(0.5, 1.5, chain.k).astype(np.float32))
        x = chain.op("SimplifiedLayerNormalization", x, gamma, axis=-1, epsilon=1e-6)
        return siblings(count)(chain, x) if count > 1 else chain.linear(x)

    return step


SIBLINGS, ACTIVATION, NORM = ["ternary-siblings"], ["ternary-activation"], ["ternary-rms-norm"]
MERGES: dict[str, tuple[list[str], int, Callable[[Chain, str], str]]] = {
    "two siblings": (SIBLINGS, 2, siblings(2)),
    "three siblings": (SIBLINGS, 3, siblings(3)),
    "relu": (ACTIVATION, 1, activated("Relu")),
    "gelu": (ACTIVATION, 1, activated("Gelu")),
    "gelu, tanh": (ACTIVATION, 1, activated("Gelu", approximate="tanh")),
    "silu": (ACTIVATION, 1, activated("Silu")),
    "norm": (NORM, 1, normalized(1)),
    "norm, three siblings": (SIBLINGS + NORM, 3, normalized(3)),
    "residual": (["ternary-residual"], 1, lambda chain, x: chain.op("Add", x, chain.linear(x))),
}
"""The rules of the pass that are applied, the layers of a step, and what builds a step."""


def session(model: ir.Model) -> ort.InferenceSession:
    content = ir.to_proto(model).SerializeToString()
    return ort.InferenceSession(content, session_options(), providers=["CPUExecutionProvider"])


def build(merge: str, k: int) -> ir.Model:
    _, layers, step = MERGES[merge]
    chain, value = Chain(k), "x"
    for _ in range(LAYERS // layers):
        value = step(chain, value)
    return chain.model(value)


def merged(model: ir.Model, merge: str) -> ir.Model:
    names, layers, _ = MERGES[merge]
    for name in names:
        changes, _ = apply_rewrites(model, [RULES[name](lambda node: True)], PassContext())
        if len(changes) != LAYERS // layers:
            raise SystemExit(f"ternary_merge.py: {merge}: {len(changes)} of {LAYERS // layers} steps were merged")
    return model


def measure(merge: str, k: int, m: int, rounds: int) -> list[tuple[float, float]]:
    """(without, with) seconds a layer, a pair a round."""
    sides = [session(build(merge, k)), session(merged(build(merge, k), merge))]
    rng = np.random.default_rng(1)
    feed = {"x": rng.standard_normal((m, k)).astype(np.float32)}
    plain, fused = (side.run(None, feed)[0] for side in sides)
    if not np.linalg.norm(fused - plain) <= TOLERANCE * np.linalg.norm(plain):
        raise SystemExit(f"ternary_merge.py: {merge}: the two sides computed different numbers; nothing was measured")
    pairs = []
    for _ in range(rounds):
        taken = [0.0, 0.0]
        for side in rng.permutation(2):
            start = time.perf_counter()
            sides[side].run(None, feed)
            taken[side] = (time.perf_counter() - start) / LAYERS
        pairs.append((taken[0], taken[1]))
    return pairs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--merge", action="append", choices=list(MERGES), help="all of them if not given")
    parser.add_argument("--k", type=int, action="append", help="768 and 2048 if not given")
    parser.add_argument("--rows", type=int, action="append", help="M; 1 and 32 if not given")
    parser.add_argument("--rounds", type=int, default=100)
    args = parser.parse_args()
    print(machine())
    rows = []
    for merge in args.merge or MERGES:
        for k in args.k or (768, 2048):
            for m in args.rows or (1, 32):
                pairs = measure(merge, k, m, args.rounds)
                apart, together = (f"{np.median(side) * 1e6:.2f}" for side in zip(*pairs, strict=True))
                ratio, low, high = interval([a / b for a, b in pairs])
                rows.append([merge, str(k), str(m), apart, together, f"{ratio:.3f} [{low:.3f}, {high:.3f}]"])
    print(markdown(["merge", "K = N", "M", "apart, us a layer", "merged, us", "ratio"], rows))


if __name__ == "__main__":
    main()
