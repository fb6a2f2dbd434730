"""What exporters make of norms, activations and attention, operator by operator, and what is nearly that.

Each draws one such group of nodes into a scope of `random_models.Drawer`; now and then a number, an axis or the order
is another one, or somebody reads what is in between.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from random_models import Drawer, Scope, Value


class Writer:
    """Writes nodes one behind the other; after one that does not run, none."""

    def __init__(self, drawer: Drawer, scope: Scope, like: Value) -> None:
        self.drawer, self.scope, self.kind = drawer, scope, like.array.dtype

    def node(self, op: str, *inputs: Value | None, **settings: Any) -> Value | None:
        """Emits a node and returns its result, None where an input is None or it does not run."""
        if any(value is None for value in inputs) or not self.drawer.emit(self.scope, op, inputs, **settings):
            return None
        return self.scope.pool[-1]

    def number(self, number: float) -> Value:
        """A constant of one number, or now and then nearly that number."""
        near = number * 1.125 if self.drawer.chance(0.05) else number
        return self.drawer.constant(self.scope, np.full(self.drawer.one([(), (), (1,)]), near), self.kind)

    def weight(self, *shape: int) -> Value:
        """A constant of normal numbers."""
        return self.drawer.constant(self.scope, self.drawer.drawn(shape, self.kind))

    def reduce(self, op: str, value: Value | None, axes: list[int], since: int = 18) -> Value | None:
        """A reduction that keeps its axes."""
        if value is None or not self.drawer.with_axes(self.scope, op, value, axes, since, keepdims=1):
            return None
        return self.scope.pool[-1]

    def pair(self, op: str, left: Value | None, right: Value | None) -> Value | None:
        """A commutative node with its operands either way round."""
        return self.node(op, left, right) if self.drawer.chance(0.6) else self.node(op, right, left)

    def target(self, *dims: int) -> Value:
        """A shape."""
        return self.drawer.constant(self.scope, dims, np.int64)


def norm(drawer: Drawer, scope: Scope) -> None:
    """LayerNormalization or RMSNormalization, with or without scale and bias."""
    value = drawer.pick(scope)
    if value is None or len(value.shape) < 2:
        return
    w = Writer(drawer, scope, value)
    axis = -1 if drawer.chance(0.8) else -2
    centred: Value | None = value
    if drawer.chance(0.6):
        centred = w.node("Sub", value, w.reduce("ReduceMean", value, [axis]))
    square = w.node("Mul", centred, centred) if drawer.chance(0.5) else w.node("Pow", centred, w.number(2))
    spread = w.pair("Add", w.reduce("ReduceMean", square, [axis]), w.number(drawer.one([1e-5, 1e-3])))
    root = w.node("Sqrt", spread)
    if drawer.chance(0.3):
        root = w.node("Reciprocal", root)
        result = w.pair("Mul", centred, root)
    else:
        result = w.node("Div", centred, root)
    if drawer.chance(0.7):
        result = w.pair("Mul", result, w.weight(*drawer.one([value.shape[-1:], value.shape[-1:], (1,)])))
    if drawer.chance(0.5):
        w.pair("Add", result, w.weight(value.shape[-1]))


def activation(drawer: Drawer, scope: Scope) -> None:
    """GELU by Erf or by Tanh, SiLU, Softmax, Mish, LeakyRelu."""
    value = drawer.pick(scope)
    if value is None or not value.shape or drawer.opset < 9:
        return
    w = Writer(drawer, scope, value)
    match drawer.one(["gelu", "gelu", "tanh", "silu", "softmax", "mish", "leaky"]):
        case "gelu":
            inner = w.node("Div", value, w.number(np.sqrt(2))) if drawer.chance(0.6) else w.pair(
                "Mul", value, w.number(np.sqrt(0.5)))  # fmt: skip
            gate = w.pair("Add", w.node("Erf", inner), w.number(1))
            if drawer.chance(0.5):
                w.pair("Mul", w.pair("Mul", value, gate), w.number(0.5))
            else:
                w.pair("Mul", value, w.pair("Mul", gate, w.number(0.5)))
        case "tanh":
            cube = w.node("Pow", value, w.number(3))
            inner = w.pair("Add", value, w.pair("Mul", cube, w.number(0.044715)))
            gate = w.pair("Add", w.node("Tanh", w.pair("Mul", inner, w.number(np.sqrt(2 / np.pi)))), w.number(1))
            w.pair("Mul", w.pair("Mul", value, gate), w.number(0.5))
        case "silu":
            scaled = w.pair("Mul", value, w.number(1.702)) if drawer.chance(0.3) else value
            w.pair("Mul", value, w.node("Sigmoid", scaled))
        case "mish":
            w.pair("Mul", value, w.node("Tanh", w.node("Softplus", value)))
        case "leaky":
            w.node("Max", value, w.pair("Mul", value, w.number(0.1)))
        case _:
            axis = drawer.one([-1, -1, 0])
            power = w.node("Exp", w.node("Sub", value, w.reduce("ReduceMax", value, [axis])))
            w.node("Div", power, w.reduce("ReduceSum", power, [axis], 13))


def attention(drawer: Drawer, scope: Scope) -> None:
    """Heads of attention over a value of three dims: projections, scores, mask, Softmax, and back."""
    value = drawer.pick(scope, rank=3)
    if value is None or value.shape[-1] % 2 or drawer.opset < 13:
        return
    batch, rows, width = value.shape
    w = Writer(drawer, scope, value)
    heads = w.target(drawer.one([batch, 0]), drawer.one([rows, -1]), 2, width // 2)

    def project(perm: list[int]) -> Value | None:
        product = w.node("MatMul", value, w.weight(width, width))
        product = w.pair("Add", product, w.weight(width)) if drawer.chance(0.6) else product
        return w.node("Transpose", w.node("Reshape", product, heads), perm=perm)

    q, k, v = project([0, 2, 1, 3]), project([0, 2, 3, 1]), project([0, 2, 1, 3])
    scores = w.node("MatMul", q, k)
    if drawer.chance(0.8):
        root = float(np.sqrt(width / 2))
        scores = w.node("Div", scores, w.number(root)) if drawer.chance(0.5) else w.pair(
            "Mul", scores, w.number(1 / root))  # fmt: skip
    if drawer.chance(0.4):
        scores = w.pair("Add", scores, w.weight(*drawer.one([(rows, rows), (1, 1, rows, rows), (batch, 1, 1, rows)])))
    mixed = w.node("MatMul", w.node("Softmax", scores, axis=drawer.one([-1, 3, 3, 2])), v)
    back = w.node("Transpose", mixed, perm=[0, 2, 1, 3])
    w.node("Reshape", back, w.target(drawer.one([batch, 0]), drawer.one([rows, -1]), width))
