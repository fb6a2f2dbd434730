"""Whether what a model says of its values, without any run needing it, is so: types, shapes, constants on the side."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from baker.errors import ModelError
from baker.model.graph import Array, all_nodes
from baker.model.shapes import infer_shapes
from baker.proof.divergence import parts, values_of
from baker.proof.interface import Feed


def annotation_fault(
    model: ir.Model, feed: Feed, *, threads: int | None = None, custom_ops: str | None = None
) -> str | None:
    """Returns which value of the main graph is not what the model says of it, or None.

    No run shows that, since what is only inferred is not handed to the runtime; but a pass may believe it.

    Args:
        feed: the input on which it is looked at.
    """
    values = {value.name: value for node in model.graph for value in node.outputs if value.name}
    for part in parts(model, list(values), feed):
        try:
            found = values_of(model, part, feed, threads, custom_ops)
        except ModelError:
            return None  # what can't be run is found fault with elsewhere
        for name, array in found.items():
            fault = _fault(values[name], array)
            if fault is not None:
                return fault
    return None


def inferred_anew(model: ir.Model) -> ir.Model:
    """Returns a copy of which nothing is known but what inference finds."""
    copy = model.clone()
    for node in all_nodes(copy):
        for value in node.outputs:
            value.const_value = None
            if not value.is_graph_output():
                value.type = value.shape = None
    infer_shapes(copy)
    return copy


def _fault(value: ir.Value, array: Array) -> str | None:
    if not isinstance(value.type, ir.TensorType | None):
        return None  # a sequence or an optional, which `array` stands for
    if value.shape is not None and not _fits(value.shape, array):
        return f"'{value.name}' is said to have the shape {value.shape}, and has {list(array.shape)}"
    dtype = None if value.dtype is None else value.dtype.numpy()
    if dtype is not None and dtype.kind in "fiub" and array.dtype.kind in "fiub" and dtype != array.dtype:
        return f"'{value.name}' is said to be {dtype}, and is {array.dtype}"
    constant = None if value.const_value is None else value.const_value.numpy()
    if constant is not None and not np.array_equal(constant, array, equal_nan=array.dtype.kind == "f"):
        return f"'{value.name}' is said to be a constant, and is another"
    return None


def _fits(shape: ir.Shape, array: Array) -> bool:
    dims = [dim if isinstance(dim, int) else None for dim in shape]
    return len(dims) == array.ndim and all(a is None or a == b for a, b in zip(dims, array.shape, strict=True))
