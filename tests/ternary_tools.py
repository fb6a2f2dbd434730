"""Ternary linear layers in disguise: every way in which a weight, an activation or a bias may be written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir

from baker.model.graph import Array, all_nodes, index_names
from baker.passes.ternary import Ternary
from baker.pipeline.pass_base import PassContext, PassResult
from baker.runtime.session import run as run_session
from baker.runtime.session import session


class Sketch:
    """A graph under construction: values are added in order; ``x`` is its input."""

    def __init__(self, x_shape: tuple[Any, ...], opset: int = 21) -> None:
        self.x = ir.Value(name="x", shape=ir.Shape(x_shape), type=ir.TensorType(ir.DataType.FLOAT))
        self.nodes: list[ir.Node] = []
        self.initializers: list[ir.Value] = []
        self.opset = opset

    def weight(self, array: Array, name: str | None = None) -> ir.Value:
        """An initializer."""
        name = name or f"w{len(self.initializers)}"
        tensor = ir.tensor(np.asarray(array), name=name)
        value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        self.initializers.append(value)
        return value

    def constant(self, array: Any, dtype: Any = np.float32) -> ir.Value:
        """The output of a Constant node."""
        return self.op("Constant", value=ir.tensor(np.asarray(array, dtype)))

    def op(self, op_type: str, *inputs: ir.Value | None, outputs: int = 1, domain: str = "", **attributes: Any) -> Any:
        """A node; its output, or outputs."""
        index = len(self.nodes)
        node = ir.node(op_type, inputs, attributes, domain=domain, num_outputs=outputs, name=f"{op_type}_{index}")
        for position, value in enumerate(node.outputs):
            value.name = f"v{index}_{position}"
            if op_type == "Constant":
                value.type = ir.TensorType(attributes["value"].dtype)
        self.nodes.append(node)
        return node.outputs[0] if outputs == 1 else node.outputs

    def model(self, *outputs: ir.Value, extra_inputs: tuple[ir.Value, ...] = ()) -> ir.Model:
        for value in outputs:
            value.type = ir.TensorType(ir.DataType.FLOAT)
        graph = ir.Graph(
            [self.x, *extra_inputs],
            list(outputs),
            nodes=self.nodes,
            initializers=self.initializers,
            opset_imports={"": self.opset},
            name="sketch",
        )
        model = ir.Model(graph, ir_version=10 if self.opset < 25 else 13)
        index_names(model)
        return model


# ---- weights: W (K, N) from codes t (K, N) and scales s, () or (N,), or (K / 16, N) for `grouped` ----------------


def _scaled(t: Array, s: Array) -> Array:
    return (t * s).astype(np.float32)


def _latent(sketch: Sketch, t: Array, s: Array, reciprocal: bool) -> ir.Value:
    """As a trained BitNet layer: the codes follow from latent weights, the scale from their mean magnitude."""
    rng = np.random.default_rng(t.size)
    latent = np.where(t, t * rng.uniform(0.8, 2.0, t.shape), rng.uniform(-0.2, 0.2, t.shape)).astype(np.float32)
    w = sketch.weight((latent * np.float32(s.flat[0])).T.copy())
    mean = sketch.op("ReduceMean", sketch.op("Abs", w), keepdims=0)
    scale = sketch.op("Clip", mean, sketch.constant(1e-5))
    if reciprocal:
        scale = sketch.op("Div", sketch.constant(1.0), scale)
    there, back = ("Mul", "Div") if reciprocal else ("Div", "Mul")
    rounded = sketch.op("Round", sketch.op(there, w, scale))
    clipped = sketch.op("Clip", rounded, sketch.constant(-1.0), sketch.constant(1.0))
    return sketch.op("Transpose", sketch.op(back, clipped, scale), perm=[1, 0])


def _straight_through(sketch: Sketch, t: Array, s: Array) -> ir.Value:
    rng = np.random.default_rng(1)
    w = sketch.weight(_scaled(t, s) + (0.3 * s * rng.standard_normal(t.shape)).astype(np.float32))
    q = sketch.weight(_scaled(t, s))
    return sketch.op("Add", w, sketch.op("Sub", q, w))


def _int8(sketch: Sketch, t: Array, s: Array, level: int, zero: int, dtype: Any) -> ir.Value:
    axis = {"axis": 1} if s.ndim else {}
    scale = sketch.weight((s / np.float32(level)).astype(np.float32))
    zeros = sketch.weight(np.full(s.shape, zero, dtype))
    integers = (t.astype(np.int32) * level + zero).astype(dtype)
    return sketch.op("DequantizeLinear", sketch.weight(integers), scale, zeros, **axis)


def _blocks(sketch: Sketch, t: Array, s: Array, dtype: Any) -> ir.Value:
    scale = np.broadcast_to(s, (t.shape[0] // 16, t.shape[1])).astype(np.float32)
    codes = sketch.weight(t.astype(dtype))
    return sketch.op("DequantizeLinear", codes, sketch.weight(scale), axis=0, block_size=16)


def _halves(sketch: Sketch, t: Array, s: Array) -> ir.Value:
    w, cut = _scaled(t, s), t.shape[0] // 2
    return sketch.op("Concat", sketch.weight(w[:cut]), sketch.weight(w[cut:]), axis=0)


WEIGHTS: dict[str, Callable[[Sketch, Array, Array], ir.Value]] = {
    "initializer": lambda g, t, s: g.weight(_scaled(t, s)),
    "constant node": lambda g, t, s: g.constant(_scaled(t, s)),
    "identity": lambda g, t, s: g.op("Identity", g.op("Identity", g.weight(_scaled(t, s)))),
    "transpose": lambda g, t, s: g.op("Transpose", g.weight(_scaled(t, s).T.copy()), perm=[1, 0]),
    "reshape": lambda g, t, s: g.op("Reshape", g.weight(_scaled(t, s).ravel()), g.constant(t.shape, np.int64)),
    "two halves": _halves,
    "float16 cast": lambda g, t, s: g.op("Cast", g.weight(_scaled(t, s).astype(np.float16)), to=1),
    "int8 cast times scale": lambda g, t, s: g.op("Mul", g.op("Cast", g.weight(t), to=1), g.weight(s)),
    "int8 cast over inverse": lambda g, t, s: g.op("Div", g.op("Cast", g.weight(t), to=1), g.weight(1 / s)),
    "int8 transposed": lambda g, t, s: g.op(
        "Mul", g.weight(s), g.op("Cast", g.op("Transpose", g.weight(t.T.copy()), perm=[1, 0]), to=1)
    ),
    "sign": lambda g, t, s: g.op("Mul", g.op("Sign", g.weight(_scaled(t, s))), g.weight(s)),
    "int8 dequantized": lambda g, t, s: _int8(g, t, s, 1, 0, np.int8),
    "int8 of 127": lambda g, t, s: _int8(g, t, s, 127, 0, np.int8),
    "int8 with a zero point": lambda g, t, s: _int8(g, t, s, 5, -3, np.int8),
    "uint8 dequantized": lambda g, t, s: _int8(g, t, s, 100, 128, np.uint8),
    "int4 dequantized": lambda g, t, s: _int8(g, t, s, 7, 0, ml_dtypes.int4),
    "int4 in blocks": lambda g, t, s: _blocks(g, t, s, ml_dtypes.int4),
    "straight-through": _straight_through,
}
"""How a weight may be stored; every one takes a scale () or (N,)."""

WEIGHTS_OF_ONE_SCALE: dict[str, Callable[[Sketch, Array, Array], ir.Value]] = {
    "latent": lambda g, t, s: _latent(g, t, s, False),
    "latent, reciprocal": lambda g, t, s: _latent(g, t, s, True),
}


# ---- activations: the per-row int8 quantization that a network was trained with ----------------------------------


def quantized_rows(
    sketch: Sketch,
    x: ir.Value,
    *,
    inverse: str = "div",
    limit: str = "clip",
    levels: float = 127.0,
    axis: int = -1,
    clip: bool = True,
    through_int8: bool = False,
    straight_through: bool = False,
    eps: float = 1e-5,
) -> ir.Value:
    """x' = round(x · s) / s, s = levels / max|x| a row, in one of the ways in which it is written."""
    absmax = sketch.op("ReduceMax", sketch.op("Abs", x), sketch.constant([axis], np.int64), keepdims=1)
    if limit != "none":
        absmax = sketch.op({"clip": "Clip", "max": "Max"}[limit], absmax, sketch.constant(eps))
    full = sketch.constant(levels)
    there, back = "Mul", "Div"
    if inverse == "div":
        scale = sketch.op("Div", full, absmax)
    elif inverse == "reciprocal":
        scale = sketch.op("Mul", sketch.op("Reciprocal", absmax), full)
    else:
        scale, there, back = sketch.op("Div", absmax, full), "Div", "Mul"
    q = sketch.op("Round", sketch.op(there, x, scale))
    if clip:
        q = sketch.op("Clip", q, sketch.constant(-levels - 1), sketch.constant(levels))
    if through_int8:
        q = sketch.op("Cast", sketch.op("Cast", q, to=3), to=1)
    result = sketch.op(back, q, scale)
    return sketch.op("Add", x, sketch.op("Sub", result, x)) if straight_through else result


