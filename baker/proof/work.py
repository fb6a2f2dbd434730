"""How much work a run of a model is, counted, so that what depends on it is the same on every machine."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from baker.model.graph import all_nodes, attribute, graphs, has_reference_attribute, is_op, shape_of
from baker.model.shapes import infer_shapes
from baker.proof.interface import Feed


def multiplications(model: ir.Model, feed: Feed) -> int:
    """Estimates the multiplications of one run: elements of all results, times the length of the sum behind each.

    Dims that are still unknown when those of the inputs are known count as 1, and a Loop's body counts once.

    Args:
        feed: inputs by name; only their shapes are looked at.
    """
    return sum(
        _elements(value) * _sum_length(node) for node in all_nodes(_sized(model, feed)) for value in node.outputs
    )


def _sized(model: ir.Model, feed: Feed) -> ir.Model:
    """The model with shapes as they are for one feed; itself where its shapes don't depend on it."""
    if all(None not in (shape_of(value) or (None,)) for node in model.graph for value in node.outputs):
        return model
    sized = model.clone()
    for value in sized.graph.inputs:
        if isinstance(feed.get(value.name or ""), np.ndarray):
            value.shape = ir.Shape(feed[value.name or ""].shape)
    for graph in graphs(sized):
        for value in (value for node in graph for value in node.outputs):
            value.shape = None
    sized.graph.outputs.clear()  # inference leaves those as they are declared
    infer_shapes(sized)
    return sized


def _elements(value: ir.Value) -> int:
    return math.prod(dim or 1 for dim in shape_of(value) or ())


def _sum_length(node: ir.Node) -> int:
    """How many products are summed for one element of the result."""
    if is_op(node, "Conv", "ConvTranspose"):
        dims = shape_of(node.inputs[1]) or ()
        return math.prod(dim or 1 for dim in dims[1:])
    if is_op(node, "Gemm", "MatMul"):
        dims = shape_of(node.inputs[0]) or ()
        inner = dims[-1:] or (1,)
        if node.op_type == "Gemm" and not has_reference_attribute(node) and attribute(node, "transA", 0):
            inner = dims[:1]
        return next(iter(inner)) or 64
    if is_op(node, "LSTM", "GRU", "RNN"):
        return 4 * math.prod(dim or 1 for dim in (shape_of(node.inputs[1]) or ())[2:])
    return 1
