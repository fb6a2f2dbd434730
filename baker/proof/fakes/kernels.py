"""Layers that claim integer or ternary weights, and the kernels that ONNX Runtime runs for them."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from baker.errors import ModelError
from baker.proof.fakes.layers import Layer, layers, named
from baker.proof.verdict import Finding
from baker.runtime.audit import KernelAudit, audit_kernels


def kernel_findings(original: ir.Model, candidate: ir.Model, custom_ops: str | None) -> Iterator[Finding]:
    """Yields layers with integer weights that ONNX Runtime's default level runs in float.

    Weights of a few bits that a packed kernel expands as it goes (MatMulNBits) are what they claim to be. Nothing is
    said where the original has as many such layers.
    """
    claims = _claims(candidate)
    if len(claims) <= len(_claims(original)):
        return
    try:
        audit = audit_kernels(candidate, custom_ops=custom_ops)
    except ModelError:
        return  # whoever ran it at the default level has said so
    broken = _in_float(claims, audit)
    if not broken:
        return
    told = f"claim {_kinds(broken)} weights, and ONNX Runtime runs float kernels for them"
    if len(broken) == len(claims):
        what = f"{told}: no layer is left that gains by it. Quantize their inputs, too, or leave them float."
        yield Finding("float-kernels", f"layers {named([layer.name for layer in broken])}", what)
        return
    what = f"{told}; {len(claims) - len(broken)} of {len(claims)} are what they claim."
    yield Finding("float-kernels", f"layers {named([layer.name for layer in broken])}", what, "warning")


def _claims(model: ir.Model) -> list[Layer]:
    return [layer for layer in layers(model) if layer.integer or layer.low_bits or (layer.rounded and layer.floats)]


def _in_float(claims: list[Layer], audit: KernelAudit) -> list[Layer]:
    """Those that stand in the optimized graph under their name, or that of their output, as float kernels."""
    floating = {use.node for use in audit.nodes if use.kernel == "float" and "NBits" not in use.op}
    real = audit.integer + audit.ternary + sum(use.kernel == "float" and "NBits" in use.op for use in audit.nodes)
    by_name = [layer for layer in claims if {layer.node.name, layer.node.outputs[0].name} & floating]
    return by_name if by_name or real else (claims if audit.float else [])


def _kinds(claims: list[Layer]) -> str:
    types = {value.dtype.name.lower() for layer in claims for value in layer.weights if value.dtype is not None}
    return ", ".join(sorted(name for name in types if "int" in name)) or "quantized"
