"""The activation of a linear layer: what stands between the tensor the network computes and the product.

`ai.baker::TernaryMatMul` quantizes each row of its input to int8 by itself. A network trained that way has the same
arithmetic in its graph, in as many forms as there are exporters and ways to write it:

    a = max(max|x|, eps) over a row      s = 127 / a      x' = round(x * s) / s

It is recognized by what it computes: the part of the graph between a candidate x and the layer is run on probe rows
and compared with the op's own quantization. A Quantize-Dequantize pair on the way is an approximation of what the
network computes, and undone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from baker.model.graph import Array, is_constant, is_op
from baker.passes.ternary.subgraph import Evaluator, without_qdq

_PARTS = frozenset(
    (
        *("Abs", "Add", "Cast", "CastLike", "Clip", "Div", "Equal", "Expand", "Floor", "Greater", "Identity", "Less"),
        *("Max", "Min", "Mul", "Neg", "Reciprocal", "Round", "Shape", "Sign", "Sub", "Where"),
        *("ReduceMax", "ReduceMin", "Squeeze", "Unsqueeze", "QuantizeLinear", "DequantizeLinear"),
    )
)
"""Operators that such a quantization is written with."""

_MAX_NODES = 40

_MAGNITUDES = (1e-3, 1e-2, 0.1, 1.0, 1.0, 10.0, 1e2, 1e3)
"""Of the probe rows. All above the op's smallest absmax of 1e-5: a chain with another such limit differs only below."""

_STEP = 1.0 / 127.0  # of a row's absmax
_TIES = 0.02
"""Share of probe values that may round the other way: x / (a / 127) and x * (127 / a) differ in the last bit."""


@dataclass(frozen=True)
class Activation:
    """What a linear layer multiplies.

    Attributes:
        plain: what it reads, before Quantize-Dequantize pairs.
        source: before the network's own per-row int8 quantization, too; ``plain`` where there is none.
    """

    plain: ir.Value
    source: ir.Value

    @property
    def quantized(self) -> bool:
        """True when the network itself quantizes each row to int8."""
        return self.source is not self.plain


def resolve(value: ir.Value, depth: int, evaluator: Evaluator) -> Activation:
    """Looks for the per-row int8 quantization in front of a layer.

    Args:
        value: what the layer reads, float32 [..., K].
        depth: K.
    """
    plain = without_qdq(value)
    if _is_integer_conv(plain):
        return Activation(value, value)
    for source in _candidates(plain):
        if source.dtype in (None, ir.DataType.FLOAT) and _quantizes_rows(plain, source, depth, evaluator):
            return Activation(plain, source)
    return Activation(plain, plain)


def _is_integer_conv(value: ir.Value) -> bool:
    """True when an int8 Conv makes the value: without a QuantizeLinear behind it, ONNX Runtime leaves it in float."""
    node = value.producer()
    if is_op(node, "Relu", "Clip") and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    if not is_op(node, "Conv") or node.inputs[1] is None:
        return False
    return is_op(node.inputs[1].producer(), "DequantizeLinear")


def _candidates(value: ir.Value) -> Iterator[ir.Value]:
    """Tensors on the way to the value whose largest magnitude is taken, nearest first."""
    seen: dict[ir.Node, None] = {}
    pending = [value.producer()]
    while pending and len(seen) < _MAX_NODES:
        node = pending.pop(0)
        if node is None or node in seen or node.op_type not in _PARTS:
            continue
        seen[node] = None
        if node.op_type == "ReduceMax" and node.inputs[0] is not None:
            inner = without_qdq(node.inputs[0])
            absolute = inner.producer()
            if is_op(absolute, "Abs") and absolute.inputs[0] is not None:
                inner = without_qdq(absolute.inputs[0])
            yield inner
            continue
        pending += [read.producer() for read in node.inputs if read is not None and not is_constant(read)]


def _quantizes_rows(value: ir.Value, source: ir.Value, depth: int, evaluator: Evaluator) -> bool:
    """True when the value is the int8 fake quantization of each row of the source."""
    for leading in _leading_dims(source, value):
        probe = _probe(leading, depth)
        result = evaluator.compute(value, {source: probe})
        if result is None or not _close(result, probe):
            return False
    return True


def _leading_dims(source: ir.Value, value: ir.Value) -> list[tuple[int, ...]]:
    """The shapes to probe with, all axes but the last. Where the rank is unknown it must hold at two and three axes."""
    shape = source.shape if source.shape is not None else value.shape
    ranks = (2, 3) if shape is None else (len(shape),)
    rows = len(_MAGNITUDES)
    return [(2,) * (rank - 2) + (rows,) if rank > 1 else () for rank in ranks]


def _probe(leading: tuple[int, ...], depth: int) -> Array:
    """Rows of many magnitudes, some of one sign, some with the largest value first or last."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((*leading, depth))
    if leading:
        rows *= np.array(_MAGNITUDES)[:, None]
        rows[..., 0, :] = np.abs(rows[..., 0, :])
        rows[..., 1, :] = -np.abs(rows[..., 1, :])
        rows[..., 2, 0] = -7 * np.abs(rows[..., 2, :]).max()
        rows[..., 3, -1] = 7 * np.abs(rows[..., 3, :]).max()
    return rows.astype(np.float32)


def _close(result: Array, probe: Array) -> bool:
    """Compares with the op's quantization: the same but for rounding, and for a few ties that fall the other way."""
    if result.shape != probe.shape:
        return False
    absmax = np.maximum(np.abs(probe).max(axis=-1, keepdims=True), np.float32(1e-5))
    expected = np.rint(probe * (np.float32(127) / absmax)) * (absmax / np.float32(127))
    error = np.abs(result - expected) / absmax
    return bool(np.mean(error > 1e-5) <= _TIES and (error <= 1.01 * _STEP).all())
