"""How far apart two sets of outputs are, and how far apart they may be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from baker.model.graph import Array

F64 = npt.NDArray[np.float64]


class Fidelity(IntEnum):
    """What a pass promises about the numbers; less exact is greater.

    EXACT: bit-equal with the runtime's own optimizer off. ROUNDING: the same function over the reals. LOSSY: an
    approximation, held to the budget.
    """

    EXACT = 0
    ROUNDING = 1
    LOSSY = 2


@dataclass(frozen=True)
class Tolerance:
    """|candidate - reference| <= rtol * |reference| + atol * max|reference|, the maximum taken over the sample."""

    rtol: float
    atol: float


FLOAT_TOLERANCE = Tolerance(rtol=1e-4, atol=1e-5)
HALF_TOLERANCE = Tolerance(rtol=1e-2, atol=2e-3)


@dataclass(frozen=True)
class OutputError:
    """How far a candidate's output is from the reference's, over all samples.

    Elements that are NaN, or the same infinity, on both sides count as equal. Where only one side is finite,
    ``max_abs`` and ``rel_l2`` are inf, ``sqnr_db`` is -inf and ``cosine`` is 0; strings that differ and outputs of
    different shapes are reported in the same way.

    Attributes:
        max_abs: max|candidate - reference|.
        rel_l2: ||candidate - reference|| / ||reference||; inf where only the reference is zero.
        sqnr_db: 10 log10( sum (reference - its mean over the samples)^2 / sum (candidate - reference)^2 ): inf for
            equal outputs, -inf where they differ and the reference does not vary between samples.
        cosine: of the two sets of outputs as vectors (blind to scale); 1 where both are zero.
        top1_agreement: how often the largest element along the last axis is at the same place, for floating-point
            outputs with two or more elements there; for integers, booleans and strings how many are equal; else None.
        top1_interval: its 95 % Wilson score interval, for as many independent rows as were compared. Rows of one text
            or picture are not independent: then it is too narrow.
    """

    max_abs: float
    rel_l2: float
    sqnr_db: float
    cosine: float
    top1_agreement: float | None = None
    top1_interval: tuple[float, float] | None = None


def is_float(array: Array) -> bool:
    """True for every floating-point type, bfloat16 and the 8-bit ones included."""
    return array.dtype.kind == "f" or array.dtype.name.startswith(("bfloat", "float"))


def is_finite(array: object) -> bool:
    """True unless it holds NaN or infinity; what holds no floats never does."""
    return not (isinstance(array, np.ndarray) and is_float(array)) or bool(np.isfinite(array.astype(np.float64)).all())


def is_number(array: Array) -> bool:
    """True for what can be subtracted: floating point, integers, booleans."""
    return is_float(array) or array.dtype.kind in "iub" or array.dtype.name.startswith(("int", "uint"))


def as_array(output: object) -> Array:
    """Makes one array of what ONNX Runtime gives out: a tensor, a sequence, or None.

    Parts of one shape are stacked, others flattened and joined.
    """
    if isinstance(output, np.ndarray):
        return output
    if output is None:
        return np.zeros(0, np.float32)
    if not isinstance(output, Sequence) or isinstance(output, (str, bytes)):
        return np.asarray(output)
    parts = [as_array(part) for part in output]
    if len({part.shape for part in parts}) == 1:
        return np.stack(parts)
    return np.concatenate([part.ravel() for part in parts]) if parts else np.zeros(0, np.float32)


def bit_equal(reference: Array, candidate: Array) -> bool:
    """True when shape, type and every value are the same; any NaN equals any NaN, and 0.0 is not -0.0."""
    if reference.shape != candidate.shape or reference.dtype != candidate.dtype:
        return False
    if not is_float(reference):
        return bool(np.array_equal(reference, candidate))
    same = np.array_equal(reference, candidate, equal_nan=True)
    numbers = ~np.isnan(reference)
    return bool(same) and bool(np.array_equal(np.signbit(reference)[numbers], np.signbit(candidate)[numbers]))


def compare(reference: Sequence[Array], candidate: Sequence[Array]) -> OutputError:
    """Measures one output over its samples.

    Args:
        reference: the output for each sample; shapes may differ from sample to sample.
        candidate: the same samples.

    Raises:
        ValueError: no samples, or not as many on both sides.
    """
    if not reference or len(reference) != len(candidate):
        raise ValueError(
            f"{len(reference)} reference and {len(candidate)} candidate samples; equal, non-zero numbers are due"
        )
    meter = Meter(reference)
    for index, array in enumerate(candidate):
        meter.add(index, array)
    return meter.result()


def signal_energy(reference: Sequence[Array], background: Sequence[Array] = ()) -> float:
    """Sum over all elements of (reference - mean)^2: what varies from input to input.

    The mean is over the reference and the background: more samples of the same output, which add no energy.

    Samples of one shape are averaged element by element. Where shapes differ, or there is one sample only, the mean
    runs over all but the last axis (over everything where the last axis differs, too).
    """
    mean = _mean([*reference, *background])
    energy = sum(float(np.square(_finite(array) - mean).sum()) for array in reference)
    total = sum(float(np.square(_finite(array)).sum()) for array in reference)
    return energy if energy > 1e-24 * total else 0.0  # the mean of n equal numbers is off by rounding: no signal


def _mean(arrays: Sequence[Array]) -> F64:
    if len(arrays) > 1 and len({array.shape for array in arrays}) == 1:
        return np.asarray(sum(_finite(array) for array in arrays) / len(arrays))
    per_channel = arrays[0].ndim > 0 and len({array.shape[-1:] for array in arrays}) == 1
    sums, count = np.zeros(()), 0
    for array in arrays:
        rows = _finite(array).reshape(-1, array.shape[-1]) if per_channel else _finite(array).reshape(-1, 1)
        sums, count = sums + rows.sum(axis=0), count + rows.shape[0]
    return np.asarray(sums / max(count, 1))


def wilson(hits: int, trials: int, z: float = 1.959964) -> tuple[float, float]:
    """The Wilson score interval of a share; ``z`` standard deviations wide, 95 % unless told otherwise.

    Source: Wilson 1927, Journal of the American Statistical Association 22, 209-212.
    """
    share, spread = hits / trials, z * z / trials
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / trials + spread / (4 * trials)) / (1 + spread)
    return (0.0 if hits == 0 else middle - half), (1.0 if hits == trials else middle + half)


def mismatch(reference: Array, candidate: Array) -> str | None:
    """Says where two outputs differ in a way that no error can be measured of, or None.

    That is another shape, text that differs, and elements that are NaN or infinite on one side only.
    """
    if reference.shape != candidate.shape:
        return f"has shape {list(candidate.shape)} where the reference has {list(reference.shape)}"
    odd = _oddities(reference, candidate) if is_number(reference) else np.asarray(reference != candidate)
    if odd is None or not odd.any():
        return None
    index = tuple(int(place) for place in np.argwhere(odd)[0])
    count = int(np.count_nonzero(odd))
    values = f"is {_shown(candidate[index])} at {list(index)} where the reference is {_shown(reference[index])}"
    return f"{values} (the first of {count})" if count > 1 else values


def _shown(element: object) -> str:
    """An element in at most 40 characters."""
    if isinstance(element, (str, bytes)):
        return f"{element.item() if isinstance(element, np.generic) else element!r:.40}"
    return "NaN" if element != element else f"{element!s:.40}"


def _oddities(reference: Array, candidate: Array) -> npt.NDArray[np.bool_] | None:
    """Where numbers of one shape differ and at least one is not finite; None where all are finite."""
    plain = all(array.dtype.kind in "fiub" for array in (reference, candidate))
    a, b = (array if plain else array.astype(np.float64) for array in (reference, candidate))
    finite = np.isfinite(a) & np.isfinite(b)
    return None if finite.all() else np.asarray(~finite & (a != b) & ~(np.isnan(a) & np.isnan(b)))


class Meter:
    """Measures one output, sample by sample, so that the candidate's outputs need not all be held at once.

    Args:
        reference: the reference's output for each sample.
        background: its output for more inputs, to tell what varies from what is always there.

    Attributes:
        fault: what no error can be measured of, in words: see `mismatch`. Empty where there is nothing of the kind.
    """

    def __init__(self, reference: Sequence[Array], background: Sequence[Array] = ()) -> None:
        self.reference = reference
        self.background = background
        self.numeric = all(is_number(array) for array in reference)
        self.floating = all(is_float(array) for array in reference)
        self.max_abs = self.noise = self.dot = self.norm_reference = self.norm_candidate = 0.0
        self.agreeing = self.rows = 0
        self.fault = ""

    def add(self, index: int, candidate: Array) -> None:
        """Takes the candidate's output for sample ``index``."""
        reference = self.reference[index]
        found = mismatch(reference, candidate)
        if found is not None:
            self.fault = self.fault or f"{found}, in sample {index}"
        if reference.shape != candidate.shape:
            return
        self._count_agreement(reference, candidate)
        if not self.numeric:
            return
        a, b = _finite(reference), _finite(candidate)
        difference = b - a
        self.max_abs = max(self.max_abs, float(np.abs(difference).max(initial=0.0)))
        self.noise += float(np.vdot(difference, difference))
        self.dot += float(np.vdot(a, b))
        self.norm_reference += float(np.vdot(a, a))
        self.norm_candidate += float(np.vdot(b, b))

    def _count_agreement(self, reference: Array, candidate: Array) -> None:
        if not self.floating:
            self.agreeing += int(np.count_nonzero(reference == candidate))
            self.rows += reference.size
        elif reference.ndim and reference.shape[-1] >= 2 and reference.size:
            same = reference.argmax(axis=-1) == candidate.argmax(axis=-1)
            self.agreeing += int(np.count_nonzero(same))
            self.rows += same.size

    def result(self) -> OutputError:
        """Returns the error over the samples taken so far."""
        top1 = (self.agreeing / self.rows, wilson(self.agreeing, self.rows)) if self.rows else (None, None)
        if self.fault:
            return OutputError(math.inf, math.inf, -math.inf, 0.0, *top1)
        if self.noise == 0.0:
            return OutputError(0.0, 0.0, math.inf, 1.0, *top1)
        signal = signal_energy(self.reference, self.background)
        sqnr = 10 * math.log10(signal / self.noise) if signal else -math.inf
        relative = math.sqrt(self.noise / self.norm_reference) if self.norm_reference else math.inf
        norms = math.sqrt(self.norm_reference * self.norm_candidate)
        return OutputError(self.max_abs, relative, sqnr, self.dot / norms if norms else 0.0, *top1)


