"""Errors that are no rounding although a tolerance lets them pass: a factor, or an offset, common to all elements."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from baker.model.graph import Array
from baker.proof.judge import oracle_is_slow
from baker.proof.numerics import compare, is_float
from baker.proof.oracle import exact_outputs
from baker.proof.recorder import Recording
from baker.proof.traits import has_steps, uses_half
from baker.proof.verdict import Finding

LEAST = 3e-5
"""A relative factor or offset below this, some 250 units in the last place of float32, may be rounding."""

SHARE = 0.9
"""The part of the error's energy that the factor or the offset has to explain."""

CERTAIN = 0.999
"""A pattern that explains this part is none of rounding, even where no float64 run can tell."""

ELEMENTS = 64
"""A pattern in fewer elements may be chance."""

EFFECTIVE = 4
"""So many elements at least have to make up the output's energy: any error of a single one has a factor."""

OWN_SHARE = 0.25
"""Nothing is said where the original itself is this part of the deviation away from its float64 run."""


class Gain:
    """Fits candidate = (1 + gain) * reference, and candidate = reference + offset, over all samples of an output."""

    def __init__(self) -> None:
        self.count = 0
        self.error = self.squared = self.energy = 0.0
        # The same with each sample on a scale of 1, so that one of huge numbers does not speak for all.
        self.scaled = self.cross = self.weight = self.fourth = 0.0

    def add(self, reference: Array, candidate: Array) -> None:
        """Takes one sample; shapes that differ, and what is not finite, are left to others to judge."""
        if reference.shape != candidate.shape or reference.dtype != np.float32 or not is_float(candidate):
            return
        wide = reference.astype(np.float64).ravel()
        with np.errstate(invalid="ignore"):  # infinities are for others to judge
            error = candidate.astype(np.float64).ravel() - wide
        energy = float(wide @ wide)
        if not energy or not (np.isfinite(error).all() and np.isfinite(energy)):
            return
        self.count += wide.size
        self.error += float(error.sum())
        self.squared += float(error @ error)
        self.energy += energy
        unit = energy / wide.size
        self.scaled += float(error @ error) / unit
        self.cross += float(error @ wide) / unit
        self.weight += wide.size
        self.fourth += float(np.square(wide * wide / unit).sum())

    def pattern(self) -> tuple[str, float, float] | None:
        """What the error is, in words, its size relative to the output, and the part of the energy that it explains.

        None where the error looks like rounding.
        """
        if self.count < ELEMENTS or not self.squared:
            return None
        gain, offset, scale = self.cross / self.weight, self.error / self.count, math.sqrt(self.energy / self.count)
        share = gain * gain * self.weight / self.scaled if self.weight**2 >= EFFECTIVE * self.fourth else 0.0
        if abs(gain) >= LEAST and share >= SHARE:
            return f"the reference's times {1 + gain:.6f}", abs(gain), share
        share = offset * offset * self.count / self.squared
        if abs(offset) >= LEAST * scale and share >= SHARE:
            return f"the reference's {offset:+.3g}", abs(offset) / scale, share
        return None

    def finding(self, name: str, original: ir.Model, recording: Recording) -> Finding | None:
        """Judges the pattern of output ``name``; a float64 run tells whether the original itself is that far off."""
        found = self.pattern()
        if found is None or uses_half(original):
            return None
        shown, size, share = found
        if has_steps(original) and share < CERTAIN:
            return None
        exact: list[dict[str, Array]] | str = "it would take minutes"
        if not oracle_is_slow(original, recording):
            exact = exact_outputs(original, recording.feeds[:1], recording.outputs[:1])
        if not isinstance(exact, str):
            own = compare([np.asarray(exact[0][name])], [recording.outputs[0][name]]).rel_l2
            if own >= OWN_SHARE * size:
                return None
        what = f"is {shown}, inside the tolerance, but rounding has no such pattern. Look for a changed constant."
        doubtful = isinstance(exact, str) and share < CERTAIN
        return Finding("systematic-error", f"output '{name}'", what, "warning" if doubtful else "fail")
