"""Runs the models that are compared, and keeps what the reference computes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from baker.errors import ModelError
from baker.model.graph import Array
from baker.proof.fakes.probes import Reaction, reactions
from baker.proof.interface import Feed, foreign_ops
from baker.proof.numerics import as_array
from baker.proof.tails import probed, squashing_outputs, unprobed
from baker.proof.traits import levels_agree, unpredictable_outputs
from baker.runtime.audit import KernelAudit, audit, audit_kernels
from baker.runtime.session import optimized_session, run, session

MAX_RECORDED_BYTES = 512 * 2**20
"""Outputs beyond this are not kept, and the samples they belong to not compared."""

BACKGROUND = 8
"""How many samples tell what a reference's outputs have in common; calibration feeds make up for held-out ones."""

# Verification shares its cores with whatever called it and runs little: threads that wait by spinning cost more.
_CONFIG = {"session.intra_op.allow_spinning": "0"}

Outputs = Mapping[str, Array]


class NotRunnable(ModelError):
    """The original can't be run, so nothing can be said about a candidate."""


@dataclass(frozen=True)
class Recording:
    """What a model computes for some feeds.

    Attributes:
        feeds: the feeds, in order.
        outputs: the outputs for each feed; with the optimizer off also what `probed` looks at.
        seconds: how long one run takes.
        reactions: what it computes for changed copies of the first feed, beside the samples.
        squashed: outputs that hold what a Sigmoid or Softmax gave.
    """

    feeds: Sequence[Feed]
    outputs: Sequence[Outputs]
    seconds: float
    reactions: Sequence[Reaction] = ()
    squashed: frozenset[str] = frozenset()

    def column(self, name: str) -> list[Array]:
        """One output, for every feed."""
        return [sample[name] for sample in self.outputs]

    def first(self, samples: int) -> Recording:
        """The recording of the first samples."""
        return replace(self, feeds=self.feeds[:samples], outputs=self.outputs[:samples])


