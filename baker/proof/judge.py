"""Whether a candidate computes the same function as its reference, up to rounding or to the bit."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from baker.model.graph import Array
from baker.model.size import is_large
from baker.proof.halves import same_where_all_is_rounded
from baker.proof.nudges import explains, nudged_runs
from baker.proof.numerics import HALF_TOLERANCE, Meter, OutputError, Tolerance, compare, is_float, peak, ratios
from baker.proof.oracle import exact_outputs
from baker.proof.recorder import Outputs, Recording
from baker.proof.tails import squashed
from baker.proof.traits import has_steps, steps_reach
from baker.proof.verdict import Finding
from baker.proof.work import multiplications

OWN_ERRORS = 4.0
"""A candidate may be this many times further from the float64 run than the original is."""

FLOOR = 0.1
"""Where a sample's outputs are tiny, this part of what is usual for the samples is the scale to judge by.

The tail of a saturated sigmoid, or what an input of zeros gives, says nothing of what rounding may do. Usual is the
median, and no less than a hundredth of the largest: a sample of huge numbers says nothing about the others.
"""

HALF_DOUBT = 3e-3
"""A relative L2 error beyond six units in the last place of float16 is looked into, though its tolerance is wider."""

NUDGED = 2.0
"""As far as last bits of the inputs and weights move an output, times this, a rewrite in float16 may move it."""

SQUASHED = 0.25
"""The least scale of what a Sigmoid or Softmax gives: four of the steps of 6e-8 that ONNX Runtime's kernels take."""

UNMOVED_BY_STEPS = 0.1
"""Where rounding can flip a quantizer's step, at least this part of the elements must be inside the plain tolerance.

The float64 run of such a network flips steps of its own, so that its distance says little.
"""

FLIPS = 1e-3
"""The share of an output's elements that may be decided otherwise, where what decides is the same up to rounding."""

ORACLE_SAMPLES = 2
ORACLE_WORK = 4 * 10**10
"""The float64 run of ten ResNet-50s; where more multiplications are due it is not made."""
ORACLE_RUN_SECONDS = 5.0
"""It takes some 30 times as long as ONNX Runtime; above this it is not made either: a Loop counts once as work."""


ORACLE_BYTES = 1 << 30
"""What the float64 run may take for one weight."""


