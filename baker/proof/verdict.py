"""What judging and measuring a candidate comes to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from baker.proof.budget import BudgetKind
from baker.proof.numerics import OutputError

Status = Literal["pass", "fail", "inconclusive"]


@dataclass(frozen=True)
class Measurement:
    """What a candidate costs, in terms of a budget.

    Attributes:
        kind: as in `Budget`.
        value: the loss of the metric relative to the original's; the SQNR in dB or the relative L2 error of the worst
            output; the top-1 agreement. NaN where there was nothing to measure on.
        limit: the budget's.
        met: whether the budget holds.
        detail: the figures behind it, for people.
    """

    kind: BudgetKind
    value: float
    limit: float
    met: bool
    detail: str = ""


@dataclass(frozen=True)
class Verdict:
    """Whether a candidate may stand in for the reference.

    Attributes:
        status: inconclusive: nothing speaks against it, but the inputs prove nothing; ``reason`` says what would.
        reason: why, where it did not simply pass.
        outputs: the error of each compared output.
        samples: how many inputs were compared.
        warnings: what the user must hear although nothing failed.
        runnable: False where the reference could not be run at all.
        measurement: the budget as measured, where one was set.
    """

    status: Status
    reason: str = ""
    outputs: Mapping[str, OutputError] = field(default_factory=dict)
    samples: int = 0
    warnings: tuple[str, ...] = ()
    runnable: bool = True
    measurement: Measurement | None = None
