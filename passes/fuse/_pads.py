"""The pads of a Pad, and what it pads with."""

from __future__ import annotations

import onnx_ir as ir

from baker.model.graph import attribute
from baker.passes.fuse._rule import ints, scalar


def pad_value(pad: ir.Node) -> float | None:
    """The number that a Pad of mode constant adds, None where it is not constant."""
    if "value" in pad.attributes or len(pad.inputs) < 3 or pad.inputs[2] is None:
        return float(attribute(pad, "value", 0.0))
    return scalar(pad.inputs[2])


def all_pads(pad: ir.Node, rank: int) -> list[int] | None:
    """The pads of every axis, all begins and then all ends; None where they are not constant."""
    given = attribute(pad, "pads", None)
    pads = list(given) if given is not None else ints(pad.inputs[1]) if len(pad.inputs) > 1 else None
    axes: list[int] | None = list(range(rank))
    if len(pad.inputs) > 3 and pad.inputs[3] is not None:
        axes = ints(pad.inputs[3])
    if pads is None or axes is None or len(pads) != 2 * len(axes) or any(not -rank <= axis < rank for axis in axes):
        return None
    full = [0] * 2 * rank
    for index, axis in enumerate(axes):
        full[axis % rank], full[rank + axis % rank] = pads[index], pads[len(axes) + index]
    return full


def spatial_pads(pad: ir.Node, rank: int) -> list[int] | None:
    """Begins and ends of the axes from 2 on; None where axes 0 or 1 are padded, or something is not constant."""
    full = all_pads(pad, rank)
    if full is None or rank < 3 or any(full[side + axis] for side in (0, rank) for axis in (0, 1)):
        return None
    return [*full[2:rank], *full[rank + 2 :]]