class Comparison:
    """Compares a candidate's outputs with a recording, sample by sample.

    Args:
        names: the outputs to compare.
        tolerance: None asks for bit-equality.
        decided: those that a decision makes, about something that is among ``names``, too.
    """

    def __init__(
        self, recording: Recording, names: Sequence[str], tolerance: Tolerance | None, decided: Sequence[str] = ()
    ) -> None:
        self.recording = recording
        self.tolerance = tolerance
        self.flips = dict.fromkeys(() if tolerance is None else decided, 0)  # elements that were decided otherwise
        self.meters = {name: Meter(recording.column(name)) for name in names}
        usual = {name: 1.0 if squashed(name, names) else _usual_peak(recording.column(name)) for name in names}
        usual |= {name: max(usual[name], SQUASHED) for name in recording.squashed if name in usual}
        self.floors = {name: FLOOR * size for name, size in usual.items()}
        self.inside = dict.fromkeys(names, 0)  # elements inside the tolerance
        self.counted = dict.fromkeys(names, 0)
        self.misses: dict[str, dict[int, float]] = {}  # output -> sample -> error as a multiple of the tolerance
        self.rounds_elsewhere = False  # float16: the same but for where ONNX Runtime rounds
        self.kept: dict[int, Outputs] = {}  # the candidate's outputs for the worst samples
        self.doubt: tuple[float, str, int, Outputs] | None = None  # the worst error inside float16's wide tolerance

    def take(self, index: int, outputs: Outputs) -> None:
        """Takes the candidate's outputs for sample ``index``."""
        for name, meter in self.meters.items():
            meter.add(index, outputs[name])
            reference = self.recording.outputs[index][name]
            top = max(peak([reference]), self.floors[name])
            found = ratios(reference, outputs[name], self.tolerance, top)
            if name in self.flips and reference.shape == outputs[name].shape:
                found = np.where(reference == outputs[name], 0.0, math.inf)
                self.flips[name] += int(np.count_nonzero(found))
            self.inside[name] += int(np.count_nonzero(found <= 1))
            self.counted[name] += found.size
            if found.max(initial=0.0) > 1:
                self.misses.setdefault(name, {})[index] = float(found.max())
                self.kept[index] = outputs
            elif self.tolerance == HALF_TOLERANCE and is_float(reference):
                self._look_into(name, index, outputs)
        if len(self.kept) > ORACLE_SAMPLES:
            del self.kept[min(self.kept, key=self._worst_at)]

    def _look_into(self, name: str, index: int, outputs: Outputs) -> None:
        far = compare([self.recording.outputs[index][name]], [outputs[name]]).rel_l2
        if far > HALF_DOUBT and (self.doubt is None or far > self.doubt[0]):
            self.doubt = (far, name, index, outputs)

    def _worst_at(self, index: int) -> float:
        return max(missed.get(index, 0.0) for missed in self.misses.values())

    def errors(self) -> dict[str, OutputError]:
        """The error of each output over the samples taken so far."""
        return {name: meter.result() for name, meter in self.meters.items()}

    def fault(self, original: ir.Model, candidate: ir.Model) -> str | None:
        """Returns why the candidate is not the same function, or None.

        Where the plain tolerance is missed, a float64 run of the original decides on the worst samples. In float16 so
        do runs of both models that round every result, as the standard has it.
        """
        fault = self._fault(original)
        if fault is None or self.tolerance != HALF_TOLERANCE or not self.misses:
            return fault
        missed = sorted({index for samples in self.misses.values() for index in samples})
        feeds = [self.recording.feeds[index] for index in missed]
        self.rounds_elsewhere = same_where_all_is_rounded(original, candidate, feeds)
        return None if self.rounds_elsewhere else fault

    def explains(self, finding: Finding) -> bool:
        """True where an output moves in the reference for where that rounds alone, such as x < x by a last bit."""
        if not self.rounds_elsewhere or finding.kind not in ("constant-output", "ignored-input"):
            return False
        return any(f"output '{name}'" in str(finding) for name in self.misses)

    def _fault(self, original: ir.Model) -> str | None:
        for name, flipped in self.flips.items():
            if flipped <= FLIPS * self.counted[name]:
                self.misses.pop(name, None)
        if not self.misses:
            return self._doubtful(original)
        times, name = max((max(missed.values()), name) for name, missed in self.misses.items())
        error, odd = self.meters[name].result(), self.meters[name].fault
        if odd:
            return f"output '{name}' {odd}"
        said = f"output '{name}' is off by up to {error.max_abs:.3g} (relative L2 {error.rel_l2:.3g})"
        if self.tolerance is None:
            return f"{said} where every bit must be the same"
        why = self._beyond_rounding(original)
        if why is None or not np.isfinite(times):
            return why and f"{said}; {why}"
        allowed = f"rtol {self.tolerance.rtol:g}, atol {self.tolerance.atol:g} of the largest value"
        return f"{said}, {times:.3g} times what rounding may do ({allowed}); {why}"

    def _doubtful(self, original: ir.Model) -> str | None:
        """A constant that is 1 % off is inside float16's tolerance; where a float64 run can be used, it decides."""
        if self.doubt is None:
            return None
        far, name, index, outputs = self.doubt
        if steps_reach(original, name):
            return None
        exact = self._in_float64(original, [index])
        if isinstance(exact, str):
            return None
        truth = [np.asarray(exact[0][name])]
        own = compare(truth, [self.recording.outputs[index][name]]).rel_l2
        error = compare(truth, [outputs[name]]).rel_l2
        reference = [self.recording.outputs[index][name]]
        nudged = () if is_large(original) else nudged_runs(original, self.recording.feeds[index])
        usual = max((compare(reference, [run[name]]).rel_l2 for run in nudged), default=math.inf)
        if error <= max(OWN_ERRORS * own, HALF_DOUBT) or far <= NUDGED * usual:
            return None
        return (
            f"output '{name}' is off by a relative L2 error of {far:.3g}, inside the tolerance of float16; against a "
            f"float64 run it is off by {error:.3g} where the original is off by {own:.3g}"
        )

    def _beyond_rounding(self, original: ir.Model) -> str | None:
        """Returns why rounding can't explain the misses, or None where it can."""
        if any(not is_float(self.recording.outputs[0][name]) for name in self.misses):
            half = self.tolerance == HALF_TOLERANCE
            excused = half and self._moved_by_last_bits(original, self._samples_to_judge())
            return None if excused else "integers, booleans and strings must be equal"
        if any(not np.isfinite(times) for missed in self.misses.values() for times in missed.values()):
            return "what is always zero must be so, too"
        shifted = self._shifted_as_a_whole(original)
        if shifted is not None:
            return shifted
        indices = self._samples_to_judge()
        exact = self._in_float64(original, indices)
        if isinstance(exact, str):
            return None if self._moved_by_last_bits(original, indices) else exact
        for name, missed in self.misses.items():
            judged = [(index, truth[name]) for index, truth in zip(indices, exact, strict=True) if index in missed]
            if not judged:
                return f"no float64 run was made of the samples where output '{name}' is off"
            for index, truth in judged:
                beyond = self._beyond_own_error(name, index, truth)
                if beyond is not None:
                    return beyond
        return None

    def _in_float64(self, original: ir.Model, indices: Sequence[int]) -> list[dict[str, Array]] | str:
        """What the original computes in float64 for some samples, or why that says nothing."""
        if oracle_is_slow(original, self.recording):
            return "no float64 run was made to say more, since it would take minutes, or much memory"
        feeds = [self.recording.feeds[index] for index in indices]
        given = [self.recording.outputs[index] for index in indices]
        return exact_outputs(original, feeds, given, self.floors)

    def _moved_by_last_bits(self, original: ir.Model, indices: Sequence[int]) -> bool:
        """True when the original's own outputs move as far as the candidate's where floats are off by a last bit."""
        if is_large(original):
            return False  # it takes a nudged copy of all weights
        runs = {index: nudged_runs(original, self.recording.feeds[index]) for index in indices}
        for name, missed in self.misses.items():
            seen = [index for index in indices if index in missed]
            if self.tolerance is None or not seen:
                return False
            for index in seen:
                reference, candidate = self.recording.outputs[index][name], self.kept[index][name]
                top = max(peak([reference]), self.floors[name])
                if not explains(runs[index], name, reference, candidate, self.tolerance, top):
                    return False
        return True

    def _shifted_as_a_whole(self, original: ir.Model) -> str | None:
        """In a network with step functions, rounding makes some elements jump; it does not move all of them."""
        if not has_steps(original):
            return None
        for name in self.misses:
            share = self.inside[name] / max(1, self.counted[name])
            if share < UNMOVED_BY_STEPS:
                return (
                    f"{share:.1%} of its elements are inside that, and rounding moves single steps of a quantizer only"
                )
        return None

    def _samples_to_judge(self) -> list[int]:
        """The worst sample, and another where some output only misses on that."""
        worst_first = sorted(self.kept, key=self._worst_at, reverse=True)
        everywhere = all(worst_first[0] in missed for missed in self.misses.values())
        return worst_first[:1] if everywhere else worst_first

    def _beyond_own_error(self, name: str, index: int, truth: Array) -> str | None:
        exact = [np.asarray(truth)]
        own = compare(exact, [self.recording.outputs[index][name]])
        error = compare(exact, [self.kept[index][name]])
        if error.max_abs <= OWN_ERRORS * own.max_abs and error.rel_l2 <= OWN_ERRORS * own.rel_l2:
            return None
        return (
            f"against a float64 run it is off by {error.max_abs:.3g} where the original is off by {own.max_abs:.3g}, "
            f"more than {OWN_ERRORS:g} times as much"
        )


def _usual_peak(samples: Sequence[Array]) -> float:
    peaks = [peak([sample]) for sample in samples]
    return max(statistics.median(peaks), max(peaks) / 100) if peaks else 0.0


def _widest(model: ir.Model) -> int:
    """Bytes of the largest weight in float64."""
    weights = (value.const_value for value in model.graph.initializers.values())
    return max((8 * int(weight.size) for weight in weights if weight is not None), default=0)


def oracle_is_slow(original: ir.Model, recording: Recording) -> bool:
    """True where a float64 run of the original would take minutes, or much memory.

    Both are counted, since a clock gives another verdict on another day.
    """
    if recording.seconds > ORACLE_RUN_SECONDS or _widest(original) > ORACLE_BYTES:
        return True
    return multiplications(original, recording.feeds[0]) > ORACLE_WORK
