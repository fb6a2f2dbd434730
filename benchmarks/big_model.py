"""What models beyond 2 GB take: peak memory, time, and whether the result loads and is right.

    python benchmarks/big_model.py [--gb 3] [--kind convs ...] [--verify] [--pipeline fuse] [--folder DIR] [--limit 1.3]

Builds a model of random weights in a temporary folder, runs ``baker-opt`` on it in processes of its own, and looks at
them every 5 ms. Memory is the sum of PSS over the command and all its children, pages of mapped files included, and the
largest VmHWM among them, whichever is more; what the interpreter takes with the same imports is subtracted. The result
is then loaded and run in ONNX Runtime beside the original, each in a process of its own.

    weights   GB of weights in the model                 peak    GB above the interpreter
    seconds   of the whole command                       copy    seconds that reading and writing the weights once takes
    right     largest difference, relative to the largest output
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx
from onnx import TensorProto, helper

BLOCK = 1 << 24  # elements that are drawn at once
PAGE = 4096
INTERPRETER = (
    "import onnxruntime, onnxscript, rich.table, baker.cli.opt, baker.cli.observers, baker.pipeline.bake, "
    "baker.passes.fold, baker.passes.fuse, baker.passes.cleanup, baker.model.save, baker.proof.verifier\n"
    "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
)
RUN = """
import sys, numpy as np, onnxruntime as ort
options = ort.SessionOptions()
options.add_session_config_entry("session.disable_prepacking", "1")
if sys.argv[4] == "plain":
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
np.savez(sys.argv[3], *session.run(None, dict(np.load(sys.argv[2]))))
"""


# ---- models ----------------------------------------------------------------------------------------------------


@dataclass
class Builder:
    """A model whose weights go to data files as they are drawn; nothing of them stays in memory.

    Args:
        shards: how many data files; 0 keeps the weights inside the model.
    """

    folder: Path
    dtype: np.dtype[np.generic]
    shards: int = 1
    inner: bool = False  # new initializers belong to a subgraph that is being made
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    tensors: list[onnx.TensorProto] = field(default_factory=list)
    nbytes: int = 0
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def __post_init__(self) -> None:
        self.files: list[BinaryIO] = [(self.folder / f"weights.{i}.bin").open("wb") for i in range(self.shards)]

    def weight(self, name: str, shape: tuple[int, ...], fan_in: int, seed: int | None = None) -> str:
        """A large weight of N(0, 1 / fan_in)."""
        rng, size = self.rng if seed is None else np.random.default_rng(seed), int(np.prod(shape))
        parts = (
            (rng.standard_normal(min(BLOCK, size - start), np.float32) / np.sqrt(np.float32(fan_in))).astype(self.dtype)
            for start in range(0, size, BLOCK)
        )
        tensor = TensorProto(name=name, dims=shape, data_type=helper.np_dtype_to_tensor_dtype(self.dtype))
        self.nbytes += size * self.dtype.itemsize
        if not self.files:
            tensor.raw_data = b"".join(part.tobytes() for part in parts)
        else:
            index = len(self.tensors) % len(self.files)
            file = self.files[index]
            file.write(bytes(-file.tell() % PAGE))
            start = file.tell()
            for part in parts:
                file.write(part.data)
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in (
                ("location", f"weights.{index}.bin"),
                ("offset", start),
                ("length", file.tell() - start),
            ):
                tensor.external_data.add(key=key, value=str(value))
        self.tensors.append(tensor)
        return name

    def small(self, name: str, low: float, high: float, size: int) -> str:
        """A vector of numbers between two."""
        array = self.rng.uniform(low, high, size).astype(self.dtype)
        self.tensors.append(onnx.numpy_helper.from_array(array, name))
        return name

    def node(self, op: str, inputs: list[str], output: str, **attributes: object) -> str:
        """A node with one output."""
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def norm(self, x: str, output: str, channels: int) -> str:
        """A BatchNormalization with parameters near one."""
        names = [self.small(f"{output}.{part}", *span, channels) for part, span in _NORM.items()]
        return self.node("BatchNormalization", [x, *names], output)

    def finish(self, x: list[int | str], y: str, extra: tuple[str, ...] = ()) -> Model:
        """Writes the model file."""
        kind = helper.np_dtype_to_tensor_dtype(self.dtype)
        inputs = [helper.make_tensor_value_info("x", kind, x)]
        inputs += [helper.make_tensor_value_info(name, TensorProto.BOOL, []) for name in extra]
        output = helper.make_tensor_value_info(y, kind, None)
        graph = helper.make_graph(self.nodes, "big", inputs, [output], self.tensors)
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        for file in self.files:
            file.close()
        path = self.folder / "big.onnx"
        with path.open("wb") as file:
            file.write(proto.SerializeToString())
        feed = {"x": self.rng.standard_normal([2 if isinstance(dim, str) else dim for dim in x]).astype(self.dtype)}
        feed |= {name: np.array(True) for name in extra}
        return Model(path, self.nbytes, feed)


_NORM = {"gamma": (0.9, 1.1), "beta": (-0.1, 0.1), "mean": (-0.1, 0.1), "var": (0.9, 1.1)}


@dataclass(frozen=True)
class Model:
    """A model file, the bytes of its weights, and something to run it on."""

    path: Path
    nbytes: int
    feed: Mapping[str, np.ndarray]


def linear(folder: Path, nbytes: int) -> Model:
    """A stack of MatMul and Add, as a transformer's: nothing of the weights changes."""
    build, width = Builder(folder, np.dtype(np.float32)), 2048
    x = "x"
    for index in range(max(1, nbytes // (8 * width**2 * 4))):
        up = build.weight(f"up{index}", (width, 4 * width), width)
        down = build.weight(f"down{index}", (4 * width, width), 4 * width)
        x = build.node("MatMul", [x, up], f"a{index}")
        x = build.node("Add", [x, build.small(f"b{index}", -0.1, 0.1, 4 * width)], f"c{index}")
        x = build.node("Relu", [x], f"d{index}")
        x = build.node("MatMul", [x, down], f"e{index}")
        x = build.node("Add", [x, build.small(f"f{index}", -0.1, 0.1, width)], f"g{index}")
    return build.finish(["n", width], x)


def convs(folder: Path, nbytes: int, dtype: str = "float32", shards: int = 1) -> Model:
    """Conv and BatchNormalization: every weight is rewritten."""
    build, width = Builder(folder, np.dtype(dtype), shards), 1024 if dtype == "float32" else 2048
    x = "x"
    for index in range(max(1, nbytes // (9 * width**2 * build.dtype.itemsize))):
        weight = build.weight(f"w{index}", (width, width, 3, 3), 9 * width)
        x = build.node("Conv", [x, weight], f"c{index}", pads=[1, 1, 1, 1])
        x = build.node("Relu", [build.norm(x, f"n{index}", width)], f"r{index}")
    return build.finish(["n", width, 2, 2], x)


def single(folder: Path, nbytes: int) -> Model:
    """One weight with all the bytes, and a BatchNormalization that goes into it."""
    build, width = Builder(folder, np.dtype(np.float32)), int((nbytes / 4) ** 0.5) // 64 * 64
    x = build.node("MatMul", ["x", build.weight("w", (width, width), width)], "a")
    return build.finish(["n", width], build.norm(x, "y", width))


def chain(folder: Path, nbytes: int) -> Model:
    """Large MatMuls with a factor before and an offset behind: rewritten twice or more."""
    build, width = Builder(folder, np.dtype(np.float32)), 4096
    x = "x"
    for index in range(max(1, nbytes // (width**2 * 4))):
        x = build.node("Mul", [x, build.small(f"s{index}", 0.9, 1.1, width)], f"a{index}")
        x = build.node("MatMul", [x, build.weight(f"w{index}", (width, width), width)], f"b{index}")
        x = build.node("Add", [x, build.small(f"t{index}", -0.1, 0.1, width)], f"c{index}")
        x = build.node("Mul", [x, build.small(f"u{index}", 0.9, 1.1, width)], f"d{index}")
        x = build.node("Relu", [x], f"e{index}")
    return build.finish(["n", width], x)


def duplicates(folder: Path, nbytes: int) -> Model:
    """Weights of 512 MB (a sixth of all where that is less), each there twice."""
    build, width = Builder(folder, np.dtype(np.float32)), int((min(1 << 29, nbytes // 6) / 4) ** 0.5) // 64 * 64
    x = "x"
    for index in range(max(1, nbytes // (2 * width**2 * 4))):
        for copy in range(2):
            weight = build.weight(f"w{index}.{copy}", (width, width), width, seed=index)
            x = build.node("Relu", [build.node("MatMul", [x, weight], f"a{index}.{copy}")], f"r{index}.{copy}")
    return build.finish(["n", width], x)


def transposed(folder: Path, nbytes: int) -> Model:
    """MatMul with Transpose(W), as torch writes a Linear: folding turns every weight around."""
    build, width = Builder(folder, np.dtype(np.float32)), 4096
    x = "x"
    for index in range(max(1, nbytes // (width**2 * 4))):
        weight = build.node("Transpose", [build.weight(f"w{index}", (width, width), width)], f"t{index}", perm=[1, 0])
        x = build.node("Relu", [build.node("MatMul", [x, weight], f"a{index}")], f"r{index}")
    return build.finish(["n", width], x)


def many(folder: Path, nbytes: int) -> Model:
    """Weights of 1 MB in four data files, every one rewritten."""
    build, width = Builder(folder, np.dtype(np.float32), shards=4), 512
    x = "x"
    for index in range(max(1, nbytes // (width**2 * 4))):
        x = build.node("Conv", [x, build.weight(f"w{index}", (width, width, 1, 1), width)], f"c{index}")
        x = build.norm(x, f"n{index}", width)
    return build.finish(["n", width, 2, 2], x)


def branches(folder: Path, nbytes: int) -> Model:
    """Weights in the branches of an If, as external data, and a dead one of a sixth of the bytes."""
    build, width = Builder(folder, np.dtype(np.float32)), 2048
    build.weight("dead", (nbytes // 24,), 1)
    outer, build.tensors = build.tensors, []
    graphs = []
    for branch in ("then", "else"):
        x, build.nodes, build.tensors = "x", [], []
        for index in range(max(1, nbytes * 5 // 12 // (width**2 * 4))):
            x = build.node("MatMul", [x, build.weight(f"{branch}{index}", (width, width), width)], f"{branch}.a{index}")
            scale = build.small(f"{branch}.s{index}", 0.9, 1.1, width)
            x = build.node("Relu", [build.node("Mul", [x, scale], f"{branch}.m{index}")], f"{branch}.r{index}")
        output = helper.make_tensor_value_info(x, TensorProto.FLOAT, None)
        graphs.append(helper.make_graph(build.nodes, branch, [], [output], build.tensors))
    build.nodes, build.tensors = [], outer
    build.node("If", ["which"], "y", then_branch=graphs[0], else_branch=graphs[1])
    return build.finish(["n", width], "y", ("which",))


KINDS: dict[str, Callable[[Path, int], Model]] = {
    "linear": linear,
    "convs": convs,
    "convs16": lambda folder, nbytes: convs(folder, nbytes, "float16"),
    "single": single,
    "chain": chain,
    "duplicates": duplicates,
    "transposed": transposed,
    "many": many,
    "branches": branches,
    "inline": lambda folder, nbytes: convs(folder, min(nbytes, 1_900_000_000), shards=0),
}


# ---- measuring -------------------------------------------------------------------------------------------------


@dataclass
class Peak:
    """Bytes that a command and all its children take at the most."""

    pss: int = 0
    largest: int = 0

    def look(self, process: int) -> None:
        """Looks at a process tree once."""
        total = 0
        for number in _tree(process):
            with contextlib.suppress(OSError, ValueError):
                total += _field(f"/proc/{number}/smaps_rollup", "Pss:")
                self.largest = max(self.largest, _field(f"/proc/{number}/status", "VmHWM:"))
        self.pss = max(self.pss, total)

    @property
    def nbytes(self) -> int:
        """The larger of the two ways to count."""
        return max(self.pss, self.largest)


def _tree(process: int) -> Iterator[int]:
    waiting = [process]
    for number in waiting:  # grows while it is walked
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{number}/task"):
                children = Path(f"/proc/{number}/task/{task}/children").read_text(encoding="ascii")
                waiting += [int(child) for child in children.split()]
        yield number


def _field(path: str, name: str) -> int:
    for line in Path(path).read_text(encoding="ascii").splitlines():
        if line.startswith(name):
            return int(line.split()[1]) << 10
    raise ValueError(name)


def interpreter() -> int:
    """Bytes that Python takes with baker's imports and no model."""
    found = subprocess.run([sys.executable, "-c", INTERPRETER], capture_output=True, text=True, check=True)
    return int(found.stdout) << 10


def watched(command: list[str]) -> tuple[int, Peak, float]:
    """Runs a command; returns its exit code, its peak, and its seconds."""
    start, peak = time.perf_counter(), Peak()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        peak.look(process.pid)
        time.sleep(0.005)
    return process.returncode, peak, time.perf_counter() - start


def copying(folder: Path) -> float:
    """Seconds that it takes to copy the data files and have the copies on disk."""
    start = time.perf_counter()
    for source in list(folder.glob("*.bin")) + list(folder.glob("big.onnx")):
        target = folder / "copy.tmp"
        with source.open("rb") as read, target.open("wb") as write:
            shutil.copyfileobj(read, write, 1 << 24)
            os.fsync(write.fileno())
        target.unlink()
    return time.perf_counter() - start


def difference(model: Model, result: Path) -> float:
    """The largest difference between the outputs of both, relative to the largest output."""
    feed = model.path.parent / "feed.npz"
    np.savez(feed, **model.feed)
    found = []
    for path in (model.path, result):
        outputs = model.path.parent / f"{path.stem}.out.npz"
        subprocess.run([sys.executable, "-c", RUN, str(path), str(feed), str(outputs), "plain"], check=True)
        found.append([array.astype(np.float64) for array in np.load(outputs).values()])
    return max(
        float(np.abs(one - other).max() / max(np.abs(one).max(), 1e-30)) for one, other in zip(*found, strict=True)
    )


def row(kind: str, options: argparse.Namespace, base: int) -> list[str]:
    """Builds, bakes and checks one model; everything is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="big-", dir=options.folder) as name:
        model = KINDS[kind](Path(name), int(options.gb * 1e9))
        result = Path(name) / "result.onnx"
        copy = copying(Path(name)) if options.copy else float("nan")
        command = [sys.executable, "-m", "baker.cli.opt", str(model.path), "-p", options.pipeline, "-o", str(result)]
        command += [] if options.verify else ["--no-verify"]
        code, peak, seconds = watched([*command, "-q"])
        above = (peak.nbytes - base) / 1e9
        right = f"{difference(model, result):.1e}" if code == 0 and not options.unchecked else f"exit {code}"
        left = {path.name for path in Path(name).iterdir() if path.name.startswith(".")}
        return [
            kind,
            f"{model.nbytes / 1e9:.2f}",
            f"{above:.2f}",
            f"{seconds:.1f}",
            f"{copy:.1f}",
            right,
            *sorted(left),
        ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gb", type=float, default=3.0, help="GB of weights")
    parser.add_argument("--kind", nargs="+", choices=[*KINDS], default=["linear", "convs", "single"])
    parser.add_argument("--pipeline", default="fuse")
    parser.add_argument("--verify", action="store_true")
    parser.add_argument("--copy", action="store_true", help="also time a plain copy of the weights")
    parser.add_argument("--unchecked", action="store_true", help="don't run the result")
    parser.add_argument("--folder", help="where the models are built; default: the system's temporary folder")
    options = parser.parse_args()
    base = interpreter()
    print(
        f"baker-opt -p {options.pipeline}{'' if options.verify else ' --no-verify'}; interpreter {base / 1e9:.2f} GB\n"
    )
    print("| model | weights GB | peak GB above | seconds | copy | right |\n|---|---|---|---|---|---|", flush=True)
    for kind in options.kind:
        print(f"| {' | '.join(row(kind, options, base))} |", flush=True)


if __name__ == "__main__":
    main()
