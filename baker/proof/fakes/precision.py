"""Precision that was given up without anybody having asked: a narrower type, or quantization, in a lossless rewrite."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from baker.model.graph import Array, all_nodes, attribute, graphs, has_reference_attribute, is_constant, is_op, label
from baker.model.pages import looked_at
from baker.proof.fakes.layers import NARROW, Layer, layers, named
from baker.proof.verdict import Finding

LOSSLESS = 2e-6
"""Narrower storage of weights is lossless where no output's relative L2 error is above this: float16 leaves 1e-4."""

ELEMENTS = 64
"""Weights of fewer elements may have short mantissas by chance."""

UNUSED_BITS = np.uint32(0xFFF)
"""The last 12 of the 23 mantissa bits: zero in TF32, bfloat16 and float16 numbers."""

_MOVERS = {"Cast", "Constant", "Identity", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "DequantizeLinear"}
_QUANTIZERS = ("QuantizeLinear", "DynamicQuantizeLinear")


def precision_findings(original: ir.Model, candidate: ir.Model, error: float) -> Iterator[Finding]:
    """Yields what a candidate that was declared to be lossless computes or stores in less precision.

    Args:
        error: the largest relative L2 error of its outputs.
    """
    yield from _narrow_types(original, candidate, error)
    yield from _quantization(original, candidate, error)
    yield from narrowed_weights(original, candidate, same_function=True)


def _narrow_types(original: ir.Model, candidate: ir.Model, error: float) -> Iterator[Finding]:
    fresh = _narrow(candidate) - _narrow(original)
    if fresh:
        shown = ", ".join(sorted(dtype.name.lower() for dtype in fresh))
        computing = [label(node) for node in all_nodes(candidate) if _computes_in(node, fresh)]
        if computing:
            what = f"computes in {shown}, which the reference does nowhere; nobody declared a loss. Give a --budget."
            yield Finding("undeclared-precision", f"node {named(computing)}", what)
            return
        stored = [value.name or "" for graph in graphs(candidate) for value in graph.initializers.values()
                  if value.dtype in fresh]  # fmt: skip
        yield _stored("weights", stored, shown, error)
        return
    before, after = _narrow_layers(original), _narrow_layers(candidate)
    if len(after) > len(before):
        more = [name for name in after if name not in set(before)] or after
        what = f"computes in less than float32; {len(before)} layers of the reference do, {len(after)} here."
        yield Finding("undeclared-precision", f"layer {named(more)}", what)


def _stored(kind: str, names: list[str], shown: str, error: float) -> Finding:
    if error <= LOSSLESS:
        what = f"are stored in {shown}; the outputs show no loss."
        return Finding("undeclared-precision", f"{kind} {named(names)}", what, "note")
    what = f"are stored in {shown}, which the reference does nowhere; the outputs are off by {error:.2g}."
    return Finding("undeclared-precision", f"{kind} {named(names)}", f"{what} Give a --budget.")


def _narrow(model: ir.Model) -> set[ir.DataType]:
    found: set[ir.DataType | None] = {value.dtype for value in model.graph.inputs}
    for graph in graphs(model):
        found.update(value.dtype for value in graph.initializers.values())
        for node in graph:
            found.update(_given_out(node))
    return {dtype for dtype in found if dtype in NARROW}


def _given_out(node: ir.Node) -> Iterator[ir.DataType | None]:
    yield from (value.dtype for value in node.outputs)
    if is_op(node, "Cast") and not has_reference_attribute(node):
        yield ir.DataType(attribute(node, "to", 1))


def _computes_in(node: ir.Node, types: set[ir.DataType]) -> bool:
    """True for a node that gives out such a type, unless it only hands constants on."""
    if not types.intersection(dtype for dtype in _given_out(node) if dtype is not None):
        return False
    return node.op_type not in _MOVERS or not all(is_constant(value) for value in node.inputs if value is not None)


def _narrow_layers(model: ir.Model) -> list[str]:
    return [layer.name for layer in layers(model) if layer.node.outputs[0].dtype in NARROW]


def _quantization(original: ir.Model, candidate: ir.Model, error: float) -> Iterator[Finding]:
    known = {label(node) for node in all_nodes(original)}
    if not any(_rounds_activations(node) for node in all_nodes(original)):
        fresh = [label(node) for node in all_nodes(candidate) if _rounds_activations(node)]
        if fresh:
            what = "quantizes what the reference computes in float; nobody declared a loss. Give a --budget."
            yield Finding("undeclared-precision", f"node {named(fresh)}", what)
            return
    before = [layer for layer in layers(original) if _quantized(layer)]
    after = [layer for layer in layers(candidate) if _quantized(layer)]
    if len(after) > len(before):
        names = [layer.name for layer in after if layer.name not in known or not before]
        yield _stored("the weights of layers", names or [layer.name for layer in after], "integers", error)


def _rounds_activations(node: ir.Node) -> bool:
    if is_op(node, *_QUANTIZERS):
        return not is_constant(node.inputs[0])
    if node.op_type == "MatMulNBits":
        return bool(attribute(node, "accuracy_level", 0) == 4)
    return node.op_type.startswith(("QLinear", "Ternary", "DynamicQuantize")) or node.op_type.endswith("Integer")


def _quantized(layer: Layer) -> bool:
    return layer.integer or layer.low_bits or (layer.rounded and bool(layer.floats))


# ---- float32 that holds less -----------------------------------------------------------------------------------


def narrowed_weights(original: ir.Model, candidate: ir.Model, *, same_function: bool) -> Iterator[Finding]:
    """Yields float32 weights whose values were rounded to a narrower type, and are stored as float32 all the same."""
    before = _float_weights(original)
    names = []
    for name, array in _float_weights(candidate).items():
        if before.get(name) is array or not _short(array):
            continue
        rivals = [before[name]] if name in before else list(before.values())
        if any(_rounded(array, rival) for rival in rivals):
            names.append(name)
    if names:
        what = "hold the reference's values rounded to float16, bfloat16 or TF32, and are stored as float32."
        severity = "fail" if same_function else "warning"
        yield Finding("narrowed-weights", f"weights {named(names)}", what, severity)  # type: ignore[arg-type]


def _float_weights(model: ir.Model) -> dict[str, ir.TensorProtocol]:
    found = {}
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is not None and tensor.dtype == ir.DataType.FLOAT and tensor.size >= ELEMENTS:
            found[name] = tensor
    return found


def _short(tensor: ir.TensorProtocol) -> bool:
    """True where no element uses the last bits of its mantissa; the first elements decide in most cases."""
    looked_at(int(tensor.nbytes))
    flat = np.ascontiguousarray(tensor.numpy()).ravel()
    return not any((part.view(np.uint32) & UNUSED_BITS).any() for part in (flat[:ELEMENTS], flat) if part.size)


def _rounded(tensor: ir.TensorProtocol, rival: ir.TensorProtocol) -> bool:
    """True where the tensor is the rival, rounded."""
    if tuple(tensor.shape) != tuple(rival.shape) or _short(rival):
        return False
    one, other = _sample(tensor.numpy()), _sample(rival.numpy())
    top = float(np.abs(other).max(initial=0.0))
    return bool(np.allclose(one, other, rtol=2.0**-7, atol=2.0**-9 * top)) and not np.array_equal(one, other)


def _sample(array: Array) -> Array:
    flat = array.ravel()
    sample = np.array(flat[:: max(1, flat.size // 1024)])
    looked_at(array.nbytes)
    return sample
