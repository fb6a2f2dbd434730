"""TernaryMatMul against ONNX Runtime's own MatMul kernels, and ggml's where a library is named.

    python benchmarks/ternary.py                          # seven shapes, M = 1 warm and cold, M = 128 warm: minutes
    python benchmarks/ternary.py --shapes 4096x4096 --rows 1,8,32,128,512 --case warm
    python benchmarks/ternary.py --ours ternary-avx2 --against ort-2bit --rows 1,8,16,32,128 --case warm
    python benchmarks/ternary.py --ours ternary@2 --against ternary@1 --rows 32,128,512 --case warm      # two threads

Every contestant multiplies the same (M, K) input with ``--nodes`` ternary (K, N) weights, one node each in one session,
so that the fixed cost of a run does not dilute the ratio.

* warm: the nodes share one initializer.
* cold: each has its own, and there are so many that their 2-bit weights are four times what the last-level cache
  holds: it keeps some of what was read a round ago.

One round times every contestant once, in a new random order. A row of a table gives the median time of a node and how
many times slower than ours it is: the median over rounds of the ratio within a round with its 95 % bootstrap interval.
The last table is the median over the shapes. DRAM rate and vpdpbusd peak are measured in the same process.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import ternary_limits
from report import interval, machine, markdown
from ternary_ggml import Ggml
from ternary_nodes import CONTESTANTS, Contestant, Layer, bound, session

from baker.runtime.kernels import available_isas

SHAPES = "768x768,768x3072,3072x768,1024x4096,2560x6912,4096x4096,4096x11008"
RIVALS = "ternary-2bit,ternary-1.6bit,ort-fp32,ort-int8,ort-4bit,ort-2bit"
TOLERANCE = 0.03  # int8 activations cost about 1 % (relative L2); a wrong product costs 100 %
Call = Callable[[], None]


@dataclass
class Table:
    """What was measured: {(case, M, contestant): one median ratio a shape}, and the same for the shares of a limit."""

    ratios: dict[tuple[str, int, str], list[float]] = field(default_factory=dict)
    shares: dict[tuple[str, int, str], list[float]] = field(default_factory=dict)

    def add(self, case: str, m: int, name: str, ratio: float, share: float) -> None:
        self.ratios.setdefault((case, m, name), []).append(ratio)
        self.shares.setdefault((case, m, name), []).append(share)

    def summary(self) -> str:
        rows = []
        for (case, m, name), values in self.ratios.items():
            spread = f"{np.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"
            share = f"{np.median(self.shares[case, m, name]):.0%}"
            rows.append([case, str(m), name, spread, share])
        return markdown(["case", "M", "contestant", "times ours: median (least-most)", "share of the limit"], rows)


def contestant(name: str) -> Contestant:
    """What ``ternary-avx2`` or, with a number of threads, ``ternary@2`` names."""
    return CONTESTANTS[name.partition("@")[0]]


def threads_of(name: str, usual: int) -> int:
    """The threads that a contestant runs on."""
    return int(name.partition("@")[2] or usual)


def layers(case: str, k: int, n: int, nodes: int, rng: np.random.Generator) -> list[Layer]:
    """One layer many times (warm), or as many with weights of their own (cold)."""
    t = rng.integers(-1, 2, (n, k), np.int8)
    scale = rng.random(n, np.float32) / 64 + np.float32(1e-3)
    if case == "warm":
        return [Layer(t, scale)] * nodes
    return [Layer(np.roll(t, 977 * i), np.roll(scale, i)) for i in range(nodes)]


class Field:
    """Everyone who competes at one shape: sessions, and ggml's libraries.

    Args:
        made: the layers of a session.
    """

    def __init__(self, args: argparse.Namespace, made: list[Layer]) -> None:
        self.made, self.n, self.peers = made, made[0].t.shape[0], dict[str, tuple[Ggml, str]]()
        names = dict.fromkeys([args.ours, *(name for name in args.against.split(",") if name)])
        # Equal codes are held once: a form that is forced first would be the form of those that choose for themselves.
        ordered = sorted(names, key=lambda name: bool(contestant(name).environment))
        made_first = {name: session(contestant(name), made, threads_of(name, args.threads)) for name in ordered}
        self.sessions = {name: made_first[name] for name in names}
        for path, name in ((args.ggml, "tq2_0"), (args.ik_llama, "iq2_bn_r4")):
            if path is not None:
                self.peers[name] = (Ggml(path, args.threads), name)

    def calls(self, x: np.ndarray, ours: str) -> dict[str, Call]:
        """A call of each contestant, after a look at its result: only the time of the same product is worth a thing."""
        results = {name: candidate.run(["y0"], {"x": x})[0] for name, candidate in self.sessions.items()}
        calls: dict[str, Call] = {name: bound(candidate, x, self.n) for name, candidate in self.sessions.items()}
        weights = {id(layer): layer.weight for layer in self.made} if self.peers else {}
        for name, (library, kind) in self.peers.items():
            calls[name], result = library.layers(kind, [weights[id(layer)] for layer in self.made], x)
            calls[name]()
            results[name] = result.copy()
        for name, got in results.items():
            error = float(np.linalg.norm(got - results[ours]) / np.linalg.norm(results[ours]))
            # ggml keeps one scale a row or tensor in its own way: it need only be the same work.
            if not error < TOLERANCE and name in self.sessions:
                raise SystemExit(
                    f"ternary.py: {name} differs from {ours} by {error:.3f} (relative L2); nothing was timed"
                )
        return calls


def measure(calls: dict[str, Call], rounds: int, inner: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
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


def weight_bytes(name: str, k: int, n: int) -> float:
    """Bytes of a layer's weights in memory."""
    bits = {"ort-fp32": 32, "ort-int8": 8, "ort-4bit": 4, "ternary-1.6bit": 1.6}.get(name.partition("@")[0], 2)
    return k * n * bits / 8


