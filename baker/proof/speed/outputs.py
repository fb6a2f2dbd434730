"""What two models gave out for the same inputs while they were timed, and whether a speed may be claimed for that."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from baker.model.graph import Array
from baker.proof.numerics import (
    FLOAT_TOLERANCE,
    HALF_TOLERANCE,
    OutputError,
    bit_equal,
    compare,
    excess,
    is_float,
    moves,
    peak,
)

APPROXIMATION = 10.0
"""Outputs that differ by more than this SQNR in dB leaves are not called an approximation."""

Kind = Literal["bit-equal", "equal up to rounding", "different", "broken"]


@dataclass(frozen=True)
class Agreement:
    """How the outputs of two models compare.

    Attributes:
        kind: of all outputs together.
        samples: inputs compared.
        errors: of each output.
        problem: why no speed may be claimed, or "".
        remark: what must be said beside a claim, or "".
    """

    kind: Kind
    samples: int
    errors: Mapping[str, OutputError] = field(default_factory=dict)
    problem: str = ""
    remark: str = ""


def compare_outputs(
    names: Sequence[str],
    reference: Sequence[Sequence[Array]],
    candidate: Sequence[Sequence[Array]],
    *,
    unsteady: Mapping[str, int],
) -> Agreement:
    """Compares outputs, sample by sample.

    Args:
        names: of the outputs, in order.
        reference, candidate: for each sample an array for each output.
        unsteady: for arms a and b how often an output differed from what the same input had given before.
    """
    before = {name: [sample[place] for sample in reference] for place, name in enumerate(names)}
    after = {name: [sample[place] for sample in candidate] for place, name in enumerate(names)}
    errors = {name: compare(before[name], after[name]) for name in names}
    problem = next(filter(None, (_problem(name, before[name], after[name]) for name in names)), "")
    if not problem and unsteady["b"] and not unsteady["a"]:
        problem = "its outputs change from run to run on the same input, and those of the reference don't"
    kind = _kind(before, after)
    if problem:
        return Agreement("broken", len(reference), errors, problem)
    remark = f"the outputs differ: {_worst(errors.values())}"
    if kind == "different" and unsteady["a"]:
        remark = "the outputs of both models change from run to run: they can't be compared"
    return Agreement(kind, len(reference), errors, "", remark if kind == "different" else "")


def _problem(name: str, before: Sequence[Array], after: Sequence[Array]) -> str:
    for old, new in zip(before, after, strict=True):
        if old.shape != new.shape:
            return f"output '{name}' has shape {new.shape}; the reference's is {old.shape}"
        if is_float(old) and is_float(new) and bool(np.isfinite(old).all()) and not bool(np.isfinite(new).all()):
            return f"output '{name}' holds NaN or infinity; the reference's are finite"
    if moves(before, None) and not moves(after, None):
        return f"output '{name}' is the same for every input; the reference's is not"
    return ""


def _kind(before: Mapping[str, Sequence[Array]], after: Mapping[str, Sequence[Array]]) -> Kind:
    worst = max((_excess(before[name], after[name]) for name in before), default=0.0)
    if worst == 0 and all(bit_equal(*pair) for name in before for pair in zip(before[name], after[name], strict=True)):
        return "bit-equal"
    return "equal up to rounding" if worst <= 1 else "different"


def _excess(before: Sequence[Array], after: Sequence[Array]) -> float:
    """The largest error as a multiple of what rounding may do."""
    half = any(array.dtype.itemsize < 4 for array in (*before, *after) if is_float(array))
    tolerance = HALF_TOLERANCE if half else FLOAT_TOLERANCE
    return max((excess(a, b, tolerance, peak([a])) for a, b in zip(before, after, strict=True)), default=0.0)


def _worst(errors: Iterable[OutputError]) -> str:
    found = min((error.sqnr_db for error in errors), default=math.inf)
    if found >= APPROXIMATION:
        return f"an approximation, SQNR {found:.1f} dB"
    shown = "beyond measure" if math.isinf(found) else f"SQNR {found:.1f} dB"
    return f"not the same function, {shown}"
