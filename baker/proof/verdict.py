"""What judging and measuring a candidate comes to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from baker.proof.budget import BudgetKind
from baker.proof.numerics import OutputError

Status = Literal["pass", "fail", "inconclusive"]
Severity = Literal["fail", "warning", "note"]


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
class Finding:
    """One sign that a candidate only looks like an optimization: see `baker.proof.fakes`.

    Attributes:
        kind: in kebab case, such as ``constant-output``.
        where: the output, input, layers or weights that it is about.
        what: what was found, against what was due, and what to do about it.
        severity: ``fail`` fails the verdict; a ``warning`` is heard; a ``note`` is for the record.
    """

    kind: str
    where: str
    what: str
    severity: Severity = "fail"

    @property
    def fatal(self) -> bool:
        return self.severity == "fail"

    def __str__(self) -> str:
        return f"{self.kind}: {self.where} {self.what}"


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
        findings: signs of a fake optimization; one that is fatal fails the verdict.
    """

    status: Status
    reason: str = ""
    outputs: Mapping[str, OutputError] = field(default_factory=dict)
    samples: int = 0
    warnings: tuple[str, ...] = ()
    runnable: bool = True
    measurement: Measurement | None = None
    findings: tuple[Finding, ...] = ()

    def with_findings(self, findings: Iterable[Finding]) -> Verdict:
        """The verdict with more findings: a fatal one fails it, a warning is heard."""
        found = tuple(findings)
        warnings = (*self.warnings, *(str(item) for item in found if item.severity == "warning"))
        fatal = next((item for item in found if item.fatal), None)
        judged = replace(self, findings=(*self.findings, *found), warnings=warnings)
        return judged if fatal is None or self.status == "fail" else replace(judged, status="fail", reason=str(fatal))
