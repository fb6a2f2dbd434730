"""Weights that were quantized in name only: on an integer grid, or behind a QuantizeLinear, and still float on disk."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir

from baker.model.graph import Array
from baker.proof.fakes.layers import INTEGERS, Layer, layers, named, tensor_size, weight_bytes
from baker.proof.fakes.precision import narrowed_weights
from baker.proof.verdict import Finding, Severity

LEVELS = 256
"""An integer grid has no more steps than this."""
ELEMENTS = 16
"""Fewer weights may lie on a grid by chance."""
SAMPLE = 4096
SAVED = 0.9
"""What is quantized for the better part takes no more than this part of the reference's bytes."""

_CLAIM = re.compile(r"(?<![a-z])(u?int(8|4|2)|w\d+a\d+|quanti[sz](ed|ation)|ternary|1\.58)", re.IGNORECASE)


def storage_findings(original: ir.Model, candidate: ir.Model, *, same_function: bool) -> Iterator[Finding]:
    """Yields what a candidate stores otherwise than it looks; what the original does as well is no finding."""
    before, after = layers(original), layers(candidate)
    if not same_function:
        saved = weight_bytes(candidate) < SAVED * weight_bytes(original)
        held = sum(layer.count for layer in after if layer.integer or layer.low_bits)
        yield from _behind_quantizers(before, after, held)
        yield from _on_a_grid(before, after, held, saved=saved)
        yield from narrowed_weights(original, candidate, same_function=False)
    yield from _twice(original, candidate)
    yield from _empty_claim(original, candidate, before, after)


def _behind_quantizers(before: Sequence[Layer], after: Sequence[Layer], held: int) -> Iterator[Finding]:
    """Float weights that a QuantizeLinear, Round or Cast of the graph rounds each time the model is loaded."""
    if any(layer.rounded and layer.floats for layer in before):
        return
    found = [layer for layer in after if layer.rounded and layer.floats]
    if found:
        severity: Severity = "fail" if sum(layer.count for layer in found) > held else "warning"
        names = list(dict.fromkeys(value.name or "" for layer in found for value in layer.floats))
        what = "are quantized in the graph and float on disk, so that nothing is saved. Store the integers."
        yield Finding("float-weights", f"weights {named(names)}", what, severity)


def _on_a_grid(before: Sequence[Layer], after: Sequence[Layer], held: int, *, saved: bool) -> Iterator[Finding]:
    """Float weights that are multiples of a step, as integers would be."""
    if any(layer.rounded for layer in before):
        return  # a trained ternary network computes them in its graph
    plain = {tensor_size(value) for layer in before for value in layer.floats if _grid(value)}
    found = {
        value.name or "": tensor_size(value)
        for layer in after
        if not layer.rounded
        for value in layer.floats
        if tensor_size(value) not in plain and _grid(value)
    }
    if found:
        severity: Severity = "fail" if sum(found.values()) > held and not saved else "warning"
        what = "hold multiples of a step, as 8 bits or fewer do, and are stored as float. Store the integers."
        yield Finding("float-weights", f"weights {named(list(found))}", what, severity)


def _grid(value: ir.Value) -> bool:
    """True where the weights lie on an integer grid: as a whole, or for each of the first slices of an outer axis."""
    if value.const_value is None:
        return False
    array = value.const_value.numpy()
    if array.ndim < 2 or array.size < ELEMENTS:
        return False
    flat = array.ravel()
    if on_grid(flat[:SAMPLE]) and on_grid(flat[-SAMPLE:]):
        return True
    by_first = [array[index].ravel()[:SAMPLE] for index in range(min(3, array.shape[0]))]
    by_last = [array[..., index].ravel()[:SAMPLE] for index in range(min(3, array.shape[-1]))]
    return any(all(on_grid(part) for part in parts) for parts in (by_first, by_last))


def on_grid(values: Array) -> bool:
    """True where numbers are whole multiples of one step, no more than 256 apart."""
    distinct = np.unique(values.astype(np.float64))
    if values.size < ELEMENTS or not 2 <= distinct.size <= LEVELS or not np.isfinite(distinct).all():
        return False
    steps = np.diff(distinct)
    step = float(steps.min())
    places = (distinct - distinct[0]) / step
    if step <= 1e-7 * float(np.abs(distinct).max()) or places[-1] > LEVELS:
        return False
    return bool(np.abs(places - np.rint(places)).max() <= 0.02)


# ---- both copies -----------------------------------------------------------------------------------------------


def _twice(original: ir.Model, candidate: ir.Model) -> Iterator[Finding]:
    known = set(original.graph.initializers)
    pairs = [pair for pair in _pairs(candidate) if not set(pair) <= known]
    if not pairs:
        return
    grown = weight_bytes(candidate) >= weight_bytes(original)
    names = [f"{one} = {other}" for one, other in pairs]
    what = "are stored as integers and as float. Keep the one that the model computes with."
    yield Finding("stored-twice", f"weights {named(names)}", what, "fail" if grown else "warning")


def _pairs(model: ir.Model) -> list[tuple[str, str]]:
    """Integer weights with the float weights that they are the integers of."""
    big = [value for value in model.graph.initializers.values() if tensor_size(value) >= ELEMENTS]
    floats = [value for value in big if value.dtype == ir.DataType.FLOAT and len(value.shape or ()) >= 2]
    integers = [value for value in big if value.dtype in INTEGERS and len(value.shape or ()) >= 2]
    return [
        (one.name or "", other.name or "")
        for one in integers
        for other in floats
        if _dims(one) == _dims(other) and _same_but_for_scale(one, other)
    ]


def _dims(value: ir.Value) -> tuple[object, ...]:
    return tuple(value.const_value.shape) if value.const_value is not None else ()


def _same_but_for_scale(one: ir.Value, other: ir.Value) -> bool:
    """By correlation over the elements; scales of channels and zero points leave it above 0.9 for the same weights."""
    if one.const_value is None or other.const_value is None:
        return False
    codes, weights = (
        tensor.numpy().ravel()[:SAMPLE].astype(np.float64) for tensor in (one.const_value, other.const_value)
    )
    codes, weights = codes - codes.mean(), weights - weights.mean()
    norm = float(np.linalg.norm(codes) * np.linalg.norm(weights))
    return norm > 0 and float(codes @ weights) / norm > 0.9


# ---- words -----------------------------------------------------------------------------------------------------


def _empty_claim(
    original: ir.Model, candidate: ir.Model, before: Sequence[Layer], after: Sequence[Layer]
) -> Iterator[Finding]:
    """The model's own metadata speaks of quantization, and no layer has integers."""
    if any(layer.integer or layer.low_bits for layer in after) or not after:
        return
    told = {**dict(original.metadata_props), **dict(original.graph.metadata_props)}
    says = {**dict(candidate.metadata_props), **dict(candidate.graph.metadata_props)}
    for key, text in says.items():
        if told.get(key) != text and _CLAIM.search(f"{key}={text}"):
            what = f"says '{text}', and the weights of all {len(after)} layers are float."
            yield Finding("empty-claim", f"metadata '{key}'", what)