ACTIVATIONS: dict[str, Callable[[Sketch, ir.Value], ir.Value]] = {
    "div": quantized_rows,
    "reciprocal": lambda g, x: quantized_rows(g, x, inverse="reciprocal"),
    "step": lambda g, x: quantized_rows(g, x, inverse="step"),
    "max instead of clip": lambda g, x: quantized_rows(g, x, limit="max"),
    "no lower limit": lambda g, x: quantized_rows(g, x, limit="none"),
    "another lower limit": lambda g, x: quantized_rows(g, x, eps=1e-8),
    "no clip": lambda g, x: quantized_rows(g, x, clip=False),
    "through int8": lambda g, x: quantized_rows(g, x, through_int8=True),
    "straight-through": lambda g, x: quantized_rows(g, x, straight_through=True),
    "last axis counted from the front": lambda g, x: quantized_rows(g, x, axis=len(g.x.shape) - 1),
}


# ---- running --------------------------------------------------------------------------------------------------


def ternary(model: ir.Model, context: PassContext | None = None, **options: Any) -> PassResult:
    """Runs the pass in place; the layers stay as they are, apart, unless the options say otherwise."""
    return Ternary(**{"fuse": False, **options}).run(model, context or PassContext())


def outputs(model: ir.Model, x: Array, *, optimize: bool = False) -> list[Array]:
    """Runs a model on one input ``x``."""
    return list(run_session(session(model, optimize=optimize, threads=1), {"x": x}).values())


def ops(model: ir.Model) -> list[str]:
    """Operators of all graphs, Constants left out."""
    return [node.op_type for node in all_nodes(model) if node.op_type != "Constant"]


def weight_bytes(model: ir.Model) -> int:
    """Bytes of all initializers."""
    return sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value)


def codes(k: int, n: int, seed: int = 0) -> Array:
    """Codes (K, N) int8, each of -1, 0, +1 in every column."""
    t = np.random.default_rng(seed).integers(-1, 2, (k, n)).astype(np.int8)
    t[:3] = np.array([-1, 0, 1], np.int8)[:, None]
    return t


def activation_bound(x: Array, matrix: Array) -> Array:
    """max|dy| of int8 activations, a scale a row: a / 254 · sum|W| for each output, and a little for float32 sums."""
    absmax = np.abs(x).max(axis=-1, keepdims=True)
    return absmax * np.abs(matrix).sum(axis=0) * np.float32(1.01 / 254) + np.float32(1e-6)
