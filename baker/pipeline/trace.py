"""What a run went through, kept as far as blame and reproducers need it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import onnx_ir as ir

from baker.pipeline.judging import State
from baker.pipeline.limit import Admitted
from baker.pipeline.pass_base import Pass
from baker.proof.feeds import Feeds

if TYPE_CHECKING:
    from baker.proof.verifier import Verdict


@dataclass
class Step:
    """One run of one pass.

    Attributes:
        number: counted from 1 over the run, as in the report's list of passes.
        before, after: the states; the same where nothing was kept.
        made: the model that the pass made, kept or not.
        fault: why it failed, if it did.
        sound: a valid model came out of it.
        rewrites: how many rewrites of the pipeline came before it.
        admitted, snapshots: its rewrites, and the model after each as far as that was kept.
        excused: it stood in a ``try(...)`` that was undone.
        refused: it judges the model it is given, as the pass `verify` does, and did not accept it.
    """

    number: int
    pass_: Pass
    before: State
    after: State
    made: ir.Model
    changed: bool
    fault: str | None = None
    verdict: Verdict | None = None
    rewrites: int = 0
    excused: bool = False
    refused: bool = False
    sound: bool = True
    admitted: Sequence[Admitted] = ()
    snapshots: Sequence[ir.Model] = ()


@dataclass
class Trace:
    """Remembers the first failure of a run, and with ``every`` all steps: tensors are shared, so that is cheap.

    Attributes:
        failed: the first step that failed outside of ``try(...)``.
        reference, feeds: what the run judges by.
        running: the pass that runs, and the state it was given; stays when an exception ends the run.
    """

    every: bool = False
    steps: list[Step] = field(default_factory=list)
    failed: Step | None = None
    reference: ir.Model | None = None
    feeds: Feeds | None = None
    running: tuple[Pass, State] | None = None

    @contextmanager
    def watching(self, pass_: Pass, before: State) -> Iterator[None]:
        """Around one run of a pass."""
        self.running = pass_, before
        yield
        self.running = None  # not in a finally: an exception leaves it to be looked at

    def add(self, step: Step, *, in_try: bool) -> None:
        """Takes down what came of it."""
        if step.fault is not None and not in_try and self.failed is None:
            self.failed = step
        if self.every:
            self.steps.append(step)

    def excuse(self, first: int) -> None:
        """The steps from the run's number ``first`` on were undone with their group."""
        for step in self.steps:
            if step.number >= first:
                step.excused = True
