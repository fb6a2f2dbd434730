"""What tests of merged ternary layers build their models from, and what they hold the merged ones to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from helpers import Feed, outputs
from ternary_tools import Sketch, codes

from baker.model.graph import all_nodes, constant_before, emit, index_names, remove_if_dead, replace_value
from baker.model.lower import lower
from baker.model.save import to_bytes
from baker.model.shapes import infer_shapes
from baker.passes.ternary import Ternary
from baker.passes.ternary.merge._layer import TernaryLayer
from baker.pipeline.pass_base import PassContext, PassResult
from baker.proof.interface import compare_interfaces

D = 96
"""The width of the models."""


def linear(
    sketch: Sketch, x: ir.Value, n: int, seed: int, *, depth: int = D, scale: str = "equal", bias: bool = False
) -> ir.Value:
    """A ternary linear layer; scales per tensor and equal or different, or in groups of 32."""
    rng = np.random.default_rng(seed)
    scales = {
        "equal": np.full((1, 1), 0.0625),
        "different": np.full((1, 1), 0.0625 + 0.01 * seed),
        "group": np.repeat(rng.uniform(0.05, 0.1, (-(-depth // 32), n)), 32, axis=0)[:depth],
    }
    y = sketch.op("MatMul", x, sketch.weight((codes(depth, n, seed) * scales[scale]).astype(np.float32), f"fc{seed}"))
    return sketch.op("Add", y, sketch.weight(rng.standard_normal(n).astype(np.float32), f"b{seed}")) if bias else y


def silu(sketch: Sketch, y: ir.Value) -> ir.Value:
    """y * Sigmoid(y)."""
    return sketch.op("Mul", y, sketch.op("Sigmoid", y))


def rms_norm(sketch: Sketch, x: ir.Value, form: str) -> ir.Value:
    """A normalization of the last axis, in one of the ways in which it is written."""
    gamma = sketch.weight((1 + 0.2 * np.random.default_rng(7).standard_normal(D)).astype(np.float32))
    if form == "operator":
        return sketch.op("RMSNormalization", x, gamma, axis=-1, epsilon=1e-6)
    if form == "SimplifiedLayerNormalization":
        return sketch.op(form, x, gamma, axis=-1, epsilon=1e-6)
    axes = {"axes": [-1]} if sketch.opset < 18 else {}
    more = [] if axes else [sketch.constant([-1], np.int64)]
    mean = sketch.op("ReduceMean", sketch.op("Pow", x, sketch.constant(2.0)), *more, keepdims=1, **axes)
    root = sketch.op("Sqrt", sketch.op("Add", mean, sketch.constant(1e-6)))
    if form == "div":
        return sketch.op("Mul", gamma, sketch.op("Div", x, root))
    normal = sketch.op("Mul", x, sketch.op("Reciprocal", root))
    return normal if form == "without gamma" else sketch.op("Mul", normal, gamma)


def shaped(model: ir.Model) -> ir.Model:
    """The model with what shape inference knows, as lowering leaves it."""
    infer_shapes(model)
    index_names(model)
    return model


def ternary_nodes(model: ir.Model) -> list[ir.Node]:
    """All TernaryMatMul nodes, of all graphs."""
    return [node for node in all_nodes(model) if node.op_type == "TernaryMatMul"]


def expanded(model: ir.Model) -> ir.Model:
    """A copy in which each merged node is written as a plain TernaryMatMul and standard operators around it."""
    copy = model.clone()
    index_names(copy)
    copy.graph.opset_imports["com.microsoft"] = 1
    for node in ternary_nodes(copy):
        layer = TernaryLayer.of(node)
        assert layer is not None
        if len(node.inputs) > 4 or {"splits", "activation"} & set(node.attributes):
            for old, new in zip(node.outputs, _written_out(node, layer), strict=True):
                replace_value(old, new)
            remove_if_dead(*node.outputs)
    return copy


def _written_out(node: ir.Node, layer: TernaryLayer) -> Sequence[ir.Value]:
    def op(op_type: str, *inputs: ir.Value, domain: str = "", **attributes: Any) -> ir.Value:
        return emit(node, op_type, inputs, attributes, domain=domain).outputs[0]

    x = layer.x
    if layer.gamma is not None:
        x = op("SimplifiedLayerNormalization", x, layer.gamma, axis=-1, epsilon=layer.epsilon)
    inputs = [value for value in (x, layer.codes, layer.scale, layer.bias) if value is not None]
    y = op("TernaryMatMul", *inputs, domain="ai.baker", K=layer.depth, group=layer.group)
    if layer.activation == "Silu":
        y = op("Mul", y, op("Sigmoid", y))
    elif layer.activation == "Relu":
        y = op("Relu", y)
    elif layer.activation:
        y = op({"Gelu": "Gelu", "GeluTanh": "FastGelu"}[layer.activation], y, domain="com.microsoft")
    if layer.residual is not None:
        y = op("Add", y, layer.residual)
    if len(layer.sizes) == 1:
        return [y]
    sizes = constant_before(node, "sizes", np.array(layer.sizes, np.int64))
    return emit(node, "Split", [y, sizes], {"axis": -1}, outputs=len(layer.sizes)).outputs


def held(model: ir.Model, feed: Feed, *, exact: bool = False) -> PassResult:
    """Runs the pass with its fusions in place, and compares the result with the pass without them.

    Both are sessions of ONNX Runtime, and so is the result with its merged nodes written out as what they stand for.

    ``exact``: to the bit. Else within float32 rounding but for at most one channel in a hundred, where the rounding of
    an activation to int8 may have gone the other way; it moves an output by a step of int8, 1 / 127 of the largest
    activation times a weight's scale, and by less than 1 % of the largest output here.
    """
    plain = model.clone()
    index_names(plain)
    Ternary(fuse=False).run(plain, PassContext())
    expected = outputs(plain, feed)
    index_names(model)
    result = Ternary(fuse=True).run(model, PassContext())
    assert compare_interfaces(plain, model) is None
    saved = lower(onnx.load_model_from_string(to_bytes(model)))
    for one in (model, saved):
        for found in (outputs(one, feed), outputs(expanded(one), feed)):
            for name, wanted in expected.items():
                _compare(found[name], wanted, exact=exact, name=name)
        assert not Ternary(fuse=True).run(one, PassContext()).changes
    return result


def _compare(found: np.ndarray, wanted: np.ndarray, *, exact: bool, name: str) -> None:
    if exact:
        np.testing.assert_array_equal(found, wanted, err_msg=name)
        return
    assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape), name
    off = np.abs(found - wanted) / np.abs(wanted).max()
    assert off.max() <= 0.01, name
    assert (off > 4e-6).mean() <= 0.1, name