def ratios(reference: Array, candidate: Array, tolerance: Tolerance | None, peak: float) -> F64:
    """Returns the error of each element as a multiple of what is allowed: up to 1 is inside the tolerance.

    Integers, booleans and strings must be equal, and an element that is not finite must be the same on both sides: a
    single inf where they are not.

    Args:
        tolerance: None asks for bit-equality.
        peak: max|reference| of the sample.
    """
    if tolerance is None or not is_float(reference) or reference.shape != candidate.shape:
        return np.array([0.0 if bit_equal(reference, candidate) else math.inf])
    a, b = reference.astype(np.float64), candidate.astype(np.float64)
    odd = ~(np.isfinite(a) & np.isfinite(b))
    if not np.array_equal(a[odd], b[odd], equal_nan=True):
        return np.array([math.inf])
    a, b = a[~odd], b[~odd]
    difference, allowed = np.abs(a - b), tolerance.atol * peak + tolerance.rtol * np.abs(a)
    return np.divide(difference, allowed, out=np.where(difference > 0, math.inf, 0.0), where=allowed > 0)


def excess(reference: Array, candidate: Array, tolerance: Tolerance | None, peak: float) -> float:
    """Returns the largest of `ratios`; 0 for an empty array."""
    return float(ratios(reference, candidate, tolerance, peak).max(initial=0.0))


