"""What a candidate's outputs show while it is compared: dead outputs, copies of inputs, dead inputs, sizes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from baker.errors import ModelError
from baker.model.graph import Array
from baker.proof.fakes.columns import Columns
from baker.proof.fakes.gain import Gain
from baker.proof.fakes.parts import is_part
from baker.proof.fakes.probes import Reaction, Reader, answer
from baker.proof.fakes.structure import dependencies
from baker.proof.numerics import FLOAT_TOLERANCE, Tolerance, compare, excess, is_float, moves, peak
from baker.proof.recorder import Outputs, Recording
from baker.proof.tails import squashed
from baker.proof.traits import has_steps
from baker.proof.verdict import Finding, Severity

SIGNAL = Tolerance(rtol=0.0, atol=5e-3)
"""An approximation may round away what moves less than this part of an output's peak: 8 bits have 256 steps."""

REACTION = Tolerance(rtol=0.0, atol=5e-2)
"""An approximation must react to what moves the reference by this part of an output's peak."""

OFF = 0.5
"""A result at another size is wrong where its relative L2 error is above this, or..."""
OFF_ROUNDING = 0.03
"""...above this where the candidate is to be the same function, ..."""
WORSE = 3.0
"""...and this many times as large as on the samples."""

TINY = 1e-2
"""What a Sigmoid or Softmax gives is not measured on a smaller scale than this: its kernel rounds on a scale of 1."""


