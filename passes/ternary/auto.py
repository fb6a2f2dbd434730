"""kernel=auto: the lowering of a ternary layer that is faster on this machine, for the rows that it multiplies.

What it picks depends on the machine, so two machines may be given two models; both compute the same within int8
rounding of the activations.
"""

from __future__ import annotations

from dataclasses import dataclass

from baker.passes.ternary import clock, contenders
from baker.passes.ternary.clock import Form, Shape
from baker.passes.ternary.rows import Use

OPERATORS: dict[Form, str] = {"baker": "TernaryMatMul", "ort": "MatMulNBits"}
_CANDIDATES: tuple[Form, ...] = ("baker", "ort")


@dataclass(frozen=True)
class Lowering:
    """Which operator a ternary layer becomes.

    Attributes:
        kernel: ``baker`` or ``ort``.
        why: the measured times, or what rules the other one out; empty where the user chose.
    """

    kernel: Form = "baker"
    why: str = ""


def lowering(kernel: str, depth: int, channels: int, group: int, use: Use) -> Lowering | str:
    """The lowering for a layer, or why it has none.

    Args:
        kernel: ``baker``, ``ort``, or ``auto``, which measures.
        depth: K.
        channels: N.
        group: weights along K that share a scale; 0: a whole channel.
    """
    shape = Shape(use.rows, depth, channels, group)
    for form in _CANDIDATES:
        if kernel == form:
            return contenders.hindrance(form, shape) or Lowering(form)
    timing = clock.measure(shape, forms=_CANDIDATES, threads=use.threads)
    fastest = timing.fastest(_CANDIDATES)
    if fastest is None:
        return "; ".join(timing.unavailable.values())
    if timing.unavailable:
        ((other, reason),) = timing.unavailable.items()
        return Lowering(fastest, f"{OPERATORS[other]} is not to be had: {reason}")
    slower = next(form for form in _CANDIDATES if form != fastest)
    times = [f"{OPERATORS[form]} {timing.micros[form]:.3g} us" for form in (fastest, slower)]
    return Lowering(fastest, f"measured here at M = {use.rows} ({use.origin}): {', '.join(times)}")
