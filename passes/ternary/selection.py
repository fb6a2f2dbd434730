"""Which layers of a model become ternary: what is so already, and what the budget allows on top."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import onnx_ir as ir

from baker.passes.ternary import plan
from baker.passes.ternary.plan import Layer, Plan
from baker.passes.ternary.rows import Uses
from baker.passes.ternary.search import Choice, Search, describe, harm
from baker.passes.ternary.subgraph import Evaluator
from baker.pipeline.pass_base import Declined, LossyPass
from baker.proof.budget import Budget

if TYPE_CHECKING:
    from baker.proof.verifier import Measurement, Verifier


@dataclass
class Survey:
    """The layers of a model: which are ternary, which are not and why."""

    evaluator: Evaluator
    lossless: list[Plan] = field(default_factory=list)
    others: list[tuple[Layer, str]] = field(default_factory=list)
    declined: list[Declined] = field(default_factory=list)

    @classmethod
    def of(cls, model: ir.Model, aim: LossyPass, kernel: str, uses: Uses | None = None) -> Survey:
        """Looks at every layer that the options of the pass let through.

        Args:
            uses: tells how many rows a layer has; None where nothing depends on it.
        """
        survey = cls(Evaluator(model))
        for found in plan.layers(model, survey.evaluator, aim, uses):
            if isinstance(found, Declined):
                survey.declined.append(found)
                continue
            made = plan.lossless(found, survey.evaluator, kernel)
            survey.evaluator.forget()
            if isinstance(made, Plan):
                survey.lossless.append(made)
            else:
                survey.others.append((found, made))
        return survey


class Selection:
    """Chooses plans, inside the budget if there is one and something to measure with.

    Attributes:
        plans: what was chosen so far.
        warnings: what the user must hear about it.
    """

    def __init__(
        self, model: ir.Model, survey: Survey, kernel: str, budget: Budget | None, verifier: Verifier | None
    ) -> None:
        self.model, self.survey, self.kernel, self.budget, self.verifier = model, survey, kernel, budget, verifier
        self.plans: list[Plan] = []
        self.warnings: list[str] = []

    def keep_lossless(self) -> None:
        """Takes the ternary layers whose int8 activations the budget bears; all of them where nothing is measured.

        A model that misses the budget before anything is changed must not get worse.
        """
        before = self._measure([]) if self.survey.lossless and self._blindness() is None else None
        if before is None or math.isnan(before.value):
            self.plans = list(self.survey.lossless)
            return
        allowed = -math.inf if before.met else harm(before)
        self._search(self.survey.lossless, lambda result: result.met or harm(result) <= allowed, "lossless")

    def add_rounded(self, group: int) -> None:
        """Takes layers that may be rounded to ternary on top, or declines them all.

        Args:
            group: weights along K that share a scale; 0 for one a channel.
        """
        if not self.survey.others:
            return
        hindrance = self._blindness() or self._no_room()
        if hindrance:
            for layer, reason in self.survey.others:
                self._decline(layer, f"{reason}; {hindrance}", "post-training")
            return
        choice = self._search(self._rounded(group), lambda result: result.met, "post-training")
        if choice.chosen:
            self.warnings.append(self._warning(choice))

    def _search(self, candidates: Sequence[Plan], holds: Callable[[Measurement], bool], rule: str) -> Choice[Plan]:
        """Adds those of the candidates to the chosen that hold together with them, and declines the others."""
        kept = list(self.plans)
        choice = Search(candidates, lambda plans: self._measure([*kept, *plans]), holds).run()
        self.plans += choice.chosen
        for refused, measured in sorted(choice.refused, key=lambda pair: pair[0].layer.position):
            what = "" if refused.error is None else f" (relative weight error {refused.error:.3f})"
            if measured is None:
                reason = f"budget {self.budget}: not tried, since others like it found no place{what}"
            else:
                reason = f"budget {self.budget}: converting would give {describe(measured)}{what}"
            self._decline(refused.layer, reason, rule)
        return choice

    def _measure(self, plans: Sequence[Plan]) -> Measurement:
        """What a copy of the model with these plans gives."""
        if self.verifier is None or self.budget is None:
            raise AssertionError("nothing is measured without a verifier and a budget")
        candidate = plan.trial(self.model, plans, self.kernel) if plans else self.model
        return self.verifier.measure(candidate, self.budget)

    def _blindness(self) -> str | None:
        """Why nothing can be held to a budget, or None."""
        if self.budget is None:
            return "rounding it needs an explicit budget, such as sqnr=20dB"
        if self.verifier is None:
            return f"rounding it under the budget {self.budget} needs feeds to measure with"
        return None

    def _no_room(self) -> str | None:
        """Why the budget bears no rounding at all, or None."""
        now = self._measure(self.plans)
        if now.met:
            return None
        if math.isnan(now.value):
            return f"rounding it under the budget {self.budget} needs feeds to measure with ({now.detail})"
        return f"the budget {self.budget} has no room for rounding it: {describe(now)} even without"

    def _rounded(self, group: int) -> list[Plan]:
        """Plans for the layers that are not ternary, the smallest error first."""
        plans = []
        for layer, reason in self.survey.others:
            made = plan.rounded(layer, self.survey.evaluator, self.kernel, group)
            self.survey.evaluator.forget()
            if isinstance(made, Plan):
                plans.append(made)
            else:
                self._decline(layer, made if made == reason else f"{reason}; {made}", "post-training")
        return sorted(plans, key=lambda made: made.error or 0.0)

    def _decline(self, layer: Layer, reason: str, rule: str) -> None:
        self.survey.declined.append(Declined(layer.name, reason, rule))

    def _warning(self, choice: Choice[Plan]) -> str:
        worst, count = max(choice.chosen, key=lambda made: made.error or 0.0), len(choice.chosen)
        result = "" if choice.measured is None else f", and together they give {describe(choice.measured)}"
        return (
            f"{count} trained {'layer was' if count == 1 else 'layers were'} rounded to ternary weights, which loses "
            f"much: relative weight error up to {worst.error:.3f} ('{worst.layer.name}'). "
            f"The budget {self.budget} allows it{result}."
        )
