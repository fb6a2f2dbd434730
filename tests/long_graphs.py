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
TABLE = 64  # constants that a long graph shares


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
    """Abs, Add of a shared constant, Sigmoid, and so on: everything stays."""
    net, value = Net(), "x"
    shared = [net.constant(f"c{i}", np.full(4, i / TABLE, np.float32)) for i in range(TABLE)]
    for i in range(count // 3):
        value = net("Sigmoid", net("Add", net("Abs", value), shared[i % TABLE]))
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
    """Mul and Add of constants, on and on: a single pair stays."""
    net, value = Net(), "x"
    scales = [net.constant(f"s{i}", np.full(4, 1 + (i - TABLE / 2) / 1000, np.float32)) for i in range(TABLE)]
    for i in range(count // 2):
        value = net("Add", net("Mul", value, scales[i % TABLE]), scales[(i * 7) % TABLE])
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


def deep_names(count: int) -> onnx.ModelProto:
    """A chain as torch exports it, with names of a few hundred characters: everything stays."""
    net, value = Net("/model/" + "".join(f"layers.{i}/" for i in range(25))), "x"
    for _ in range(count // 2):
        value = net("Sigmoid", net("Abs", value))
    return net.model(value)


def fan(count: int) -> onnx.ModelProto:
    """One value that every second node reads: everything stays."""
    net, value = Net(), "x"
    for _ in range(count // 2):
        value = net("Max", net("Sigmoid", value), "x")
    return net.model(value)


BUILDERS: dict[str, Callable[[int], onnx.ModelProto]] = {
    build.__name__: build
    for build in (chain, shapes, pairs, affine, ladder, twin_ladders, weights, constants, deep_names, fan)
}
