"""The models of `big_model`: weights of any size, drawn and written bit by bit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx
from onnx import TensorProto, helper

BLOCK = 1 << 24  # elements that are drawn at once
PAGE = 4096


@dataclass
class Builder:
    """A model whose weights go to data files as they are drawn; nothing of them stays in memory.

    Args:
        shards: how many data files; 0 keeps the weights inside the model.
    """

    folder: Path
    dtype: np.dtype[np.generic]
    shards: int = 1
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
