"""What stands around ternary layers, taken into them: siblings, activations, normalizations, residuals.

One file a fusion. Normalization is the one that moves numbers by more than float32 rounding, so that a budget decides.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import onnx_ir as ir

from baker.model.graph import index_names, label
from baker.passes.ternary.merge._rule import MergeRule
from baker.passes.ternary.merge.activation import TernaryActivation
from baker.passes.ternary.merge.residual import TernaryResidual
from baker.passes.ternary.merge.rms_norm import TernaryRmsNorm
from baker.passes.ternary.merge.siblings import TernarySiblings
from baker.passes.ternary.rows import Uses
from baker.passes.ternary.search import describe, harm
from baker.pipeline.pass_base import Change, Declined, PassContext
from baker.pipeline.rewrite import applicable, apply_rewrites

if TYPE_CHECKING:
    from baker.proof.budget import Budget
    from baker.proof.verifier import Verifier

_EXACT: tuple[type[MergeRule], ...] = (TernarySiblings, TernaryActivation, TernaryResidual)
_MEASURED: tuple[type[MergeRule], ...] = (TernaryRmsNorm,)

RULES: dict[str, type[MergeRule]] = {rule(lambda node: True).name: rule for rule in (*_EXACT, *_MEASURED)}
"""All fusions by name."""


def take_in(
    model: ir.Model, selects: Callable[[ir.Node], bool], context: PassContext, budget: Budget | None
) -> tuple[list[Change], list[Declined]]:
    """Merges ternary layers with what stands around them.

    Args:
        selects: tells whether the options of the pass let a node through.
        budget: what has to hold afterwards, if it holds before, where the context has something to measure with.
    """
    uses = Uses(model, next(iter(context.calibration), None), context.threads, context.custom_ops)
    changes, declined = apply_rewrites(model, [rule(selects, uses) for rule in _EXACT], context)
    measured = [rule(selects, uses) for rule in _MEASURED]
    hindrance = None
    if budget is not None and context.verifier is not None:
        hindrance = _too_lossy(model, measured, context.verifier, budget)
    if hindrance is not None:
        declined += [Declined(label(node), hindrance, rule.name) for rule, node in applicable(model, measured)]
        return changes, declined
    more, refused = apply_rewrites(model, measured, context)
    return [*changes, *more], [*declined, *refused]


def _too_lossy(model: ir.Model, rules: list[MergeRule], verifier: Verifier, budget: Budget) -> str | None:
    """Why the budget does not bear the rules, tried on a copy; None where it does, or can't tell."""
    if not any(True for _ in applicable(model, rules)):
        return None
    before = verifier.measure(model, budget)
    copy = model.clone()
    index_names(copy)
    apply_rewrites(copy, rules, PassContext())
    after = verifier.measure(copy, budget)
    if math.isnan(before.value) or after.met or (not before.met and harm(after) <= harm(before)):
        return None
    return f"budget {budget}: it would give {describe(after)}, and {describe(before)} without"
