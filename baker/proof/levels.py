"""Whether ONNX Runtime's optimizer computes what the graph says, and which layer it gets wrong.

Fusing a quantized graph moves its outputs honestly: other kernels round elsewhere. What is not honest is an error
against the reference that grows by it, as in ONNX Runtime 1.32 when INT2 DequantizeLinear feeds a MatMul whose N is not
a multiple of 4.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

import onnx
import onnx_ir as ir

from baker.errors import ModelError
from baker.model.graph import Array, label
from baker.proof.divergence import exposing
from baker.proof.interface import Feed
from baker.proof.numerics import compare, is_float
from baker.runtime.session import run, session

RATIO = 1.5
"""An error at the default level that is this many times the error with the optimizer off is a fault."""

SAMPLES = 2
"""How many samples a first look takes."""

MORE_SAMPLES = 16
"""How many a suspicion is followed up on: one flipped rounding can carry a deep network's output away on any sample."""

QUIET_DB = 20.0
"""A result as good as this is not looked at: int8 kernels round activations that the unfused graph leaves alone."""

_MAX_PROTO_BYTES = 2**31 - 1


def grown_error(
    reference: Sequence[Array], default: Sequence[Array], plain_reference: Sequence[Array], plain: Sequence[Array]
) -> tuple[float, float] | None:
    """Returns the relative L2 errors at the default level and with the optimizer off, where the first is a fault.

    It is one where it is `RATIO` times the second over all samples and over the median of single ones: an honest
    network is as often worse off without the optimizer.

    Args:
        reference, default: the reference's and the candidate's output at the default level, for some samples.
        plain_reference, plain: the same with the optimizer off.
    """
    fused, unfused = compare(reference, default).rel_l2, compare(plain_reference, plain).rel_l2
    if fused == 0 or fused < RATIO * unfused:
        return None
    each = zip(reference, default, plain_reference, plain, strict=True)
    pairs = [(compare([a], [b]).rel_l2, compare([c], [d]).rel_l2) for a, b, c, d in each]
    typical = statistics.median(math.inf if without == 0 else with_it / without for with_it, without in pairs)
    return (fused, unfused) if typical >= RATIO else None


def first_wrong_layer(
    model: ir.Model, optimized: onnx.ModelProto, feed: Feed, *, threads: int | None, custom_ops: str | None
) -> str | None:
    """Names the first layer that the optimizer changes much: ``MatMul 'fc' (run as com.microsoft.MatMulNBits)``.

    Values that keep their name through the optimizer are compared between a run of the optimized graph and one of the
    plain graph; the first whose difference reaches half of the largest is the culprit.

    Args:
        model: the candidate.
        optimized: what ONNX Runtime's default level makes of it.
        feed: the sample to compare on.

    Returns:
        None where no layer can be named.
    """
    if optimized.ByteSize() > _MAX_PROTO_BYTES:
        return None
    nodes = {value.name: node for node in model.graph for value in node.outputs if value.name}
    kernels = {name: node for node in optimized.graph.node for name in node.output if name in nodes}
    try:
        plain = run(session(exposing(model, kernels), optimize=False, threads=threads, custom_ops=custom_ops), feed)
        exposed = _exposing_proto(optimized, kernels)
        fused = run(session(exposed, optimize=False, threads=threads, custom_ops=custom_ops), feed)
    except ModelError:
        return None  # an operator of the optimized graph does not load by itself; the caller still names the output
    found = _differences(kernels, plain, fused)
    top = max((difference for difference in found.values() if math.isfinite(difference)), default=0.0)
    culprit = next((name for name, difference in found.items() if difference >= top / 2 > 0), None)
    if culprit is None:
        return None
    kernel = kernels[culprit]
    shown = f"{kernel.domain}.{kernel.op_type}" if kernel.domain else kernel.op_type
    return f"{nodes[culprit].op_type} '{label(nodes[culprit])}' (run as {shown})"


def _differences(
    names: Mapping[str, object], plain: Mapping[str, Array], fused: Mapping[str, Array]
) -> dict[str, float]:
    """Relative L2 differences of floating-point values that kept their shape, in the optimized graph's order."""
    same = [name for name in names if is_float(plain[name]) and plain[name].shape == fused[name].shape]
    return {name: compare([plain[name]], [fused[name]]).rel_l2 for name in same}


def _exposing_proto(optimized: onnx.ModelProto, names: Mapping[str, object]) -> onnx.ModelProto:
    present = {value.name for value in optimized.graph.output}
    optimized.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in present)
    return optimized
