"""Random CNNs, perceptrons and transformer-like nets: int8 loads, runs, stays near the float net, and is what is said.

A net grows from a pool of values, so that tensors are shared, added and concatenated across branches, and outputs are
read inside. Some layers are left out by ``skip`` or ``only``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from quantize_tools import Net, feeds_for, outputs

from baker.model.graph import index_names
from baker.passes.fuse import Fuse
from baker.passes.quantize import Quantize
from baker.pipeline.pass_base import PassContext, PassResult

NETS, STEPS, BATCH = 20, 14, 2

Value = tuple[str, tuple[int, ...]]


@dataclass
class Grower:
    """Grows a net step by step; ``pool`` holds what was made, and its dims."""

    seed: int
    net: Net = field(init=False)
    pool: list[Value] = field(init=False)
    layers: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.net = Net(opset=int(self.rng.choice([13, 17, 19, 21])), seed=self.seed)
        dims = ((3, 12, 12), (24,), (5, 16))[self.seed % 3]
        self.pool = [(self.net.input("N", *dims), (BATCH, *dims))]

    def pick(self, rank: int | None = None) -> Value:
        """A value, rather a late one."""
        fitting = [value for value in self.pool if rank is None or len(value[1]) == rank]
        return fitting[-1] if self.rng.random() < 0.6 else fitting[self.rng.integers(len(fitting))]

    def add(self, dims: tuple[int, ...], op: str, *inputs: str, **attributes: Any) -> Value:
        self.pool.append((self.net.op(op, *inputs, **attributes), dims))
        return self.pool[-1]

    def ints(self, *items: int) -> str:
        return self.net.const(np.array(items, np.int64))

    def floats(self, *dims: int) -> str:
        return self.net.const((self.rng.standard_normal(dims) / 2).astype(np.float32))

    def step(self) -> None:
        value = self.pick()
        kinds = {4: (self.conv, self.conv, self.depthwise, self.norm, self.pool2d, self.view), 3: (self.sequence,) * 2}
        choices = (*kinds.get(len(value[1]), (self.dense,)), self.activation, self.merge, self.merge)
        choices[self.rng.integers(len(choices))](*value)

    # ---- layers ----

    def named(self, kind: str) -> str:
        self.layers.append(f"{kind}.{len(self.layers)}")
        return self.layers[-1]

    def bias(self, *dims: int) -> list[str]:
        return [self.floats(*dims)] if self.rng.random() < 0.7 else []

    def conv(self, x: str, dims: tuple[int, ...]) -> Value:
        channels, k = int(self.rng.choice([dims[1], 8, 8, 12])), int(self.rng.choice([1, 3]))
        stride = int(self.rng.choice([1, 1, 2])) if dims[2] > 4 else 1
        size = [(extent - 1) // stride + 1 for extent in dims[2:]]
        weight = self.net.weight(channels, dims[1], k, k)
        return self.add(
            (BATCH, channels, *size), "Conv", x, weight, *self.bias(channels),
            name=self.named("conv"), pads=[k // 2] * 4, strides=[stride] * 2,
        )  # fmt: skip

    def depthwise(self, x: str, dims: tuple[int, ...]) -> Value:
        weight = self.net.weight(dims[1], 1, 3, 3)
        name = self.named("depthwise")
        return self.add(dims, "Conv", x, weight, *self.bias(dims[1]), name=name, pads=[1] * 4, group=dims[1])

    def norm(self, x: str, dims: tuple[int, ...]) -> Value:
        stored = [self.rng.uniform(0.5, 1.5, dims[1]).astype(np.float32) for _ in range(4)]
        stored[1] -= 1
        stored[2] -= 1
        y, dims = self.conv(x, dims) if self.rng.random() < 0.7 else (x, dims)
        if len(stored[0]) != dims[1]:
            stored = [np.resize(array, dims[1]) for array in stored]
        return self.add(dims, "BatchNormalization", y, *(self.net.const(array) for array in stored))

    def dense(self, x: str, dims: tuple[int, ...]) -> Value:
        width = int(self.rng.choice([dims[1], 24, 10]))
        if self.rng.random() < 0.5:
            return self.sequence(x, dims)
        turned = int(self.rng.random() < 0.5)
        weight = self.floats(width, dims[1]) if turned else self.net.weight(dims[1], width)
        name = self.named("gemm")
        return self.add((BATCH, width), "Gemm", x, weight, *self.bias(width), name=name, transB=turned)

    def sequence(self, x: str, dims: tuple[int, ...]) -> Value:
        if self.rng.random() < 0.3 and len(dims) == 3:
            return self.attention(x, dims)
        width = int(self.rng.choice([dims[-1], 16, 24]))
        weight = self.net.weight(dims[-1], width)
        made = self.add((*dims[:-1], width), "MatMul", x, weight, name=self.named("matmul"))
        for bias in self.bias(width):
            made = self.add(made[1], "Add", *((made[0], bias) if self.rng.random() < 0.5 else (bias, made[0])))
        return made

    def attention(self, x: str, dims: tuple[int, ...]) -> Value:
        q, k, v = (self.net.op("MatMul", x, self.net.weight(dims[-1], 16), name=self.named("matmul")) for _ in range(3))
        scores = self.net.op("MatMul", q, self.net.op("Transpose", k, perm=[0, 2, 1]))
        shares = self.net.op("Softmax", self.net.op("Mul", scores, self.net.const(np.float32(0.25))), axis=-1)
        return self.add((*dims[:-1], 16), "MatMul", shares, v)

    # ---- what stands between them ----

    def activation(self, x: str, dims: tuple[int, ...]) -> Value:
        kind = ("Relu", "Relu", "Relu", "Clip", "HardSwish", "Sigmoid", "LeakyRelu", "Tanh", "Silu")[
            self.rng.integers(9)
        ]
        if kind == "Clip":
            bounds = [self.net.const(np.float32(bound)) for bound in (0, self.rng.choice([1.0, 6.0]))]
            return self.add(dims, "Clip", x, *bounds)
        if kind == "Silu":
            return self.add(dims, "Mul", x, self.net.op("Sigmoid", x))
        if kind == "HardSwish" and self.net.opset < 14:
            return self.add(dims, "Mul", x, self.net.op("HardSigmoid", x))
        return self.add(dims, kind, x)

    def merge(self, x: str, dims: tuple[int, ...]) -> Value:
        """Adds, multiplies or concatenates two values, which may be the same one."""
        same = [name for name, other in self.pool if other == dims]
        other = same[self.rng.integers(len(same))]
        kind = self.rng.integers(5)
        if kind == 0 and dims[1] <= 16:
            return self.add((dims[0], 2 * dims[1], *dims[2:]), "Concat", x, other, axis=1)
        if kind == 1:
            return self.add(dims, "Mul", x, self.net.op("Sigmoid", other))
        if kind == 2 and len(dims) == 4:
            gate = self.net.op("GlobalAveragePool", other)
            return self.add(dims, "Mul", x, self.net.op("Sigmoid", self.net.conv(gate, dims[1], dims[1], (1, 1))))
        return self.add(dims, "Add", x, other)

    def pool2d(self, x: str, dims: tuple[int, ...]) -> Value:
        kind = ("MaxPool", "AveragePool", "GlobalAveragePool", "Resize")[self.rng.integers(4)]
        if kind == "GlobalAveragePool":
            return self.add((*dims[:2], 1, 1), kind, x)
        if kind == "Resize" and dims[2] < 16:
            scales = self.net.const(np.array([1, 1, 2, 2], np.float32))
            return self.add((*dims[:2], 2 * dims[2], 2 * dims[3]), "Resize", x, "", scales, mode="nearest")
        kind = "MaxPool" if kind == "Resize" else kind
        k, stride = (3, int(self.rng.choice([1, 2]))) if dims[2] > 3 else (1, 1)
        size = [(extent - 1) // stride + 1 for extent in dims[2:]]
        extra = {"count_include_pad": int(self.rng.integers(2))} if kind == "AveragePool" else {}
        pads, strides = [k // 2] * 4, [stride] * 2
        return self.add((*dims[:2], *size), kind, x, kernel_shape=[k, k], pads=pads, strides=strides, **extra)

    def view(self, x: str, dims: tuple[int, ...]) -> Value:
        """To two or three dimensions."""
        if dims[2] * dims[3] > 36:
            return self.add((*dims[:2], 1, 1), "GlobalAveragePool", x)
        if self.rng.random() < 0.5:
            return self.add((BATCH, int(np.prod(dims[1:]))), "Flatten", x)
        rows = self.net.op("Reshape", x, self.ints(0, dims[1], -1))
        return self.add((BATCH, dims[2] * dims[3], dims[1]), "Transpose", rows, perm=[0, 2, 1])

    # ---- the whole ----

    def grow(self, steps: int) -> tuple[ir.Model, dict[str, tuple[str, ...]]]:
        """The model, and the ``skip`` or ``only`` to quantize it with."""
        for _ in range(steps):
            self.step()
        rank = len(self.pool[-1][1])
        ends = [self.pool[-1]]
        ends.append({4: self.conv, 3: self.sequence, 2: self.dense}[rank](*ends[0]))
        made = [name for name, _ in self.pool[1:]]
        inner = [made[self.rng.integers(len(made))]] if self.rng.random() < 0.4 else []
        results = list(dict.fromkeys([ends[1][0], *inner]))
        some = tuple(name for name in self.layers if self.rng.random() < 0.3)
        which = ("skip", "only", "", "")[self.rng.integers(4)]
        return self.net.model(*results), {which: some} if which and some else {}


def sqnr(found: np.ndarray, expected: np.ndarray) -> float:
    """Signal-to-noise ratio in dB; what does not vary is no signal but where nothing does."""
    signal = float(np.square(expected - expected.mean()).sum()) or float(np.square(expected).sum())
    return 10 * float(np.log10(max(signal, 1e-12) / max(float(np.square(found - expected).sum()), 1e-12)))


@dataclass
class Done:
    """A random net in int8."""

    before: ir.Model
    result: PassResult
    feeds: list[dict[str, np.ndarray]]

    @property
    def model(self) -> ir.Model:
        return self.result.model

    @property
    def became(self) -> set[str]:
        """The layers that are to run on integers."""
        return {change.node for change in self.result.changes if change.rule in ("int8-static", "int8-dynamic")}

    def worst(self) -> float:
        """Least SQNR in dB over outputs and ONNX Runtime's two levels."""
        least = np.inf
        for feed in self.feeds[-1:]:
            expected = outputs(self.before, feed)
            for optimize in (False, True):
                found = outputs(self.model, feed, optimize=optimize)
                assert all(found[name].shape == array.shape for name, array in expected.items())
                least = min(least, *(sqnr(found[name], array) for name, array in expected.items()))
        return least


def bake(seed: int, calibrate: bool) -> Done:
    model, options = Grower(seed).grow(STEPS)
    index_names(model)
    before = model.clone()
    feeds = feeds_for(model, 5)
    context = PassContext(threads=1, calibration=feeds[:4] if calibrate else ())
    Fuse().run(model, context)
    result = Quantize(**options).run(model, context)
    again = Quantize(**options).run(result.model.clone(), context)
    if result.modified:
        assert not again.modified or options.get("only"), seed
    return Done(before, result, feeds)


@pytest.mark.parametrize("calibrate", [True, False])
@pytest.mark.parametrize("seed", range(NETS))
def test_random_net(seed, calibrate):
    done = bake(seed, calibrate)
    assert done.worst() > 5
    kernels = {change.node: change.what.partition("runs as ")[2] for change in done.result.changes}
    assert all(kernels[name] for name in done.became)
    assert not any("leaves it in float" in declined.reason for declined in done.result.declined)