def cache_bytes() -> int:
    """The last-level cache that this core reaches (sysconf counts the whole socket), 32 MiB where nothing tells."""
    path = Path("/sys/devices/system/cpu/cpu0/cache/index3/size")
    text = path.read_text(encoding="ascii").strip() if path.is_file() else "32M"
    return int(text[:-1]) << {"K": 10, "M": 20}[text[-1]]


def compare(args: argparse.Namespace, case: str, shape: tuple[int, int], rows: list[int], table: Table) -> None:
    """One shape in one case: a table of its own, and its medians for the last one."""
    (k, n), rng = shape, np.random.default_rng(args.seed)
    nodes = args.nodes if case == "warm" else max(args.nodes, -(-4 * cache_bytes() * 4 // (k * n)))
    made = layers(case, k, n, nodes, rng)
    competing = Field(args, made)
    printed = []
    for m in rows:
        calls = competing.calls(rng.standard_normal((m, k), np.float32), args.ours)
        times = {name: value / nodes for name, value in measure(calls, args.rounds, args.inner, rng).items()}
        rate, peak = ternary_limits.read_rate(), ternary_limits.vnni_peak()
        for name, value in times.items():
            median, (ratio, low, high) = float(np.median(value)), interval(value / times[args.ours])
            gops, gigabytes = 2 * m * k * n / median / 1e3, weight_bytes(name, k, n) / median / 1e3
            share = gigabytes / rate if m == 1 else gops / peak if peak else float("nan")
            table.add(case, m, name, ratio, share)
            numbers = [f"{median:.1f}", f"{gops:.0f}", f"{gigabytes:.1f}", f"{ratio:.2f} [{low:.2f}, {high:.2f}]"]
            printed.append([str(m), name, *numbers, f"{share:.0%}"])
    print(f"\nK = {k}, N = {n}, {case}, {nodes} nodes; DRAM {rate:.1f} GB/s, vpdpbusd {peak:.0f} GOPS\n")
    header = ["M", "contestant", "µs a node", "GOPS", "weights GB/s", "times ours [95 %]", "share of the limit"]
    print(markdown(header, printed), flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default=SHAPES, help="KxN, comma-separated")
    parser.add_argument("--rows", default="1,128", help="comma-separated values of M")
    parser.add_argument("--case", choices=["warm", "cold", "both"], default="both", help="cold runs M = 1 alone")
    parser.add_argument("--ours", default="ternary", help="what the ratios are against; NAME@T runs on T threads")
    parser.add_argument("--against", default=RIVALS, help=f"comma-separated, of {', '.join(CONTESTANTS)}; or NAME@T")
    parser.add_argument("--ggml", type=Path, help="libggml-cpu.so, or its folder: adds TQ2_0")
    parser.add_argument("--ik-llama", type=Path, help="ik_llama's libggml.so: adds IQ2_BN_R4")
    parser.add_argument("--nodes", type=int, default=16, help="layers in a session, at least")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--inner", type=int, default=1, help="timed runs of a session in a round")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for name in (args.ours, *args.against.split(",")):
        if name and name.partition("@")[0] not in CONTESTANTS:
            parser.error(f"there is no contestant '{name}'; there are {', '.join(CONTESTANTS)}")
    return args


def main() -> None:
    args = arguments()
    rows = [int(value) for value in args.rows.split(",")]
    print(f"{machine()}, kernel {available_isas()[0]}, {args.threads} thread(s)")
    table = Table()
    for case in ("warm", "cold") if args.case == "both" else (args.case,):
        for text in args.shapes.split(","):
            k, n = (int(value) for value in text.split("x"))
            chosen = [m for m in rows if case == "warm" or m == 1]
            if chosen:
                compare(args, case, (k, n), chosen, table)
    print(f"\nover the shapes {args.shapes}\n\n{table.summary()}")
    print("\nThe limit is the DRAM rate at M = 1 (caches read faster: warm rows exceed it) and vpdpbusd's peak above.")


if __name__ == "__main__":
    main()
