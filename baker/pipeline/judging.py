"""What each pass of a run is held to: the original, or the model that it was given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx_ir as ir

from baker.pipeline.pass_base import LossyPass, Pass, PassContext
from baker.pipeline.provenance import Provenance
from baker.proof.budget import Budget
from baker.proof.numerics import Fidelity

if TYPE_CHECKING:
    from baker.proof.verifier import Verdict, Verifier


@dataclass
class State:
    """Where a run stands; replaced as a whole when a group is undone."""

    model: ir.Model
    lossy: bool = False  # a lossy change was kept, so later exact passes are judged against the model before them
    rounded: bool = False  # bits may have changed, so a later EXACT pass can only be held to the model before it
    budget: Budget | None = None  # what the last lossy change was allowed to cost
    verdict: Verdict | None = None  # the model as it is now, against the original
    broken: bool = False  # a failed pass was kept: what comes after it is not to blame for what it did
    provenance: Provenance | None = None  # of the model; None is that of a model that no pass has seen

    def origins(self) -> Provenance:
        """Where the model's nodes and weights come from."""
        return Provenance.start(self.model) if self.provenance is None else self.provenance


@dataclass(frozen=True)
class Judge:
    """Reaches the verdicts of a run; None where there is no verifier."""

    verifier: Verifier | None
    context: PassContext

    @property
    def strict(self) -> bool:
        """True when an inconclusive verdict fails."""
        return self.verifier is not None and self.verifier.strict

    def step(self, pass_: Pass, before: State, candidate: ir.Model) -> Verdict | None:
        """Judges what a pass made of the model by the pass's own promise."""
        if self.verifier is None:
            return None
        if pass_.fidelity is Fidelity.LOSSY:
            return self.verifier.verify(candidate, pass_.fidelity, budget=self.budget_of(pass_))
        against = None if against_original(pass_, before) else before.model
        return self.verifier.verify(candidate, pass_.fidelity, against=against)

    def result(self, state: State) -> Verdict | None:
        """Judges a model, however it came about, against the original."""
        if self.verifier is None:
            return None
        fidelity = Fidelity.LOSSY if state.lossy else Fidelity.ROUNDING
        return self.verifier.verify(state.model, fidelity, budget=state.budget)

    def budget_of(self, pass_: Pass) -> Budget | None:
        """A lossy pass's own budget comes before the run's."""
        return pass_.effective_budget(self.context) if isinstance(pass_, LossyPass) else self.context.budget

    def after(self, pass_: Pass, before: State, model: ir.Model, verdict: Verdict | None, *, failed: bool) -> State:
        """The state after a pass that changed the model."""
        lossy = pass_.fidelity is Fidelity.LOSSY
        return State(
            model=model,
            lossy=before.lossy or lossy,
            rounded=before.rounded or pass_.fidelity is not Fidelity.EXACT,
            budget=self.budget_of(pass_) if lossy else before.budget,
            verdict=verdict if against_original(pass_, before) else None,
            broken=before.broken or failed,
            provenance=before.origins().after(pass_.name, before.model, model),
        )


def against_original(pass_: Pass, state: State) -> bool:
    """Tells whether a pass is held to the original, or to the model that it was given."""
    if pass_.fidelity is Fidelity.EXACT:
        return not (state.rounded or state.broken)
    return pass_.fidelity is Fidelity.LOSSY or not (state.lossy or state.broken)


def gate(verdict: Verdict | None, strict: bool) -> str | None:
    """Returns why a verdict stops the pass, or None."""
    if verdict is None or verdict.status == "pass":
        return None
    if verdict.status == "inconclusive" and verdict.runnable and not strict:
        return None
    return f"verdict {verdict.status}: {verdict.reason}"
