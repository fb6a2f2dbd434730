"""Which layers of a model become ternary: what is so already, and what the budget allows on top."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import onnx_ir as ir

from baker.passes.ternary import plan
from baker.passes.ternary.choice import Mixer, Mixture
from baker.passes.ternary.inputs import Inputs
from baker.passes.ternary.menu import Fallback, Kitchen, Menu, measured_micros
from baker.passes.ternary.plan import Layer, Plan
from baker.passes.ternary.rows import Uses
from baker.passes.ternary.search import Choice, Search, describe, harm
from baker.passes.ternary.subgraph import Evaluator
from baker.pipeline.pass_base import Declined, LossyPass, PassContext
from baker.proof.budget import Budget

if TYPE_CHECKING:
    from baker.proof.verifier import Measurement


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
        menus: the layers that had several forms to choose from, and the option of each that was chosen.
        warnings: what the user must hear about it.
    """

    def __init__(
        self, model: ir.Model, survey: Survey, kernel: str, budget: Budget | None, context: PassContext
    ) -> None:
        self.model, self.survey, self.kernel, self.budget = model, survey, kernel, budget
        self.context, self.verifier = context, context.verifier
        self.plans: list[Plan] = []
        self.menus: list[tuple[Menu, int]] = []
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

    def add_rounded(self, group: int, fallback: Sequence[Fallback]) -> None:
        """Gives further layers the smallest forms that the budget bears together, or declines them all.

        Args:
            group: weights along K that share a scale in a rounded ternary layer; 0 for one a channel.
            fallback: other forms that a layer may be given.
        """
        if not self.survey.others:
            return
        hindrance = self._blindness()
        now = self._measure(self.plans) if hindrance is None else None
        hindrance = hindrance or self._no_room(now)
        if hindrance or now is None:
            for layer, reason in self.survey.others:
                self._decline(layer, f"{reason}; {hindrance}", "post-training")
            return
        menus, kept = self._menus(Kitchen(self.survey.evaluator, self.kernel, group, fallback)), list(self.plans)
        mixer = Mixer(
            menus, lambda plans: self._measure([*kept, *plans]), lambda result: result.met, now, measured_micros
        )
        self._settle(menus, mixer.run(), kept)

    def _menus(self, kitchen: Kitchen) -> list[Menu]:
        """The forms of the layers that are not ternary."""
        reasons = {layer.position: reason for layer, reason in self.survey.others}
        inputs, menus = Inputs(self.model, self.survey.evaluator, self.context), []
        for layer, hessian in inputs.portions([layer for layer, _ in self.survey.others]):
            made = kitchen.menu(layer, hessian)
            self.survey.evaluator.forget()
            if isinstance(made, Menu):
                menus.append(made)
                continue
            reason = reasons[layer.position]
            self._decline(layer, made if made == reason else f"{reason}; {made}", "post-training")
        self.warnings += [inputs.problem] if inputs.problem else []
        return menus

    def _settle(self, menus: Sequence[Menu], mixture: Mixture, kept: Sequence[Plan]) -> None:
        """Takes what the search chose, and says what became of the rest."""
        rounded: list[tuple[Menu, Plan]] = []
        for index, (menu, level) in enumerate(zip(menus, mixture.levels, strict=True)):
            chosen = menu.options[level]
            self.menus.append((menu, level))
            if chosen.plan is not None:
                self.plans.append(chosen.plan)
                rounded += [(menu, chosen.plan)] if chosen.ternary else []
                continue
            what, alone = f" (relative weight error {menu.options[-1].weight_error:.3f})", mixture.alone.get(index)
            if alone is None:
                reason = f"budget {self.budget}: not tried, since others like it found no place{what}"
            else:
                reason = f"budget {self.budget}: converting would give {describe(alone)}{what}"
            self._decline(menu.layer, reason, "post-training")
        if rounded:
            self.warnings.append(self._warning(rounded, mixture.measured))

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

    def _no_room(self, now: Measurement | None) -> str | None:
        """Why the budget bears no rounding at all, or None."""
        if now is None or now.met:
            return None
        if math.isnan(now.value):
            return f"rounding it under the budget {self.budget} needs feeds to measure with ({now.detail})"
        return f"the budget {self.budget} has no room for rounding it: {describe(now)} even without"

    def _decline(self, layer: Layer, reason: str, rule: str) -> None:
        self.survey.declined.append(Declined(layer.name, reason, rule))

    def _warning(self, rounded: Sequence[tuple[Menu, Plan]], measured: Measurement | None) -> str:
        worst, count = max((made for _, made in rounded), key=lambda made: made.error or 0.0), len(rounded)
        result = "" if measured is None else f", and together they give {describe(measured)}"
        figures = "; ".join(_against_int4(menu, made) for menu, made in rounded[:_SHOWN])
        more = f"; and {count - _SHOWN} more" if count > _SHOWN else ""
        return (
            f"{count} trained {'layer was' if count == 1 else 'layers were'} rounded to ternary weights, which loses "
            f"much: relative weight error up to {worst.error:.3f} ('{worst.layer.name}'). "
            f"The budget {self.budget} allows it{result}. Weight errors: {figures}{more}."
        )


_SHOWN = 6
"""Layers that a warning lists."""


def _against_int4(menu: Menu, made: Plan) -> str:
    """A layer's error, and what int4 would have cost."""
    line = f"'{menu.layer.name}' {made.error:.3f} in {made.weight.nbytes} bytes"
    int4 = next((option for option in menu.options if option.form == "int4"), None)
    return line if int4 is None else f"{line} (int4: {int4.weight_error:.3f} in {int4.nbytes})"
