"""Graphs of any number of nodes: chains, ladders, and what else makes a pass look back further than it should.

``BUILDERS[name](count)`` has about ``count`` nodes, a float32 input x and an output y; its docstring says what should
be left of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET, IR_VERSION = 17, 9
TABLE = 16  # constants that a long graph shares


class Net:
    """Collects nodes; every value gets the next number as its name."""

    def __init__(self, prefix: str = "v") -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self.prefix = prefix

    def __call__(self, op_type: str, *inputs: str, **attributes: object) -> str:
        """Adds a node and returns the name of its output."""
        output = f"{self.prefix}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [output], f"{output}/{op_type}", **attributes))
        return output

    def constant(self, name: str, array: np.ndarray) -> str:
        """Adds an initializer."""
        self.constants[name] = numpy_helper.from_array(array, name)
        return name

    def model(self, last: str, shape: Sequence[int | str] = (4,)) -> onnx.ModelProto:
        """The finished model; its output y is the Sigmoid of the last value."""
        self.nodes.append(helper.make_node("Sigmoid", [last], ["y"], "last"))
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
        y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
        graph = helper.make_graph(self.nodes, "long", [x], [y], list(self.constants.values()))
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


def chain(count: int) -> onnx.ModelProto:
    """Neg, Add of a shared constant, Tanh, and so on: everything stays."""
    net, value = Net(), "x"
    shared = [net.constant(f"c{i}", np.full(4, (i + 1) / TABLE, np.float32)) for i in range(TABLE)]
    for i in range(count // 3):
        value = net("Tanh", net("Add", net("Neg", value), shared[i % TABLE]))
    return net.model(value)


def shapes(count: int) -> onnx.ModelProto:
    """Shape, Gather, Concat, Reshape and a Tanh, over a dynamic batch: of every five nodes the Tanh stays."""
    net, value = Net(), "x"
    zero, four = (
        net.constant("zero", np.zeros(1, np.int64)),
        net.constant("four", np.full(1, 4, np.int64)),
    )
    for _ in range(count // 5):
        batch = net("Gather", net("Shape", value), zero)
        value = net("Tanh", net("Reshape", value, net("Concat", batch, four, axis=0)))
    return net.model(value, ("n", 4))


def pairs(count: int) -> onnx.ModelProto:
    """Identity, a Transpose and its inverse, Relu after Relu: one Relu stays."""
    net, value = Net(), "x"
    for _ in range(count // 5):
        value = net("Transpose", net("Transpose", net("Identity", value), perm=[1, 0]), perm=[1, 0])
        value = net("Relu", net("Relu", value))
    return net.model(value, (2, 4))


def affine(count: int) -> onnx.ModelProto:
    """Mul, Mul, Add, Add of constants, on and on: half of it stays, and each has a constant of its own."""
    net, value = Net(), "x"
    scales = [net.constant(f"s{i}", np.full(4, 1 + (i + 1) / 1000, np.float32)) for i in range(TABLE)]
    for i in range(count // 4):
        value = net("Mul", net("Mul", value, scales[i % TABLE]), scales[(i * 7) % TABLE])
        value = net("Add", net("Add", value, scales[(i * 3) % TABLE]), scales[(i * 5) % TABLE])
    return net.model(value)


def ladder(count: int) -> onnx.ModelProto:
    """Each rung reads the two before it: everything stays."""
    net = Net()
    last, value = "x", net("Abs", "x")
    for i in range(count - 1):
        last, value = value, net(("Max", "Min", "Sub")[i % 3], value, last)
    return net.model(value)


def twin_ladders(count: int) -> onnx.ModelProto:
    """The same ladder twice, node by node: half of it stays."""
    net = Net()
    pair = [("x", "x"), ("x", "x")]
    for i in range(count // 2):
        pair = [(net(("Max", "Min", "Sub")[i % 3], a, b), a) for a, b in pair]
    return net.model(net("Add", pair[0][0], pair[1][0]))


def weights(count: int) -> onnx.ModelProto:
    """Every Mul has a constant of its own, every other of them twice under two names: half of the constants stay."""
    net, value = Net(), "x"
    for i in range(count // 2):
        own = net.constant(f"w{i}", np.float32([1, i // 2, 2, 3]))
        value = net("Sigmoid", net("Mul", value, own))
    return net.model(value)


def constants(count: int) -> onnx.ModelProto:
    """A chain and a ladder computed from constants alone: a single constant stays."""
    net = Net()
    last = value = net.constant("start", np.float32([1, 2, 3, 4]))
    half = net.constant("half", np.full(4, 0.5, np.float32))
    for _ in range(count // 2):
        last, value = value, net("Mul", net("Add", value, last), half)
    return net.model(net("Mul", "x", value))


def large_constants(count: int) -> onnx.ModelProto:
    """A chain of 2 kB constants, computed when they are asked for and read on the way: what is read stays."""
    net = Net()
    value, half = net.constant("start", np.ones(512, np.float32)), net.constant("half", np.full(512, 0.5, np.float32))
    for i in range(count):
        value = net("Sqrt" if i % 500 == 250 else "Mul", value, *([] if i % 500 == 250 else [half]))
    return net.model(net("Mul", "x", value), (512,))


def deep_names(count: int) -> onnx.ModelProto:
    """A chain as torch exports it, with names of a few hundred characters: everything stays."""
    net, value = Net("/model/" + "".join(f"layers.{i}/" for i in range(25))), "x"
    for _ in range(count // 2):
        value = net("Sigmoid", net("Neg", value))
    return net.model(value)


def fan(count: int) -> onnx.ModelProto:
    """One computed value that every second node reads: everything stays."""
    net = Net()
    value = shared = net("Abs", "x")
    for _ in range(count // 2):
        value = net("Max", net("Sigmoid", value), shared)
    return net.model(value)


def comb(count: int) -> onnx.ModelProto:
    """As many branches off one value as there may be, joined by one node: everything stays."""
    net = Net()
    shared = net("Abs", "x")
    ops = ("Sigmoid", "Tanh", "Softplus", "Exp")
    teeth = [net(ops[i % 4], net("Max", shared, net.constant(f"c{i}", np.float32([i])))) for i in range(count // 2)]
    return net.model(net("Sum", *teeth))


_ALL = (
    chain,
    shapes,
    pairs,
    affine,
    ladder,
    twin_ladders,
    weights,
    constants,
    large_constants,
    deep_names,
    fan,
    comb,
)
BUILDERS: dict[str, Callable[[int], onnx.ModelProto]] = {build.__name__: build for build in _ALL}