class Recorder:
    """Runs models on one set of feeds; what the reference computes is kept for each optimization level.

    One session is open at a time, so that peak memory stays at that of one model.
    """

    def __init__(
        self,
        reference: ir.Model,
        feeds: Sequence[Feed],
        *,
        calibration: Sequence[Feed] = (),
        threads: int | None = None,
        custom_ops: str | None = None,
    ) -> None:
        self.reference = reference
        self.feeds = feeds
        self.calibration = calibration
        self.threads = threads
        self.custom_ops = custom_ops
        self._kept: dict[bool, Recording] = {}
        self._against: tuple[ir.Model, Recording] | None = None
        self._audit: tuple[ir.Model, KernelAudit] | None = None
        self._probes: Sequence[Feed] | None = None
        self._background: Sequence[Outputs] | None = None

    def open(self, model: ir.Model, *, optimize: bool) -> ort.InferenceSession:
        """Makes a session for verification.

        Raises:
            ModelError: ONNX Runtime can't load the model.
        """
        return session(model, optimize=optimize, threads=self.threads, custom_ops=self.custom_ops, config=_CONFIG)

    def open_audited(self, model: ir.Model) -> ort.InferenceSession:
        """Like `open` at the default level; `audit` then need not load the model again.

        Raises:
            ModelError: ONNX Runtime can't load the model.
        """
        runner, graph = optimized_session(
            model, threads=self.threads, custom_ops=self.custom_ops, config=_CONFIG, weights=False
        )
        self._audit = (model, audit(graph))
        return runner

    def audit(self, model: ir.Model) -> KernelAudit:
        """Which kernels a model runs at the default level; what was audited last is kept.

        Raises:
            ModelError: ONNX Runtime can't load the model.
        """
        if self._audit is None or self._audit[0] is not model:
            self._audit = (model, audit_kernels(model, custom_ops=self.custom_ops))
        return self._audit[1]

    def forget_audit(self) -> None:
        """What was audited last may have changed since."""
        self._audit = None

    def open_original(self, model: ir.Model, *, optimize: bool) -> ort.InferenceSession:
        """Like `open`, for a model that others are compared with.

        Raises:
            NotRunnable: ONNX Runtime can't load it; operators of a foreign domain are named.
        """
        try:
            return self.open(model, optimize=optimize)
        except ModelError as error:
            foreign = foreign_ops(model)
            if not foreign:
                raise NotRunnable(f"the original can't be run: {error}") from error
            raise NotRunnable(
                f"the original can't be run: {', '.join(foreign)} is not defined by ONNX, ONNX Runtime or the model. "
                f"Give its library through --custom-ops, or do without with --no-verify. ({error})"
            ) from error

    def recorded(self, *, optimize: bool) -> Recording:
        """What the reference computes at a level, for the given feeds.

        Where the levels agree to float32 rounding, the outputs with the optimizer off serve both.
        """
        if optimize and levels_agree(self.reference):
            optimize = False
        if optimize not in self._kept:
            feeds = self.feeds if optimize else self.probes()
            self._kept[optimize] = self._record(self.reference, feeds, optimize=optimize)
        return self._kept[optimize].first(len(self.feeds))

    def background(self) -> Sequence[Outputs]:
        """What the reference computes for some of the calibration feeds, where few are held out.

        No candidate is compared on these: they only tell what the outputs have in common, whatever the input.
        """
        if self._background is None:
            wanted = min(len(self.calibration), max(0, BACKGROUND - len(self.feeds)))
            picks = [self.calibration[index * len(self.calibration) // wanted] for index in range(wanted)]
            optimize = not levels_agree(self.reference)
            self._background = self._record(self.reference, picks, optimize=optimize).outputs if picks else ()
        return self._background

    def original(self, model: ir.Model) -> Recording:
        """What the reference, or another model to compare with, computes with the optimizer off, for `probes`."""
        if model is self.reference:
            self.recorded(optimize=False)
            return self._kept[False]
        if self._against is None or self._against[0] is not model:
            self._against = (model, self._record(model, self.probes(), optimize=False))
        return self._against[1]

    def probes(self) -> Sequence[Feed]:
        """The feeds; beside a single one, a copy with its elements shuffled, if the reference runs on that.

        One input alone can't tell a model from a constant. Whatever the input, the same function gives the same
        output, so that the copy need not make sense to the model.
        """
        if self._probes is None:
            self._probes = self.feeds
            if len(self.feeds) == 1:
                shuffled = _shuffled(self.feeds[0])
                try:
                    run(self.open_original(self.reference, optimize=False), shuffled)
                    self._probes = [self.feeds[0], shuffled]
                except NotRunnable:
                    raise
                except ModelError:
                    pass  # the single feed stays the only one, and the verdict says what that means
        return self._probes

    def record(self, model: ir.Model, feeds: Sequence[Feed]) -> Recording:
        """What a model computes for other feeds, with the optimizer off; it is not kept.

        Raises:
            NotRunnable: the model can't be run on one of them.
        """
        return self._record(model, feeds, optimize=False)

    def _record(self, model: ir.Model, feeds: Sequence[Feed], *, optimize: bool) -> Recording:
        probe = unprobed(model) if optimize else probed(model)
        runner = self.open_original(probe.model, optimize=optimize)
        outputs: list[Outputs] = []
        size, start = 0, time.perf_counter()
        try:
            for sample in run_all(runner, feeds):
                outputs.append(probe.outputs(sample))
                size += sum(array.nbytes for array in sample.values() if isinstance(array, np.ndarray))
                if size > MAX_RECORDED_BYTES and len(outputs) >= 2:
                    break
        except ModelError as error:
            raise NotRunnable(f"the original can't be run on input {len(outputs)}: {error}") from error
        seconds = (time.perf_counter() - start) / max(1, len(outputs))
        compared = feeds is self.feeds or feeds is self._probes
        reacted = reactions(model, feeds, runner, seconds, probe.outputs) if compared else ()
        return Recording(feeds[: len(outputs)], outputs, seconds, reacted, squashing_outputs(model))

    # ---- what is compared ----

    def names(self, model: ir.Model) -> list[str]:
        """Outputs that two runs of the model agree on."""
        unpredictable = unpredictable_outputs(model)
        return [value.name or "" for value in model.graph.outputs if value.name not in unpredictable]

    def caveats(self, model: ir.Model, recording: Recording, due: int) -> tuple[str, ...]:
        """What was left out of a comparison."""
        notes = [
            f"output '{name}' is not compared: {source} draws new numbers in every run. Give it a seed."
            for name, source in unpredictable_outputs(model).items()
        ]
        compared = len(recording.feeds)
        if compared < due:
            notes.append(f"compared {compared} of {due} samples: their outputs fill {MAX_RECORDED_BYTES >> 20} MiB")
        return tuple(notes)


def run_all(runner: ort.InferenceSession, feeds: Sequence[Feed]) -> Iterator[Outputs]:
    """Yields the outputs for each feed as arrays: a sequence becomes an array of what it holds.

    Raises:
        ModelError: ONNX Runtime can't run the model.
    """
    for feed in feeds:
        yield {name: as_array(output) for name, output in run(runner, feed).items()}


def _shuffled(feed: Feed) -> Feed:
    rng = np.random.default_rng(0)
    return {
        name: array.ravel()[rng.permutation(array.size)].reshape(array.shape)
        if isinstance(array, np.ndarray)
        else array
        for name, array in feed.items()
    }
