"""What the given inputs leave open: more inputs are made up, and nodes that saw one regime only are named.

The same function gives the same result on whatever input, so that a difference on a made-up one is a fault too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from baker.errors import ModelError
from baker.model.graph import Array
from baker.proof.judge import Comparison
from baker.proof.local import agrees_alone
from baker.proof.numerics import Tolerance, is_finite
from baker.proof.recorder import NotRunnable, Recorder, Recording, run_all
from baker.proof.regimes import Bend, Unseen, bends, unseen
from baker.proof.synthetic import MadeUp
from baker.proof.tails import probed
from baker.proof.verdict import Verdict

FOR_REGIMES = 4
"""How many inputs are made up for a large model, where the given ones leave a rewritten node in one regime."""

SHOWN = 3


class Further:
    """Settles what is left open where a candidate is to be the same function.

    Args:
        made_up: inputs beyond those of the recorder; None where nobody may make up any.
    """

    def __init__(self, recorder: Recorder, made_up: MadeUp | None) -> None:
        self.recorder = recorder
        self.made_up = made_up
        self._kept: tuple[ir.Model, int, Recording | None] | None = None

    def settle(self, verdict: Verdict, original: ir.Model, candidate: ir.Model, tolerance: Tolerance | None) -> Verdict:
        """Returns the verdict, failed by more inputs, or inconclusive because of rewritten nodes.

        Args:
            verdict: one that has not failed.
            tolerance: None asks for bit-equality.
        """
        fault = self._fault(original, candidate, tolerance, 0)
        watched = bends(original, candidate)
        if fault is None and watched:
            left = self._not_alone(self._unseen(original, watched, 0), original, candidate, watched, tolerance)
            if left and self.made_up is not None and len(self.made_up.feeds(FOR_REGIMES)) == FOR_REGIMES:
                fault = self._fault(original, candidate, tolerance, FOR_REGIMES)
                left = self._unseen(original, [bend for bend in watched if bend.node in _nodes(left)], FOR_REGIMES)
            if fault is None:
                return _inconclusive(verdict, left) if left else verdict
        return verdict if fault is None else replace(verdict, status="fail", reason=fault)

    def column(self, original: ir.Model, name: str) -> Sequence[Array]:
        """One output of the original, for the inputs that were made up without being asked for."""
        recording = self._recording(original, 0)
        return () if recording is None else recording.column(name)

    def _fault(self, original: ir.Model, candidate: ir.Model, tolerance: Tolerance | None, least: int) -> str | None:
        recording = self._recording(original, least)
        if recording is None:
            return None
        names = self.recorder.names(original)
        probe = probed(candidate)
        hidden = [label for label in probe.labels(names) if label in recording.outputs[0]]
        decided = [name for name, label in probe.decided(names).items() if label in hidden]
        comparison = Comparison(recording, [*names, *hidden], tolerance, decided)
        runner = self.recorder.open(probe.model, optimize=False)
        try:
            for index, outputs in enumerate(run_all(runner, recording.feeds)):
                comparison.take(index, probe.outputs(outputs))
        except ModelError as error:
            return f"it fails on an input that the original runs on, of shapes {_shapes(recording)}: {error}"
        fault = comparison.fault(original, candidate)
        return None if fault is None else f"on made-up inputs {fault}"

    def _recording(self, original: ir.Model, least: int) -> Recording | None:
        """What the original computes for made-up inputs; of those where something is not finite there are enough."""
        feeds = self.made_up.feeds(least) if self.made_up is not None else []
        if not feeds or not self.recorder.names(original):
            return None
        if self._kept is None or self._kept[0] is not original or self._kept[1] != len(feeds):
            try:
                recording = self.recorder.record(original, feeds)
            except NotRunnable:  # the model before this pass needs not run on what the first one runs on
                self._kept = (original, len(feeds), None)
            else:
                self._kept = (original, len(feeds), _finite_part(recording))
        return self._kept[2]

    def _not_alone(
        self,
        left: list[Unseen],
        original: ir.Model,
        candidate: ir.Model,
        watched: Sequence[Bend],
        tolerance: Tolerance | None,
    ) -> list[Unseen]:
        """Those of the nodes that are not proven by themselves either; the first that is not ends the search."""
        by_node = {bend.node: bend for bend in watched}
        for index, one in enumerate(left):
            bend = by_node[one.node]
            if not agrees_alone(self.recorder, original, candidate, bend, self.recorder.feeds, tolerance):
                return left[index:]
        return []

    def _unseen(self, original: ir.Model, watched: Sequence[Bend], least: int) -> list[Unseen]:
        made = self.made_up.feeds(least) if self.made_up is not None else []
        return unseen(self.recorder, original, watched, [*self.recorder.feeds, *made])


def _nodes(left: Sequence[Unseen]) -> set[str]:
    return {one.node for one in left}


def _finite_part(recording: Recording) -> Recording | None:
    kept = [
        index for index, outputs in enumerate(recording.outputs) if all(is_finite(array) for array in outputs.values())
    ]
    if not kept:
        return None
    outputs = [recording.outputs[index] for index in kept]
    return replace(recording, feeds=[recording.feeds[index] for index in kept], outputs=outputs)


def _shapes(recording: Recording) -> str:
    return ", ".join(f"{name} {list(np.shape(array))}" for name, array in recording.feeds[-1].items())


def _inconclusive(verdict: Verdict, left: Sequence[Unseen]) -> Verdict:
    shown = "; ".join(str(one) for one in left[:SHOWN]) + (
        f"; and {len(left) - SHOWN} more" if len(left) > SHOWN else ""
    )
    reason = (
        f"a node was rewritten that saw one regime only, so that nothing is proven about the other: {shown}. "
        "Give inputs that reach it through --calib."
    )
    if verdict.status != "pass":
        return replace(verdict, warnings=(*verdict.warnings, reason))
    return replace(verdict, status="inconclusive", reason=reason)