class Watch:
    """Looks at a candidate's outputs, sample by sample, beside a recording of the reference.

    Args:
        names: the compared outputs.
        rounding: what rounding may do, where the candidate is to be the same function; None for an approximation,
            which may round more away.
    """

    def __init__(self, recording: Recording, names: Sequence[str], rounding: Tolerance | None) -> None:
        self.recording = recording
        self.names = list(names)
        self.same_function = rounding is not None
        self.rounding = rounding or FLOAT_TOLERANCE
        self.first: Outputs = {}
        self.still = set(names)  # outputs that never moved
        self.copies: dict[str, set[str]] = {}  # output -> inputs that it may be a part of
        self.gains = {name: Gain() for name in names}
        self.columns = {name: Columns() for name in names}
        self.errors = dict.fromkeys(names, 0.0)  # of the first sample, which the probes are copies of
        self.alike: dict[str, list[bool]] = {name: [] for name in names}  # are a batch's samples all alike?
        self.shown: list[tuple[Reaction, Outputs | str]] = []

    def take(self, index: int, outputs: Outputs) -> None:
        """Takes the candidate's outputs for sample ``index``."""
        feed = self.recording.feeds[index] if index == 0 or any(self.copies.values()) else {}  # may be read from a file
        for name in self.names:
            found, due = outputs[name], self.recording.outputs[index][name]
            if index == 0:
                self.copies[name] = set(feed)
            elif name in self.still and not _same_corner(self.first[name], found):
                self.still.discard(name)
            if self.copies[name]:
                self.copies[name] = {key for key in self.copies[name] if _copied(found, due, feed[key])}
            self._look_inside(name, due, found)
            if self.same_function:
                self.gains[name].add(due, found)
                continue
            self.columns[name].add(due, found)
            if index == 0 and found.shape == due.shape and is_float(due):
                self.errors[name] = compare([due], [found]).rel_l2
        if index == 0:
            self.first = outputs

    def _look_inside(self, name: str, due: Array, found: Array) -> None:
        """Notes whether the samples of a batch got the same result where the reference's differ."""
        if due.shape != found.shape or due.ndim < 2 or len(due) < 2:
            return
        alike = all(np.array_equal(found[0], row) for row in found[1:])
        least = self.rounding if self.same_function else SIGNAL
        if not alike or _differs(np.broadcast_to(due[:1], due.shape), due, least):
            self.alike[name].append(alike)

    def react(self, runner: ort.InferenceSession, read: Reader) -> None:
        """Runs the candidate on what the reference was probed with; ``read`` as in `answer`."""
        for reaction in self.recording.reactions:
            try:
                self.shown.append((reaction, answer(runner, reaction.probe, read)))
            except ModelError as error:
                self.shown.append((reaction, str(error)))

    def findings(self, original: ir.Model, candidate: ir.Model) -> Iterator[Finding]:
        """Yields what the outputs showed; ``original`` is the model of the recording."""
        before, after = dependencies(original), dependencies(candidate)
        for name in self.names:
            lost = before.get(name, frozenset()) - after.get(name, frozenset())
            if before.get(name) and not after.get(name):
                yield from self._unreached(name)
            else:
                yield from self._dead(name)
                yield from self._ignored(name, lost)
            yield from self._copied(name)
        yield from self._sizes(OFF_ROUNDING if self.same_function and not has_steps(original) else OFF)
        yield from self._same_for_all()
        if self.same_function:
            yield from self._systematic(original)
        else:
            yield from (found for name in self.names if (found := self.columns[name].finding(name)) is not None)

    # ---- outputs ----

    def _column(self, name: str) -> list[Array]:
        return [*self.recording.column(name), *(reaction.outputs[name] for reaction in self.recording.reactions)]

    def _unreached(self, name: str) -> Iterator[Finding]:
        """No input reaches the output any more."""
        hidden = [key for key in self.recording.outputs[0] if key.startswith(f"{name} before its ")]
        moved = next((key for key in (name, *hidden) if moves(self._column(key), self.rounding)), None)
        what = "depends on no input of the candidate, but on those of the reference"
        if moved is None:
            yield Finding("constant-output", f"output '{name}'", f"{what}, though no sample moves it.", "note")
            return
        seen = f"; there '{moved}' moves over {len(self.recording.feeds)} samples."
        yield Finding("constant-output", f"output '{name}'", f"{what}{seen} Compute it from the inputs.")

    def _dead(self, name: str) -> Iterator[Finding]:
        column = self.recording.column(name)
        tolerance = self.rounding if self.same_function else SIGNAL
        if (
            name not in self.still
            or not column[0].size
            or not moves(column, tolerance if is_float(column[0]) else None)
        ):
            return
        what = f"is the same for all {len(column)} samples, where the reference's is not. "
        severity: Severity = "fail"
        if not is_float(column[0]) and not self.same_function:
            equal = [np.array_equal(sample, self.first[name]) for sample in column]
            severity = "warning" if 2 * sum(equal) >= len(equal) else "fail"  # the class that most samples have
        yield Finding("constant-output", f"output '{name}'", f"{what}Look for a part that was replaced.", severity)

    def _copied(self, name: str) -> Iterator[Finding]:
        for key in sorted(self.copies.get(name, ())):
            what = f"equals input '{key}' or a part of it in every sample, where the reference's does not."
            beyond = not self.same_function or any(
                due.shape != found.shape or excess(due, found, self.rounding, peak([due])) > 1
                for due, found in [(self.recording.outputs[0][name], self.first[name])]
            )
            yield Finding("copied-input", f"output '{name}'", what, "fail" if beyond else "note")

    # ---- inputs ----

    def _ignored(self, name: str, lost: frozenset[str]) -> Iterator[Finding]:
        """The reference reacts to another number in one input, and the candidate does not by a bit."""
        unseen = set(lost)
        for reaction, outputs in self.shown:
            key = reaction.probe.subject
            if reaction.probe.kind != "input" or isinstance(outputs, str):
                continue
            base, due = self.recording.outputs[0][name], reaction.outputs[name]
            least = self.rounding if self.same_function or key in lost else REACTION
            if not _differs(base, due, least) or _differs(self.first[name], outputs[name], None):
                continue
            unseen.discard(key)
            how = "does not even depend on it" if key in lost else "does not change by a bit"
            by = compare([base], [due]).rel_l2 if base.shape == due.shape else float("inf")
            what = f"is ignored by output '{name}': other numbers in it move the reference by {by:.2g}, the candidate's"
            yield Finding("ignored-input", f"input '{key}'", f"{what} {how}.")
        for key in sorted(unseen):
            what = f"no longer reaches output '{name}'; on these samples that makes no difference."
            yield Finding("ignored-input", f"input '{key}'", what, "note")

    # ---- sizes ----

    def _sizes(self, limit: float) -> Iterator[Finding]:
        for reaction, outputs in self.shown:
            subject = reaction.probe.subject
            if isinstance(outputs, str):
                sized = reaction.probe.kind == "size"
                what = f"is what the reference runs with, and the candidate does not: {outputs}"
                yield Finding("unsupported-size", subject if sized else f"input '{subject}' of other numbers", what)
                continue
            if reaction.probe.kind != "size":
                continue
            for name in self.names:
                fault = self._wrong_at_size(name, reaction.outputs[name], outputs[name], limit)
                if fault is not None:
                    yield Finding("unsupported-size", subject, f"gives output '{name}' {fault}")
                    break

    def _wrong_at_size(self, name: str, due: Array, found: Array, limit: float) -> str | None:
        if due.shape != found.shape:
            return f"the shape {found.shape}, where the reference's has {due.shape}."
        if not is_float(due) or not due.size:
            return None
        if np.isnan(found).any() and not np.isnan(due).any():
            return "NaN, where the reference's is a number."
        error, usual = compare([due], [found]).rel_l2, self.errors[name]
        if squashed(name, self.recording.outputs[0]):
            a, b = due.astype(np.float64), found.astype(np.float64)
            error = float(np.linalg.norm(b - a) / max(np.linalg.norm(a), TINY * a.size**0.5))
        return (
            None
            if error <= max(limit, WORSE * usual)
            else f"a relative error of {error:.2g}; on the samples it is {usual:.2g}."
        )

    def _same_for_all(self) -> Iterator[Finding]:
        """All samples of a batch get the result of the first one."""
        for reaction, outputs in self.shown:
            if reaction.probe.batch and not isinstance(outputs, str):
                for name in self.names:
                    self._look_inside(name, reaction.outputs[name], outputs[name])
        for name, alike in self.alike.items():
            if alike and all(alike):
                what = "is the same for all samples of a batch, where the reference's is not."
                yield Finding("same-for-all", f"output '{name}'", what)

    # ---- errors ----

    def _systematic(self, original: ir.Model) -> Iterator[Finding]:
        for name in self.names:
            finding = self.gains[name].finding(name, original, self.recording)
            if finding is not None:
                yield finding


def _differs(one: Array, other: Array, tolerance: Tolerance | None) -> bool:
    if one.shape != other.shape:
        return True
    if not is_float(one) or tolerance is None:
        return not np.array_equal(one, other, equal_nan=is_float(one))
    return excess(one, other, tolerance, peak([one])) > 1


def _same_corner(one: Array, other: Array) -> bool:
    """True where what both have, counted from the start of each axis, is equal: a constant fills any shape."""
    if one.ndim != other.ndim or not one.size or not other.size:
        return False
    corner = tuple(slice(min(sizes)) for sizes in zip(one.shape, other.shape, strict=True))
    return bool(np.array_equal(one[corner], other[corner], equal_nan=is_float(one) and is_float(other)))


def _copied(found: Array, due: Array, given: object) -> bool:
    return isinstance(given, np.ndarray) and is_part(found, given) and not is_part(due, given)
