"""Judge the model as it stands, in the middle of a pipeline."""

from __future__ import annotations

from typing import ClassVar, Literal

import onnx_ir as ir

from baker.errors import GateError
from baker.pipeline.pass_base import Pass, PassContext, PassResult
from baker.proof.budget import Budget
from baker.proof.numerics import Fidelity


class Verify(Pass):
    """Compare the model, as it stands, with the original, and fail where it is not what was promised.

    Shapes: any; the held-out feeds decide.

    Formula: the verifier's own, for the fidelity asked for: ``exact`` is bit for bit, ``rounding`` the same function
    over the reals, ``lossy`` the budget. A pass that changed nothing is not judged; this one always is. Passes
    before it are undone only where they stand with it in ``try(...)``.

    Error: 0; the model is not changed.

    Declines: a run without anything to verify with (``--no-verify``), which it says as a warning.

    Source: LLVM's ``-verify-each`` and TVM's ``should_run`` instruments, as a pass to put where it is wanted.
    """

    name = "verify"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT

    against: Literal["exact", "rounding", "lossy"] = "rounding"  # what the model so far is held to
    budget: str | None = None  # for lossy: sqnr=20dB, top1=0.99, rel=0.05 or 1%; default: the run's own budget
    strict: bool = False  # an inconclusive verdict fails, too

    def __post_init__(self) -> None:
        if self.budget is not None:
            Budget.parse(self.budget)

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        """Judges the model.

        Raises:
            GateError: the verdict is fail, or inconclusive where ``strict`` asks for more.
        """
        if context.verifier is None:
            return PassResult(model, warnings=["nothing was verified: the run has no verifier"])
        budget = context.budget if self.budget is None else Budget.parse(self.budget)
        verdict = context.verifier.verify(model, Fidelity[self.against.upper()], budget=budget)
        if verdict.status == "fail" or (verdict.status == "inconclusive" and (self.strict or not verdict.runnable)):
            raise GateError(f"verify{{against={self.against}}}: verdict {verdict.status}: {verdict.reason}")
        warnings = list(verdict.warnings)
        if verdict.status == "inconclusive":
            warnings.append(f"verdict inconclusive: {verdict.reason}")
        return PassResult(model, warnings=warnings)
