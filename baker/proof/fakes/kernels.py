"""Layers that claim integer or ternary weights, and the kernels that ONNX Runtime runs for them."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from baker.errors import ModelError
from baker.proof.fakes.layers import Layer, layers, named
from baker.proof.recorder import Recorder
from baker.proof.verdict import Finding
from baker.runtime.audit import KernelAudit


def kernel_findings(recorder: Recorder, original: ir.Model, candidate: ir.Model) -> Iterator[Finding]:
    """Yields layers with integer weights that ONNX Runtime's default level runs in float.

    Weights of a few bits that a packed kernel expands as it goes (MatMulNBits) are what they claim to be. Nothing is
    said where the original has as many such layers.
    """
    claims = _claims(candidate)
    if len(claims) <= len(_claims(original)):
        return
    try:
        audit = recorder.audit(candidate)
    except ModelError:
        return  # whoever ran it at the default level has said so
    named_ones, count = _in_float(claims, audit, len(layers(candidate)) - len(claims))
    if not count:
        return
    shown = f"layers {named([layer.name for layer in named_ones])}" if named_ones else f"{count} of the layers"
    told = f"claim {_kinds(claims)} weights, and ONNX Runtime runs float kernels for them"
    if all(layer.stored for layer in named_ones) and len(named_ones) >= count:
        what = f"keep {_kinds(claims)} weights and compute in float: a smaller file, not a faster one"
        yield Finding("float-kernels", shown, f"{what}; {len(claims) - count} of {len(claims)} are fast.", "warning")
        return
    if count >= len(claims):
        what = f"{told}: no layer is left that gains by it. Quantize their inputs, too, or leave them float."
        yield Finding("float-kernels", shown, what)
        return
    yield Finding("float-kernels", shown, f"{told}; {len(claims) - count} of {len(claims)} run as claimed.", "warning")


def _claims(model: ir.Model) -> list[Layer]:
    return [layer for layer in layers(model) if layer.integer or layer.low_bits or (layer.rounded and layer.floats)]


def _in_float(claims: list[Layer], audit: KernelAudit, others: int) -> tuple[list[Layer], int]:
    """Which claims run float kernels, as far as they keep their names in the optimized graph, and how many.

    Args:
        others: how many layers claim nothing; a float kernel more than these belongs to a claim.
    """
    packed = sum(use.kernel == "float" and "NBits" in use.op for use in audit.nodes)
    if not audit.integer + audit.ternary + packed:
        return claims, len(claims)
    floating = {use.node for use in audit.nodes if use.kernel == "float" and "NBits" not in use.op}
    known = [layer for layer in claims if {layer.node.name, layer.node.outputs[0].name} & floating]
    return known, min(max(len(known), audit.float - packed - others), len(claims) - 1)


def _kinds(claims: list[Layer]) -> str:
    types = {value.dtype.name.lower() for layer in claims for value in layer.weights if value.dtype is not None}
    return ", ".join(sorted(name for name in types if "int" in name)) or "quantized"