def moves(reference: Sequence[Array], tolerance: Tolerance | None) -> bool:
    """True when a network that always gives the same output would not pass for the reference on these samples.

    One sample never shows that. Where shapes differ, the part that all samples have is looked at.
    """
    if len(reference) < 2:
        return False
    common = _common_part(reference)
    if common is None:
        return True
    if not all(is_float(array) for array in common):
        return not all(np.array_equal(common[0], array) for array in common[1:])
    if any(not np.array_equal(np.isfinite(array), np.isfinite(common[0])) for array in common[1:]):
        return True
    common = [_finite(array) for array in common]
    mean, top = _mean(common), peak(common)
    allowed = tolerance or Tolerance(0.0, 1e-7)  # the mean of equal numbers may be off in the last bit
    return any(excess(array, mean, allowed, top) > 1 for array in common)


def _common_part(arrays: Sequence[Array]) -> list[Array] | None:
    """What all samples have, counted from the start of each axis; None where they have nothing in common.

    A constant network fills whatever shape is asked for with the same numbers.
    """
    if len({array.ndim for array in arrays}) > 1:
        return None
    corner = tuple(slice(min(sizes)) for sizes in zip(*(array.shape for array in arrays), strict=True))
    common = [np.asarray(array[corner], array.dtype) for array in arrays]  # a scalar string, too, stays an array
    return common if common[0].size else None


def peak(arrays: Sequence[Array]) -> float:
    """max|x| over the finite elements of all samples; 0 where there are none, or no numbers."""
    numbers = [array for array in arrays if is_number(array)]
    return max((float(np.abs(_finite(array)).max(initial=0.0)) for array in numbers), default=0.0)


def _finite(array: Array) -> F64:
    """The array as float64 with 0 in place of what is not finite."""
    wide = array.astype(np.float64)
    return np.where(np.isfinite(wide), wide, 0.0)
